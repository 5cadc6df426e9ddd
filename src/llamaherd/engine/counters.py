"""What an engine counts. Raw numbers only; `ProcessorStats` derives the rest when read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from llamaherd.results import ProcessorStats

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Counters of one engine; only its thread writes them."""

    steps: int = 0
    items: int = 0
    failed: int = 0
    retried: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_prompt_tokens: int = 0
    generated_tokens: int = 0
    preempted: int = 0
    busy_s: float = 0.0
    queue_s: float = 0.0
    forward_s: float = 0.0
    schedule_s: float = 0.0
    sample_s: float = 0.0
    text_s: float = 0.0
    pass_sizes: Counter[int] = field(default_factory=Counter)
    """Forward passes by their number of rows."""

    def count_pass(self, n_rows: int) -> None:
        """The runner computed so many rows together; none if it only moved memory."""
        if n_rows:
            self.steps += 1
            self.pass_sizes[n_rows] += 1

    def stats(self) -> ProcessorStats:
        """The counters as callers see them."""
        return ProcessorStats(
            batches_processed=self.steps,
            items_processed=self.items,
            busy_time_s=self.busy_s,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_tokens,
            computed_prompt_tokens=self.computed_prompt_tokens,
            generated_tokens=self.generated_tokens,
            failed=self.failed,
            retried=self.retried,
            preempted=self.preempted,
            queue_time_ms=1000.0 * self.queue_s,
            forward_time_s=self.forward_s,
            schedule_time_s=self.schedule_s,
            sample_time_s=self.sample_s,
            text_time_s=self.text_s,
        )
