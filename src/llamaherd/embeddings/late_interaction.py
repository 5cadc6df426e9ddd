"""`LateInteractionScorer`: documents ranked by one vector per token (ColBERT)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llamaherd.embeddings.ranking import TopK
from llamaherd.embeddings.token_vectors import (
    FloatArray,
    document_name,
    gather,
    token_vectors,
    widen,
)
from llamaherd.errors import ConfigError, RequestError
from llamaherd.hardware import available_cpus

__all__ = ["LateInteractionHits", "LateInteractionScorer", "maxsim"]

# OpenBLAS computes products of up to so many multiply-adds on the calling thread. Tiles below that
# keep its threads from meeting ours, whatever it is set to; larger ones would not be faster.
_TILE_MULTIPLY_ADDS = 1 << 18
_SLICE_TOKENS = 32
_MIN_TILE_TOKENS = 8
# Queries that one pass over the documents serves.
_QUERY_GROUP = 64


@dataclass(frozen=True, slots=True)
class LateInteractionHits:
    """The best documents for a query, best first; equal scores in the order of the documents.

    Attributes:
        ids: Ids of the documents ``[n_hits]``: int64 without ids of the caller's or where these
            are int, the caller's own dtype if they came as an array, otherwise objects.
        scores: Float32 ``[n_hits]``.
    """

    ids: NDArray[Any]
    scores: FloatArray


def maxsim(query: ArrayLike, document: ArrayLike) -> float:
    """Late interaction of one query with one document.

    Args:
        query: Vectors of the query's tokens ``[n_query_tokens, dim]``.
        document: Vectors of the document's tokens ``[n_tokens, dim]``.

    Returns:
        The sum, over the query's tokens, of the largest dot product with a token of the document.

    Raises:
        RequestError: An argument has no tokens, another dim, or values that are not finite.
    """
    q = token_vectors(query, "the query")
    d = token_vectors(document, "the document", dim=q.shape[1])
    with np.errstate(all="ignore"):
        score = float((q @ d.T).max(axis=1).sum())
    if not np.isfinite(score):
        raise RequestError("the score is too large for float32; scale the vectors")
    return score


class LateInteractionScorer:
    """Scores documents by late interaction, in bounded memory.

    A document's score is the sum, over the query's tokens, of the largest dot product with one of
    its tokens. Scores do not depend on the number of threads or on the other queries of a batch,
    to the last bit. Any thread may use it.

    Example:
        >>> import numpy as np
        >>> from llamaherd import LateInteractionScorer
        >>> documents = [np.eye(4)[:2], np.eye(4)[1:]]
        >>> scorer = LateInteractionScorer(documents, ids=["a", "b"])
        >>> scorer.search(np.eye(4)[2:], top_k=1).ids.tolist()
        ['b']

    Args:
        documents: Vectors of each document's tokens ``[n_tokens, dim]``, with as many tokens as
            each has. An iterator is taken one by one, so that documents never exist twice.
        ids: A name for each document, any hashables without duplicates; by default positions.
        dtype: How vectors are stored: ``"float32"`` or, in half the memory, ``"float16"``, from
            which they are converted block by block. Scores are computed in float32.
        num_threads: Threads that score; by default the CPUs that this process may use.
        block_bytes: Bytes of token vectors, in float32, that a thread works on at a time. Their
            products take ``32 / dim`` as much and should fit in a core's L2 cache; much smaller
            blocks make threads wait for the interpreter.

    Raises:
        ConfigError: An option is wrong, ids do not fit the documents, or there are no documents.
        RequestError: A document has no tokens, another dim, or values that are not finite.
    """

    def __init__(
        self,
        documents: Iterable[ArrayLike],
        ids: Iterable[Hashable] | None = None,
        *,
        dtype: Literal["float32", "float16"] = "float32",
        num_threads: int | None = None,
        block_bytes: int = 1 << 21,
    ) -> None:
        if dtype not in ("float32", "float16"):
            raise ConfigError(f'dtype is {dtype!r}; allowed: "float32", "float16"')
        if num_threads is not None:
            _check_positive("num_threads", num_threads)
        _check_positive("block_bytes", block_bytes)
        self._ids = None if ids is None else _id_array(ids)
        self._vectors, lengths = gather(documents, self._ids, np.dtype(dtype))
        self._n_threads = num_threads or available_cpus()
        self._block_tokens = max(1, block_bytes // (4 * self.n_dimensions))
        self._blocks = _blocks(lengths, self._block_tokens)
        self._n_documents = len(lengths)

    def __len__(self) -> int:
        """Number of documents."""
        return self._n_documents

    @property
    def n_dimensions(self) -> int:
        """Values of a token's vector."""
        return int(self._vectors.shape[1])

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._vectors)

    @property
    def nbytes(self) -> int:
        """Bytes that the stored vectors take."""
        return int(self._vectors.nbytes)

    def score(self, query: ArrayLike) -> FloatArray:
        """Scores of all documents.

        Args:
            query: Vectors of the query's tokens ``[n_query_tokens, dim]``.

        Returns:
            Float32 ``[n_documents]``, in the order of the documents.

        Raises:
            RequestError: The query has no tokens, another dim, or values that are not finite; or
                values are so large that a score is not.
        """
        scores = np.empty(len(self), np.float32)

        def write(first: int, found: FloatArray) -> None:
            scores[first : first + found.shape[1]] = found[0]

        self._score_blocks([self._prepare(query, "the query")], lambda: write)
        return scores

    def search(self, query: ArrayLike, top_k: int = 10) -> LateInteractionHits:
        """The best documents for a query.

        Args:
            query: Vectors of the query's tokens ``[n_query_tokens, dim]``.
            top_k: Number of documents, 1 or more; all of them if there are fewer.

        Raises:
            ConfigError: `top_k` is wrong.
            RequestError: As `score`.
        """
        _check_positive("top_k", top_k)
        return self._search([self._prepare(query, "the query")], top_k)[0]

    def search_batch(
        self, queries: Iterable[ArrayLike], top_k: int = 10
    ) -> list[LateInteractionHits]:
        """The best documents for each of many queries, with the same bits as one by one.

        Documents are read once for 64 queries, and the scores of a few documents exist at a time.

        Args:
            queries: Queries as `search` takes them; their numbers of tokens may differ.
            top_k: Number of documents for each, 1 or more; all of them if there are fewer.

        Raises:
            ConfigError: `top_k` is wrong.
            RequestError: As `score`; the message names the query by its position.
        """
        _check_positive("top_k", top_k)
        hits: list[LateInteractionHits] = []
        numbered = enumerate(queries)
        while group := list(itertools.islice(numbered, _QUERY_GROUP)):
            prepared = [self._prepare(query, f"query {i}") for i, query in group]
            hits += self._search(prepared, top_k)
        return hits

    def _search(self, queries: list[_Query], top_k: int) -> list[LateInteractionHits]:
        k = min(top_k, len(self))
        best, *others = self._score_blocks(queries, lambda: TopK(len(queries), k))
        for other in others:
            best.merge(other)
        positions, scores = best.result()
        ids = positions if self._ids is None else self._ids[positions]
        return [LateInteractionHits(i, s) for i, s in zip(ids, scores, strict=True)]

    def _prepare(self, query: ArrayLike, name: str) -> _Query:
        vectors = token_vectors(query, name, dim=self.n_dimensions)
        tile_area = max(_MIN_TILE_TOKENS, _TILE_MULTIPLY_ADDS // self.n_dimensions)
        width = min(len(vectors), _SLICE_TOKENS, tile_area // _MIN_TILE_TOKENS)
        slices = [
            np.ascontiguousarray(vectors[start : start + width].T)
            for start in range(0, len(vectors), width)
        ]
        return _Query(name, slices, tile_area // width)

    def _score_blocks(
        self, queries: list[_Query], make_sink: Callable[[], SinkType]
    ) -> list[SinkType]:
        """Hand the scores of every block to a sink; return the sink of each thread.

        A block's scores are the same whichever thread computes them, and sinks do not depend on
        the order in which they see blocks.
        """
        rest = _Rest(self._blocks)

        def work() -> SinkType:
            sink = make_sink()
            scratch = self._scratch(queries)
            # Overflow is an error below; the setting holds for the thread that it is made in.
            with np.errstate(all="ignore"):
                try:
                    while (block := rest.take()) is not None:
                        scores = np.empty((len(queries), block.n_documents), np.float32)
                        for query, row in zip(queries, scores, strict=True):
                            self._score_block(block, query, scratch, row)
                        sink(block.first, scores)
                except BaseException:
                    rest.drop()
                    raise
            return sink

        n_threads = min(self._n_threads, len(self._blocks))
        if n_threads == 1:
            return [work()]
        # Threads are started per call: that costs a tenth of a millisecond, and leaves nothing to
        # close and nothing that a forked child would wait for.
        with ThreadPoolExecutor(n_threads, thread_name_prefix="llamaherd-maxsim") as pool:
            try:
                return [future.result() for future in [pool.submit(work) for _ in range(n_threads)]]
            except BaseException:
                rest.drop()
                raise

    def _scratch(self, queries: list[_Query]) -> _Scratch:
        width = max(query.slices[0].shape[1] for query in queries)
        tokens = min(self._block_tokens, self.n_tokens)
        is_float32 = self._vectors.dtype == np.float32
        return _Scratch(
            np.empty(tokens * width, np.float32),
            None if is_float32 else np.empty((tokens, self.n_dimensions), np.float32),
        )

    def _score_block(
        self, block: _Block, query: _Query, scratch: _Scratch, scores: FloatArray
    ) -> None:
        scores[:] = 0
        for columns in query.slices:
            maxima: FloatArray | None = None
            for start in range(block.start, block.stop, self._block_tokens):
                stop = min(start + self._block_tokens, block.stop)
                vectors = scratch.float32(self._vectors, start, stop)
                products = scratch.multiply(vectors, columns, query.tile_tokens)
                found = block.maxima(products)
                maxima = found if maxima is None else np.maximum(maxima, found)
            assert maxima is not None
            scores += maxima.sum(axis=1)
        if not np.isfinite(scores).all():
            position = block.first + int(np.flatnonzero(~np.isfinite(scores))[0])
            raise RequestError(
                f"{query.name} with {document_name(position, self._ids)}: the score is too large "
                "for float32; scale the vectors"
            )


class _Sink(Protocol):
    """Takes the scores ``[n_queries, n]`` of the documents from `first` on."""

    def __call__(self, first: int, scores: FloatArray, /) -> None: ...


SinkType = TypeVar("SinkType", bound=_Sink)


@dataclass(frozen=True, slots=True)
class _Query:
    """A query in slices ``[dim, n]`` of a few tokens, and the tokens of documents in a tile."""

    name: str
    slices: list[FloatArray]
    tile_tokens: int


@dataclass(frozen=True, slots=True)
class _Block:
    """Documents that are scored together, or one that is longer than a block.

    Attributes:
        first: Position of the first document.
        n_documents: Number of documents.
        start: First token.
        stop: Token after the last.
        starts: Each document's first token, from the block's; None if all have one length.
    """

    first: int
    n_documents: int
    start: int
    stop: int
    starts: NDArray[np.intp] | None

    def maxima(self, products: FloatArray) -> FloatArray:
        """Each document's maximum ``[n_documents, n_query_tokens]`` over its tokens."""
        if self.starts is None:
            found: FloatArray = products.reshape(self.n_documents, -1, products.shape[1]).max(1)
        else:
            found = np.maximum.reduceat(products, self.starts, axis=0)
        return found


class _Rest:
    """Blocks that no thread has taken."""

    def __init__(self, blocks: Sequence[_Block]) -> None:
        self._blocks = iter(blocks)
        self._lock = threading.Lock()

    def take(self) -> _Block | None:
        with self._lock:
            return next(self._blocks, None)

    def drop(self) -> None:
        with self._lock:
            self._blocks = iter(())


class _Scratch:
    """The buffers of a thread."""

    def __init__(self, products: FloatArray, vectors: FloatArray | None) -> None:
        self._products = products
        self._vectors = vectors
        self._converted = (0, 0)

    def float32(self, stored: NDArray[Any], start: int, stop: int) -> FloatArray:
        """Token vectors in float32; converted once for all queries."""
        if self._vectors is None:
            return stored[start:stop]
        vectors = self._vectors[: stop - start]
        if self._converted != (start, stop):
            widen(stored[start:stop], vectors)
            self._converted = (start, stop)
        return vectors

    def multiply(self, vectors: FloatArray, columns: FloatArray, tile_tokens: int) -> FloatArray:
        """Products ``[n_tokens, n_query_tokens]``, tile by tile in one call."""
        (n_tokens, dim), width = vectors.shape, columns.shape[1]
        products = self._products[: n_tokens * width].reshape(n_tokens, width)
        n_tiled = n_tokens - n_tokens % tile_tokens
        if n_tiled:
            np.matmul(
                vectors[:n_tiled].reshape(-1, tile_tokens, dim),
                columns,
                out=products[:n_tiled].reshape(-1, tile_tokens, width),
            )
        if n_tiled < n_tokens:
            np.matmul(vectors[n_tiled:], columns, out=products[n_tiled:])
        return products


def _check_positive(name: str, value: object) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; allowed: whole numbers, 1 or more")


def _id_array(ids: Iterable[Hashable]) -> NDArray[Any]:
    listed = list(ids)
    seen: dict[Hashable, int] = {}
    for position, value in enumerate(listed):
        try:
            earlier = seen.setdefault(value, position)
        except TypeError:
            kind = type(value).__name__
            raise ConfigError(
                f"ids: the one at position {position} is a {kind}, which has no hash; use a number "
                "or text"
            ) from None
        if earlier != position:
            raise ConfigError(
                f"ids: {value!r} stands at positions {earlier} and {position}; make them unique"
            )
    if isinstance(ids, np.ndarray):
        return np.array(ids)
    if all(type(value) is int and abs(value) < 1 << 63 for value in listed):
        return np.array(listed, np.int64)
    # Unlike np.array, this takes tuples for what they are.
    return np.fromiter(listed, object, len(listed))


def _blocks(lengths: NDArray[np.intp], block_tokens: int) -> list[_Block]:
    """Documents in order, as many as fit in a block and at least one."""
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    blocks: list[_Block] = []
    first = 0
    while first < len(lengths):
        start = int(bounds[first])
        fitting = int(np.searchsorted(bounds, start + block_tokens, side="right")) - 1
        last = max(first + 1, fitting)
        is_even = bool((lengths[first:last] == lengths[first]).all())
        starts = None if is_even else bounds[first:last] - start
        blocks.append(_Block(first, last - first, start, int(bounds[last]), starts))
        first = last
    return blocks
