"""`TaskManager`: named long-running tasks of a runtime."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any

from llamaherd.aio.model import AsyncModel
from llamaherd.aio.runtime import Runtime, RuntimeMetrics, SpawnedTask
from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, LlamaherdError, ProcessorStopped
from llamaherd.models.model import Prompt
from llamaherd.results import GenerationResult

__all__ = ["TaskManager", "WorkerState", "WorkerStatus"]

_MAX_METRICS = 3600


class WorkerState(str, Enum):
    """What became of a worker."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker.

    Attributes:
        state: Whether it runs, or how it ended.
        error: What it raised, if it failed.
        running_s: Seconds from its start to its end, or until now.
    """

    state: WorkerState
    error: str | None
    running_s: float


class TaskManager:
    """Starts, watches and stops workers on a `Runtime`.

    Generation workers answer what is asked with `generate`, each one prompt at a time; so
    their number bounds how many rows this manager has in work.

    Args:
        runtime: Where the workers run.
        max_queue_size: Prompts that may wait for a generation worker; more wait to be let in.
    """

    def __init__(self, runtime: Runtime, *, max_queue_size: int = 1024) -> None:
        if max_queue_size < 1:
            raise ConfigError(f"max_queue_size is {max_queue_size}; allowed: 1 or more")
        self._runtime = runtime
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(max_queue_size)
        self._workers: dict[str, _Worker] = {}
        self._generation_workers: set[str] = set()
        self.metrics_history: deque[RuntimeMetrics] = deque(maxlen=_MAX_METRICS)
        """What the metrics collector saw, oldest first; the last hour at one a second."""

    async def spawn_worker(self, name: str, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine as a worker.

        Raises:
            ConfigError: A running worker has this name.
            ProcessorStopped: The runtime was shut down.
        """
        known = self._workers.get(name)
        if known is not None and known.status().state is WorkerState.RUNNING:
            coroutine.close()
            raise ConfigError(f"a worker named {name!r} runs already; choose another name")
        # All on one event loop, so that they can share the queue.
        self._workers[name] = _Worker(self._runtime.spawn_on(0, coroutine))

    async def spawn_generation_worker(self, model: AsyncModel, name: str | None = None) -> str:
        """Start a worker that answers prompts, and return its name. Errors as `spawn_worker`."""
        name = name or f"generation-{len(self._generation_workers)}"
        await self.spawn_worker(name, self._generate_forever(model))
        self._generation_workers.add(name)
        return name

    async def spawn_metrics_collector(self, interval_s: float = 1.0, name: str = "metrics") -> str:
        """Start a worker that fills `metrics_history`. Errors as `spawn_worker`."""
        if not interval_s > 0:
            raise ConfigError(f"interval_s is {interval_s!r}; allowed: seconds above 0")
        await self.spawn_worker(name, self._collect_forever(interval_s))
        return name

    async def generate(
        self, prompt: Prompt, config: GenerationConfig | None = None
    ) -> GenerationResult:
        """Let a generation worker answer a prompt; see `AsyncModel.generate`.

        Raises:
            LlamaherdError: There is no generation worker.
            ProcessorStopped: The workers were stopped.
        """
        if not self._has_generation_worker():
            raise LlamaherdError("no worker would answer; start one: spawn_generation_worker")
        return await self._runtime.spawn_on(0, self._ask(prompt, config))

    async def stop_all(self) -> None:
        """Cancel every worker. What waits for one ends with `ProcessorStopped`."""
        for worker in self._workers.values():
            worker.stop()
        if self._runtime.is_running():
            await self._runtime.spawn_on(0, self._refuse_waiting())

    def worker_status(self) -> dict[str, WorkerStatus]:
        """How every worker is, by name."""
        return {name: worker.status() for name, worker in self._workers.items()}

    def _has_generation_worker(self) -> bool:
        running = (self._workers[name].status().state for name in self._generation_workers)
        return WorkerState.RUNNING in running

    # ── on the runtime's event loop ─────────────────────────────────────────────────────

    async def _ask(self, prompt: Prompt, config: GenerationConfig | None) -> GenerationResult:
        job = _Job(prompt, config, asyncio.get_running_loop().create_future())
        await self._jobs.put(job)
        if not self._has_generation_worker():
            await self._refuse_waiting()
        return await job.answer

    async def _generate_forever(self, model: AsyncModel) -> None:
        while True:
            job = await self._jobs.get()
            if not job.answer.done():
                await job.run(model)

    async def _collect_forever(self, interval_s: float) -> None:
        while True:
            self.metrics_history.append(await self._runtime.metrics())
            await asyncio.sleep(interval_s)

    async def _refuse_waiting(self) -> None:
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if not job.answer.done():
                job.answer.set_exception(ProcessorStopped("the workers were stopped"))


@dataclass(slots=True, eq=False)
class _Job:
    prompt: Prompt
    config: GenerationConfig | None
    answer: asyncio.Future[GenerationResult]

    async def run(self, model: AsyncModel) -> None:
        """Answer; stop when nobody waits any more, or the worker is stopped."""
        generation = asyncio.ensure_future(model.generate(self.prompt, config=self.config))
        self.answer.add_done_callback(lambda answer: generation.cancel())
        try:
            await asyncio.wait({generation})
        finally:
            generation.cancel()
            self._settle(generation)

    def _settle(self, generation: asyncio.Future[GenerationResult]) -> None:
        if self.answer.done():
            return
        if not generation.done() or generation.cancelled():
            self.answer.set_exception(ProcessorStopped("the worker was stopped"))
        elif (error := generation.exception()) is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(generation.result())


class _Worker:
    """A worker's task and its times."""

    def __init__(self, task: SpawnedTask[object]) -> None:
        self._task = task
        self._began_s = time.monotonic()
        self._ended_s: float | None = None
        task.on_end(self._end)

    def stop(self) -> None:
        self._task.cancel()

    def status(self) -> WorkerStatus:
        ended_s = self._ended_s or time.monotonic()
        state, error = WorkerState.RUNNING, None
        if self._task.cancelled():
            state = WorkerState.STOPPED
        elif self._task.done():
            raised = self._task.exception()
            state = WorkerState.COMPLETED if raised is None else WorkerState.FAILED
            error = None if raised is None else f"{type(raised).__name__}: {raised}"
        return WorkerStatus(state, error, ended_s - self._began_s)

    def _end(self) -> None:
        self._ended_s = time.monotonic()
