"""Loads a GGUF file for the native engine: which models it covers, and where their tensors are.

Everything that native code will rely on is checked here first: a damaged file ends as an error
with its name, and a model that the engine does not cover as `NotCovered` with the reason, so that
the caller can take llama.cpp instead.
"""

from __future__ import annotations

import importlib
import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaherd.errors import ConfigError, InsufficientMemory, ModelLoadError
from llamaherd.llama.gguf_file import TensorInfo, model_files, read_header

__all__ = [
    "NativeWeights",
    "NotCovered",
    "check_covered",
    "chosen_isa",
    "native_module",
    "why_unavailable",
]

# Tensor types by ggml's number.
_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 30: "BF16"}
_TYPES |= {10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}
_ENCODERS = ("bert",)
_ARCHITECTURES = (*_ENCODERS, "gemma3", "llama", "phi3", "qwen2", "qwen3")
# Parts of a layer, with whether they are a matrix: GGUF calls a norm's or matrix's own values
# "weight", and the engine leaves the word out.
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_VECTORS = (
    "attn_norm",
    "attn_q_norm",
    "attn_k_norm",
    "post_attention_norm",
    "ffn_norm",
    "post_ffw_norm",
)
# An encoder normalizes after attention and after the feed-forward part.
_ENCODER_NORMS = {"attn_norm": "attn_output_norm", "ffn_norm": "layer_output_norm"}
_ENCODER_EMBEDDINGS = ("position_embd", "token_types", "token_embd_norm")
_MAX_HEAD_DIM = 256
_LOCAL_ROPE_BASE = 10_000.0
# Every sixth layer of Gemma 3 sees everything, the others a window.
_GEMMA_PATTERN = 6
_GEMMA_27B_LAYERS = 62

Slice = tuple[int, NDArray[np.uint8], int, int]


class NotCovered(Exception):
    """The native engine does not run this model; the text says why."""


def native_module() -> ModuleType:
    """The compiled part.

    Raises:
        NotCovered: It was not built for this platform.
    """
    try:
        return importlib.import_module("llamaherd._native")
    except ImportError as error:
        raise NotCovered("it was not built for this platform") from error


def chosen_isa() -> str:
    """The instruction set to use: that of the environment variable LLAMAHERD_ISA, or the best.

    Raises:
        ConfigError: This machine does not have it.
        NotCovered: The compiled part was not built.
    """
    names: list[str] = native_module().isa_names()
    wanted = os.environ.get("LLAMAHERD_ISA") or names[0]
    if wanted not in names:
        raise ConfigError(f"LLAMAHERD_ISA is {wanted!r}; this machine has {', '.join(names)}")
    return wanted


def why_unavailable() -> str | None:
    """Why the native engine cannot be used on this machine at all, or None if it can."""
    try:
        isa = chosen_isa()
    except NotCovered as reason:
        return str(reason)
    if isa == "reference" and not os.environ.get("LLAMAHERD_ISA"):
        return "this processor has no AVX2"
    return None


def check_covered(path: Path) -> None:
    """Make sure that the native engine runs a model on this machine.

    Raises:
        NotCovered: It does not.
        ModelLoadError: The file is damaged.
    """
    reason = why_unavailable()
    if reason is not None:
        raise NotCovered(reason)
    _Plan(path)


@dataclass(frozen=True, slots=True)
class _Rope:
    """Angles per position of every pair, for each kind of layer."""

    frequencies: list[list[float]]
    scale: float


