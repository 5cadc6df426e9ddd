"""Vectors of texts: an engine for each pooling, and what happens to texts before and after it."""

from __future__ import annotations

import functools
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from llamaherd.config import EmbeddingConfig, Pooling, ThreadPoolConfig
from llamaherd.engine.embedding import EmbeddingEngine, EmbeddingRequest, EmbeddingRunner
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import (
    ConfigError,
    DecodeFailed,
    InsufficientMemory,
    InvalidPrompt,
    LlamaherdError,
    ModelError,
    PromptTooLong,
    RequestError,
)
from llamaherd.hardware import available_memory
from llamaherd.llama.gguf_file import GgufHeader, read_header
from llamaherd.llama.weights import Weights
from llamaherd.models.memory import format_bytes, kv_bytes_per_token
from llamaherd.models.runner_factory import place_threads
from llamaherd.models.tokenizing import BatchTokenizer
from llamaherd.results import Embedding, RowError
from llamaherd.runners.llama_embedding import LlamaEmbeddingRunner
from llamaherd.runners.native_embedding import NativeEmbeddingRunner
from llamaherd.runners.native_weights import NativeWeights

__all__ = ["CUT_REMEDY", "TextEmbeddings", "normalized", "raise_failures"]

Item = TypeVar("Item")

CUT_REMEDY = "let it be cut with truncate=True"
"""What to do about a text that is too long."""
_TOKENIZER = "tokenizer.ggml.model"
# Texts that wait for batches together.
_WINDOW = 1024
# Their tokens if each has a vector, which may take 16 KiB.
_WINDOW_TOKENS = 8192
# GGUF's numbers of poolings.
_POOLINGS: tuple[Pooling, ...] = ("none", "mean", "cls", "last", "rank")


