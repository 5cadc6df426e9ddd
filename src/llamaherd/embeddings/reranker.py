"""`Reranker`: how well documents answer a query, by a model that reads both together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from llamaherd.engine.embedding import EmbeddingRequest
from llamaherd.errors import (
    ConfigError,
    LlamaherdError,
    ModelError,
    PromptTooLong,
    RequestError,
    TemplateError,
)
from llamaherd.models.embedding import CUT_REMEDY, raise_failures
from llamaherd.models.model import Model
from llamaherd.processing.choices import ChoiceTree
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.processing.rows import ScoredPrompt
from llamaherd.results import RowError

__all__ = ["PairScore", "RankedDocuments", "Reranker"]

Pair = tuple[str, str]
Opened = TypeVar("Opened", Model, ParallelProcessor)

_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
# The words that Qwen3-Reranker was trained with; other models understand them as well.
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)
_QUESTION = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
_ANSWERS = ("yes", "no")
_RERANK_TEMPLATE = "tokenizer.chat_template.rerank"
# What some models' templates let every answer begin with, and what ends it.
_THINKING, _NO_THOUGHTS = "<think>", "</think>\n\n"


@dataclass(frozen=True, slots=True)
class PairScore:
    """What became of one query and document.

    Attributes:
        index: Position in the input.
        score: How well the document answers the query, higher is better; None if the pair failed.
        n_tokens: Tokens of the pair.
        error: What went wrong, or None.
    """

    index: int
    score: float | None = None
    n_tokens: int = 0
    error: RowError | None = None

    @property
    def success(self) -> bool:
        """Whether there is a score."""
        return self.score is not None


@dataclass(frozen=True, slots=True)
class RankedDocuments:
    """Documents, the best first; equal scores in the order of the input.

    Attributes:
        ids: Positions of the documents in the input, int64 ``[n]``.
        scores: Float32 ``[n]``.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class Reranker:
    """Scores documents for a query by reading both together. Any thread may use it.

    A model with a classifier (a cross-encoder such as bge-reranker, or a converted Qwen3-Reranker)
    is a reranker by itself, and its score is what the classifier gives: for most of them a logit,
    where 0 means an even chance. Any other model is asked whether the document answers the query,
    and the score is the probability of "yes", 0 to 1; documents of one query share the computation
    of what comes before them.

    Example:
        >>> from llamaherd import Reranker
        >>> with Reranker("demo") as reranker:
        ...     ranked = reranker.rank("Who won?", ["The Rovers won the cup.", "Shares rose."])
        >>> sorted(ranked.ids.tolist())
        [0, 1]

    Args:
        model: A model or processor, or any source that `Model.load` takes, which is then loaded and
            closed here.
        instruction: What counts as an answer; for models without a classifier.
        template: Jinja source of the whole prompt with the variables ``query``, ``document`` and
            ``instruction``, for models that were trained with a form of their own. Text of the
            variables never becomes a control token.
        truncate: Cut documents that are too long for the model, instead of failing them.

    Raises:
        ConfigError: An option is wrong.
        ModelError: The model cannot be loaded, or its classifier is not a reranker's.
        TemplateError: The template is wrong, or the model's own fails.
    """

    def __init__(
        self,
        model: Model | ParallelProcessor | str | PathLike[str],
        *,
        instruction: str = _INSTRUCTION,
        template: str | None = None,
        truncate: bool = False,
    ) -> None:
        self._owned: list[Model | ParallelProcessor] = []
        self._is_closed = False
        if isinstance(model, ParallelProcessor):
            self._processor: ParallelProcessor | None = model
            self._model = model.model
        else:
            self._processor = None
            self._model = model if isinstance(model, Model) else self._own(Model.load(model))
        self._truncate = truncate
        try:
            _check_texts(instruction, template)
            self._check_classes()
            self.has_classifier: bool = self._model.embeddings.n_classes > 0
            if self.has_classifier:
                self._processor = None
            else:
                self._tree = self._make_tree()
                self._processor = self._processor or self._own(ParallelProcessor(self._model))
            self._encode = self._make_encoder(instruction, template)
        except BaseException:
            self.close()
            raise

    def rank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None
    ) -> RankedDocuments:
        """Order documents by how well they answer a query.

        Args:
            query: The query.
            documents: The documents.
            top_k: How many of the best to give; None gives all.

        Raises:
            RequestError: A text is empty, too long, or not a text; the message names the first
                ones. `score_iter` scores the others nevertheless.
            ConfigError: `top_k` is wrong.
        """
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ConfigError(f"top_k is {top_k!r}; allowed: a whole number from 1 up, or None")
        scores = self.score(query, documents)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return RankedDocuments(order.astype(np.int64), scores[order])

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Scores ``[n]`` of documents for a query, float32, in input order; see `rank`."""
        if isinstance(documents, (str, bytes)) or not isinstance(documents, Iterable):
            kind = type(documents).__name__
            raise ConfigError(f"documents is one {kind}; give a list of texts")
        rows = list(self.score_iter((query, document) for document in documents))
        raise_failures(rows, "document")
        return np.array([row.score for row in rows], np.float32)

    def score_iter(self, pairs: Iterable[Pair]) -> Iterator[PairScore]:
        """Scores of (query, document) pairs of any iterable, in order, in bounded memory.

        A pair that fails has an error, and the others go on.
        """
        if self._is_closed:
            raise ModelError("the reranker is closed; open a new one")
        return self._classified(pairs) if self.has_classifier else self._answered(pairs)

    def close(self) -> None:
        """Close what was opened here. May be called twice."""
        self._is_closed = True
        while self._owned:
            self._owned.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _classified(self, pairs: Iterable[Pair]) -> Iterator[PairScore]:
        embeddings = self._model.embeddings
        rows = embeddings.rows(
            pairs, "rank", self._encode, lambda scores, _: scores.astype(np.float32)
        )
        for row in rows:
            score = float(row.vector[0]) if row.vector is not None else None
            yield PairScore(row.index, score, row.n_tokens, row.error)

    def _answered(self, pairs: Iterable[Pair]) -> Iterator[PairScore]:
        assert self._processor is not None
        nodes = self._tree.nodes
        in_work: deque[LlamaherdError | None] = deque()

        def prompts() -> Iterator[ScoredPrompt]:
            for pair in pairs:
                tokens: Sequence[int] = []
                error: LlamaherdError | None = None
                try:
                    tokens = self._encode(pair).tokens
                except LlamaherdError as problem:
                    # An empty prompt fails, and this error takes the place of that one.
                    error = problem
                in_work.append(error)
                for node in nodes:
                    yield ScoredPrompt(tokens, node.path, node.children)

        results = self._processor.score_iter(prompts())
        for index, group in enumerate(zip(*[iter(results)] * len(nodes), strict=True)):
            error = in_work.popleft()
            problem = next((result.error for result in group if result.scores is None), None)
            if error is not None:
                problem = RowError.from_exception(error)
            if problem is not None:
                yield PairScore(index, error=problem)
                continue
            shares = self._tree.shares([result.scores or () for result in group])
            yield PairScore(index, shares[0], group[0].prompt_tokens)

    def _make_encoder(
        self, instruction: str, template: str | None
    ) -> Callable[[Pair], EmbeddingRequest]:
        """What makes tokens of a pair."""
        model = self._model
        own = model.metadata().get(_RERANK_TEMPLATE)
        if template is None and self.has_classifier and own is not None:
            template = own.replace("{query}", "{{ query }}").replace("{document}", "{{ document }}")
        if template is None and self.has_classifier:
            embeddings = model.embeddings
            return _checked(
                lambda query, document: embeddings.pair(query, document, may_cut=self._truncate)
            )
        if template is not None:
            render = model.raw_template(template)
            return self._fitting(
                lambda query, document: render(
                    {"query": query, "document": document, "instruction": instruction}
                )
            )
        if model.info.chat_template:
            return self._fitting(_chat_question(model, instruction))

        def question(query: str, document: str) -> list[int]:
            text = _QUESTION.format(instruction=instruction, query=query, document=document)
            return model.tokenize(f"{_SYSTEM}\n\n{text}\n\nAnswer:")

        return self._fitting(question)

    def _fitting(
        self, encode: Callable[[str, str], list[int]]
    ) -> Callable[[Pair], EmbeddingRequest]:
        """What encodes as much of the document as fits, if it may be cut."""
        model = self._model
        if self._processor is not None:
            longest = max(len(node.path) for node in self._tree.nodes)
            n_ctx = self._processor.n_ctx - longest - 1
        else:
            n_ctx = model.embeddings.n_ctx

        def encode_fitting(query: str, document: str) -> EmbeddingRequest:
            tokens = encode(query, document)
            body = model.tokenize(document, add_bos=False) if len(tokens) > n_ctx else []
            while len(tokens) > n_ctx:
                body = body[: max(0, len(body) + n_ctx - len(tokens))]
                if not self._truncate or not body:
                    raise PromptTooLong(len(tokens), n_ctx, CUT_REMEDY)
                tokens = encode(query, model.detokenize(body))
            return EmbeddingRequest(tokens)

        return _checked(encode_fitting)

    def _make_tree(self) -> ChoiceTree:
        # After a chat template the answer begins with the word itself, in plain text with a space.
        prefix = "" if self._model.info.chat_template else " "
        tokens = [self._model.tokenize(prefix + word, add_bos=False) for word in _ANSWERS]
        return ChoiceTree(tokens, decisions_only=True)

    def _check_classes(self) -> None:
        n_classes, is_encoder = self._model.embeddings.n_classes, self._model.embeddings.is_encoder
        # Converted Qwen3-Rerankers give "yes" and "no".
        if n_classes > 2 or (n_classes == 2 and is_encoder):
            raise ModelError(
                f"the model's classifier has {n_classes} classes, so it is not a reranker's"
            )
        if not n_classes and is_encoder:
            raise ModelError(
                "the model is an encoder without a classifier, so it cannot compare two texts; "
                "take a reranker, or compare vectors of Embedder"
            )

    def _own(self, opened: Opened) -> Opened:
        self._owned.append(opened)
        return opened


def _chat_question(model: Model, instruction: str) -> Callable[[str, str], list[int]]:
    """What asks in the form of a model's chat template.

    Raises:
        TemplateError: It fails.
    """

    def messages(text: str, has_system: bool) -> list[dict[str, str]]:
        if has_system:
            system = {"role": "system", "content": _SYSTEM}
            return [system, {"role": "user", "content": text}]
        return [{"role": "user", "content": f"{_SYSTEM}\n\n{text}"}]

    def rendered(has_system: bool) -> str:
        return model.apply_chat_template(messages("?", has_system), enable_thinking=False)

    # Some templates refuse system messages, and some leave them out.
    try:
        has_system = _SYSTEM in rendered(True)
    except TemplateError:
        has_system = False
    prompt, end = rendered(has_system), []
    stem = prompt.rstrip()
    if stem.endswith(_THINKING):
        space = "\n\n".removeprefix(prompt[len(stem) :])
        end = model.tokenize(space + _NO_THOUGHTS, add_bos=False, special=True)

    def question(query: str, document: str) -> list[int]:
        text = _QUESTION.format(instruction=instruction, query=query, document=document)
        return model.encode(messages(text, has_system), enable_thinking=False) + end

    return question


def _check_texts(instruction: object, template: object) -> None:
    if not isinstance(instruction, str):
        raise ConfigError(f"instruction is {instruction!r}; allowed: a text")
    if template is None:
        return
    if not isinstance(template, str) or "query" not in template or "document" not in template:
        raise ConfigError(
            f"template is {template!r:.200}; allowed: a Jinja source in which the variables "
            '"query" and "document" stand'
        )


def _checked(
    encode: Callable[[str, str], EmbeddingRequest],
) -> Callable[[Pair], EmbeddingRequest]:
    def encode_pair(pair: Pair) -> EmbeddingRequest:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise RequestError(f"{pair!r:.100} is no pair of a query and a document")
        for name, text in zip(("query", "document"), pair, strict=True):
            if not isinstance(text, str):
                raise RequestError(f"the {name} is of type {type(text).__name__}, no text")
            if not text.strip():
                raise RequestError(f"the {name} is empty")
        return encode(*pair)

    return encode_pair