class NativeWeights:
    """A model with its weights in packed form.

    Attributes:
        model: The compiled part's model.
        n_vocab: Tokens in the vocabulary.
        n_embd: Width of the hidden states.
        is_encoder: Whether it makes embeddings only, of the whole text at once.
        n_token_types: Kinds of segments that an encoder tells apart; 0 for a decoder.
        classifier: What follows the pooled state of a reranker, as (weights, bias) of one or two
            linear layers with tanh between them; empty if there is none.
        n_bytes: Bytes of the packed weights.
        kv_bytes_per_token: KV cache of one token.
        rope_frequencies: Radians per position of every rotary pair, for each kind of layer.
        rope_scale: Factor of all sines and cosines.
    """

    def __init__(
        self, path: Path, *, n_threads: int, n_ctx: int | None = None, isa: str | None = None
    ) -> None:
        """Load and pack.

        Args:
            path: A GGUF file, or the first part of a split one.
            n_threads: Threads to pack with.
            n_ctx: Longest row that will be asked for; models with two sets of rotary factors
                choose by it.
            isa: Instruction set; None takes that of the environment variable LLAMAHERD_ISA,
                or else the best.

        Raises:
            ConfigError: This machine does not have the instruction set.
            NotCovered: The native engine does not run this model.
            ModelLoadError: The file is damaged.
            InsufficientMemory: There is not enough memory to pack it.
        """
        native = native_module()
        isa = chosen_isa() if isa is None else isa
        plan = _Plan(path)
        rope = plan.rope(n_ctx)
        try:
            shape = plan.shape(native)
            self.classifier = plan.classifier() if shape.is_encoder else []
            self.model = native.Model(shape, plan.tensors(), n_threads, isa)
        except MemoryError as error:
            raise InsufficientMemory(f"the weights of {path.name} do not fit in memory") from error
        except ValueError as error:
            raise ModelLoadError(f"{path} cannot be used: {error}") from error
        finally:
            plan.release()
        self.n_vocab = plan.n_vocab
        self.n_embd: int = shape.n_embd
        self.is_encoder: bool = shape.is_encoder
        self.n_token_types: int = shape.n_token_types
        self.n_bytes: int = self.model.n_bytes
        self.kv_bytes_per_token: int = self.model.kv_block_bytes // native.KV_BLOCK
        self.rope_frequencies = rope.frequencies
        self.rope_scale = rope.scale


