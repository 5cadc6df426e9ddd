"""Everything at once: 32 threads and 200 tasks submit, cancel, time out and close.

    python -X dev tests/stress.py SEED

Prints "clean" if every accepted request had exactly one outcome and nothing is left over:
no thread, task or file handle.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from llamaherd import (
    AsyncConfig,
    AsyncModel,
    BatchConfig,
    BatchProcessor,
    BatchRequest,
    EngineConfig,
    GenerationConfig,
    LlamaherdError,
    Model,
    ProcessorStopped,
    QueueFull,
    RequestError,
    RequestTimeout,
    UnknownRequest,
)

N_THREADS = 32
N_TASKS = 200
N_ROUNDS = 8


class Ledger:
    """Outcomes per accepted request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.accepted: set[object] = set()
        self.outcomes: Counter[object] = Counter()

    def accept(self, id: object) -> None:
        with self._lock:
            assert id not in self.accepted
            self.accepted.add(id)

    def end(self, id: object) -> None:
        with self._lock:
            self.outcomes[id] += 1

    def check(self) -> None:
        assert set(self.outcomes) == self.accepted, "a request without an outcome, or without id"
        assert set(self.outcomes.values()) <= {1}, "a request with two outcomes"


def random_request(rng: random.Random, id: object) -> BatchRequest:
    config = GenerationConfig(
        max_tokens=rng.randrange(1, 24),
        temperature=rng.choice([0.0, 0.8]),
        timeout_ms=rng.choice([None, None, 5.0]),
        ignore_eos=rng.random() < 0.5,
        stop=rng.choice([(), ("the",)]),
    )

    def listen(piece: str) -> None:
        if rng.random() < 0.02:
            raise ValueError("unlucky")

    return BatchRequest(
        prompt=f"Once upon a time {rng.randrange(40)}",
        id=str(id),
        config=config,
        priority=rng.choice([0, 0, 100, 255]),
        callback=rng.choice([None, listen]),
    )


def use_queue(seed: int, number: int, processor: BatchProcessor, ledger: Ledger) -> None:
    """One thread."""
    rng = random.Random(seed * 1000 + number)
    mine: list[object] = []
    try:
        for i in range(N_ROUNDS):
            id = f"{number}-{i}"
            request = random_request(rng, id)
            wait = rng.random() < 0.5
            if rng.random() < 0.3:
                timeout = rng.choice([None, 0.002, 0.05])
                try:
                    processor.submit(request, wait=wait, timeout=timeout)
                except (QueueFull, RequestTimeout):
                    pass
                continue
            try:
                processor.submit_async(request, wait=wait)
            except QueueFull:
                continue
            ledger.accept(id)
            mine.append(id)
            if rng.random() < 0.3:
                processor.cancel(id)
            if rng.random() < 0.3 and processor.poll(id) is not None:
                ledger.end(id)
                mine.remove(id)
    except ProcessorStopped:
        pass
    for id in mine:
        assert processor.result(id, timeout=60).id == id
        ledger.end(id)
        try:
            processor.result(id)
        except UnknownRequest:
            continue
        raise AssertionError("a result was given twice")


async def use_model(seed: int, number: int, model: AsyncModel, outcomes: Counter[str]) -> None:
    """One task."""
    rng = random.Random(seed * 1000 + 500 + number)
    config = random_request(rng, number).config
    prompt = f"Once upon a time {rng.randrange(40)}"
    kind = rng.choice(["generate", "time out", "cancel", "stream", "leave", "drop"])
    outcomes[kind] += 1
    if kind == "generate":
        await model.generate(prompt, config=config)
    elif kind == "time out":
        try:
            await asyncio.wait_for(model.generate(prompt, config=config), rng.random() / 20)
        except asyncio.TimeoutError:
            pass
    elif kind == "cancel":
        task = asyncio.create_task(model.generate(prompt, config=config))
        await asyncio.sleep(rng.random() / 20)
        task.cancel()
        await asyncio.wait([task])
    elif kind == "drop":
        await model.generate_stream(prompt, config)
    else:
        stream = await model.generate_stream(prompt, config)
        try:
            async for _ in stream:
                if kind == "leave" and rng.random() < 0.3:
                    break
        except RequestError:
            assert stream.result is not None and not stream.result.success


async def use_all(seed: int, model: AsyncModel) -> None:
    outcomes: Counter[str] = Counter()
    tasks = [asyncio.create_task(use_model(seed, i, model, outcomes)) for i in range(N_TASKS)]
    done, _ = await asyncio.wait(tasks)
    for task in done:
        error = task.exception()
        # A model that is closed meanwhile says so.
        assert error is None or isinstance(error, LlamaherdError), error
    assert len(outcomes) == 6
    if seed % 2:
        await model.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left


def stress(seed: int, model: Model) -> None:
    rng = random.Random(seed)
    strategy = rng.choice(["dynamic_timeout", "adaptive", "continuous", "fixed_size"])
    config = BatchConfig(
        strategy=strategy,
        max_batch_size=8,
        timeout_ms=2,
        max_queue_size=16,
        num_workers=rng.choice([1, 2]),
        engine=EngineConfig(self_test=False, n_ctx=256),
    )
    processor = BatchProcessor(model, config)
    other = AsyncModel(model, AsyncConfig(max_concurrent=16, context_size=256))
    ledger = Ledger()
    with ThreadPoolExecutor(N_THREADS + 2) as pool:
        users = [pool.submit(use_queue, seed, i, processor, ledger) for i in range(N_THREADS)]
        loop_user = pool.submit(asyncio.run, use_all(seed, other))
        # In fixed-size batches the rest only starts with the end.
        after_s = rng.choice([0.05, 0.5])
        closing = threading.Timer(after_s, processor.close, kwargs={"drain": rng.random() < 0.5})
        closing.start()
        for future in [*users, loop_user]:
            future.result()
        closing.join()
    for result in processor.as_completed():
        raise AssertionError(f"nobody collected {result.id}")
    ledger.check()
    assert processor.stats().queue_depth == processor.stats().in_work == 0


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def main() -> None:
    with Model.load("demo") as model:
        # What libraries open once is open now.
        asyncio.run(use_all(0, AsyncModel(model)))
        gc.collect()
        threads, files = set(threading.enumerate()), open_files()
        stress(int(sys.argv[1]), model)
        gc.collect()
        assert set(threading.enumerate()) == threads, threading.enumerate()
        assert open_files() == files, os.listdir("/proc/self/fd")
    print("clean")


if __name__ == "__main__":
    main()
