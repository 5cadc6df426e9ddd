"""What callers get back: one result per row, and statistics that are derived when read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from llamaherd.errors import LlamaherdError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Embedding",
    "FinishReason",
    "GenerationResult",
    "ProcessorStats",
    "RowError",
    "TokenLogprob",
]


class FinishReason(str, Enum):
    """Why a row ended."""

    STOP = "stop"
    """The model ended its answer, or a stop string was met."""
    LENGTH = "length"
    """`max_tokens` or the context was used up."""
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class RowError:
    """An error as a value, so that it can stand in a table beside the rows that succeeded.

    Attributes:
        type: Name of the error class, for example ``"PromptTooLong"``.
        message: What happened and what to do.
        retryable: Whether the same row may succeed if it is tried again.
    """

    type: str
    message: str
    retryable: bool = False

    @classmethod
    def from_exception(cls, error: LlamaherdError) -> RowError:
        """Describe `error` as a value."""
        return cls(type(error).__name__, str(error), error.retryable)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one generated token, before temperature and cut-offs.

    Attributes:
        token_id: The token that was chosen.
        text: Its text; bytes that are no complete character are shown as U+FFFD.
        logprob: Its log probability.
        top: The most probable tokens at this position as (token id, text, log probability).
    """

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What became of one row.

    Attributes:
        text: Generated text. Never holds an error message; partial when the row was cut short.
        tokens_generated: Number of generated tokens.
        processing_time_ms: From the row's first step to its end.
        success: True when the row ended by itself (`stop` or `length`).
        error: What went wrong, or None.
        index: Position of the prompt in the input.
        id: The caller's id for the row, or None.
        finish_reason: Why the row ended.
        prompt_tokens: Tokens in the prompt.
        cached_tokens: Prompt tokens that were not computed for this row, because another row
            with the same beginning had already computed them.
        queue_time_ms: From submission to the row's first step.
        tokens: Generated token ids, without the end-of-generation token.
        logprobs: One entry per generated token when asked for, else None.
        seed: Seed that reproduces the row's sampling; None for greedy rows.
        attempts: How often the row was started (1 unless it was retried).
        choice: Which of the `n` answers to the same prompt this is, from 0.
        scores: Natural-log probabilities of the tokens that were to be scored, else None.
    """

    text: str = ""
    tokens_generated: int = 0
    processing_time_ms: float = 0.0
    success: bool = False
    error: RowError | None = None
    index: int = 0
    id: str | None = None
    finish_reason: FinishReason = FinishReason.ERROR
    prompt_tokens: int = 0
    cached_tokens: int = 0
    queue_time_ms: float = 0.0
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    seed: int | None = None
    attempts: int = 1
    choice: int = 0
    scores: tuple[float, ...] | None = None


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
    vector: NDArray[np.float32] | None = None
    n_tokens: int = 0
    error: RowError | None = None

    @property
    def success(self) -> bool:
        """Whether there is a vector."""
        return self.vector is not None


@dataclass(frozen=True, slots=True)
class ProcessorStats:
    """Counters since the processor was opened; rates are derived when read.

    Attributes:
        batches_processed: Forward passes through the model.
        items_processed: Rows that ended, successfully or not.
        busy_time_s: Seconds in which at least one row was in work.
        prompt_tokens: Prompt tokens of all started rows.
        cached_prompt_tokens: Those that were reused instead of computed.
        computed_prompt_tokens: Prompt tokens that went through the model, recomputation after
            preemption included.
        generated_tokens: Tokens of the answers.
        failed: Rows that ended with an error, a timeout or a cancellation.
        retried: Extra attempts made.
        deduplicated: Greedy rows answered by an identical row's computation.
        preempted: Times a row had to give up its KV cache and was recomputed later.
        queue_time_ms: Total waiting time of the started rows.
        forward_time_s: Time inside the runner.
        schedule_time_s: Time in the scheduler.
        sample_time_s: Time in the sampler.
        text_time_s: Time spent on text and hand-over.
    """

    batches_processed: int = 0
    items_processed: int = 0
    busy_time_s: float = 0.0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    generated_tokens: int = 0
    failed: int = 0
    retried: int = 0
    deduplicated: int = 0
    preempted: int = 0
    queue_time_ms: float = 0.0
    forward_time_s: float = 0.0
    schedule_time_s: float = 0.0
    sample_time_s: float = 0.0
    text_time_s: float = 0.0

    @property
    def items_per_second(self) -> float:
        """Rows per second of busy time."""
        return self.items_processed / self.busy_time_s if self.busy_time_s else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens (reused ones included) plus generated tokens per second of busy time."""
        total = self.prompt_tokens + self.generated_tokens
        return total / self.busy_time_s if self.busy_time_s else 0.0

    @property
    def avg_batch_time(self) -> float:
        """Mean seconds per forward pass."""
        return self.forward_time_s / self.batches_processed if self.batches_processed else 0.0

    @property
    def overhead_share(self) -> float:
        """Share of the engine's working time spent outside the forward pass, 0 to 1."""
        outside = self.schedule_time_s + self.sample_time_s + self.text_time_s
        total = outside + self.forward_time_s
        return outside / total if total else 0.0
