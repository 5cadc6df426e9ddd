"""Computes embeddings on llamaherd's own CPU engine, with encoders and decoders.

A text's vector is bitwise the same alone and in any batch, as the engine's logits are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llamaherd.engine.embedding import EmbeddingRequest
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import DecodeFailed, InsufficientMemory, ModelLoadError
from llamaherd.runners.native_weights import NativeWeights, native_module

__all__ = ["NativeEmbeddingRunner"]

IntArray = NDArray[np.int32]

# Tokens of one step.
_MAX_ROWS = 1024


class NativeEmbeddingRunner:
    """Runs on packed weights, which may serve a generating runner as well.

    Args:
        weights: The model.
        pooling: ``"mean"``, ``"cls"``, ``"last"``, ``"none"`` or, for an encoder with a
            classifier, ``"rank"``.
        n_tokens: Tokens of the longest text.
        n_threads: Compute threads.
        stack_size: Bytes of stack of each.
        cores: Cores to pin them to, if any.

    Raises:
        InsufficientMemory: The keys and values of the longest text cannot be allocated.
        ModelLoadError: The threads cannot be started.
    """

    token_budget = _MAX_ROWS
    max_texts = 256

    def __init__(
        self,
        weights: NativeWeights,
        *,
        pooling: str,
        n_tokens: int,
        n_threads: int,
        stack_size: int = 0,
        cores: tuple[int, ...] | None = None,
    ) -> None:
        native = native_module()
        self._weights = weights
        self._pooling = pooling
        self._block_size: int = native.KV_BLOCK
        self.n_tokens = max(n_tokens, self.token_budget)
        # An encoder sees a text at once; to a decoder a long one is given in pieces.
        self._max_rows = self.n_tokens if weights.is_encoder else _MAX_ROWS
        settings = native.ContextOptions()
        settings.n_blocks = -(-self.n_tokens // self._block_size) + self.max_texts
        settings.max_rows = self._max_rows
        settings.max_tokens = self.n_tokens
        settings.n_threads = n_threads
        settings.stack_bytes = stack_size
        settings.cores = list(cores or ())
        settings.rope_scale = weights.rope_scale
        settings.rope_frequencies = weights.rope_frequencies
        try:
            self._context = native.Context(weights.model, settings)
        except MemoryError as error:
            raise InsufficientMemory(
                f"a text of {n_tokens} tokens does not fit in memory; shorten it"
            ) from error
        except RuntimeError as error:
            raise ModelLoadError(f"the native engine cannot start: {error}") from error

    def execute(self, requests: Sequence[EmbeddingRequest]) -> list[FloatArray]:
        """Embed a batch; see `EmbeddingRunner.execute`."""
        if len(requests) == 1 and len(requests[0].tokens) > self._max_rows:
            states = [self._in_pieces(requests[0])]
        else:
            states = self._at_once(requests)
        if self._pooling == "none":
            return states
        if self._pooling == "mean":
            # One text at a time, since its sum may not depend on its neighbors.
            with np.errstate(all="ignore"):
                return [rows.mean(axis=0) for rows in states]
        if self._pooling == "rank":
            return [self._classify(rows[0]) for rows in states]
        return [rows[-1] for rows in states]

    def close(self) -> None:
        """Free the memory and the compute threads. May be called twice."""
        self._context = None

    def _at_once(self, requests: Sequence[EmbeddingRequest]) -> list[FloatArray]:
        sizes = np.array([len(request.tokens) for request in requests], np.int32)
        n_blocks = -(-sizes // self._block_size)
        ends = np.cumsum(n_blocks)
        tables = np.zeros((len(requests), int(n_blocks.max())), np.int32)
        for row, end, n in zip(tables, ends, n_blocks, strict=True):
            row[:n] = np.arange(end - n, end)
        tokens = np.concatenate([np.asarray(request.tokens, np.int32) for request in requests])
        starts = np.zeros(len(requests), np.int32)
        types = self._token_types(requests) if self._weights.is_encoder else starts[:0]
        return self._embed(tokens, types, sizes, starts, tables)

    def _in_pieces(self, request: EmbeddingRequest) -> FloatArray:
        tokens = np.asarray(request.tokens, np.int32)
        table = np.arange(-(-len(tokens) // self._block_size), dtype=np.int32)[np.newaxis]
        pieces = []
        for start in range(0, len(tokens), self._max_rows):
            piece = tokens[start : start + self._max_rows]
            sizes, starts = np.array([len(piece)], np.int32), np.array([start], np.int32)
            pieces += self._embed(piece, piece[:0], sizes, starts, table)
        if self._pooling == "last":
            return pieces[-1]
        return np.concatenate(pieces)

    def _embed(
        self, tokens: IntArray, types: IntArray, sizes: IntArray, starts: IntArray, tables: IntArray
    ) -> list[FloatArray]:
        """Hidden states of each text; only of the token that is pooled, if it is one."""
        ends = np.cumsum(sizes, dtype=np.int32)
        if self._pooling in ("cls", "rank"):
            wanted, counts = ends - sizes, np.ones_like(sizes)
        elif self._pooling == "last":
            wanted, counts = ends - 1, np.ones_like(sizes)
        else:
            wanted, counts = np.arange(len(tokens), dtype=np.int32), sizes
        hidden = np.empty((len(wanted), self._weights.n_embd), np.float32)
        try:
            self._context.embed(tokens, types, sizes, starts, tables, wanted, hidden)
        except (ValueError, TypeError) as error:
            raise DecodeFailed(f"the native engine refused the texts: {error}") from error
        return np.split(hidden, np.cumsum(counts)[:-1])

    def _token_types(self, requests: Sequence[EmbeddingRequest]) -> IntArray:
        """1 for tokens of a second segment, if the model tells segments apart."""
        types = [np.zeros(len(request.tokens), np.int32) for request in requests]
        if self._weights.n_token_types > 1:
            for row, request in zip(types, requests, strict=True):
                if request.segment_start is not None:
                    row[request.segment_start :] = 1
        return np.concatenate(types)

    def _classify(self, state: FloatArray) -> FloatArray:
        """As BertForSequenceClassification does."""
        *dense, (weight, bias) = self._weights.classifier
        with np.errstate(all="ignore"):
            for inner_weight, inner_bias in dense:
                state = np.tanh(inner_weight @ state + inner_bias)
            scores: FloatArray = weight @ state + bias
        return scores
