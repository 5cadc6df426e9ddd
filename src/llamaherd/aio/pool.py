"""`ModelPool`: several engines on one model, each lent to one task at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from llamaherd import hardware
from llamaherd.aio.model import AsyncModel, load_model
from llamaherd.config import AsyncConfig
from llamaherd.errors import ConfigError, ProcessorStopped
from llamaherd.models.model import Model

__all__ = ["ModelPool", "PoolStats"]


@dataclass(frozen=True, slots=True)
class PoolStats:
    """How a pool is used now.

    Attributes:
        available: Instances that nobody has.
        in_use: Instances that somebody has.
        waiting: Tasks that wait for one.
    """

    available: int
    in_use: int
    waiting: int


class ModelPool:
    """Lends instances of one model: weights shared, KV cache and engine of their own.

    A pool isolates callers: a slow or failing one has its engine for itself. It is no way to
    more speed. The instances divide the CPUs and cannot share passes through the weights or
    prefixes, so one `AsyncModel` with a larger `max_concurrent` gives more tokens per second.

    Example:
        >>> pool = await ModelPool.new(AsyncConfig(model_path="demo"), 2)
        >>> async with pool.acquire() as model:
        ...     answer = await model.generate("Once upon a time")
        >>> await pool.close()
    """

    def __init__(self, model: Model, config: AsyncConfig, pool_size: int) -> None:
        self._model = model
        self._config = config
        self._lock = threading.Lock()
        # The lock guards what follows.
        self._size = pool_size
        self._available: list[AsyncModel] = []
        self._n_instances = 0
        """Open instances, lent or not."""
        self._n_lent = 0
        self._waiting: deque[_Waiter] = deque()
        self._is_closed = False

    @classmethod
    async def new(cls, config: AsyncConfig, pool_size: int) -> ModelPool:
        """Load the model once, for a number of instances.

        Compute threads that are not given are divided among the instances.

        Raises:
            ConfigError: The size is not a whole number from 1 up.
            ModelError: The model cannot be found or loaded.
        """
        _check_size(pool_size)
        if config.threads is None:
            threads = max(1, hardware.available_cpus() // pool_size)
            config = replace(config, threads=threads)
        return cls(await load_model(config), config, pool_size)

    def acquire(self) -> Acquisition:
        """Borrow an instance: ``async with pool.acquire() as model``.

        Or ``model = await pool.acquire()``, and `release` it. Tasks get their turn in order.

        Raises:
            ProcessorStopped: The pool is closed.
        """
        return Acquisition(self)

    async def release(self, model: AsyncModel) -> None:
        """Give an instance back.

        Raises:
            ConfigError: It was given back before.
        """
        for surplus in self._give_back(model):
            await surplus.close()
        await self._close_if_unused()

    def stats(self) -> PoolStats:
        """How the pool is used now."""
        with self._lock:
            return PoolStats(
                available=self._size - self._n_lent if self._n_lent < self._size else 0,
                in_use=self._n_lent,
                waiting=len(self._waiting),
            )

    async def resize(self, new_size: int) -> None:
        """Change the number of instances.

        Surplus ones are closed, those that are lent when they are given back.

        Raises:
            ConfigError: The size is not a whole number from 1 up.
            ProcessorStopped: The pool is closed.
        """
        _check_size(new_size)
        surplus: list[AsyncModel] = []
        with self._lock:
            self._check_open()
            self._size = new_size
            while self._available and self._n_instances > new_size:
                surplus.append(self._available.pop())
                self._n_instances -= 1
            n_new = min(len(self._waiting), new_size - self._n_instances)
            self._n_instances += max(0, n_new)
        for model in surplus:
            await model.close()
        for _ in range(n_new):
            model = await self._open_instance()
            with self._lock:
                surplus = self._place(model)
            for model in surplus:
                await model.close()

    async def close(self) -> None:
        """Lend nothing more, and free what is not lent; the rest as it is given back."""
        with self._lock:
            self._is_closed = True
            surplus, self._available = self._available, []
            self._n_instances -= len(surplus)
            while self._waiting:
                self._waiting.popleft().fail(ProcessorStopped("the pool was closed"))
        for model in surplus:
            await model.close()
        await self._close_if_unused()

    async def __aenter__(self) -> ModelPool:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def take(self) -> AsyncModel:
        """Wait for an instance; used by `acquire`."""
        with self._lock:
            self._check_open()
            if self._available:
                self._n_lent += 1
                return self._available.pop()
            waiter = None
            if self._n_instances < self._size:
                self._n_instances += 1
                self._n_lent += 1
            else:
                waiter = _Waiter()
                self._waiting.append(waiter)
        if waiter is None:
            return await self._open_lent_instance()
        return await self._wait(waiter)

    async def _wait(self, waiter: _Waiter) -> AsyncModel:
        try:
            await waiter.future
        except BaseException:
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
            # What is surplus now is closed by being dropped: a coroutine that is thrown away
            # must not wait for anything.
            if waiter.given is not None:
                self._give_back(waiter.given)
            raise
        assert waiter.given is not None
        return waiter.given

    async def _open_lent_instance(self) -> AsyncModel:
        try:
            return await self._open_instance()
        except BaseException:
            with self._lock:
                self._n_lent -= 1
            raise

    async def _open_instance(self) -> AsyncModel:
        """Open an instance that is counted already, on a thread: it reads the file's header."""
        try:
            return await asyncio.to_thread(AsyncModel, self._model, self._config)
        except BaseException:
            with self._lock:
                self._n_instances -= 1
            raise

    def _give_back(self, model: AsyncModel) -> list[AsyncModel]:
        """Take an instance back; what is returned is to be closed."""
        with self._lock:
            if model in self._available or self._n_lent == 0:
                raise ConfigError("this instance was given back already")
            self._n_lent -= 1
            return self._place(model)

    def _place(self, model: AsyncModel) -> list[AsyncModel]:
        """Lend an instance that nobody has, or keep it; what is returned is to be closed."""
        if self._is_closed or self._n_instances > self._size:
            self._n_instances -= 1
            return [model]
        while self._waiting:
            if self._waiting.popleft().give(model):
                self._n_lent += 1
                return []
        self._available.append(model)
        return []

    def _check_open(self) -> None:
        if self._is_closed:
            raise ProcessorStopped("the pool is closed; make a new one")

    async def _close_if_unused(self) -> None:
        if self._is_closed and self._n_instances == 0:
            await asyncio.to_thread(self._model.close)


class Acquisition:
    """An instance on its way: await it, or enter it."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool
        self._model: AsyncModel | None = None

    def __await__(self) -> Generator[Any, None, AsyncModel]:
        return self._pool.take().__await__()

    async def __aenter__(self) -> AsyncModel:
        self._model = await self._pool.take()
        return self._model

    async def __aexit__(self, *exception: object) -> None:
        assert self._model is not None
        model, self._model = self._model, None
        await self._pool.release(model)


class _Waiter:
    """A task that waits for an instance, on whichever event loop. The pool holds its lock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()
        self.given: AsyncModel | None = None

    def give(self, model: AsyncModel) -> bool:
        """Hand an instance over; False if the task's event loop is closed."""
        self.given = model
        try:
            self._loop.call_soon_threadsafe(self._settle, None)
        except RuntimeError:
            self.given = None
            return False
        return True

    def fail(self, error: Exception) -> None:
        """There will be no instance."""
        # A closed event loop has nobody to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"the pool's size is {size!r}; allowed: a whole number from 1 up")
