"""Classification: the probability of every label after one forward pass per row, no decoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, overload

from llamaherd.errors import ConfigError, InvalidPrompt, LlamaherdError
from llamaherd.models.model import Model, Prompt
from llamaherd.processing.choices import ChoiceTree
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.processing.progress import is_interactive, show_progress
from llamaherd.processing.rows import ScoredPrompt
from llamaherd.results import GenerationResult, RowError

__all__ = ["Classification", "Classifier", "classify"]

_INSTRUCTIONS = (
    "Classify this text into exactly one category: {labels}. Respond with only the category name."
    "\n\n{text}\n\nCategory:"
)
# Texts without content, to learn which labels a model prefers anyway (Zhao et al. 2021,
# "Calibrate Before Use").
_CONTENT_FREE = ("N/A", "[MASK]", "-")


@dataclass(frozen=True, slots=True)
class Classification:
    """What became of one text.

    Attributes:
        label: The most probable label; None if the row failed.
        probabilities: Every label's probability, given that the answer is one of them; in the
            order of the labels. Empty if the row failed.
        margin: How far the best label is ahead of the second, 0 to 1.
        index: Position of the text in the input.
        success: Whether there is a label.
        error: What went wrong, or None.
        prompt_tokens: Tokens in the prompt.
        cached_tokens: Those that were not computed for this row.
    """

    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    margin: float = 0.0
    index: int = 0
    success: bool = False
    error: RowError | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def probability(self) -> float:
        """Probability of the label; 0 if the row failed."""
        return self.probabilities[self.label] if self.label is not None else 0.0


class Classifier:
    """Labels texts by how probable each label is as the model's answer.

    A row costs one pass over its prompt. Labels that begin with the same tokens are told apart by
    a few more tokens on forks of the prompt. Probabilities are those of an answer that can only be
    one of the labels; the most probable label is what greedy generation would write wherever that
    names a label at once.

    Example:
        >>> from llamaherd import Classifier, ParallelProcessor
        >>> with ParallelProcessor("demo") as processor:
        ...     labels = ["World", "Sports", "Business", "Sci/Tech"]
        ...     classifier = Classifier(processor, labels)
        ...     print(classifier.classify("The Rovers won the cup on Sunday.").label)
        Sports

    Args:
        processor: Runs the rows.
        labels: At least two different texts, as the model would write them.
        instructions: What the model is asked. ``{labels}`` stands for the labels, ``{text}`` for
            the row's text, which comes after the instructions if it is not named.
        examples: (text, label) pairs shown to the model as questions and answers.
        calibrate: Divide by the probabilities that the model gives to texts without content, so
            that a label which it prefers anyway does not win for that reason.

    Raises:
        ConfigError: Labels or examples are wrong.
    """

    def __init__(
        self,
        processor: ParallelProcessor,
        labels: Sequence[str],
        *,
        instructions: str | None = None,
        examples: Sequence[tuple[str, str]] | None = None,
        calibrate: bool = False,
    ) -> None:
        self._processor = processor
        self._labels = _check_labels(labels)
        self._prompts = _Prompts(
            processor.model, self._labels, instructions or _INSTRUCTIONS, examples or ()
        )
        self._tree = self._make_tree(processor.model)
        self._prior: list[float] | None = None
        if calibrate:
            self._prior = self._measure_prior()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels."""
        return self._labels

    @overload
    def classify(self, texts: str) -> Classification: ...  # type: ignore[overload-overlap]
    @overload
    def classify(
        self, texts: Sequence[str], *, progress: bool | None = None
    ) -> list[Classification]: ...

    def classify(
        self, texts: str | Sequence[str], *, progress: bool | None = None
    ) -> Classification | list[Classification]:
        """Label a text, or each of many.

        Args:
            texts: One text or a sequence.
            progress: True shows a bar, False none, None one in an interactive terminal or
                notebook.

        Returns:
            A `Classification`, or a list in input order. A row that failed has `success=False` and
            its reason in `error`.
        """
        if isinstance(texts, str):
            return next(self.classify_iter([texts]))
        texts = list(texts)
        rows: Iterable[Classification] = self.classify_iter(texts)
        if progress or (progress is None and is_interactive()):
            rows = show_progress(rows, len(texts), lambda row: (row.prompt_tokens, row.success))
        return list(rows)

    def classify_iter(
        self, texts: Iterable[str], *, max_in_flight: int | None = None
    ) -> Iterator[Classification]:
        """Label the texts of any iterable, in order and with bounded memory.

        Args:
            texts: Pulled as results are taken.
            max_in_flight: As in `ParallelProcessor.generate_iter`.
        """
        return self._classify(texts, self._prior, max_in_flight)

    def _classify(
        self, texts: Iterable[str], prior: list[float] | None, max_in_flight: int | None = None
    ) -> Iterator[Classification]:
        nodes = self._tree.nodes
        prompts = (
            ScoredPrompt(prompt, node.path, node.children)
            for prompt in map(self._prompts.of, texts)
            for node in nodes
        )
        results = self._processor.score_iter(prompts, max_in_flight=max_in_flight)
        # The nodes of a row follow each other.
        for index, group in enumerate(zip(*[iter(results)] * len(nodes), strict=True)):
            yield self._classification(index, group, prior)

    def _classification(
        self, index: int, group: Sequence[GenerationResult], prior: list[float] | None
    ) -> Classification:
        first = group[0]
        failed = next((result for result in group if result.scores is None), None)
        if failed is not None:
            return Classification(
                index=index, error=failed.error, prompt_tokens=first.prompt_tokens
            )
        shares = self._tree.shares([result.scores or () for result in group])
        if prior is not None:
            weights = [share / before for share, before in zip(shares, prior, strict=True)]
            shares = [weight / sum(weights) for weight in weights]
        ranked = sorted(range(len(shares)), key=lambda i: -shares[i])
        return Classification(
            label=self._labels[ranked[0]],
            probabilities=dict(zip(self._labels, shares, strict=True)),
            margin=shares[ranked[0]] - shares[ranked[1]],
            index=index,
            success=True,
            prompt_tokens=first.prompt_tokens,
            cached_tokens=first.cached_tokens,
        )

    def _measure_prior(self) -> list[float]:
        rows = list(self._classify(_CONTENT_FREE, None))
        failed = next((row.error for row in rows if row.error is not None), None)
        if failed is not None:
            raise LlamaherdError(f"the calibration failed: {failed}")
        means = [
            sum(row.probabilities[label] for row in rows) / len(rows) for label in self._labels
        ]
        # A label that the model never gives stays improbable instead of dividing by nothing.
        return [max(mean, 1e-6) for mean in means]

    def _make_tree(self, model: Model) -> ChoiceTree:
        tokens = [
            model.tokenize(self._prompts.label_prefix + label, add_bos=False)
            for label in self._labels
        ]
        return ChoiceTree(tokens, decisions_only=True)


