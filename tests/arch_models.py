"""Makes small random-weight GGUF models of several architectures, for what must be computed right.

`make_arch_model(path, "gemma3", "Q4_0")` writes one. The weights depend on the name of the tensor
only and need nothing of the machine's mathematics library, so the same call gives the same file
everywhere; `tests/data/reference_logits.npz` holds what transformers computes from them.

    python tests/arch_models.py FOLDER [ARCHITECTURE ...] [--types F32 Q4_0 Q4_K_M ...]

Architectures: every one takes another path through a model's graph.

    llama     no biases, interleaved rotary pairs (q and k are stored permuted), untied output
    llama3    the same with `rope_freqs.weight`, the frequency factors of Llama 3.1
    mistral   stored as llama; heads wider together than the model; a single KV head
    qwen2     biases on q, k and v; tied embeddings; three query heads per KV head
    qwen3     RMS norm of every q and k head; heads wider together than the model
    gemma3    windows of 64 tokens in 6 of 7 layers with their own rotary base, norms before and
              after each block, scaled embeddings, GELU, linear rotary scaling in the other layer
    phi3      fused q, k, v and fused gate and up; no grouping of heads
    phi3-long the same with short and long rotary factors and an attention factor
"""

from __future__ import annotations

import argparse
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from tiny_models import CHATML, CONTROL_TOKENS, SENTENCES, train_bpe

# Raise it when weights change: the stored reference is then made anew.
SEED = 1
# Odd on purpose: no multiple of any vector width or block.
N_VOCAB = 515
N_CTX = 512
LOGIT_STD = 2.0
# Mean weight of the norms behind blocks. These must outweigh the scaled embedding, or else every
# token would predict itself, and no error of the layers would be seen in the probabilities.
POST_NORM = 4.0
# Types that gguf's own quantizers write; every matrix gets the one type.
PLAIN_TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
# Mixtures that only llama.cpp's quantization makes; rows must be multiples of 256.
MIXTURES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")

# Logits of transformers for `reference_prompt` after these positions, by "ARCHITECTURE TYPE".
# Made with `python benchmarks/reference.py`.
REFERENCE_FILE = Path(__file__).parent / "data" / "reference_logits.npz"
REFERENCE_TYPES = ("F32", "Q8_0")
REFERENCE_POSITIONS = (0, 1, 23, 65, 95)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ArchSpec:
    """One model.

    Attributes:
        gguf_arch: Name of the architecture in the file.
        head_dim: Width of one head, free of `n_embd`.
        swa_window: Tokens that a windowed layer sees; 0 without windows.
        rope: `rope_parameters` of the transformers configuration, where they are not the default.
        is_tied: The output projection is the embedding.
        has_qkv_bias: q, k and v have biases.
        has_head_norm: q and k heads are normalized.
        has_post_norm: Blocks are followed by a norm.
        is_fused: q, k, v are one matrix, and so are gate and up.
    """

    gguf_arch: str
    n_embd: int = 128
    n_layer: int = 3
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 32
    n_ff: int = 352
    rms_eps: float = 1e-5
    rope_base: float = 10_000.0
    swa_window: int = 0
    n_ctx_train: int = N_CTX
    rope: dict[str, Any] = field(default_factory=dict)
    is_tied: bool = False
    has_qkv_bias: bool = False
    has_head_norm: bool = False
    has_post_norm: bool = False
    is_fused: bool = False

    @property
    def is_permuted(self) -> bool:
        """Whether q and k rows are reordered for interleaved rotary pairs."""
        return self.gguf_arch == "llama"


# Factors as Llama 3.1 has them, for a shorter context, so that all three cases occur.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
# llama.cpp takes the long factors when a slot holds more than `original_...` tokens, transformers
# when the text does: these models are for shorter texts in smaller contexts, the short factors.
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 1024,
    "short_factor": [1.0 + 0.05 * i for i in range(16)],
    "long_factor": [1.0 + 0.5 * i for i in range(16)],
}

ARCHITECTURES: dict[str, ArchSpec] = {
    "llama": ArchSpec("llama", n_embd=256, n_head=8, n_head_kv=4, n_ff=416),
    "llama3": ArchSpec("llama", rope_base=500_000.0, rope=LLAMA3_ROPE),
    "mistral": ArchSpec("llama", n_embd=192, n_head=4, n_head_kv=1, head_dim=64, n_ff=512),
    "qwen2": ArchSpec(
        "qwen2", n_embd=192, n_head=6, n_ff=480, rms_eps=1e-6, rope_base=1_000_000.0,
        is_tied=True, has_qkv_bias=True,
    ),
    "qwen3": ArchSpec(
        "qwen3", n_embd=160, head_dim=64, rms_eps=1e-6, rope_base=1_000_000.0, has_head_norm=True,
    ),
    "gemma3": ArchSpec(
        "gemma3", n_embd=160, n_layer=7, n_head=4, n_head_kv=1, head_dim=64, n_ff=320,
        rms_eps=1e-6, rope_base=1_000_000.0, swa_window=64,
        rope={"rope_type": "linear", "factor": 8.0},
        is_tied=True, has_head_norm=True, has_post_norm=True,
    ),
    "phi3": ArchSpec("phi3", n_head_kv=4, is_fused=True),
    "phi3-long": ArchSpec("phi3", n_head_kv=4, n_ctx_train=4096, rope=LONGROPE, is_fused=True),
}  # fmt: skip