class TextEmbeddings:
    """Makes vectors with one model. Any thread may use it.

    Args:
        weights: The model; without its tensors if the native engine runs it.
        native: The model as the native engine has it, which then runs it.
        tokenizer: Makes tokens of texts.
        threads: Compute threads.
        n_ctx: Tokens that one text may have; None takes what the model was trained for.
    """

    def __init__(
        self,
        weights: Weights,
        native: NativeWeights | None,
        tokenizer: BatchTokenizer,
        threads: ThreadPoolConfig,
        n_ctx: int | None,
    ) -> None:
        self._weights = weights
        self._native = native
        self._tokenizer = tokenizer
        self._threads = threads
        self._wanted_n_ctx = n_ctx
        self._lock = threading.Lock()
        self._engines: dict[Pooling, EmbeddingEngine] = {}
        self._whole_weights: Weights | None = None
        self._is_closed = False
        # Not with the model, since an iterator of vectors may outlive it.
        weakref.finalize(self, _close_engines, self._engines)

    @functools.cached_property
    def n_ctx(self) -> int:
        """Tokens of the longest text."""
        # There are no positions beyond those that the model was trained with.
        n_ctx_train = self._header.sizes().n_ctx_train
        return min(self._wanted_n_ctx or n_ctx_train, n_ctx_train)

    def n_dimensions(self, pooling: Pooling) -> int:
        """Values of a vector; with pooling by rank the scores of a text."""
        return self.n_classes if pooling == "rank" else self._header.sizes().n_embd

    def pooling(self, wanted: Pooling) -> Pooling:
        """The pooling that is meant by ``"auto"``, or the one that is wanted.

        Raises:
            ModelError: The model cannot do it.
        """
        pooling = wanted
        if wanted == "auto":
            number = self._header.number("pooling_type")
            pooling = _POOLINGS[number] if number < len(_POOLINGS) else "none"
            if pooling == "none":
                # A model that was made to answer: its last token has seen the whole text.
                pooling = "mean" if self.is_encoder else "last"
        if pooling == "rank" and not self.n_classes:
            raise ModelError("this model has no classifier, so it cannot rank; take a reranker")
        return pooling

    def check(self, config: EmbeddingConfig) -> Pooling:
        """Make sure that the model can do what is asked for, and tell the pooling that it means.

        Raises:
            ConfigError: The model's vectors are shorter than `dim`.
            ModelError: The model cannot do this pooling.
        """
        self._check_usable()
        pooling = self.pooling(config.pooling)
        n_dimensions = self.n_dimensions(pooling)
        if config.dim is not None and config.dim > n_dimensions:
            raise ConfigError(f"dim is {config.dim}, but the model's vectors have {n_dimensions}")
        return pooling

    def engine(self, pooling: Pooling) -> EmbeddingEngine:
        """The engine of a pooling, which all texts of the model share.

        Raises:
            ModelError: The model was closed, has only its vocabulary, or cannot do this pooling.
        """
        pooling = self.pooling(pooling)
        with self._lock:
            self._check_usable()
            if pooling not in self._engines:
                runners = self._runners(pooling)
                self._engines[pooling] = EmbeddingEngine(runners.open)
            return self._engines[pooling]

    def embed(self, texts: str | Iterable[str], config: EmbeddingConfig) -> FloatArray:
        """Vectors of one text or many; see `Model.embed`."""
        pooling = self.check(config)
        if pooling == "none":
            raise ConfigError("without pooling every text has a shape of its own; use embed_iter")
        is_one = isinstance(texts, str)
        rows = list(self.iterate([texts] if isinstance(texts, str) else texts, config))
        raise_failures(rows, "text")
        if not rows:
            return np.empty((0, config.dim or self.n_dimensions(pooling)), np.float32)
        vectors = np.stack([row.vector for row in rows if row.vector is not None])
        return vectors[0] if is_one else vectors

    def iterate(self, texts: Iterable[str], config: EmbeddingConfig) -> Iterator[Embedding]:
        """Vectors of the texts of any iterable, in order, with an error for each that fails.

        Args:
            texts: The texts; a window of them is taken at a time.
            config: How texts become vectors.

        Raises:
            ConfigError: The model's vectors are shorter than `dim`.
            ModelError: The model was closed, or cannot do this pooling.
        """
        pooling = self.check(config)
        return self.rows(
            texts,
            pooling,
            lambda text: EmbeddingRequest(self.frame(self.body(text), may_cut=config.truncate)),
            lambda vector, _: _finished(vector, config, pooling),
        )

    def rows(
        self,
        items: Iterable[Item],
        pooling: Pooling,
        make: Callable[[Item], EmbeddingRequest],
        finish: Callable[[FloatArray, EmbeddingRequest], FloatArray],
    ) -> Iterator[Embedding]:
        """What the model makes of the items of any iterable, in order, a window at a time.

        Args:
            items: What is embedded.
            pooling: How the vectors of an item's tokens become one.
            make: Makes tokens of an item; an error that it raises is that item's.
            finish: Gets the model's result for them.

        Raises:
            InvalidPrompt: The items are one text, which an iteration would take to pieces.
            ModelError: The model was closed, or cannot do this pooling.
        """
        # Not a generator itself, so that what is wrong is said at once.
        if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
            raise InvalidPrompt(f"give a list of texts, not one {type(items).__name__}")
        max_tokens = _WINDOW_TOKENS if pooling == "none" else sys.maxsize
        return self._rows(self.engine(pooling), items, make, finish, max_tokens)

    def body(self, text: str) -> list[int]:
        """Tokens of a text, without those that the model wants around it.

        Raises:
            InvalidPrompt: It is empty, or no valid text.
        """
        if not isinstance(text, str):
            raise InvalidPrompt(f"a {type(text).__name__} is no text")
        if not text.strip():
            raise InvalidPrompt("the text is empty")
        return self._tokenizer.tokenize(text, add_bos=False)

    def frame(self, body: list[int], *, may_cut: bool) -> list[int]:
        """Tokens of a text, with those around it.

        Raises:
            PromptTooLong: They are too many for the model, and may not be cut.
        """
        before, after = self._tokenizer.frame
        n_tokens = len(before) + len(body) + len(after)
        if n_tokens > self.n_ctx:
            if not may_cut:
                raise PromptTooLong(n_tokens, self.n_ctx, CUT_REMEDY)
            body = body[: self.n_ctx - n_tokens]
        if not n_tokens:
            raise InvalidPrompt("the model has no tokens for the text")
        return [*before, *body, *after]

    def pair(self, first: str, second: str, *, may_cut: bool) -> EmbeddingRequest:
        """Two texts as one, as rerankers want them.

        Args:
            first: The query.
            second: The document, which is what may be cut.
            may_cut: Whether it may.

        Raises:
            InvalidPrompt: One is empty, or no valid text.
            PromptTooLong: They are too many tokens for the model, and may not be cut, or the query
                alone is.
        """
        before, after = self._tokenizer.frame
        # BERT has one [SEP] between them, and RoBERTa's family two.
        separators = after if self._header.metadata.get(_TOKENIZER) == "bert" else after * 2
        head = [*before, *self.body(first), *separators]
        body = self.body(second)
        n_tokens = len(head) + len(body) + len(after)
        if n_tokens > self.n_ctx:
            if not may_cut or len(head) + len(after) >= self.n_ctx:
                raise PromptTooLong(n_tokens, self.n_ctx, CUT_REMEDY)
            body = body[: self.n_ctx - n_tokens]
        return EmbeddingRequest([*head, *body, *after], segment_start=len(head))

    def close(self) -> None:
        """Close all engines and free what was loaded here. May be called twice."""
        with self._lock:
            self._is_closed = True
        _close_engines(self._engines)
        self._engines.clear()
        self._native = self._whole_weights = None

    @functools.cached_property
    def _header(self) -> GgufHeader:
        return read_header(self._weights.path)

    @property
    def n_classes(self) -> int:
        """Scores that the model's classifier gives; 0 if it has none."""
        shapes = {tensor.name: tensor.shape for tensor in self._header.tensors}
        last = shapes.get("cls.output.weight") or shapes.get("cls.weight")
        return math.prod(last[1:]) if last else 0

    @property
    def is_encoder(self) -> bool:
        """Whether every token sees all of its text."""
        architecture = self._header.metadata.get("general.architecture")
        return not self._header.metadata.get(f"{architecture}.attention.causal", True)

    def _check_usable(self) -> None:
        if self._is_closed:
            raise ModelError("this model was closed; load it again")
        if self._native is None and self._weights.vocab_only:
            raise ModelError("this model was loaded with vocab_only=True: it can only tokenize")

    def _rows(
        self,
        engine: EmbeddingEngine,
        items: Iterable[Item],
        make: Callable[[Item], EmbeddingRequest],
        finish: Callable[[FloatArray, EmbeddingRequest], FloatArray],
        max_tokens: int,
    ) -> Iterator[Embedding]:
        numbered = enumerate(items)
        while window := _window(numbered, make, max_tokens):
            requests = [made for _, made in window if isinstance(made, EmbeddingRequest)]
            results = iter(engine.compute(requests))
            for index, made in window:
                if isinstance(made, EmbeddingRequest):
                    yield _embedding(index, made, next(results), finish)
                else:
                    yield Embedding(index, error=RowError.from_exception(made))

    def _runners(self, pooling: Pooling) -> _Runners:
        native = self._native
        if native is not None and pooling == "rank" and not native.classifier:
            native = None
        if native is None and self._whole_weights is None:
            # The native engine has left llama.cpp the vocabulary only.
            is_whole = not self._weights.vocab_only
            self._whole_weights = self._weights if is_whole else Weights.load(self._weights.path)
        return _Runners(pooling, self._header, self._whole_weights, native, self._threads)