@overload
def classify(  # type: ignore[overload-overlap]
    model: Model | ParallelProcessor | str | PathLike[str],
    texts: str,
    labels: Sequence[str],
    instructions: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
    *,
    calibrate: bool = False,
    progress: bool | None = None,
) -> Classification: ...
@overload
def classify(
    model: Model | ParallelProcessor | str | PathLike[str],
    texts: Sequence[str],
    labels: Sequence[str],
    instructions: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
    *,
    calibrate: bool = False,
    progress: bool | None = None,
) -> list[Classification]: ...
def classify(
    model: Model | ParallelProcessor | str | PathLike[str],
    texts: str | Sequence[str],
    labels: Sequence[str],
    instructions: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
    *,
    calibrate: bool = False,
    progress: bool | None = None,
) -> Classification | list[Classification]:
    """Label texts by the probability of each label, in one forward pass per row.

    Example:
        >>> from llamaherd import classify
        >>> rows = ["Shares of Orbex rose 4 percent.", "The Rovers won the cup."]
        >>> [row.label for row in classify("demo", rows, ["Sports", "Business"])]
        ['Business', 'Sports']

    Args:
        model: A `Model`, a `ParallelProcessor`, or anything that `Model.load` takes.
        texts: One text or many.
        labels: At least two different texts, as the model would write them.
        instructions: See `Classifier`.
        examples: (text, label) pairs shown to the model.
        calibrate: Correct for labels that the model prefers anyway; see `Classifier`.
        progress: True shows a bar, False none, None one in an interactive terminal or notebook.

    Returns:
        A `Classification` for one text, else a list in input order.

    Raises:
        ConfigError: An option is wrong.
        ModelError: The model cannot be found or loaded.
    """
    if not isinstance(model, ParallelProcessor):
        with ParallelProcessor(model) as processor:
            return classify(
                processor, texts, labels, instructions, examples,
                calibrate=calibrate, progress=progress,
            )  # fmt: skip
    classifier = Classifier(
        model, labels, instructions=instructions, examples=examples, calibrate=calibrate
    )
    if isinstance(texts, str):
        return classifier.classify(texts)
    return classifier.classify(texts, progress=progress)


