"""One submitted request, from its acceptance to the collection of its result."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from llamaherd.engine.request import Request
from llamaherd.engine.waiting import Sequence
from llamaherd.errors import CallbackError
from llamaherd.queueing.callbacks import Delivery
from llamaherd.queueing.request import BatchResult, RequestId
from llamaherd.results import GenerationResult

__all__ = ["Batch", "Ticket"]


class _Owner(Protocol):
    def text(self, ticket: Ticket, piece: str) -> None: ...
    def finish(self, ticket: Ticket, result: GenerationResult) -> None: ...


@dataclass(slots=True)
class Batch:
    """Requests that were handed to the engine together."""

    n_requests: int
    n_left: int
    started_s: float


class Ticket:
    """A request in the queue; also the sink that the engine delivers its row to.

    Args:
        id: The request's id.
        owner: Receives what the engine delivers.
        submitted_s: When it was submitted.
        streaming: Whether the request has a callback.
    """

    def __init__(
        self, id: RequestId, owner: _Owner, submitted_s: float, *, streaming: bool
    ) -> None:
        self.id = id
        self.submitted_s = submitted_s
        self.streaming = streaming
        self.done = threading.Event()
        # The owner's lock guards what follows.
        self.request: Request
        self.place: Sequence | None = None
        """Where it waits for a batch; None once it was handed to the engine."""
        self.batch: Batch | None = None
        self.delivery: Delivery | None = None
        self.outcome: BatchResult | None = None
        self.callback_error: CallbackError | None = None
        self.ended_s = 0.0
        self.n_claims = 0
        """Callers who wait for this very request."""
        self.is_cancelled = False
        self.is_abandoned = False
        self.is_collected = False
        self._owner = owner

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        """Part of the sink protocol; called on the engine's thread."""
        self._owner.text(self, piece)

    def finish(self, request: Request, result: GenerationResult) -> None:
        """Part of the sink protocol; called on the engine's thread."""
        self._owner.finish(self, result)
