"""What a job does with its rows: answer them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from llamaherd.config import GenerationConfig
from llamaherd.engine.seeds import draw_seed
from llamaherd.errors import ConfigError, LlamaherdError
from llamaherd.jobs.inputs import InputRow
from llamaherd.jobs.prompts import PromptMaker
from llamaherd.models.model import Prompt
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.processing.rows import NumberedPrompt
from llamaherd.results import GenerationResult, RowError

__all__ = ["Answers", "NumberedRow", "Outcome", "Work"]

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
