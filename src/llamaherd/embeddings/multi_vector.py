"""`MultiVectorGenerator`: a vector for every token of a text, for late interaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from llamaherd.embeddings.embedder import Kind
from llamaherd.engine.embedding import EmbeddingRequest
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import ConfigError, ModelError
from llamaherd.models.embedding import normalized, raise_failures
from llamaherd.models.model import Model
from llamaherd.results import Embedding

__all__ = ["MultiVectorGenerator"]


class MultiVectorGenerator:
    """Makes a vector for every token, as ColBERT does, for `LateInteractionScorer`.

    Any model will do, though one that was trained for late interaction does best. Any thread may
    use it.

    Example:
        >>> from llamaherd import LateInteractionScorer, MultiVectorGenerator
        >>> with MultiVectorGenerator("demo") as generator:
        ...     documents = generator.embed(["The cup is ours.", "Shares rose."])
        ...     scorer = LateInteractionScorer(documents)
        ...     hits = scorer.search(generator.embed("Who won?", "query"))
        >>> len(hits.ids)
        2

    Args:
        model: A model, or any source that `Model.load` takes, which is then loaded and closed here.
        projection: Weights ``[dim, n_embd]`` of the linear layer that ColBERT models end with, and
            that GGUF files leave out; None keeps the model's own vectors.
        normalize: Give vectors the length 1.
        query_prefix: Put before queries. Control tokens that are written in it count, such as
            ColBERT's ``"[unused0]"``.
        document_prefix: Put before documents.
        query_length: Fill queries up with the model's mask token to so many tokens, which ColBERT
            models were trained to make use of; None leaves them as they are.
        skip_punctuation: Leave out the vectors of a document's punctuation.
        truncate: Cut texts that are too long for the model, instead of failing them.

    Raises:
        ConfigError: An option is wrong, or the model has no mask token to fill queries with.
        ModelError: The model cannot be loaded.
    """

    def __init__(
        self,
        model: Model | str | PathLike[str],
        *,
        projection: ArrayLike | None = None,
        normalize: bool = True,
        query_prefix: str = "",
        document_prefix: str = "",
        query_length: int | None = None,
        skip_punctuation: bool = True,
        truncate: bool = False,
    ) -> None:
        self._owns_model = not isinstance(model, Model)
        self._model = model if isinstance(model, Model) else Model.load(model)
        self._is_closed = False
        try:
            self._projection = _check_projection(projection, self._model.info.n_embd)
            self._mask_token = self._find_mask_token(query_length)
            prefixes = {"query": query_prefix, "document": document_prefix}
            self._prefixes = {
                kind: self._model.tokenize(prefix, add_bos=False, special=True) if prefix else []
                for kind, prefix in prefixes.items()
            }
        except BaseException:
            self.close()
            raise
        self._query_length = query_length
        self._normalize = normalize
        self._skip_punctuation = skip_punctuation
        self._truncate = truncate
        self._is_punctuation: dict[int, bool] = {}

    @property
    def n_dimensions(self) -> int:
        """Values of a vector."""
        if self._projection is not None:
            return int(self._projection.shape[0])
        return self._model.info.n_embd

    @overload
    def embed(self, texts: str, kind: Kind = "document") -> FloatArray: ...  # type: ignore[overload-overlap]
    @overload
    def embed(self, texts: Sequence[str], kind: Kind = "document") -> list[FloatArray]: ...

    def embed(
        self, texts: str | Sequence[str], kind: Kind = "document"
    ) -> FloatArray | list[FloatArray]:
        """Vectors of the tokens of texts.

        Args:
            texts: One text or many.
            kind: ``"query"`` or ``"document"``.

        Returns:
            Float32 ``[n_tokens, dim]`` for one text, a list of such arrays in input order for many.

        Raises:
            RequestError: A text is empty, too long, or not a text; the message names the first
                ones. `embed_iter` gives the others nevertheless.
        """
        rows = list(self.embed_iter([texts] if isinstance(texts, str) else texts, kind))
        raise_failures(rows, "text")
        vectors = [row.vector for row in rows if row.vector is not None]
        return vectors[0] if isinstance(texts, str) else vectors

    def embed_iter(self, texts: Iterable[str], kind: Kind = "document") -> Iterator[Embedding]:
        """Vectors of the texts of any iterable, in order, with an error for each that fails."""
        if self._is_closed:
            raise ModelError("the generator is closed; open a new one")
        if kind not in self._prefixes:
            raise ConfigError(f'kind is {kind!r}; allowed: "query" and "document"')
        embeddings = self._model.embeddings

        def make(text: str) -> EmbeddingRequest:
            body = self._prefixes[kind] + embeddings.body(text)
            tokens = embeddings.frame(body, may_cut=self._truncate)
            if kind == "query" and self._query_length is not None:
                n_left = min(self._query_length, embeddings.n_ctx) - len(tokens)
                tokens += [self._mask_token] * n_left
            return EmbeddingRequest(tokens)

        def finish(vectors: FloatArray, request: EmbeddingRequest) -> FloatArray:
            if kind == "document" and self._skip_punctuation:
                vectors = vectors[self._kept(request.tokens)]
            if self._projection is not None:
                vectors = vectors @ self._projection.T
            return normalized(vectors) if self._normalize else vectors

        return embeddings.rows(texts, "none", make, finish)

    def close(self) -> None:
        """Close the model if it was loaded here. May be called twice."""
        self._is_closed = True
        if self._owns_model:
            self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _kept(self, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """Which tokens are not punctuation; all, if there is nothing else."""
        kept = np.array([not self._check_punctuation(token) for token in tokens])
        return kept if kept.any() else ~kept

    def _check_punctuation(self, token: int) -> bool:
        known = self._is_punctuation.get(token)
        if known is None:
            text = self._model.detokenize([token]).strip()
            known = bool(text) and not any(c.isalnum() or not c.isascii() for c in text)
            self._is_punctuation[token] = known
        return known

    def _find_mask_token(self, query_length: int | None) -> int:
        if query_length is None:
            return -1
        if not isinstance(query_length, int) or query_length < 1:
            raise ConfigError(f"query_length is {query_length!r}; allowed: whole numbers from 1 up")
        token = self._model.metadata().get("tokenizer.ggml.mask_token_id")
        if token is None:
            raise ConfigError(
                "query_length needs a mask token, and the model has none; leave it out"
            )
        return int(token)


def _check_projection(projection: ArrayLike | None, n_embd: int) -> FloatArray | None:
    if projection is None:
        return None
    try:
        matrix = np.asarray(projection, np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"projection is no matrix of numbers: {error}") from error
    if matrix.ndim != 2 or matrix.shape[1] != n_embd:
        raise ConfigError(
            f"projection has shape {matrix.shape}; the model's vectors need [dim, {n_embd}]"
        )
    if not np.isfinite(matrix).all():
        raise ConfigError("projection has values that are not finite")
    return matrix