@dataclass(frozen=True, slots=True)
class _Runners:
    """Opens runners of one pooling."""

    pooling: Pooling
    header: GgufHeader
    weights: Weights | None
    native: NativeWeights | None
    threads: ThreadPoolConfig

    def open(self, n_tokens: int) -> EmbeddingRunner:
        """Open a runner for texts of up to so many tokens; called on the engine's thread.

        Raises:
            InsufficientMemory: It would not fit.
            ModelLoadError: llama.cpp refused.
        """
        sizes = self.header.sizes()
        # Rounded up, so that a runner is rarely opened anew.
        n_tokens = min(1 << (n_tokens - 1).bit_length(), sizes.n_ctx_train)
        needed = n_tokens * (kv_bytes_per_token(sizes) + 8 * (sizes.n_embd + sizes.n_ff))
        if needed > available_memory():
            raise InsufficientMemory(
                f"a text of {n_tokens} tokens needs about {format_bytes(needed)} but "
                f"{format_bytes(available_memory())} are available; shorten it"
            )
        n_threads, cores = place_threads(self.threads)
        if self.native is not None:
            return NativeEmbeddingRunner(
                self.native,
                pooling=self.pooling,
                n_tokens=n_tokens,
                n_threads=n_threads,
                stack_size=self.threads.stack_size,
                cores=cores,
            )
        assert self.weights is not None
        return LlamaEmbeddingRunner(
            self.weights, sizes.n_embd, pooling=self.pooling, n_tokens=n_tokens, n_threads=n_threads
        )


