"""Vectors of tokens: checked, gathered in one array, and widened from float16."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llamaherd.errors import ConfigError, RequestError

__all__ = ["FloatArray", "document_name", "gather", "token_vectors", "widen"]

FloatArray = NDArray[np.float32]

# Arrays beyond 32 MiB go back to the system once they are freed (M_MMAP_THRESHOLD in mallopt).
_CHUNK_BYTES = 1 << 26
_SIGN_EXPONENT_FRACTION = np.int32(0x8FFFE000 - (1 << 32))


def token_vectors(vectors: ArrayLike, name: str, *, dim: int | None = None) -> FloatArray:
    """Vectors of a query's or a document's tokens, checked.

    Args:
        vectors: Real numbers ``[n_tokens, dim]``.
        name: What error messages call them.
        dim: The dim that they must have, if it is known.

    Returns:
        Float32 ``[n_tokens, dim]``; the caller's own array if it is one.

    Raises:
        RequestError: They have no tokens, another shape, or values that are not finite.
    """
    if vectors is None:
        raise RequestError(f"{name} is None, as the vector of a text that failed; leave it out")
    try:
        array = np.asarray(vectors)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{name} is no array of numbers: {error}") from error
    if array.dtype.kind not in "fiu":
        raise RequestError(f"{name} has dtype {array.dtype}; give real numbers")
    if array.ndim != 2:
        raise RequestError(f"{name} has shape {array.shape}; it takes [n_tokens, dim]")
    if not len(array):
        raise RequestError(f"{name} has no tokens; leave it out")
    if not array.shape[1]:
        raise RequestError(f"{name} has vectors of 0 values")
    if dim is not None and array.shape[1] != dim:
        raise RequestError(f"{name} has vectors of {array.shape[1]} values; the others have {dim}")
    return _cast(array, np.dtype(np.float32), name)


def gather(
    documents: Iterable[ArrayLike], ids: NDArray[Any] | None, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Put documents one after another, taking them one by one.

    Args:
        documents: Vectors of each document's tokens.
        ids: A name for each, or None.
        dtype: How they are stored.

    Returns:
        All vectors ``[n_tokens, dim]``, and the number of tokens of each document.

    Raises:
        ConfigError: There are no documents, or not as many as ids.
        RequestError: A document is wrong; the message names it.
    """
    chunks: list[NDArray[Any]] = []
    dim: int | None = None
    lengths: list[int] = []
    n_free = 0
    for position, document in enumerate(documents):
        if ids is not None and position == len(ids):
            raise ConfigError(f"ids has {len(ids)} entries, but there are more documents")
        name = document_name(position, ids)
        vectors = _cast(token_vectors(document, name, dim=dim), dtype, name)
        dim = vectors.shape[1]
        lengths.append(len(vectors))
        while len(vectors):
            if not n_free:
                n_free = max(1, _CHUNK_BYTES // (dim * dtype.itemsize))
                chunks.append(np.empty((n_free, dim), dtype))
            n = min(n_free, len(vectors))
            at = len(chunks[-1]) - n_free
            chunks[-1][at : at + n] = vectors[:n]
            n_free -= n
            vectors = vectors[n:]
    if dim is None:
        raise ConfigError("there are no documents; give at least one")
    if ids is not None and len(ids) != len(lengths):
        raise ConfigError(f"ids has {len(ids)} entries, but there are {len(lengths)} documents")
    return _joined(chunks, (sum(lengths), dim), dtype), np.array(lengths, np.intp)


def widen(halves: NDArray[np.float16], out: FloatArray) -> None:
    """Finite float16 to float32, exactly, and almost three times as fast as numpy's own cast."""
    bits = out.view(np.int32)
    # Exponent and fraction move to their places in float32; copies of the sign are masked out. The
    # product corrects the exponent, which is counted from another zero, also of subnormal values.
    np.copyto(bits, halves.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_EXPONENT_FRACTION, out=bits)
    np.multiply(out, np.float32(2.0**112), out=out)


def document_name(position: int, ids: NDArray[Any] | None) -> str:
    """A document as error messages name it."""
    if ids is None:
        return f"document {position}"
    return f"document {ids[position : position + 1].tolist()[0]!r} (position {position})"


def _joined(
    chunks: list[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """One array of chunks, which are freed on the way.

    The system gives memory to an array when it is written, so that nothing exists twice.
    """
    joined = np.empty(shape, dtype)
    start = 0
    chunks.reverse()
    while chunks:
        chunk = chunks.pop()
        stop = min(start + len(chunk), len(joined))
        joined[start:stop] = chunk[: stop - start]
        start = stop
    return joined


def _cast(array: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        cast: NDArray[Any] = array.astype(dtype, copy=False)
    if not np.isfinite(cast).all():
        token, value = np.argwhere(~np.isfinite(cast))[0].tolist()
        found = array[token, value]
        why = f"is too large for {dtype}" if np.isfinite(found) else "is not finite"
        raise RequestError(f"{name}, token {token}, value {value}: {found} {why}")
    return cast
