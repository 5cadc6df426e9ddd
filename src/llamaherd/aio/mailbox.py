"""From an engine's thread to an event loop: one wake-up for all rows that have news.

A wake-up per row and token would cost a system call each and make both threads fight for the
interpreter in the middle of a step. Posts that come while a wake-up is under way join it.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Protocol

__all__ = ["LoopMailbox", "Receiver", "mailbox_of"]


class Receiver(Protocol):
    """Somebody on the event loop who waits for news."""

    def deliver(self) -> None:
        """There is news. Called on the event loop."""
        ...


class LoopMailbox:
    """Carries news to one event loop.

    Attributes:
        n_generations: Rows of this loop that ended.
        generation_ms: The time they took, from submission to the end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.n_generations = 0
        self.generation_ms = 0.0
        # Mailboxes are found by their loop and must not keep it alive.
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._posted: dict[Receiver, None] = {}
        self._is_waking = False

    def post(self, receiver: Receiver) -> bool:
        """Tell a receiver that there is news. Any thread; never blocks.

        Returns:
            False if the loop is closed, so that nobody will ever be told.
        """
        loop = self._loop()
        if loop is None or loop.is_closed():
            return False
        with self._lock:
            self._posted[receiver] = None
            if self._is_waking:
                return True
            self._is_waking = True
        try:
            loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            # It was closed a moment ago.
            return False
        return True

    def record(self, duration_ms: float) -> None:
        """A row ended. Called on the event loop."""
        self.n_generations += 1
        self.generation_ms += duration_ms

    def _deliver(self) -> None:
        with self._lock:
            posted, self._posted = self._posted, {}
            self._is_waking = False
        for receiver in posted:
            receiver.deliver()


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMailbox] = (
    weakref.WeakKeyDictionary()
)
_mailboxes_lock = threading.Lock()


def mailbox_of(loop: asyncio.AbstractEventLoop) -> LoopMailbox:
    """The one mailbox of an event loop."""
    with _mailboxes_lock:
        mailbox = _mailboxes.get(loop)
        if mailbox is None:
            mailbox = _mailboxes[loop] = LoopMailbox(loop)
        return mailbox
