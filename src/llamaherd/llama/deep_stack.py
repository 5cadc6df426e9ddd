"""Runs a call on a thread with a stack as large as it may need."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_with_stack"]

T = TypeVar("T")
_ALIGNMENT = 1 << 20
# The size of new stacks is one setting for the whole process.
_lock = threading.Lock()


def call_with_stack(call: Callable[[], T], stack_bytes: int) -> T:
    """Call something on a thread of its own, and wait for it.

    Args:
        call: What to call.
        stack_bytes: Stack of the thread. It takes address space, and memory only where it is
            really used.

    Raises:
        RuntimeError: The system gives no such stack.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="llamaherd-deep-stack")
    with _lock:
        before = threading.stack_size(-(-stack_bytes // _ALIGNMENT) * _ALIGNMENT)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
