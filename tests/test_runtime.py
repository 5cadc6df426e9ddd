"""Event loops on threads of their own, pools of engines, and named workers."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from event_loops import run, until
from llamaherd import (
    AsyncConfig,
    AsyncModel,
    ConfigError,
    GenerationConfig,
    LlamaherdError,
    Model,
    ModelPool,
    ProcessorStopped,
    QueueFull,
    Runtime,
    TaskManager,
    WorkerState,
)
from scripted import Gate, ScriptedModel

GREEDY = GenerationConfig.greedy(max_tokens=20)


# ── Runtime ─────────────────────────────────────────────────────────────────────────────


def test_a_runtime_runs_coroutines_and_blocking_calls(demo: Model) -> None:
    before = set(threading.enumerate())
    with Runtime(worker_threads=2, max_blocking_threads=3, thread_stack_size=1 << 20) as runtime:
        model = AsyncModel(demo)
        tasks = [runtime.spawn(model.generate("Hello", 4)) for _ in range(6)]
        assert all(task.result(20).success for task in tasks)
        names = {runtime.spawn_blocking(lambda: threading.current_thread().name).result(20)}
        assert all(name.startswith("llamaherd-runtime-blocking") for name in names)

        async def main() -> None:
            assert await runtime.spawn(asyncio.sleep(0, "done")) == "done"
            with pytest.raises(ZeroDivisionError):
                await runtime.spawn_blocking(lambda: 1 // 0)
            metrics = await runtime.metrics()
            assert (metrics.worker_threads, metrics.blocking_threads) == (2, 1)
            assert (metrics.active_tasks, metrics.completed_tasks) == (0, 9)
            assert metrics.total_generations == 6 and metrics.avg_generation_ms > 0
            await model.close()
            await runtime.shutdown()

        run(main())
        assert not runtime.is_running()
        with pytest.raises(ProcessorStopped):
            runtime.spawn(asyncio.sleep(0))
        with pytest.raises(ProcessorStopped):
            runtime.spawn_blocking(print)
    assert set(threading.enumerate()) == before


def test_a_runtime_ends_what_does_not_end_in_time() -> None:
    runtime = Runtime()
    cleaned = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.set()

    async def suicide() -> None:
        await runtime.shutdown()

    with pytest.raises(LlamaherdError, match="by one of its own tasks"):
        runtime.spawn(suicide()).result(20)
    task = runtime.spawn(endless())
    with pytest.raises(TimeoutError):
        task.result(0.01)
    runtime.close(timeout=0.01)
    assert cleaned.is_set() and task.cancelled()


def test_blocking_calls_are_bounded() -> None:
    gate = threading.Event()
    with Runtime(max_blocking_threads=1) as runtime:
        with pytest.raises(QueueFull):
            for _ in range(2000):
                runtime.spawn_blocking(gate.wait, 20)
        gate.set()
    for wrong in ({"worker_threads": 0}, {"max_blocking_threads": True}, {"enable_io": False}):
        with pytest.raises(ConfigError):
            Runtime(**wrong)


# ── ModelPool ───────────────────────────────────────────────────────────────────────────


def test_a_pool_lends_each_instance_to_one_task() -> None:
    async def main() -> None:
        config = AsyncConfig(model_path="demo", context_size=256)
        async with await ModelPool.new(config, 2) as pool:
            most = 0

            async def work() -> None:
                nonlocal most
                async with pool.acquire() as model:
                    stats = pool.stats()
                    most = max(most, stats.in_use)
                    assert stats.in_use + stats.available == 2
                    assert (await model.generate("Hello", 3)).success

            await asyncio.gather(*(work() for _ in range(12)))
            assert most == 2
            model = await pool.acquire()
            await pool.release(model)
            with pytest.raises(ConfigError, match="already"):
                await pool.release(model)
            assert (pool.stats().available, pool.stats().waiting) == (2, 0)
        with pytest.raises(ProcessorStopped):
            await pool.acquire()
        for size in (0, -1, True, 1.5):
            with pytest.raises(ConfigError, match="pool's size"):
                await ModelPool.new(config, size)

    run(main())


def test_a_pool_is_resized_under_load() -> None:
    async def main() -> None:
        pool = ModelPool(ScriptedModel(), AsyncConfig(), 3)
        lent = [await pool.acquire() for _ in range(3)]
        go = asyncio.Event()

        async def work() -> None:
            async with pool.acquire():
                await go.wait()

        waiting = [asyncio.ensure_future(work()) for _ in range(4)]
        await until(lambda: pool.stats().waiting == 4)
        waiting.pop().cancel()
        await pool.resize(4)
        assert (pool.stats().in_use, pool.stats().waiting) == (4, 2)
        await pool.resize(1)
        for model in lent:
            await pool.release(model)
        assert [await model.is_ready() for model in lent] == [False] * 3
        go.set()
        await asyncio.gather(*waiting)
        assert (pool.stats().available, pool.stats().in_use) == (1, 0)
        await pool.close()

    run(main())


async def take(pool: ModelPool) -> AsyncModel:
    return await pool.acquire()


def test_a_cancelled_task_loses_no_instance() -> None:
    """Also if it is cancelled in the moment in which it gets one."""

    async def main() -> None:
        pool = ModelPool(ScriptedModel(), AsyncConfig(), 1)
        model = await pool.acquire()
        waiting = asyncio.ensure_future(take(pool))
        await until(lambda: pool.stats().waiting == 1)
        await pool.release(model)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with pool.acquire() as again:
            assert again is model
        await pool.close()

    run(main())


def test_a_pool_is_shared_by_event_loops() -> None:
    pool = ModelPool(ScriptedModel(), AsyncConfig(), 2)

    async def work() -> None:
        for _ in range(10):
            async with pool.acquire() as model:
                assert (await model.generate("HELLO", config=GREEDY)).success

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: run(work()), range(4)))
    assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
    run(pool.close())


# ── TaskManager ─────────────────────────────────────────────────────────────────────────


def test_workers_answer_report_and_stop(demo: Model) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async def main() -> None:
        async with AsyncModel(demo) as model:
            manager = TaskManager(runtime)
            with pytest.raises(LlamaherdError, match="spawn_generation_worker"):
                await manager.generate("Hello")
            for _ in range(2):
                await manager.spawn_generation_worker(model)
            await manager.spawn_metrics_collector(interval_s=0.01)
            await manager.spawn_worker("short", asyncio.sleep(0))
            await manager.spawn_worker("bad", fail())
            with pytest.raises(ConfigError, match="'metrics' runs already"):
                await manager.spawn_worker("metrics", asyncio.sleep(0))
            answers = await asyncio.gather(*(manager.generate("Hello", GREEDY) for _ in range(6)))
            assert all(answer.success for answer in answers)
            await until(lambda: len(manager.metrics_history) > 2)
            status = manager.worker_status()
            assert {name: str(worker.state) for name, worker in status.items()} == {
                "generation-0": "running",
                "generation-1": "running",
                "metrics": "running",
                "short": "completed",
                "bad": "failed",
            }
            assert status["bad"].error == "ValueError: broken"
            await manager.stop_all()
            assert manager.worker_status()["metrics"].state is WorkerState.STOPPED

    with Runtime() as runtime:
        run(main())


def test_stopping_workers_ends_what_waits() -> None:
    gate = Gate()

    async def main() -> None:
        async with AsyncModel(ScriptedModel(gate)) as model:
            manager = TaskManager(runtime, max_queue_size=1)
            await manager.spawn_generation_worker(model)
            asked = [asyncio.ensure_future(manager.generate("HELLO", GREEDY)) for _ in range(4)]
            await until(gate.entered.is_set)
            asked.pop().cancel()
            await manager.stop_all()
            gate.open()
            for task in asked:
                with pytest.raises(ProcessorStopped):
                    await task

    with Runtime() as runtime:
        run(main())
