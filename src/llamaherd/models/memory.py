"""Tells before loading whether a model will fit, and if not, what to lower.

llama.cpp finds out only while it allocates, and the system may kill the process first. The
facts come from the header of the file, which takes milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamaherd.config import EngineConfig
from llamaherd.engine.kv_shape import KvShape
from llamaherd.errors import InsufficientMemory
from llamaherd.hardware import available_memory
from llamaherd.llama.gguf_file import ModelSizes, model_files, read_header
from llamaherd.runners.llama_cpp import N_UBATCH

__all__ = [
    "MemoryEstimate",
    "check_context",
    "check_file",
    "check_memory",
    "estimate_file",
    "estimate_memory",
    "kv_bytes_per_token",
    "format_bytes",
]

_F16, _F32 = 2, 4
# Tokens of a row that every model must have room for.
_SHORT_ROW = 512
# For everything that is not counted: Python, numpy, small buffers.
_MARGIN_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a loaded model takes, in bytes.

    Attributes:
        weights: The model file, or all its parts.
        kv_cache: Keys and values of all rows.
        logits: Results of one step.
        compute: Working memory of one step, and the process itself.
    """

    weights: int
    kv_cache: int
    logits: int
    compute: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.kv_cache + self.logits + self.compute


def kv_bytes_per_token(sizes: ModelSizes) -> int:
    """KV cache of one token in bytes, with 16-bit keys and values.

    Layers with a sliding window count in full, since their cache is kept whole for the reuse
    of prefixes.
    """
    return sum(sizes.kv_heads) * (sizes.head_dim_k + sizes.head_dim_v) * _F16


def estimate_memory(
    sizes: ModelSizes,
    *,
    weights_bytes: int,
    n_kv_tokens: int,
    n_rows: int = 1,
    n_outputs: int | None = None,
    n_ubatch: int = N_UBATCH,
) -> MemoryEstimate:
    """What a model and one context take.

    Args:
        sizes: Sizes of the model.
        weights_bytes: Size of the file or files.
        n_kv_tokens: Tokens that the KV cache holds, of all rows together.
        n_rows: Rows at the same time.
        n_outputs: Rows of logits in one step; None takes one for each row.
        n_ubatch: Tokens that are computed in one piece.
    """
    # llama.cpp plans one piece for the worst case, in which every token wants its logits.
    widths = 4 * sizes.n_embd + 2 * sizes.n_ff + sizes.n_vocab
    n_logits = n_rows if n_outputs is None else n_outputs
    return MemoryEstimate(
        weights=weights_bytes,
        kv_cache=n_kv_tokens * kv_bytes_per_token(sizes) + n_rows * sizes.state_bytes,
        logits=n_logits * sizes.n_vocab * _F32,
        compute=n_ubatch * widths * _F32 + _MARGIN_BYTES,
    )


def estimate_file(path: Path, *, n_kv_tokens: int, n_rows: int = 1) -> MemoryEstimate:
    """What a model file takes; see `estimate_memory`."""
    weights_bytes = sum(part.stat().st_size for part in model_files(path))
    sizes = read_header(path).sizes()
    return estimate_memory(
        sizes, weights_bytes=weights_bytes, n_kv_tokens=n_kv_tokens, n_rows=n_rows
    )


def check_file(path: Path, *, n_ctx: int | None, gpu_layers: int) -> None:
    """Refuse weights that do not fit beside one row. On a GPU only its driver knows.

    What a whole batch takes is chosen, and checked, when the first rows arrive.

    Args:
        path: The model file.
        n_ctx: Tokens that one row may hold, if that was said.
        gpu_layers: Layers on the GPU.

    Raises:
        InsufficientMemory: They do not fit.
    """
    if gpu_layers == 0:
        estimate = estimate_file(path, n_kv_tokens=min(n_ctx or _SHORT_ROW, _SHORT_ROW))
        check_memory(estimate, available_memory(), path.name)


def check_context(sizes: ModelSizes, shape: KvShape, config: EngineConfig) -> None:
    """Make sure that a context fits in the memory that is left after the weights.

    Args:
        sizes: Sizes of the model.
        shape: Its KV cache.
        config: Batching options.

    Raises:
        InsufficientMemory: It does not fit.
    """
    estimate = estimate_memory(
        sizes,
        weights_bytes=0,
        n_kv_tokens=shape.n_tokens,
        n_rows=shape.n_slots,
        n_ubatch=min(N_UBATCH, config.token_budget),
    )
    check_memory(estimate, available_memory(), "the context")


def check_memory(estimate: MemoryEstimate, available_bytes: int, name: str = "the model") -> None:
    """Refuse what cannot fit.

    Args:
        estimate: What is needed.
        available_bytes: What there is.
        name: What to call the model in the message.

    Raises:
        InsufficientMemory: It does not fit; the message has each part and what to lower.
    """
    if estimate.total <= available_bytes:
        return
    fixed = estimate.weights + estimate.compute
    if fixed > available_bytes:
        advice = "take a smaller quantization (such as Q4_K_M) or a smaller model"
    else:
        advice = "lower n_ctx or max_batch_size, or take a smaller quantization"
    raise InsufficientMemory(
        f"{name} needs about {format_bytes(estimate.total)} but "
        f"{format_bytes(available_bytes)} are available: "
        f"weights {format_bytes(estimate.weights)}, KV cache {format_bytes(estimate.kv_cache)}, "
        f"logits {format_bytes(estimate.logits)}, "
        f"working memory {format_bytes(estimate.compute)}; {advice}"
    )


def format_bytes(n: int) -> str:
    """A size as people write it, such as ``"1.5 GB"``."""
    if n < 1e9:
        return f"{n / 1e6:.0f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"
    return f"{n / 1e9:.1f} GB"