class _Outcome(Protocol):
    @property
    def index(self) -> int: ...
    @property
    def error(self) -> RowError | None: ...


def raise_failures(rows: Sequence[_Outcome], noun: str) -> None:
    """For calls that give one array: name the rows that failed.

    Raises:
        RequestError: There are some.
    """
    failed = [row for row in rows if row.error is not None]
    if failed:
        shown = "; ".join(f"{noun} {row.index}: {row.error}" for row in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise RequestError(f"{len(failed)} of {len(rows)} {noun}s failed: {shown}{more}")


def normalized(vectors: FloatArray) -> FloatArray:
    """Vectors ``[..., dim]`` of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: FloatArray = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def _window(
    numbered: Iterator[tuple[int, Item]], make: Callable[[Item], EmbeddingRequest], max_tokens: int
) -> list[tuple[int, EmbeddingRequest | LlamaherdError]]:
    """What is made of the next items, or why it could not be; the last may exceed the tokens."""
    window: list[tuple[int, EmbeddingRequest | LlamaherdError]] = []
    n_tokens = 0
    while len(window) < _WINDOW and n_tokens < max_tokens:
        index_and_item = next(numbered, None)
        if index_and_item is None:
            break
        index, item = index_and_item
        try:
            request = make(item)
        except LlamaherdError as error:
            window.append((index, error))
        else:
            window.append((index, request))
            n_tokens += len(request.tokens)
    return window


def _embedding(
    index: int,
    request: EmbeddingRequest,
    found: FloatArray | LlamaherdError,
    finish: Callable[[FloatArray, EmbeddingRequest], FloatArray],
) -> Embedding:
    if not isinstance(found, LlamaherdError) and not np.isfinite(found).all():
        found = DecodeFailed("the model gave values that are no numbers; check its file")
    if isinstance(found, LlamaherdError):
        problem = RowError.from_exception(found)
        return Embedding(index, n_tokens=len(request.tokens), error=problem)
    return Embedding(index, finish(found, request), len(request.tokens))


def _close_engines(engines: Mapping[Pooling, EmbeddingEngine]) -> None:
    for engine in list(engines.values()):
        engine.close()


def _finished(vector: FloatArray, config: EmbeddingConfig, pooling: Pooling) -> FloatArray:
    if config.dim is not None:
        vector = vector[..., : config.dim]
    if not config.normalize or pooling == "rank":
        return vector
    return normalized(vector)
