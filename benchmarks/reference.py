"""The reference: transformers in float32, with the very weights that are in a GGUF file.

`open_reference(path)` reads sizes and dequantized weights from the file, so that a comparison
with an engine shows the error of its arithmetic and not that of the quantization.

    python benchmarks/reference.py

writes the logits that the tests compare engines with, which need no transformers then.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

# The maker of models is shared with the tests, which lie beside this folder.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from arch_models import (
    ARCHITECTURES,
    MIXTURES,
    PLAIN_TYPES,
    REFERENCE_FILE,
    REFERENCE_POSITIONS,
    REFERENCE_TYPES,
    make_arch_model,
    random_tokens,
    reference_prompt,
)

__all__ = [
    "ARCHITECTURES",
    "MIXTURES",
    "PLAIN_TYPES",
    "Reference",
    "make_arch_model",
    "open_arch_reference",
    "open_reference",
    "random_tokens",
]

Array = NDArray[np.float32]

# Parts of a layer in a GGUF file, and where transformers has them.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Where these differ from the others.
OTHER_NAMES = {
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
TOP_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
CLASSES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma3": "Gemma3",
    "phi3": "Phi3",
}
ROPE_FREQS = "rope_freqs.weight"
GEMMA3_PATTERN = 6


class Reference:
    """A transformers model on the CPU."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.n_vocab: int = model.config.vocab_size

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> Array:
        """Logits after every token, ``[len(tokens), n_vocab]``."""
        result: Array = self._model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
        return result


def open_reference(
    path: Path, *, family: str | None = None, rope: dict[str, Any] | None = None
) -> Reference:
    """Read a GGUF file into a transformers model.

    Args:
        path: The file.
        family: Of `CLASSES`, where it is not the file's architecture: Mistral is stored as llama.
        rope: `rope_parameters` that the file was made from. Without them, frequency factors in
            the file are applied as they are.
    """
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    arch = str(metadata["general.architecture"])
    values = {tensor.name: _dequantize(tensor) for tensor in reader.tensors}
    sizes = _Metadata(metadata, arch)
    factors = values.pop(ROPE_FREQS, None)
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        if values.pop(name, None) is not None and not rope:
            raise SystemExit(f"{path.name}: give the rope parameters of a model with {name}")
    model = _build(family or arch, sizes, values, rope)
    state = {_torch_name(name, arch): _convert(name, v, arch, sizes) for name, v in values.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if "output.weight" not in values else set()
    if set(missing) - tied or unexpected:
        raise SystemExit(f"{path.name} does not fit: {missing} missing, {unexpected} left over")
    model.tie_weights()
    if factors is not None and not rope:
        model.model.rotary_emb.inv_freq /= torch.from_numpy(factors)
    return Reference(model.eval())


def open_arch_reference(path: Path, name: str) -> Reference:
    """Read a file that `make_arch_model` made; the rotary scaling is transformers' own."""
    family = name if name in CLASSES else None
    return open_reference(path, family=family, rope=ARCHITECTURES[name].rope)


class _Metadata:
    """The file's metadata without the architecture in front."""

    def __init__(self, values: dict[str, Any], arch: str) -> None:
        self._values, self._arch = values, arch

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(f"{self._arch}.{key}", default)

    def __getitem__(self, key: str) -> Any:
        return self._values[f"{self._arch}.{key}"]

    @property
    def n_head(self) -> int:
        return int(self["attention.head_count"])

    @property
    def n_head_kv(self) -> int:
        return int(self.get("attention.head_count_kv", self.n_head))

    @property
    def head_dim(self) -> int:
        default = self["embedding_length"] // self.n_head
        return int(self.get("attention.key_length", default))


def _build(
    family: str, sizes: _Metadata, values: dict[str, Array], rope: dict[str, Any] | None
) -> Any:
    """An empty model of the right class and sizes."""
    options: dict[str, Any] = {
        "vocab_size": len(values["token_embd.weight"]),
        "hidden_size": sizes["embedding_length"],
        "intermediate_size": sizes["feed_forward_length"],
        "num_hidden_layers": sizes["block_count"],
        "num_attention_heads": sizes.n_head,
        "num_key_value_heads": sizes.n_head_kv,
        "max_position_embeddings": sizes["context_length"],
        "rms_norm_eps": sizes["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in values,
        "rope_parameters": _rope_parameters(family, sizes, rope),
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "eager",
        "dtype": torch.float32,
    }
    if family != "phi3":
        options["head_dim"] = sizes.head_dim
    else:
        original = sizes.get("rope.scaling.original_context_length", sizes["context_length"])
        options["original_max_position_embeddings"] = original
    if family == "gemma3":
        options["query_pre_attn_scalar"] = sizes.head_dim
        options["sliding_window"] = sizes["attention.sliding_window"]
        options["sliding_window_pattern"] = GEMMA3_PATTERN
    elif family == "mistral":
        options["sliding_window"] = None
    name = CLASSES[family]
    suffix = "TextConfig" if family == "gemma3" else "Config"
    # It advises on how to write configurations.
    transformers.logging.set_verbosity_error()
    config = getattr(transformers, name + suffix)(**options)
    return getattr(transformers, f"{name}ForCausalLM")(config)


def _rope_parameters(family: str, sizes: _Metadata, rope: dict[str, Any] | None) -> dict[str, Any]:
    base = sizes.get("rope.freq_base", 10_000.0)
    parameters = {"rope_theta": base, "rope_type": "default"}
    if sizes.get("rope.scaling.type") == "linear":
        parameters |= {"rope_type": "linear", "factor": sizes["rope.scaling.factor"]}
    parameters |= rope or {}
    if family != "gemma3":
        return parameters
    local = {"rope_theta": 10_000.0, "rope_type": "default"}
    return {"full_attention": parameters, "sliding_attention": local}


def _dequantize(tensor: Any) -> Array:
    """The tensor in float32, rows first."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return np.array(values, np.float32).reshape(tuple(reversed(tensor.shape.tolist())))


def _torch_name(name: str, arch: str) -> str:
    names = LAYER_NAMES | OTHER_NAMES.get(arch, {})
    if not name.startswith("blk."):
        top, kind = name.rsplit(".", 1)
        return f"{TOP_NAMES[top]}.{kind}"
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{names[part]}.{kind}"


def _convert(name: str, values: Array, arch: str, sizes: _Metadata) -> torch.Tensor:
    """Undo what the conversion to GGUF did."""
    if arch == "llama" and name.split(".")[-2] in ("attn_q", "attn_k"):
        values = _unpermute(values, sizes.n_head if "attn_q" in name else sizes.n_head_kv)
    if arch == "gemma3" and name.endswith("norm.weight"):
        values = values - 1
    return torch.from_numpy(np.ascontiguousarray(values))


def _unpermute(rows: Array, n_head: int) -> Array:
    """From interleaved rotary pairs back to halves."""
    pairs = rows.reshape(n_head, rows.shape[0] // n_head // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def main() -> None:
    """Write the logits for the tests."""
    prompt, results = reference_prompt(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ARCHITECTURES:
            for kind in REFERENCE_TYPES:
                path = make_arch_model(Path(folder) / f"{name}-{kind}.gguf", name, kind)
                logits = open_arch_reference(path, name).logits(prompt)
                results[f"{name} {kind}"] = logits[list(REFERENCE_POSITIONS)]
    REFERENCE_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE_FILE, **results)
    print(f"{REFERENCE_FILE}: {REFERENCE_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
