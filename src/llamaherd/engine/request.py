"""One row as the engine sees it, and where its outcome goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llamaherd.config import GenerationConfig
from llamaherd.results import GenerationResult, ProcessorStats

__all__ = ["Request", "RowEngine", "Sink"]


class Sink(Protocol):
    """Receives a row's text and its outcome, on the engine's thread.

    The engine calls `finish` exactly once for every request that `submit` accepted. Neither
    method may block or raise.
    """

    streaming: bool
    """Whether `text` should be called."""

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        """More text of a row, at least one character or token."""
        ...

    def finish(self, request: Request, result: GenerationResult) -> None:
        """The row's outcome."""
        ...


@dataclass(eq=False, slots=True)
class Request:
    """A row to generate, or to score.

    Attributes:
        tokens: Prompt token ids.
        config: How to generate.
        sink: Receives the outcome.
        seed: Seed of this row; unused by greedy rows.
        index: The row's position in its input.
        id: The caller's id.
        choice: Which of the `n` answers this is.
        priority: 0 to 255, higher first.
        scored_tokens: If there are any, nothing is generated: the row's result says how probable
            each of these tokens is after the prompt.
        context: Anything the façade wants to find again in its sink.
    """

    tokens: list[int]
    config: GenerationConfig
    sink: Sink
    seed: int = 0
    index: int = 0
    id: str | None = None
    choice: int = 0
    priority: int = 0
    scored_tokens: tuple[int, ...] = ()
    context: object = field(default=None)


class RowEngine(Protocol):
    """Whatever runs rows: the engine, or several of them in processes of their own."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Accept rows; each is finished exactly once if this returns."""
        ...

    def cancel(self, requests: Iterable[Request]) -> None:
        """Stop rows soon. Rows that have ended are not affected."""
        ...

    def cancel_all(self) -> None:
        """Stop every row that was submitted before this call."""
        ...

    def stats(self) -> ProcessorStats:
        """Counters since it was opened."""
        ...

    def close(self, *, drain: bool = False) -> None:
        """End every row, finished first if asked, and free everything. May be called twice."""
        ...
