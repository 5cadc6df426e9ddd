"""Puts a `ThreadPoolConfig` into effect on llama.cpp's own compute threads.

llama.cpp is built with OpenMP, which makes one team of threads per calling thread when the
first graph is computed. They inherit that thread's allowed cores and the process's default
stack size, so both are set around the first computation, and the new threads are then found
and pinned one by one. (llama-cpp-python binds no thread pool functions.)
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["start_compute_threads"]

_log = logging.getLogger(__name__)
_stack_lock = threading.Lock()
# Larger than pthread_attr_t on every Linux platform (56 bytes on x86-64).
_ATTRIBUTE_BYTES = 256


def start_compute_threads(
    first_computation: Callable[[], None],
    *,
    stack_size: int,
    cores: tuple[int, ...] | None,
) -> tuple[int, ...]:
    """Run the first computation so that its threads come out as asked.

    Args:
        first_computation: Makes the compute threads; runs on the calling thread, which is
            one of them.
        stack_size: Bytes per new thread.
        cores: Cores to pin to, one thread per core in turn; None leaves the threads free.

    Returns:
        Operating-system ids of the compute threads, the calling one first; empty where the
        operating system does not tell.
    """
    if not sys.platform.startswith("linux"):
        if cores is not None:
            _log.warning("cpu_affinity has no effect on %s", sys.platform)
        first_computation()
        return ()
    if cores is not None:
        os.sched_setaffinity(0, set(cores))
    before = _thread_ids()
    with _default_stack_size(stack_size):
        first_computation()
    own = threading.get_native_id()
    threads = (own, *sorted(_thread_ids() - before - {own}))
    if cores is not None:
        for i, thread_id in enumerate(threads):
            # A thread of somebody else may have ended meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread_id, {cores[i % len(cores)]})
    return threads


def _thread_ids() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


@contextlib.contextmanager
def _default_stack_size(n_bytes: int) -> Iterator[None]:
    """Let threads made meanwhile have this stack size. glibc only; elsewhere without effect."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "pthread_setattr_default_np"):
        _log.warning("stack_size has no effect with this C library")
        yield
        return
    with _stack_lock:
        old = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        new = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        libc.pthread_getattr_default_np(old)
        libc.pthread_getattr_default_np(new)
        libc.pthread_attr_setstacksize(new, ctypes.c_size_t(n_bytes))
        libc.pthread_setattr_default_np(new)
        try:
            yield
        finally:
            libc.pthread_setattr_default_np(old)
            libc.pthread_attr_destroy(new)
            libc.pthread_attr_destroy(old)
