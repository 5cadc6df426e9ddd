"""Progress of a command on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from typing_extensions import Self

from llamaherd.results import GenerationResult

__all__ = ["RunProgress", "say"]


def say(message: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(message + "\n")


class RunProgress:
    """Counts rows and shows them on a terminal.

    Args:
        n_total: Rows to come, if known.
        quiet: Show nothing.
    """

    def __init__(self, n_total: int | None, *, quiet: bool) -> None:
        self.n_done = 0
        self.n_failed = 0
        self._n_prompt_tokens = 0
        self._n_generated_tokens = 0
        self._n_total = n_total
        self._began_s = time.monotonic()
        self._bar: Progress | None = None
        if not quiet and sys.stderr.isatty():
            self._bar = Progress(
                BarColumn(bar_width=20),
                TextColumn("{task.fields[counts]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("rows", total=n_total, counts="")

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, result: GenerationResult, *, failed: bool) -> None:
        """Count a row."""
        self.n_done += 1
        self.n_failed += failed
        self._n_prompt_tokens += result.prompt_tokens
        self._n_generated_tokens += result.tokens_generated
        if self._bar is not None:
            self._bar.update(self._task, completed=self.n_done, counts=self._counts())

    def summary(self) -> str:
        """One line for the end."""
        return f"{self._counts()}, {self._seconds():.1f} s"

    def _seconds(self) -> float:
        return max(1e-3, time.monotonic() - self._began_s)

    def _counts(self) -> str:
        seconds = self._seconds()
        total = f"/{self._n_total}" if self._n_total is not None else ""
        failed = f" ({self.n_failed} failed)" if self.n_failed else ""
        return (
            f"{self.n_done}{total} rows{failed}, {self.n_done / seconds:.1f} rows/s, "
            f"{self._n_prompt_tokens / seconds:.0f} prompt and "
            f"{self._n_generated_tokens / seconds:.0f} generated tokens/s"
        )
