"""Calls the callers' callbacks on a thread of ours: a slow one never holds up the engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llamaherd.results import GenerationResult

__all__ = ["CallbackThread", "Delivery"]


@dataclass(slots=True, eq=False)
class Delivery:
    """Text and outcome of one request on their way to its callback.

    Attributes:
        callback: Takes pieces of text.
        raised: Called once with what the callback raised; it is not called again then.
        ended: Called with the outcome after the last piece.
    """

    callback: Callable[[str], object]
    raised: Callable[[Exception], None]
    ended: Callable[[GenerationResult], None]
    pieces: list[str] = field(default_factory=list)
    result: GenerationResult | None = None
    has_raised: bool = False


class CallbackThread:
    """One thread for all callbacks of a processor, started with the first one.

    The pieces of a request merge while other callbacks run: what is held is never more than
    the text of the rows in work.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._posted: deque[Delivery] = deque()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def text(self, delivery: Delivery, piece: str) -> None:
        """More text. Called on the engine's thread."""
        with self._ready:
            if not delivery.pieces:
                self._post(delivery)
            delivery.pieces.append(piece)

    def finish(self, delivery: Delivery, result: GenerationResult) -> None:
        """No more text will come."""
        with self._ready:
            if not delivery.pieces:
                self._post(delivery)
            delivery.result = result

    def is_current(self) -> bool:
        """Whether the caller is a callback."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the thread once everything posted is delivered."""
        with self._ready:
            self._is_closing = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join()

    def _post(self, delivery: Delivery) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="llamaherd-callbacks", daemon=True
            )
            self._thread.start()
        self._posted.append(delivery)
        self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._posted:
                    if self._is_closing:
                        return
                    self._ready.wait()
                delivery = self._posted.popleft()
                text = "".join(delivery.pieces)
                delivery.pieces.clear()
                result = delivery.result
            if text and not delivery.has_raised:
                self._call(delivery, text)
            if result is not None:
                delivery.ended(result)

    def _call(self, delivery: Delivery, text: str) -> None:
        try:
            delivery.callback(text)
        except Exception as error:
            delivery.has_raised = True
            delivery.raised(error)
