"""One row as a coroutine sees it: waits on the event loop for what the engine's thread delivers."""

from __future__ import annotations

import asyncio
import threading

from llamaherd.aio.mailbox import mailbox_of
from llamaherd.engine.engine import Engine
from llamaherd.engine.request import Request
from llamaherd.results import GenerationResult

__all__ = ["AsyncCall"]


class AsyncCall:
    """The sink of one request, bound to the running event loop.

    Text merges until it is taken, so a slow reader costs no more memory than its row's text.

    Args:
        engine: Where the request will run.
        streaming: Whether text is wanted before the end.
    """

    def __init__(self, engine: Engine, *, streaming: bool = False) -> None:
        self.streaming = streaming
        self.loop = asyncio.get_running_loop()
        self._engine = engine
        self._mailbox = mailbox_of(self.loop)
        self._request: Request | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._began_s = self.loop.time()
        self._is_recorded = False
        self._lock = threading.Lock()
        # The lock guards what follows.
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._result: GenerationResult | None = None

    # ── engine thread ───────────────────────────────────────────────────────────────────

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        """Part of the sink protocol."""
        with self._lock:
            self._pieces.append(piece)
            self._tokens.extend(tokens)
        if not self._mailbox.post(self):
            # The event loop is closed: nobody can read this row any more.
            self._engine.cancel([request])

    def finish(self, request: Request, result: GenerationResult) -> None:
        """Part of the sink protocol."""
        with self._lock:
            self._result = result
        self._mailbox.post(self)

    # ── event loop ──────────────────────────────────────────────────────────────────────

    def submit(self, request: Request) -> None:
        """Hand the request to the engine. Raises what `Engine.submit` does."""
        self._request = request
        self._engine.submit([request])

    def deliver(self) -> None:
        """There is text or a result; called by the mailbox."""
        if self._result is not None and not self._is_recorded:
            self._is_recorded = True
            self._mailbox.record(1000.0 * (self.loop.time() - self._began_s))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def news(self) -> None:
        """Wait until there is text to take, or the result."""
        while not self._pieces and self._result is None:
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def answer(self) -> GenerationResult:
        """Wait for the result. If the waiting task is cancelled, so is the row."""
        try:
            while self._result is None:
                await self.news()
        finally:
            self.cancel()
        assert self._result is not None
        return self._result

    def take(self) -> tuple[str, tuple[int, ...]]:
        """All text that came since the last time, and its tokens."""
        with self._lock:
            text, tokens = "".join(self._pieces), tuple(self._tokens)
            self._pieces.clear()
            self._tokens.clear()
        return text, tokens

    @property
    def result(self) -> GenerationResult | None:
        """How the row ended; None while it is in work."""
        return self._result

    def cancel(self) -> None:
        """Free the row's slot at the next step; nothing if it has ended. Any thread."""
        if self._result is None and self._request is not None:
            self._engine.cancel([self._request])
