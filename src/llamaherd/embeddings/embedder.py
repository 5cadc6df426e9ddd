"""`Embedder`: texts to vectors, batched by tokens."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from llamaherd.embeddings.packing import pack
from llamaherd.errors import (
    ConfigError,
    DecodeFailed,
    InvalidPrompt,
    LlamaherdError,
    ModelError,
    PromptTooLong,
    RequestError,
)
from llamaherd.models.model import Model
from llamaherd.results import RowError
from llamaherd.runners.llama_embedding import POOLINGS, LlamaEmbeddingRunner

__all__ = ["Embedder", "Embedding", "Pooling"]

Pooling = Literal["auto", "mean", "cls", "last", "none", "rank"]
FloatArray = NDArray[np.float32]
Argument = TypeVar("Argument")
Value = TypeVar("Value")

# Texts that are sorted by length together.
_WINDOW = 1024
_MAX_TEXTS = 64
# Attention of encoders costs the square of a batch in llama.cpp, so that small batches are best.
_TOKEN_BUDGET = 256


@dataclass(frozen=True, slots=True)
class Embedding:
    """What became of one text.

    Attributes:
        index: Position in the input.
        vector: Float32 ``[dim]``, or ``[n_tokens, dim]`` without pooling; None if the text failed.
        n_tokens: Tokens of the text.
        error: What went wrong, or None.
    """

    index: int
    vector: FloatArray | None = None
    n_tokens: int = 0
    error: RowError | None = None

    @property
    def success(self) -> bool:
        """Whether there is a vector."""
        return self.vector is not None


class Embedder:
    """Embeds texts with an encoder (such as BERT) or a decoder, through llama.cpp.

    It has a context and a thread of its own: embeddings never wait for answers of the same model.
    Any thread may use it.

    Example:
        >>> from llamaherd import Embedder
        >>> with Embedder("demo", pooling="mean") as embedder:
        ...     vectors = embedder.embed(["The cup is ours.", "Shares rose."])
        >>> vectors.shape
        (2, 256)

    Args:
        model: A model, or anything that `Model.load` takes; one that is loaded here is closed
            with the embedder.
        pooling: How a text's token vectors become one: ``"mean"``, ``"cls"`` (the first token),
            ``"last"``, ``"none"`` (they stay), ``"rank"`` (a reranker's score), or ``"auto"``,
            what the model was made for (the last token if it does not say).
        normalize: Scale vectors to length 1.
        dim: Keep only the first values of each vector (Matryoshka), before they are normalized.
        query_prefix: Put before texts that are embedded as queries.
        document_prefix: Put before texts that are embedded as documents.
        truncate: Cut texts that are too long for the model, instead of failing them.

    Raises:
        ConfigError: An option is wrong.
        ModelError: The model cannot be loaded, or cannot do this pooling.
    """

    def __init__(
        self,
        model: Model | str | PathLike[str],
        pooling: Pooling = "auto",
        normalize: bool = True,
        *,
        dim: int | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        truncate: bool = False,
    ) -> None:
        if pooling not in POOLINGS:
            known = ", ".join(f'"{name}"' for name in POOLINGS)
            raise ConfigError(f"pooling is {pooling!r}; allowed: {known}")
        if dim is not None and dim < 1:
            raise ConfigError(f"dim is {dim}; allowed: 1 or more")
        self._owns_model = not isinstance(model, Model)
        self._model = model if isinstance(model, Model) else Model.load(model, engine="llama.cpp")
        self._pooling = pooling
        self._normalize = normalize and pooling != "rank"
        self._dim = dim
        self._prefixes = {"query": query_prefix, "document": document_prefix}
        self._truncate = truncate
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(
            1, thread_name_prefix="llamaherd-embed"
        )
        self._runner: LlamaEmbeddingRunner | None = None
        self._n_tokens = 0
        self._model.close_before(self)
        try:
            self.pooling: str = self._run(self._open, _TOKEN_BUDGET)
            if dim is not None and dim > self._model.info.n_embd:
                raise ConfigError(
                    f"dim is {dim}, but the model's vectors have {self._model.info.n_embd}"
                )
        except BaseException:
            self.close()
            raise

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    @property
    def n_dimensions(self) -> int:
        """Values of a vector."""
        return self._dim or self._model.info.n_embd

    def embed(
        self, texts: str | Sequence[str], kind: Literal["query", "document"] | None = None
    ) -> FloatArray:
        """Vectors of texts.

        Args:
            texts: One text or many.
            kind: Put the prefix of queries or documents before each.

        Returns:
            Float32 ``[dim]`` for one text, ``[n, dim]`` in input order for many.

        Raises:
            RequestError: A text is empty, too long, or not a text; the message names the first
                ones. `embed_iter` gives the others nevertheless.
            ConfigError: There is no pooling, so that texts have different shapes.
        """
        if self.pooling == "none":
            raise ConfigError("without pooling every text has a shape of its own; use embed_iter")
        is_one = isinstance(texts, str)
        rows = list(self.embed_iter([texts] if isinstance(texts, str) else texts, kind))
        failed = [row for row in rows if row.error is not None]
        if failed:
            shown = "; ".join(f"text {row.index}: {row.error}" for row in failed[:5])
            more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
            raise RequestError(f"{len(failed)} of {len(rows)} texts failed: {shown}{more}")
        if not rows:
            return np.empty((0, self.n_dimensions), np.float32)
        vectors = np.stack([row.vector for row in rows if row.vector is not None])
        return vectors[0] if is_one else vectors

    def embed_iter(
        self, texts: Iterable[str], kind: Literal["query", "document"] | None = None
    ) -> Iterator[Embedding]:
        """Vectors of the texts of any iterable, in order, with an error for each that fails.

        Texts are taken a thousand at a time and computed with others of like length.
        """
        self._check_open()
        prefix = self._prefixes[kind] if kind is not None else ""
        numbered = enumerate(texts)
        while window := list(itertools.islice(numbered, _WINDOW)):
            yield from self._embed_window(window, prefix)

    def close(self) -> None:
        """Free the context, and the model if it was loaded here. May be called twice."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.submit(self._close_runner).result()
        thread.shutdown()
        if self._owns_model:
            self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _embed_window(self, window: list[tuple[int, str]], prefix: str) -> list[Embedding]:
        rows: list[Embedding | None] = [None] * len(window)
        tokens: list[list[int]] = []
        places: list[int] = []
        for place, (index, text) in enumerate(window):
            try:
                ids = self._tokens(text, prefix)
            except LlamaherdError as error:
                rows[place] = Embedding(index, error=RowError.from_exception(error))
                continue
            tokens.append(ids)
            places.append(place)
        for batch in pack(
            [len(ids) for ids in tokens], token_budget=_TOKEN_BUDGET, max_texts=_MAX_TEXTS
        ):
            for i, vector in zip(batch, self._compute([tokens[i] for i in batch]), strict=True):
                index = window[places[i]][0]
                if isinstance(vector, DecodeFailed):
                    problem = RowError.from_exception(vector)
                    rows[places[i]] = Embedding(index, n_tokens=len(tokens[i]), error=problem)
                else:
                    rows[places[i]] = Embedding(index, self._finish(vector), len(tokens[i]))
        return [row for row in rows if row is not None]

    def _tokens(self, text: str, prefix: str) -> list[int]:
        if not isinstance(text, str):
            raise InvalidPrompt(f"a {type(text).__name__} is no text")
        if not text.strip():
            raise InvalidPrompt("the text is empty")
        ids = self._model.tokenize(prefix + text)
        longest = self._model.info.n_ctx_train
        if len(ids) <= longest:
            return ids
        if not self._truncate:
            raise PromptTooLong(len(ids), longest)
        # The token at the end belongs to the form of a text, such as BERT's [SEP].
        return [*ids[: longest - 1], ids[-1]]

    def _compute(self, texts: list[list[int]]) -> Sequence[FloatArray | DecodeFailed]:
        """Vectors of a batch; if it fails as a whole, of each text alone."""
        n_tokens = sum(map(len, texts))
        if n_tokens > self._n_tokens:
            self._run(self._open, n_tokens)
        try:
            return self._run(self._execute, texts)
        except DecodeFailed as error:
            if len(texts) == 1:
                return [error]
            return [self._compute([text])[0] for text in texts]

    def _finish(self, vector: FloatArray) -> FloatArray:
        vector = vector[..., : self._dim] if self._dim is not None else vector
        if not self._normalize:
            return vector
        length = np.linalg.norm(vector, axis=-1, keepdims=True)
        normalized: FloatArray = (vector / np.maximum(length, 1e-12)).astype(np.float32)
        return normalized

    def _run(self, work: Callable[[Argument], Value], argument: Argument) -> Value:
        return self._check_open().submit(work, argument).result()

    def _check_open(self) -> ThreadPoolExecutor:
        with self._lock:
            thread = self._thread
        if thread is None:
            raise ModelError("the embedder is closed; open a new one")
        return thread

    # ── on the embedder's thread ────────────────────────────────────────────────────────

    def _open(self, n_tokens: int) -> str:
        """Make sure that a batch of so many tokens fits; return the pooling."""
        if self._runner is not None and n_tokens <= self._n_tokens:
            return self._runner.pooling
        self._close_runner()
        wanted: str = self._pooling
        self._runner = self._model.open_embedding_runner(wanted, n_tokens, _MAX_TEXTS)
        if wanted == "auto" and self._runner.pooling == "none":
            # A model that was made to answer: its last token has seen the whole text.
            self._runner.close()
            self._runner = self._model.open_embedding_runner("last", n_tokens, _MAX_TEXTS)
        self._n_tokens = n_tokens
        return self._runner.pooling

    def _execute(self, texts: list[list[int]]) -> list[FloatArray]:
        assert self._runner is not None
        return self._runner.execute(texts)

    def _close_runner(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