class _Prompts:
    """Builds the prompts: chat messages if the model has a template, else plain text as tokens.

    Either way text of a row never becomes a control token.
    """

    def __init__(
        self,
        model: Model,
        labels: Sequence[str],
        instructions: str,
        examples: Sequence[tuple[str, str]],
    ) -> None:
        self._model = model
        self._is_chat = model.info.chat_template
        # The model's own answer would begin with the label after a chat template, and with a space
        # where plain text just goes on.
        self.label_prefix = "" if self._is_chat else " "
        instructions = instructions.replace("{labels}", ", ".join(labels))
        head, is_named, tail = instructions.partition("{text}")
        self._head = head if is_named else head + "\n\n"
        self._tail = tail
        self._examples = [self._check_example(example, labels) for example in examples]

    def of(self, text: Any) -> Prompt:
        """The prompt of a text. What is no text is given on, so that its row fails by that."""
        if not isinstance(text, str):
            return [] if isinstance(text, Sequence) else text
        if self._is_chat:
            turns = [
                turn
                for example, label in self._examples
                for turn in (self._question(example), {"role": "assistant", "content": label})
            ]
            return [*turns, self._question(text)]
        shown = "".join(
            f"{self._ask(example)}{self.label_prefix}{label}\n\n"
            for example, label in self._examples
        )
        try:
            return self._model.tokenize(shown + self._ask(text))
        except InvalidPrompt:
            # Given on as it is, so that the row fails by the same error.
            return shown + self._ask(text)

    def _ask(self, text: str) -> str:
        return f"{self._head}{text}{self._tail}"

    def _question(self, text: str) -> dict[str, str]:
        return {"role": "user", "content": self._ask(text)}

    def _check_example(self, example: object, labels: Sequence[str]) -> tuple[str, str]:
        match example:
            case [str(text), str(label)]:
                if label not in labels:
                    known = ", ".join(labels)
                    raise ConfigError(f"examples has the label {label!r}; labels are: {known}")
                return text, label
        raise ConfigError(f"examples has {example!r}; give (text, label) pairs")


def _check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        raise ConfigError(f"labels is one string, {labels!r}; give a list of labels")
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise ConfigError(f"labels has {label!r}; labels are non-empty strings")
    repeated = next((label for label in labels if list(labels).count(label) > 1), None)
    if repeated is not None:
        raise ConfigError(f"labels has {repeated!r} more than once")
    if len(labels) < 2:
        raise ConfigError("give at least two labels")
    return tuple(labels)
