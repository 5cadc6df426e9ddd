"""What a job does with its rows: answer or label them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from llamaherd.config import GenerationConfig
from llamaherd.engine.seeds import draw_seed
from llamaherd.errors import ConfigError, LlamaherdError
from llamaherd.jobs.inputs import InputRow
from llamaherd.jobs.prompts import PromptMaker, TextMaker
from llamaherd.models.model import Prompt
from llamaherd.processing.classify import Classification, Classifier
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.processing.rows import NumberedPrompt
from llamaherd.results import GenerationResult, RowError

__all__ = ["Answers", "Labels", "NumberedRow", "Outcome", "Work"]

NumberedRow = tuple[int, InputRow]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row of a job.

    Attributes:
        index: The row's number in the input.
        row: The row.
        fields: Columns of the result.
        error: What went wrong, or None.
        is_cancelled: Whether it was stopped and is to run another time.
        prompt_tokens: Tokens in its prompt.
        cached_tokens: Those that were not computed for this row.
        generated_tokens: Tokens of the answer.
    """

    index: int
    row: InputRow
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: RowError | None = None
    is_cancelled: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class Work(Protocol):
    """Something to do with the rows of a table."""

    columns: frozenset[str]
    """Columns that every row needs."""

    def settings(self) -> dict[str, Any]:
        """What decides about the results, as plain data."""
        ...

    def go_on(self, settings: Mapping[str, Any]) -> None:
        """Take over what an earlier run of the job drew by chance, such as its seed."""
        ...

    def outcomes(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        """Do the work; `rows` is pulled as outcomes are taken."""
        ...


class Answers:
    """Answers every row.

    Args:
        processor: Runs the rows.
        prompts: Makes the prompts.
        config: How to generate.
        ordered: Give outcomes in the order of the input.

    Raises:
        ConfigError: Several answers per row were asked for.
    """

    def __init__(
        self,
        processor: ParallelProcessor,
        prompts: PromptMaker,
        config: GenerationConfig,
        *,
        ordered: bool = False,
    ) -> None:
        if config.n != 1:
            raise ConfigError(f"n is {config.n}; a job gives one answer per row")
        self.columns = prompts.columns
        self._processor = processor
        self._prompts = prompts
        self._ordered = ordered
        self._config = config
        self._has_drawn_seed = config.seed is None and not config.is_greedy
        if self._has_drawn_seed:
            self._config = replace(config, seed=draw_seed())

    def settings(self) -> dict[str, Any]:
        """The prompt and how to generate."""
        config = asdict(self._config)
        defaults = asdict(GenerationConfig())
        # Options that are not set need no entry, and new ones do not change old jobs.
        changed = {name: value for name, value in config.items() if value != defaults[name]}
        for name in ("timeout_ms", "retry_attempts"):
            changed.pop(name, None)
        return {"task": "generate", **self._prompts.settings(), "config": changed}

    def go_on(self, settings: Mapping[str, Any]) -> None:
        """Take the seed of an earlier run, unless another is wanted."""
        seed = settings.get("config", {}).get("seed")
        if isinstance(seed, int) and self._has_drawn_seed:
            self._config = replace(self._config, seed=seed)

    def outcomes(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        """Answer the rows."""
        in_work: dict[int, tuple[int, InputRow, LlamaherdError | None]] = {}

        def prompts() -> Iterator[NumberedPrompt]:
            for position, (index, row) in enumerate(rows):
                prompt: Prompt = ""
                error: LlamaherdError | None = None
                try:
                    prompt = self._prompts.of(row)
                except LlamaherdError as problem:
                    # An empty prompt fails, and this error takes the place of that one.
                    error = problem
                in_work[position] = (index, row, error)
                yield NumberedPrompt(prompt, index)

        results = self._processor.generate_iter(prompts(), self._config, ordered=self._ordered)
        for result in results:
            index, row, error = in_work.pop(result.index)
            yield _outcome(index, row, result, error)


class Labels:
    """Labels every row by the probability of each label.

    Args:
        classifier: Labels texts.
        texts: Makes the texts.
        settings: What decides about the results, as plain data.
    """

    def __init__(
        self, classifier: Classifier, texts: TextMaker, settings: Mapping[str, Any]
    ) -> None:
        self.columns = texts.columns
        self._classifier = classifier
        self._texts = texts
        self._settings = {"task": "classify", **settings}

    def settings(self) -> dict[str, Any]:
        """The labels and how they are asked for."""
        return self._settings

    def go_on(self, settings: Mapping[str, Any]) -> None:
        """Nothing is drawn by chance."""

    def outcomes(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        """Label the rows, in their order."""
        in_work: deque[tuple[int, InputRow, LlamaherdError | None]] = deque()

        def texts() -> Iterator[str]:
            for index, row in rows:
                text = ""
                error: LlamaherdError | None = None
                try:
                    text = self._texts.of(row)
                except LlamaherdError as problem:
                    error = problem
                in_work.append((index, row, error))
                yield text

        for result in self._classifier.classify_iter(texts()):
            index, row, error = in_work.popleft()
            yield _labeled(index, row, result, error)


def _labeled(
    index: int, row: InputRow, result: Classification, error: LlamaherdError | None
) -> Outcome:
    problem = RowError.from_exception(error) if error is not None else result.error
    is_good = problem is None
    return Outcome(
        index,
        row,
        {
            "label": result.label if is_good else None,
            "probability": round(result.probability, 6) if is_good else None,
            "margin": round(result.margin, 6) if is_good else None,
            "probabilities": {label: round(p, 6) for label, p in result.probabilities.items()}
            if is_good
            else None,
            "error": {"type": problem.type, "message": problem.message} if problem else None,
        },
        problem,
        is_cancelled=problem is not None and problem.type == "RequestCancelled",
        prompt_tokens=result.prompt_tokens,
        cached_tokens=result.cached_tokens,
    )


def _outcome(
    index: int, row: InputRow, result: GenerationResult, error: LlamaherdError | None
) -> Outcome:
    problem = RowError.from_exception(error) if error is not None else result.error
    fields: dict[str, Any] = {
        "text": result.text,
        "finish_reason": result.finish_reason.value,
        "error": {"type": problem.type, "message": problem.message} if problem else None,
        "prompt_tokens": result.prompt_tokens,
        "cached_tokens": result.cached_tokens,
        "tokens_generated": result.tokens_generated,
        "seed": result.seed,
    }
    if result.logprobs is not None:
        fields["logprobs"] = [
            {"token": entry.text, "logprob": entry.logprob, "top": [list(t) for t in entry.top]}
            for entry in result.logprobs
        ]
    return Outcome(
        index,
        row,
        fields,
        problem,
        is_cancelled=problem is not None and problem.type == "RequestCancelled",
        prompt_tokens=result.prompt_tokens,
        cached_tokens=result.cached_tokens,
        generated_tokens=result.tokens_generated,
    )
