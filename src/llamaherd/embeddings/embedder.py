"""`Embedder`: texts to vectors, with the prefixes that a model wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Literal

from typing_extensions import Self

from llamaherd.config import EmbeddingConfig, Pooling
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import ConfigError, ModelError
from llamaherd.models.model import Model
from llamaherd.results import Embedding

__all__ = ["Embedder", "Kind"]

Kind = Literal["query", "document"]


class Embedder:
    """Embeds texts with an encoder (such as BERT) or a decoder. Any thread may use it.

    The texts of all threads are computed together, on the model's engine for embeddings, which
    runs beside that for answers: neither waits for the other.

    Example:
        >>> from llamaherd import Embedder
        >>> with Embedder("demo", pooling="mean") as embedder:
        ...     vectors = embedder.embed(["The cup is ours.", "Shares rose."])
        >>> vectors.shape
        (2, 256)

    Args:
        model: A model, or any source that `Model.load` takes, which is then loaded and closed here.
        pooling: How the vectors of a text's tokens become one: ``"mean"``, ``"cls"`` (the first),
            ``"last"``, ``"none"`` (they stay as they are), ``"rank"`` (a reranker's scores), or
            ``"auto"``: what the model was made for.
        normalize: Give vectors the length 1, so that their product is the cosine.
        dim: Keep only the first values, for models that were trained for it (Matryoshka).
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
        config = EmbeddingConfig(pooling=pooling, normalize=normalize, dim=dim, truncate=truncate)
        self._prefixes = {"query": query_prefix, "document": document_prefix}
        for name, prefix in self._prefixes.items():
            if not isinstance(prefix, str):
                raise ConfigError(f"{name}_prefix is {prefix!r}; allowed: a text")
        self._owns_model = not isinstance(model, Model)
        self._model = model if isinstance(model, Model) else Model.load(model)
        self._is_closed = False
        try:
            self.pooling: Pooling = self._model.embeddings.check(config)
        except BaseException:
            self.close()
            raise
        self._config = replace(config, pooling=self.pooling)

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    @property
    def n_dimensions(self) -> int:
        """Values of a vector."""
        return self._config.dim or self._model.embeddings.n_dimensions(self.pooling)

    def embed(self, texts: str | Sequence[str], kind: Kind | None = None) -> FloatArray:
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
        self._check_open()
        if isinstance(texts, str):
            (text,) = self._prefixed([texts], kind)
            return self._model.embed(text, self._config)
        return self._model.embeddings.embed(self._prefixed(texts, kind), self._config)

    def embed_iter(self, texts: Iterable[str], kind: Kind | None = None) -> Iterator[Embedding]:
        """Vectors of the texts of any iterable, in order, with an error for each that fails.

        Texts are taken a thousand at a time, so that memory does not grow with their number.
        """
        self._check_open()
        return self._model.embed_iter(self._prefixed(texts, kind), self._config)

    def close(self) -> None:
        """Close the model if it was loaded here. May be called twice."""
        self._is_closed = True
        if self._owns_model:
            self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prefix(self, kind: Kind | None) -> str:
        if kind not in ("query", "document", None):
            raise ConfigError(f'kind is {kind!r}; allowed: "query", "document" or None')
        return self._prefixes[kind] if kind is not None else ""

    def _prefixed(self, texts: Iterable[str], kind: Kind | None) -> Iterable[str]:
        prefix = self._prefix(kind)
        # One text instead of many is refused where it is embedded.
        if not prefix or isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            return texts
        # A text that is empty fails, with a prefix as well.
        return (prefix + t if isinstance(t, str) and t.strip() else t for t in texts)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelError("the embedder is closed; open a new one")