class _Plan:
    """What a file holds, in the engine's terms."""

    def __init__(self, path: Path) -> None:
        self._parts = [(part, read_header(part)) for part in model_files(path)]
        self._path = path
        self._maps: dict[Path, mmap.mmap] = {}
        self._header = self._parts[0][1]
        self._tensors = {t.name: (part, t) for part, h in self._parts for t in h.tensors}
        self._architecture = str(self._header.metadata.get("general.architecture"))
        if self._architecture not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise NotCovered(f"it covers {known}, and this model is {self._architecture!r}")
        self._sizes = self._header.sizes()
        self._is_encoder = self._architecture in _ENCODERS
        self._check_sizes()
        self._check_encoder()
        self._check_types()

    # ── checks ──────────────────────────────────────────────────────────────────────────

    def _check_sizes(self) -> None:
        sizes = self._sizes
        numbers = {
            "block_count": sizes.n_layer,
            "embedding_length": sizes.n_embd,
            "feed_forward_length": sizes.n_ff,
            "attention.head_count": sizes.n_head,
            "attention.head_count_kv": sizes.n_head_kv,
            "attention.key_length": sizes.head_dim_k,
        }
        for key, value in numbers.items():
            if not 0 < value <= 1 << 20:
                raise ModelLoadError(f"{self._path} is damaged: {key} is {value}")
        if self._number("expert_count"):
            raise NotCovered("it does not run mixtures of experts")
        if sizes.head_dim_k != sizes.head_dim_v:
            raise NotCovered("its keys and values have different widths")
        if sizes.head_dim_k % 16 or sizes.head_dim_k > _MAX_HEAD_DIM:
            allowed = f"multiples of 16 up to {_MAX_HEAD_DIM}"
            raise NotCovered(f"heads have {sizes.head_dim_k} values; it takes {allowed}")
        n_head = self._value("attention.head_count")
        if len(set(sizes.kv_heads)) != 1 or isinstance(n_head, list):
            raise NotCovered("its layers differ in their numbers of heads")
        kind = self._value("rope.scaling.type", "none")
        if kind not in ("none", "linear", "longrope"):
            raise NotCovered(f"it has rotary embeddings of the kind {kind!r}")

    def _check_encoder(self) -> None:
        is_causal = self._value("attention.causal", not self._is_encoder)
        if is_causal == self._is_encoder:
            seen = "only what comes before it" if is_causal else "all of its text"
            raise NotCovered(f"every token sees {seen}, which is unusual for its architecture")
        if not self._is_encoder:
            return
        if self._sizes.n_embd % 16:
            raise NotCovered(f"its vectors have {self._sizes.n_embd} values, no multiple of 16")
        for name in _ENCODER_EMBEDDINGS:
            if f"{name}.weight" not in self._tensors:
                raise NotCovered(f"it has no {name}")

    def _check_types(self) -> None:
        for part, tensor in self._tensors.values():
            if tensor.type not in _TYPES:
                raise NotCovered(f"tensor {tensor.name} has the type number {tensor.type}")
            self._bytes_of(part, tensor)

    def _bytes_of(self, part: Path, tensor: TensorInfo) -> int:
        """Bytes of a tensor, which lie within the file."""
        n_inputs, n_outputs = tensor.shape[0], math.prod(tensor.shape[1:])
        if not (0 < n_inputs < 1 << 31 and 0 < n_outputs < 1 << 31):
            raise ModelLoadError(f"{part} is damaged: {tensor.name} has shape {tensor.shape}")
        try:
            n_bytes: int = native_module().row_bytes(tensor.type, n_inputs) * n_outputs
        except ValueError as error:
            raise ModelLoadError(f"{part} is damaged: {tensor.name}: {error}") from error
        if tensor.offset + n_bytes > part.stat().st_size:
            raise ModelLoadError(
                f"{part} is cut short: {tensor.name} ends beyond it; download the file again"
            )
        return n_bytes

    # ── the model ───────────────────────────────────────────────────────────────────────

    @property
    def n_vocab(self) -> int:
        return int(self._tensor("token_embd.weight")[1].shape[-1])

    def shape(self, native: ModuleType) -> Any:
        """The shape of the model for the compiled part."""
        sizes, is_gemma = self._sizes, self._architecture == "gemma3"
        shape = native.Shape()
        shape.n_layer, shape.n_embd = sizes.n_layer, sizes.n_embd
        shape.n_head, shape.n_head_kv = sizes.n_head, sizes.n_head_kv
        shape.head_dim, shape.n_ff = sizes.head_dim_k, sizes.n_ff
        shape.n_vocab, shape.n_rot = self.n_vocab, self._n_rot
        # llama.cpp stores the queries and keys of this architecture with pairs side by side.
        shape.rotates_neighbors = self._architecture == "llama"
        shape.uses_gelu = is_gemma or self._is_encoder
        norm = "layer_norm" if self._is_encoder else "layer_norm_rms"
        shape.norm_eps = self._float(f"attention.{norm}_epsilon", 1e-5)
        if self._is_encoder:
            shape.is_encoder = True
            shape.n_positions = int(self._tensor("position_embd.weight")[1].shape[-1])
            types = self._tensor("token_types.weight")[1].shape
            shape.n_token_types = math.prod(types[1:])
        shape.embedding_scale = math.sqrt(sizes.n_embd) if is_gemma else 1.0
        shape.attention_scale = self._attention_scale()
        shape.logit_softcap = self._float("final_logit_softcapping", 0.0) if is_gemma else 0.0
        windows = self._windows()
        shape.windows = windows
        shape.rope_kinds = [1 if window else 0 for window in windows]
        return shape

    def _attention_scale(self) -> float:
        sizes = self._sizes
        if self._architecture == "gemma3" and sizes.n_layer == _GEMMA_27B_LAYERS:
            return 1.0 / math.sqrt(sizes.n_embd / sizes.n_head)
        return 1.0 / math.sqrt(sizes.head_dim_k)

    def _windows(self) -> list[int]:
        """Tokens that each layer sees; 0 for all. As in llama.cpp, only Gemma 3 has windows."""
        n_layer = self._sizes.n_layer
        if self._architecture != "gemma3" or not self._sizes.n_swa:
            return [0] * n_layer
        pattern = self._number("attention.sliding_window_pattern", _GEMMA_PATTERN)
        return [0 if (i + 1) % pattern == 0 else self._sizes.n_swa for i in range(n_layer)]

    @property
    def _n_rot(self) -> int:
        if self._is_encoder:
            return 0
        n_rot = self._number("rope.dimension_count", self._sizes.head_dim_k)
        if n_rot % 2 or not 0 <= n_rot <= self._sizes.head_dim_k:
            raise ModelLoadError(f"{self._path} is damaged: rope.dimension_count is {n_rot}")
        return n_rot

    def rope(self, n_ctx: int | None) -> _Rope:
        """Rotary frequencies, for layers that see everything and for those with a window."""
        base = self._float("rope.freq_base", 10_000.0)
        if not 0 < base < math.inf:
            raise ModelLoadError(f"{self._path} is damaged: rope.freq_base is {base}")
        factor = 1.0
        if self._value("rope.scaling.type", "none") == "linear":
            factor = self._float("rope.scaling.factor", 1.0) or 1.0
        factors = self._rope_factors(n_ctx)
        whole = [self._frequency(base, i) / (factor * f) for i, f in enumerate(factors)]
        # As in llama.cpp, the window's layers turn without any scaling.
        local_base = self._float("rope.freq_base_swa", _LOCAL_ROPE_BASE)
        local = [self._frequency(local_base, i) for i in range(len(factors))]
        return _Rope([whole, local], self._float("rope.scaling.attn_factor", 1.0))

    def _frequency(self, base: float, pair: int) -> float:
        return float(base ** (-2.0 * pair / self._n_rot))

    def _rope_factors(self, n_ctx: int | None) -> list[float]:
        n_original = self._number("rope.scaling.original_context_length", self._sizes.n_ctx_train)
        is_long = (n_ctx or self._sizes.n_ctx_train) > n_original
        for name in ("rope_freqs", "rope_factors_long" if is_long else "rope_factors_short"):
            if f"{name}.weight" in self._tensors:
                factors = [float(f) for f in self._array(f"{name}.weight", self._n_rot // 2)]
                if not all(0 < f < math.inf for f in factors):
                    raise ModelLoadError(f"{self._path} is damaged: {name} is not positive")
                return factors
        return [1.0] * (self._n_rot // 2)

    # ── tensors ─────────────────────────────────────────────────────────────────────────

    def tensors(self) -> dict[str, Slice]:
        """All tensors under the engine's names: type, bytes in the mapped file, rows, columns."""
        found: dict[str, Slice] = {"token_embd": self._slice("token_embd.weight")}
        if self._is_encoder:
            for name in _ENCODER_EMBEDDINGS:
                self._add(found, name, name)
        else:
            found["output_norm"] = self._slice("output_norm.weight")
            self._add(found, "output", "output")
        for i in range(self._sizes.n_layer):
            for part in (*_MATRICES, *_VECTORS):
                source = _ENCODER_NORMS.get(part, part) if self._is_encoder else part
                self._add(found, f"blk.{i}.{part}", f"blk.{i}.{source}")
            self._split_fused(found, f"blk.{i}.")
        return found

    def classifier(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Weights ``[outputs, inputs]`` and bias of the layers that follow a pooled state."""
        layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        width = self._sizes.n_embd
        for name in ("cls", "cls.output"):
            if f"{name}.weight" not in self._tensors:
                continue
            shape = self._tensor(f"{name}.weight")[1].shape
            n_inputs, n_outputs = shape[0], math.prod(shape[1:])
            if n_inputs != width:
                raise ModelLoadError(f"{self._path} is damaged: {name}.weight has shape {shape}")
            width = n_outputs
            weight = self._array(f"{name}.weight", n_inputs * n_outputs)
            bias: NDArray[np.float32] = np.zeros(n_outputs, np.float32)
            if f"{name}.bias" in self._tensors:
                bias = self._array(f"{name}.bias", n_outputs)
            layers.append((weight.reshape(n_outputs, n_inputs), bias))
        return layers

    def _add(self, found: dict[str, Slice], name: str, source: str) -> None:
        """Find a part's values and its bias, if it has them."""
        for ours, theirs in ((name, f"{source}.weight"), (f"{name}.bias", f"{source}.bias")):
            if theirs in self._tensors:
                found[ours] = self._slice(theirs)

    def release(self) -> None:
        """Let the system take back the memory of what was read; it can be read again."""
        for mapped in self._maps.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def _split_fused(self, found: dict[str, Slice], layer: str) -> None:
        """Queries, keys and values in one tensor, and the gate in that of the up projection."""
        sizes = self._sizes
        n_query = sizes.n_head * sizes.head_dim_k
        n_kv = sizes.n_head_kv * sizes.head_dim_k
        if f"{layer}attn_qkv.weight" in self._tensors:
            fused = self._slice(f"{layer}attn_qkv.weight")
            for name, first, n in (
                ("attn_q", 0, n_query),
                ("attn_k", n_query, n_kv),
                ("attn_v", n_query + n_kv, n_kv),
            ):
                found[layer + name] = _rows(fused, first, n)
                if f"{layer}attn_qkv.bias" in self._tensors:
                    bias = self._slice(f"{layer}attn_qkv.bias")
                    found[f"{layer}{name}.bias"] = _columns(bias, first, n)
        if self._is_encoder:
            return
        if f"{layer}ffn_gate" not in found and f"{layer}ffn_up" in found:
            fused = found[f"{layer}ffn_up"]
            found[f"{layer}ffn_gate"] = _rows(fused, 0, sizes.n_ff)
            found[f"{layer}ffn_up"] = _rows(fused, sizes.n_ff, sizes.n_ff)

    def _slice(self, name: str) -> Slice:
        part, tensor = self._tensor(name)
        if part not in self._maps:
            with part.open("rb") as file:
                self._maps[part] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        n_bytes = self._bytes_of(part, tensor)
        data = np.frombuffer(self._maps[part], np.uint8, n_bytes, tensor.offset)
        return tensor.type, data, math.prod(tensor.shape[1:]), tensor.shape[0]

    def _tensor(self, name: str) -> tuple[Path, TensorInfo]:
        if name not in self._tensors:
            raise ModelLoadError(f"{self._path} is damaged: it has no tensor {name}")
        return self._tensors[name]

    def _array(self, name: str, n: int) -> NDArray[np.float32]:
        _, tensor = self._tensor(name)
        if math.prod(tensor.shape) != n:
            raise ModelLoadError(f"{self._path} is damaged: {name} has shape {tensor.shape}")
        kind, data, _, _ = self._slice(name)
        values: NDArray[np.float32] = native_module().dequantize(kind, data, n)
        return values

    # ── metadata ────────────────────────────────────────────────────────────────────────

    def _value(self, key: str, default: object = None) -> object:
        return self._header.metadata.get(f"{self._architecture}.{key}", default)

    def _number(self, key: str, default: int = 0) -> int:
        return self._header.number(key, default)

    def _float(self, key: str, default: float) -> float:
        value = self._value(key, default)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ModelLoadError(f"{self._path} is damaged: {key} is {value!r}")
        return float(value)


def _rows(fused: Slice, first: int, n: int) -> Slice:
    """Some rows of a tensor."""
    kind, data, n_outputs, n_inputs = fused
    stride = len(data) // n_outputs
    return kind, data[first * stride : (first + n) * stride], n, n_inputs


def _columns(fused: Slice, first: int, n: int) -> Slice:
    """Some values of a vector of floats."""
    kind, data, n_outputs, n_inputs = fused
    size = len(data) // n_inputs
    return kind, data[first * size : (first + n) * size], n_outputs, n
