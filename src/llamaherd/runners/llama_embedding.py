"""Computes embeddings on a llama.cpp context of their own, so that they never wait for answers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from llamaherd.engine.embedding import EmbeddingRequest
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import DecodeFailed, ModelLoadError
from llamaherd.llama.binding import C
from llamaherd.llama.weights import Weights, apply_adapters

__all__ = ["POOLINGS", "LlamaEmbeddingRunner"]

POOLINGS = {
    "none": C.LLAMA_POOLING_TYPE_NONE,
    "mean": C.LLAMA_POOLING_TYPE_MEAN,
    "cls": C.LLAMA_POOLING_TYPE_CLS,
    "last": C.LLAMA_POOLING_TYPE_LAST,
    "rank": C.LLAMA_POOLING_TYPE_RANK,
}


class LlamaEmbeddingRunner:
    """A context that gives hidden states instead of logits. Used from one thread only.

    Args:
        weights: The model, which is held until the runner is closed.
        n_embd: Width of its hidden states.
        pooling: One of `POOLINGS`.
        n_tokens: Tokens of the longest text. Every text lies in one batch as a whole: llama.cpp
            pools within a batch, and encoders see a text at once.
        n_threads: Compute threads.

    Raises:
        ModelLoadError: llama.cpp could not make the context.
    """

    # Attention of encoders costs the square of a batch in llama.cpp, so that small ones are best.
    token_budget = 256
    max_texts = 64

    def __init__(
        self, weights: Weights, n_embd: int, *, pooling: str, n_tokens: int, n_threads: int
    ) -> None:
        # llama.cpp reserves its buffers for as many tokens in every sequence, and ends the process
        # when that does not come out even (graph_reserve in llama-context.cpp).
        n_tokens = -(-max(n_tokens, self.token_budget) // self.max_texts) * self.max_texts
        params = C.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_tokens
        params.n_seq_max = self.max_texts
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = POOLINGS[pooling]
        params.no_perf = True
        self._held: object = weights.hold()
        self._context = C.llama_init_from_model(weights.handle, params)
        if not self._context:
            raise ModelLoadError(
                f"llama.cpp could not make a context for embeddings of {n_tokens} tokens"
            )
        apply_adapters(self._context, weights.adapters)
        self._memory = C.llama_get_memory(self._context)
        self._pooling = pooling
        self._n_values = n_embd
        if pooling == "rank":
            self._n_values = int(C.llama_model_n_cls_out(weights.handle))
        self.n_tokens = n_tokens
        self._batch = C.llama_batch_init(n_tokens, 0, 1)

    def execute(self, requests: Sequence[EmbeddingRequest]) -> list[FloatArray]:
        """Embed a batch.

        Args:
            requests: The texts; all together at most `n_tokens` tokens. llama.cpp takes every
                token for one of the first segment.

        Returns:
            Float32 ``[n_embd]`` per text; ``[n_tokens, n_embd]`` without pooling; ``[n_classes]``
            for pooling by rank.

        Raises:
            DecodeFailed: llama.cpp could not evaluate the batch.
        """
        ends = self._fill([request.tokens for request in requests])
        if self._memory:
            C.llama_memory_clear(self._memory, True)
            code = C.llama_decode(self._context, self._batch)
        else:
            code = C.llama_encode(self._context, self._batch)
        if code != 0:
            raise DecodeFailed(f"llama.cpp could not embed the batch (code {code})")
        if self._pooling == "none":
            starts = [0, *ends[:-1]]
            return [
                np.stack(
                    [self._row(C.llama_get_embeddings_ith(self._context, i)) for i in range(*r)]
                )
                for r in zip(starts, ends, strict=True)
            ]
        return [self._row(C.llama_get_embeddings_seq(self._context, i)) for i in range(len(ends))]

    def close(self) -> None:
        """Free the context. May be called twice."""
        if self._context:
            C.llama_batch_free(self._batch)
            C.llama_free(self._context)
            self._context = self._held = None

    def _fill(self, texts: Sequence[Sequence[int]]) -> list[int]:
        """Put the texts into the batch; return where each ends."""
        batch, n, ends = self._batch, 0, []
        for slot, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                batch.token[n] = token
                batch.pos[n] = position
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = slot
                batch.logits[n] = True
                n += 1
            ends.append(n)
        batch.n_tokens = n
        return ends

    def _row(self, pointer: Any) -> FloatArray:
        if not pointer:
            raise DecodeFailed("llama.cpp gave no embedding for a text")
        values: Any = (ctypes.c_float * self._n_values).from_address(
            ctypes.cast(pointer, ctypes.c_void_p).value or 0
        )
        row: FloatArray = np.frombuffer(values, np.float32).copy()
        return row
