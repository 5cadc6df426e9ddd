"""A tiny BERT with random weights: as the hub has it, as GGUF, and as a few lines of float64."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WORDS = "the cup is ours shares rose who won a rover bank river ##s ##ing , . ? !".split()
VOCABULARY = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
N_EMBD, N_LAYER, N_HEAD, N_FF, N_POSITIONS = 64, 2, 4, 96, 48


@dataclass(frozen=True)
class TinyBert:
    """A model and its weights under the hub's names."""

    path: Path
    tensors: dict[str, NDArray[np.float32]]

    def states(self, tokens: list[int], types: list[int] | None = None) -> Array:
        """Hidden states ``[n_tokens, N_EMBD]`` in float64."""
        n = len(tokens)
        x = self._norm(
            self._get("embeddings.word_embeddings.weight")[tokens]
            + self._get("embeddings.position_embeddings.weight")[:n]
            + self._get("embeddings.token_type_embeddings.weight")[types or [0] * n],
            "embeddings.LayerNorm",
        )
        for i in range(N_LAYER):
            layer = f"encoder.layer.{i}."
            q, k, v = (
                self._linear(x, f"{layer}attention.self.{part}").reshape(n, N_HEAD, -1)
                for part in ("query", "key", "value")
            )
            scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(N_EMBD // N_HEAD)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            seen = np.einsum("hij,jhd->ihd", weights, v).reshape(n, N_EMBD)
            x = self._norm(
                x + self._linear(seen, f"{layer}attention.output.dense"),
                f"{layer}attention.output.LayerNorm",
            )
            inner = self._linear(x, f"{layer}intermediate.dense")
            # GGUF's engines compute GELU by its tanh form.
            inner *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
            x = self._norm(
                x + self._linear(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm"
            )
        return x

    def score(self, tokens: list[int], types: list[int]) -> float:
        """The classifier's score."""
        pooled = np.tanh(self._linear(self.states(tokens, types)[:1], "pooler.dense"))
        return float(self._linear(pooled, "classifier")[0, 0])

    def _get(self, name: str) -> Array:
        return self.tensors[name].astype(np.float64)

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._get(f"{name}.weight").T + self._get(f"{name}.bias")

    def _norm(self, x: Array, name: str) -> Array:
        centered = x - x.mean(axis=-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-12)
        return scaled * self._get(f"{name}.weight") + self._get(f"{name}.bias")


def make_bert(folder: Path, *, has_classifier: bool = False) -> TinyBert:
    """Write a model and convert it with the tool of this repository."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = _random_tensors(has_classifier)
    save_file(
        {f"bert.{name}": values for name, values in tensors.items()}, folder / "model.safetensors"
    )
    config: dict[str, Any] = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": N_EMBD,
        "num_hidden_layers": N_LAYER,
        "num_attention_heads": N_HEAD,
        "intermediate_size": N_FF,
        "max_position_embeddings": N_POSITIONS,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    convert_tool()(folder, folder / "model.gguf", "F32")
    return TinyBert(folder / "model.gguf", tensors)


def convert_tool() -> Any:
    """`convert` of tools/convert_bert.py."""
    tools = str(Path(__file__).parent.parent / "tools")
    sys.path.insert(0, tools)
    try:
        from convert_bert import convert
    finally:
        sys.path.remove(tools)
    return convert


def _random_tensors(has_classifier: bool) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)
    linear = {
        f"encoder.layer.{i}.{part}": shape
        for i in range(N_LAYER)
        for part, shape in {
            "attention.self.query": (N_EMBD, N_EMBD),
            "attention.self.key": (N_EMBD, N_EMBD),
            "attention.self.value": (N_EMBD, N_EMBD),
            "attention.output.dense": (N_EMBD, N_EMBD),
            "intermediate.dense": (N_FF, N_EMBD),
            "output.dense": (N_EMBD, N_FF),
        }.items()
    }
    norms = ["embeddings.LayerNorm"] + [
        f"encoder.layer.{i}.{part}.LayerNorm"
        for i in range(N_LAYER)
        for part in ("attention.output", "output")
    ]
    if has_classifier:
        linear |= {"pooler.dense": (N_EMBD, N_EMBD), "classifier": (1, N_EMBD)}
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), N_EMBD),
        "embeddings.position_embeddings.weight": (N_POSITIONS, N_EMBD),
        "embeddings.token_type_embeddings.weight": (2, N_EMBD),
    }
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    tensors = {name: random.normal(0, 0.3, shape) for name, shape in shapes.items()}
    for name in norms:
        tensors[f"{name}.weight"] = random.normal(1, 0.2, N_EMBD)
        tensors[f"{name}.bias"] = random.normal(0, 0.2, N_EMBD)
    return {name: values.astype(np.float32) for name, values in tensors.items()}