def arch_spec(name: str, kind: str = "F32") -> ArchSpec:
    """Sizes of the model; where a mixture of K-quants is asked for, with rows of 256."""
    spec = ARCHITECTURES[name]
    if kind not in MIXTURES:
        return spec
    n_head = 256 // spec.head_dim
    n_head_kv = n_head if spec.is_fused else max(1, n_head // 4)
    return replace(spec, n_embd=256, n_ff=512, n_head=n_head, n_head_kv=n_head_kv)


def make_arch_model(path: Path, name: str, kind: str = "F32", *, wide: bool = False) -> Path:
    """Write a model.

    Args:
        path: File to write.
        name: Of `ARCHITECTURES`.
        kind: Of `PLAIN_TYPES` or `MIXTURES`; vectors are always F32.
        wide: With the sizes of the mixtures, which other types do not need.
    """
    spec = arch_spec(name, MIXTURES[0] if wide else kind)
    if kind in MIXTURES:
        source = path.with_suffix(".f16.tmp")
        try:
            _write(source, spec, "F16")
            _quantize_with_llama_cpp(source, path, kind)
        finally:
            source.unlink(missing_ok=True)
    else:
        _write(path, spec, kind)
    return path


def reference_prompt() -> list[int]:
    """The text whose logits `REFERENCE_FILE` has, longer than Gemma's window."""
    return random_tokens(0, REFERENCE_POSITIONS[-1] + 1)


def random_tokens(seed: int, n: int) -> list[int]:
    """Token ids without control tokens, the same on every machine."""
    rng = np.random.Generator(np.random.PCG64([SEED, seed]))
    n_plain = N_VOCAB - len(CONTROL_TOKENS)
    return [int(x * n_plain) for x in rng.random(n)]


# --- weights -------------------------------------------------------------------------------------


def tensors(spec: ArchSpec) -> Iterator[tuple[str, Array]]:
    """Every tensor as GGUF has it, rows first, in float32."""
    yield "token_embd.weight", _embedding(spec)
    for name, factors in _rope_factors(spec):
        yield name, factors
    for i in range(spec.n_layer):
        for name, values in _layer(spec, f"blk.{i}."):
            yield f"blk.{i}.{name}", values
    yield "output_norm.weight", _norm("output_norm", spec.n_embd)
    if not spec.is_tied:
        yield "output.weight", _noise("output", (N_VOCAB, spec.n_embd), _output_std(spec))


def _layer(spec: ArchSpec, at: str) -> Iterator[tuple[str, Array]]:
    n_embd, n_q, n_kv = spec.n_embd, spec.n_head * spec.head_dim, spec.n_head_kv * spec.head_dim
    yield "attn_norm.weight", _norm(at + "attn_norm", n_embd)
    if spec.is_fused:
        yield "attn_qkv.weight", _matrix(at + "attn_qkv", n_q + 2 * n_kv, n_embd)
    else:
        for name, n_out, n_head in ("q", n_q, spec.n_head), ("k", n_kv, spec.n_head_kv):
            values = _matrix(f"{at}attn_{name}", n_out, n_embd)
            yield f"attn_{name}.weight", permute(values, n_head) if spec.is_permuted else values
        yield "attn_v.weight", _matrix(at + "attn_v", n_kv, n_embd)
    if spec.has_qkv_bias:
        for name, n_out in ("q", n_q), ("k", n_kv), ("v", n_kv):
            yield f"attn_{name}.bias", _noise(f"{at}attn_{name}.bias", (n_out,), 0.5)
    if spec.has_head_norm:
        for name in ("q", "k"):
            yield f"attn_{name}_norm.weight", _norm(f"{at}attn_{name}_norm", spec.head_dim)
    yield "attn_output.weight", _matrix(at + "attn_output", n_embd, n_q)
    if spec.has_post_norm:
        yield "post_attention_norm.weight", _norm(at + "post_attention_norm", n_embd, POST_NORM)
    yield "ffn_norm.weight", _norm(at + "ffn_norm", n_embd)
    if not spec.is_fused:
        yield "ffn_gate.weight", _matrix(at + "ffn_gate", spec.n_ff, n_embd)
    n_up = 2 * spec.n_ff if spec.is_fused else spec.n_ff
    yield "ffn_up.weight", _matrix(at + "ffn_up", n_up, n_embd)
    yield "ffn_down.weight", _matrix(at + "ffn_down", n_embd, spec.n_ff)
    if spec.has_post_norm:
        yield "post_ffw_norm.weight", _norm(at + "post_ffw_norm", n_embd, POST_NORM)


def _embedding(spec: ArchSpec) -> Array:
    # A tied embedding must have the scale of an output projection.
    return _noise("token_embd", (N_VOCAB, spec.n_embd), _output_std(spec) if spec.is_tied else 1.0)


def _output_std(spec: ArchSpec) -> float:
    return LOGIT_STD / math.sqrt(spec.n_embd)


def _matrix(name: str, n_out: int, n_in: int) -> Array:
    return _noise(name, (n_out, n_in), n_in**-0.5)


def _norm(name: str, n: int, mean: float = 1.0) -> Array:
    # transformers' Gemma adds 1 to what it stores; GGUF has the sum.
    return np.float32(mean) + _noise(name, (n,), 0.2)


def _noise(name: str, shape: tuple[int, ...], std: float) -> Array:
    """Nearly normal values: three uniform ones summed, which is exact on every machine."""
    rng = np.random.Generator(np.random.PCG64([SEED, zlib.crc32(name.encode())]))
    total = sum(rng.random(shape, np.float32) for _ in range(3))
    return np.asarray((total - np.float32(1.5)) * np.float32(2 * std), np.float32)


def permute(rows: Array, n_head: int) -> Array:
    """From rotary halves (as transformers has q and k) to interleaved pairs (as GGUF has them)."""
    halves = rows.reshape(n_head, 2, rows.shape[0] // n_head // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _rope_factors(spec: ArchSpec) -> Iterator[tuple[str, Array]]:
    if spec.rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(spec)
    elif spec.rope.get("rope_type") == "longrope":
        for name in ("long", "short"):
            factors = np.array(spec.rope[f"{name}_factor"], np.float32)
            yield f"rope_factors_{name}.weight", factors


def _llama3_factors(spec: ArchSpec) -> Array:
    """What the frequencies are divided by, as llama.cpp's conversion computes it."""
    rope, factors = spec.rope, []
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    for i in range(0, spec.head_dim, 2):
        wavelength = 2 * math.pi * spec.rope_base ** (i / spec.head_dim)
        share = rope["original_max_position_embeddings"] / wavelength
        smooth = min(1.0, max(0.0, (share - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


# --- the file ------------------------------------------------------------------------------------


def _write(path: Path, spec: ArchSpec, kind: str) -> None:
    writer = gguf.GGUFWriter(path, spec.gguf_arch)
    _add_metadata(writer, spec, kind)
    _add_vocabulary(writer)
    stored = GGMLQuantizationType[kind]
    for tensor, values in tensors(spec):
        if values.ndim == 1 or stored is GGMLQuantizationType.F32:
            writer.add_tensor(tensor, values)
        else:
            writer.add_tensor(tensor, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: Any, spec: ArchSpec, kind: str) -> None:
    # llama.cpp looks for certain tokens in models that have Phi-3 in their name.
    writer.add_name("random weights")
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    writer.add_context_length(spec.n_ctx_train)
    writer.add_embedding_length(spec.n_embd)
    writer.add_block_count(spec.n_layer)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_head_count(spec.n_head)
    writer.add_head_count_kv(spec.n_head_kv)
    if spec.head_dim * spec.n_head != spec.n_embd:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.rms_eps)
    writer.add_rope_freq_base(spec.rope_base)
    if spec.gguf_arch in ("llama", "phi3"):
        writer.add_rope_dimension_count(spec.head_dim)
    if spec.gguf_arch == "llama":
        writer.add_vocab_size(N_VOCAB)
    if spec.swa_window:
        writer.add_sliding_window(spec.swa_window)
    if spec.rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(spec.rope["factor"])
    if spec.rope.get("rope_type") == "longrope":
        n_original = spec.rope["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(n_original)
        ratio = math.log(spec.n_ctx_train / n_original) / math.log(n_original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + ratio))


def _add_vocabulary(writer: Any) -> None:
    tokens, merges = train_bpe(SENTENCES, N_VOCAB - len(CONTROL_TOKENS))
    # The text decides how many merges there are; the size must not depend on it.
    tokens += [f"<|unused{i}|>" for i in range(N_VOCAB - len(CONTROL_TOKENS) - len(tokens))]
    types = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS)
    tokens += CONTROL_TOKENS
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(t) for t in types])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(CONTROL_TOKENS[0]))
    writer.add_eos_token_id(tokens.index(CONTROL_TOKENS[-1]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _quantize_with_llama_cpp(source: Path, target: Path, kind: str) -> None:
    from llamaherd.llama.binding import C
    from llamaherd.llama.library import ensure_started

    ensure_started(0)  # which also keeps llama.cpp's log away from the terminal
    params = C.llama_model_quantize_default_params()
    params.ftype = getattr(C, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = 1
    if C.llama_model_quantize(os.fsencode(source), os.fsencode(target), params) != 0:
        raise RuntimeError(f"llama.cpp could not quantize to {kind}")


def main() -> None:
    """Write models into a folder."""
    parser = argparse.ArgumentParser(description="Make small random models.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE", help=", ".join(ARCHITECTURES))
    parser.add_argument("--types", nargs="+", choices=PLAIN_TYPES + MIXTURES, default=["F32"])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or ARCHITECTURES:
        for kind in arguments.types:
            file = arguments.folder / f"{name}-{kind.lower()}.gguf"
            print(make_arch_model(file, name, kind))


if __name__ == "__main__":
    main()
