"""Progress of a command on standard error."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from typing_extensions import Self

from llamaherd.jobs.work import Outcome

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["RunProgress", "say"]

# Where there is no terminal, a line this often is enough.
_LINE_SECONDS = 10.0


def say(message: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


class RunProgress:
    """Counts rows and shows them: a bar on a terminal, else a line now and then.

    Args:
        n_total: Rows to come, if known.
        shown: Whether to show anything before the summary.
    """

    def __init__(self, n_total: int | None, *, shown: bool) -> None:
        self.n_done = 0
        self.n_failed = 0
        self._n_prompt_tokens = 0
        self._n_cached_tokens = 0
        self._n_generated_tokens = 0
        self._n_total = n_total
        self._began_s = time.monotonic()
        self._said_s = self._began_s
        self._says_lines = shown and not sys.stderr.isatty()
        self._bar = self._make_bar() if shown and sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        self._began_s = self._said_s = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, outcome: Outcome) -> None:
        """Count a row."""
        self.n_done += 1
        self.n_failed += outcome.error is not None
        self._n_prompt_tokens += outcome.prompt_tokens
        self._n_cached_tokens += outcome.cached_tokens
        self._n_generated_tokens += outcome.generated_tokens
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.n_done, counts=self._counts())
        elif self._says_lines and time.monotonic() - self._said_s >= _LINE_SECONDS:
            self._said_s = time.monotonic()
            say(self._counts())

    def summary(self) -> str:
        """One line for the end."""
        seconds = self._seconds()
        rates = (
            f"{self._rows()} in {seconds:.1f} s: {self.n_done / seconds:.1f} rows/s, "
            f"{self._n_prompt_tokens / seconds:.0f} "
        )
        if not self._n_generated_tokens and not self._n_cached_tokens:
            return rates + "tokens/s"
        reused = self._n_cached_tokens / max(1, self._n_prompt_tokens)
        generated = self._n_generated_tokens / seconds
        return rates + f"prompt tokens/s ({reused:.0%} reused), {generated:.0f} generated tokens/s"

    def _rows(self) -> str:
        total = f"/{self._n_total}" if self._n_total is not None else ""
        failed = f" ({self.n_failed} failed)" if self.n_failed else ""
        return f"{self.n_done}{total} rows{failed}"

    def _counts(self) -> str:
        seconds = self._seconds()
        n_generated = self._n_generated_tokens
        generated = f"+{n_generated / seconds:.0f}" if n_generated else ""
        return (
            f"{self._rows()}, {self.n_done / seconds:.1f} rows/s, "
            f"{self._n_prompt_tokens / seconds:.0f}{generated} tokens/s"
        )

    def _seconds(self) -> float:
        return max(1e-3, time.monotonic() - self._began_s)

    def _make_bar(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            BarColumn(bar_width=16),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        bar.add_task("rows", total=self._n_total, counts="")
        return bar
