"""Reads an iterator on a thread of its own, so that nobody has to wait for its next item."""

from __future__ import annotations

import contextvars
import logging
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Read", "Reader", "ReadingEnded"]

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
# An iterator that waits for something is left to itself after this long. Most that do not wait for
# long, but use a model that may be closed next, are done by then.
_LEAVE_SECONDS = 0.5
# A generator that is being closed may have things to tidy up.
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Read(Generic[Item]):
    """An item that was read."""

    item: Item


@dataclass(frozen=True, slots=True)
class ReadingEnded:
    """There are no more items.

    Attributes:
        error: What the iterator raised, or None if it ended.
    """

    error: BaseException | None


class Reader(Generic[Item]):
    """Reads as many items as are wanted, one after the other, and delivers each as it is there.

    The thread begins with the first item that is wanted, in the context (`contextvars`) of whoever
    wants it. It ends when the iterator does, or after `close`; if the iterator waits then, as soon
    as it has waited. A generator is closed on the thread on which it ran. The interpreter does not
    wait for the thread to exit.

    Args:
        items: What is read. Nobody else may use it from now on.
        deliver: Called on the thread with each item, and once at the end.
    """

    def __init__(
        self, items: Iterator[Item], deliver: Callable[[Read[Item] | ReadingEnded], object]
    ) -> None:
        self._items: Iterator[Item] | None = items
        self._deliver = deliver
        self._wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._n_wanted = self._n_read = 0

    def want(self, n: int) -> None:
        """Let `n` more items be read, 1 or more."""
        self._n_wanted += n
        self._wanted.put(n)
        if self._thread is None and self._items is not None:
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run,
                args=(self._run, self._items),
                name="llamaherd-reader",
                daemon=True,
            )
            thread.start()
            # The thread alone holds the items, so that what nobody else uses ends there.
            self._thread, self._items = thread, None

    def close(self) -> None:
        """Read no more. What is delivered from now on is of no interest. May be called twice."""
        self._items = None
        self._is_closed = True
        self._wanted.put(0)
        # At the end of the interpreter the thread stands still.
        if self._thread is None or sys.is_finalizing():
            return
        if self._thread is not threading.current_thread():
            may_wait = self._n_read < self._n_wanted
            self._thread.join(_LEAVE_SECONDS if may_wait else _CLOSE_SECONDS)

    def _run(self, items: Iterator[Item]) -> None:
        # If the program exits while this thread reads standard input, Python must not close it: it
        # would wait for the buffer's lock, which this thread holds, and abort.
        standard_input = sys.stdin
        try:
            while n := self._wanted.get():
                for _ in range(n):
                    item = next(items)
                    if self._is_closed:
                        return
                    self._n_read += 1
                    self._deliver(Read(item))
        except StopIteration:
            self._deliver(ReadingEnded(None))
        # Also what a thread must not raise, such as an exit: it is for whoever wants the items.
        except BaseException as error:
            self._deliver(ReadingEnded(error))
        finally:
            if isinstance(items, Generator):
                _close(items)
            del standard_input


def _close(items: Generator[object, None, None]) -> None:
    try:
        items.close()
    except Exception:
        _log.exception("an iterable raised when it was closed")
