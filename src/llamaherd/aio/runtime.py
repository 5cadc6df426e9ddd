"""`Runtime`: event loops on threads of their own, and a bounded pool for blocking work."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llamaherd.aio.mailbox import mailbox_of
from llamaherd.errors import ConfigError, LlamaherdError, ProcessorStopped, QueueFull

__all__ = ["Runtime", "RuntimeMetrics", "SpawnedTask"]

_log = logging.getLogger(__name__)
T = TypeVar("T")

# Blocking calls that may wait for a thread.
_MAX_WAITING_CALLS = 1024
# How long tasks may take to end once they are cancelled.
_GRACE_S = 5.0
_stack_size_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class RuntimeMetrics:
    """What a runtime does and did.

    Attributes:
        active_tasks: Spawned tasks and blocking calls that have not ended.
        completed_tasks: Those that have, in whichever way.
        worker_threads: Event loops.
        blocking_threads: Threads of the pool that were started.
        total_generations: Rows of `AsyncModel` and `AsyncContext` that ended on its loops.
        avg_generation_ms: Their mean time from the call to the end.
        uptime_seconds: Since it was started.
    """

    active_tasks: int
    completed_tasks: int
    worker_threads: int
    blocking_threads: int
    total_generations: int
    avg_generation_ms: float
    uptime_seconds: float


class SpawnedTask(Generic[T]):
    """A task of a runtime. Await it on any event loop, or wait for it on any thread."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self._future).__await__()

    def result(self, timeout: float | None = None) -> T:
        """Block until the task has ended; its value, or what it raised.

        Raises:
            TimeoutError: It has not ended within `timeout` seconds.
        """
        try:
            return self._future.result(timeout)
        except FutureTimeoutError as error:
            # One class from Python 3.11 on.
            raise (error if self._future.done() else TimeoutError("the task goes on")) from None

    def cancel(self) -> bool:
        """Cancel the task; False if it has ended, or is a blocking call that runs."""
        return self._future.cancel()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._future.cancelled()

    def exception(self) -> BaseException | None:
        """What it raised; None if it returned. Blocks until it has ended."""
        return self._future.exception()

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call a function when it ends, on whichever thread."""
        self._future.add_done_callback(lambda future: callback())


class Runtime:
    """Runs coroutines for programs that have no event loop, or keep theirs free.

    Example:
        >>> with Runtime(worker_threads=1, max_blocking_threads=4) as runtime:
        ...     task = runtime.spawn(serve())
        ...     task.result()

    Args:
        worker_threads: Event loops, each on a thread; tasks go to them in turn.
        max_blocking_threads: Threads of `spawn_blocking`.
        thread_stack_size: Stack of each thread in bytes; None takes the system's default.
        thread_name: Beginning of the threads' names.
        enable_io: Accepted for completeness: an asyncio loop can always do this.
        enable_time: The same.
        enable_all: The same.

    Raises:
        ConfigError: An option is wrong.
    """

    def __init__(
        self,
        *,
        worker_threads: int = 1,
        max_blocking_threads: int = 8,
        thread_stack_size: int | None = None,
        thread_name: str = "llamaherd-runtime",
        enable_io: bool = True,
        enable_time: bool = True,
        enable_all: bool = True,
    ) -> None:
        _check(worker_threads=worker_threads, max_blocking_threads=max_blocking_threads)
        if not (enable_io and enable_time and enable_all):
            raise ConfigError("an asyncio loop has input, output and timers; leave enable_* True")
        if thread_stack_size is not None and thread_stack_size < 64 * 1024:
            raise ConfigError(f"thread_stack_size is {thread_stack_size}; allowed: 65536 or more")
        self._stack_size = thread_stack_size
        self._began_s = time.monotonic()
        self._max_calls = max_blocking_threads + _MAX_WAITING_CALLS
        self._pool = ThreadPoolExecutor(max_blocking_threads, f"{thread_name}-blocking")
        self._changed = threading.Condition()
        self._tasks: set[Future[Any]] = set()
        self._n_calls = 0
        self._n_completed = 0
        self._n_spawned = 0
        self._is_closing = False
        self._loops = [asyncio.new_event_loop() for _ in range(worker_threads)]
        self._threads = [
            threading.Thread(target=_run_loop, args=(loop,), name=f"{thread_name}-{i}", daemon=True)
            for i, loop in enumerate(self._loops)
        ]
        with _thread_stacks(thread_stack_size):
            for thread in self._threads:
                thread.start()
        # Also runs when the runtime is forgotten, or the interpreter ends, without a shutdown.
        self._finalizer = weakref.finalize(self, _stop, self._loops, self._threads, self._pool)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> SpawnedTask[T]:
        """Run a coroutine.

        Raises:
            ProcessorStopped: The runtime was shut down.
        """
        return self.spawn_on(self._n_spawned % len(self._loops), coroutine)

    def spawn_on(self, worker: int, coroutine: Coroutine[Any, Any, T]) -> SpawnedTask[T]:
        """Run a coroutine on a certain event loop, from 0. Errors as for `spawn`."""
        with self._changed:
            if self._is_closing:
                coroutine.close()
                raise ProcessorStopped("the runtime was shut down; make a new one")
            self._n_spawned += 1
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loops[worker])
            self._tasks.add(future)
        future.add_done_callback(self._task_ended)
        return SpawnedTask(future)

    def spawn_blocking(self, fn: Callable[..., T], *arguments: Any) -> SpawnedTask[T]:
        """Call a function on a thread of the pool.

        Raises:
            QueueFull: 1024 calls wait for a thread already.
            ProcessorStopped: The runtime was shut down.
        """
        with self._changed:
            if self._is_closing:
                raise ProcessorStopped("the runtime was shut down; make a new one")
            if self._n_calls >= self._max_calls:
                raise QueueFull(
                    f"{_MAX_WAITING_CALLS} blocking calls wait for a thread; try again later, "
                    "or raise max_blocking_threads"
                )
            self._n_calls += 1
            with _thread_stacks(self._stack_size):
                future = self._pool.submit(fn, *arguments)
        future.add_done_callback(self._call_ended)
        return SpawnedTask(future)

    async def metrics(self) -> RuntimeMetrics:
        """What the runtime does and did."""
        mailboxes = [mailbox_of(loop) for loop in self._loops]
        n_generations = sum(mailbox.n_generations for mailbox in mailboxes)
        generation_ms = sum(mailbox.generation_ms for mailbox in mailboxes)
        with self._changed:
            return RuntimeMetrics(
                active_tasks=len(self._tasks) + self._n_calls,
                completed_tasks=self._n_completed,
                worker_threads=len(self._loops),
                blocking_threads=len(self._pool._threads),
                total_generations=n_generations,
                avg_generation_ms=generation_ms / n_generations if n_generations else 0.0,
                uptime_seconds=time.monotonic() - self._began_s,
            )

    def is_running(self) -> bool:
        """Whether tasks are accepted."""
        return not self._is_closing

    async def shutdown(self, timeout: float | None = None) -> None:
        """As `close`, without blocking the event loop it is awaited on."""
        self._check_outside()
        await asyncio.to_thread(self.close, timeout)

    def close(self, timeout: float | None = None) -> None:
        """Accept nothing more, wait for tasks and blocking calls, and end all threads.

        Args:
            timeout: After so many seconds, what is left is cancelled; blocking calls that run
                cannot be, and are left behind. None waits for as long as it takes.
        """
        if timeout is not None and not timeout >= 0:
            raise ConfigError(f"timeout is {timeout!r}; allowed: None, or seconds from 0 up")
        self._check_outside()
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: not self._tasks and not self._n_calls, timeout)
            is_idle = self._n_calls == 0
        self._pool.shutdown(wait=is_idle, cancel_futures=True)
        self._finalizer()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self.close(timeout=None if kind is None else 0.0)

    def _check_outside(self) -> None:
        if threading.current_thread() in self._threads:
            raise LlamaherdError(
                "a runtime cannot be shut down by one of its own tasks, which it would wait "
                "for; do it from outside"
            )

    def _task_ended(self, future: Future[Any]) -> None:
        with self._changed:
            self._tasks.discard(future)
            self._n_completed += 1
            self._changed.notify_all()

    def _call_ended(self, future: Future[Any]) -> None:
        with self._changed:
            self._n_calls -= 1
            self._n_completed += 1
            self._changed.notify_all()


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value!r}; allowed: a whole number from 1 up")


@contextmanager
def _thread_stacks(n_bytes: int | None) -> Iterator[None]:
    """Let threads that are started meanwhile have stacks of this size."""
    if n_bytes is None:
        yield
        return
    with _stack_size_lock:
        before = threading.stack_size(n_bytes)
        try:
            yield
        finally:
            threading.stack_size(before)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_cancel_tasks())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _cancel_tasks() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _stop(
    loops: list[asyncio.AbstractEventLoop],
    threads: list[threading.Thread],
    pool: ThreadPoolExecutor,
) -> None:
    for loop in loops:
        loop.call_soon_threadsafe(loop.stop)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(_GRACE_S)
            if thread.is_alive():
                _log.warning("%s: a task does not end although it was cancelled", thread.name)
    pool.shutdown(wait=False, cancel_futures=True)
