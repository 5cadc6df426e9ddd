"""Requests that come one by one: streaming clients, overload, cancellation.

    python benchmarks/serving.py                      # everything, about 6 minutes
    python benchmarks/serving.py --part clients --runs 5

- clients: 16 clients at the same time, each asking one streamed question after the other (64
  prompt tokens, 64 new ones), on llamaherd's asyncio interface and on xllamacpp's server; beside
  them the same rows as one offline batch. Tokens per second and the time to the first token.
  Beside how long the event loop is held up: an idle loop in another process while the offline
  batch runs: what the operating system does on a machine whose cores are all busy.
- overload: requests come three times as fast as they can be answered, for a minute.
- cancel: what is still computed after a stream is left, and how long the event loop was held up.

Engines take turns, each run in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from make_model import QUANTS, model_path
from peers import is_installed

N_CLIENTS, N_QUESTIONS = 16, 6
N_PROMPT, N_NEW = 64, 64
HEARTBEAT_SECONDS = 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("all", "clients", "overload", "cancel"), default="all")
    parser.add_argument("--quant", choices=QUANTS, default="Q4_0")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="length of the overload")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=ONE, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = model_path(arguments.quant)
    if arguments.one:
        print(json.dumps(ONE[arguments.one](model, arguments)))
        return
    report: dict[str, Any] = {}
    if arguments.part in ("all", "clients"):
        report["clients"] = compare_clients(arguments)
    for part in ("cancel", "overload"):
        if arguments.part in ("all", part):
            report[part] = run_one(part, arguments)
            print(f"\n{part}")
            for key, value in report[part].items():
                print(f"  {key}: {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


def run_one(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--quant", arguments.quant]
    command += ["--threads", str(arguments.threads), "--seconds", str(arguments.seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare_clients(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    names = [
        "llamaherd",
        "offline",
        "idle loop",
        *(["xllamacpp"] if is_installed("xllamacpp") else []),
    ]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(arguments.runs):
        for name in names:
            runs[name].append(run_one(name, arguments))
    print(f"{N_CLIENTS} clients, {N_QUESTIONS} questions each, medians of {arguments.runs} runs")
    print(f"{'':12}{'tokens/s':>10}{'first token p50':>17}{'p95':>9}{'stall p99.9':>13}{'max':>9}")
    for name in names:
        median = {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}
        cells = "".join(
            f"{median[key]:>{width}.1f} ms" if key in median else " " * (width + 3)
            for key, width in (
                ("first_p50", 14),
                ("first_p95", 6),
                ("stall_p999", 10),
                ("stall_max", 6),
            )
        )
        rate = f"{median['tokens_per_s']:.0f}" if "tokens_per_s" in median else ""
        print(f"{name:12}{rate:>10}{cells}")
    return runs


def questions() -> list[list[int]]:
    """Prompts as token ids, with nothing in common."""
    chance = random.Random(3)
    return [
        [chance.randrange(1000, 30000) for _ in range(N_PROMPT)]
        for _ in range(N_CLIENTS * N_QUESTIONS)
    ]


def summarize(first_token_s: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(first_token_s)
    return {
        "tokens_per_s": len(ordered) * (N_PROMPT + N_NEW) / seconds,
        "first_p50": 1e3 * ordered[len(ordered) // 2],
        "first_p95": 1e3 * ordered[int(0.95 * len(ordered))],
    }


class Heartbeat:
    """How long an event loop was held up: a task that wants to run every millisecond."""

    def __init__(self) -> None:
        self.late_s: list[float] = []

    async def run(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self.late_s.append(time.perf_counter() - began - HEARTBEAT_SECONDS)

    def summary(self) -> dict[str, float]:
        ordered = sorted(self.late_s)
        return {
            "stall_p999": 1e3 * ordered[int(0.999 * len(ordered))],
            "stall_max": 1e3 * ordered[-1],
        }


def llamaherd_clients(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Sixteen asyncio tasks that read streams."""
    from llamaherd import AsyncConfig, AsyncModel

    async def run() -> dict[str, float]:
        config = AsyncConfig(
            model_path=str(path),
            threads=arguments.threads,
            max_concurrent=N_CLIENTS,
            context_size=N_PROMPT + N_NEW + 8,
        )
        first_token_s: list[float] = []
        async with await AsyncModel.load_with_config(config) as model:
            options = {"max_tokens": N_NEW, "temperature": 0.0, "ignore_eos": True}
            await model.generate(questions()[0][::-1], config=None, max_tokens=4, temperature=0.0)

            async def client(prompts: list[list[int]]) -> None:
                for prompt in prompts:
                    began = time.perf_counter()
                    stream = await model.generate_stream(prompt, **options)
                    n_pieces = 0
                    async for _ in stream:
                        if not n_pieces:
                            first_token_s.append(time.perf_counter() - began)
                        n_pieces += 1
                    assert stream.result is not None and stream.result.tokens_generated == N_NEW

            heartbeat = Heartbeat()
            beating = asyncio.create_task(heartbeat.run())
            began = time.perf_counter()
            prompts = questions()
            await asyncio.gather(*(client(prompts[i::N_CLIENTS]) for i in range(N_CLIENTS)))
            seconds = time.perf_counter() - began
            beating.cancel()
        return {**summarize(first_token_s, seconds), **heartbeat.summary()}

    return asyncio.run(run())


def llamaherd_offline(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The same rows as one batch."""
    from llamaherd import GenerationConfig, Model, ParallelProcessor

    config = GenerationConfig.greedy(max_tokens=N_NEW, ignore_eos=True)
    with (
        Model.load(path) as model,
        ParallelProcessor(
            model, num_threads=arguments.threads, max_batch_size=N_CLIENTS
        ) as processor,
    ):
        processor.batch_generate([questions()[0][::-1]], GenerationConfig.greedy(max_tokens=4))
        began = time.perf_counter()
        results = processor.batch_generate(questions(), config)
        seconds = time.perf_counter() - began
    assert all(result.tokens_generated == N_NEW for result in results)
    return {"tokens_per_s": len(results) * (N_PROMPT + N_NEW) / seconds}


def idle_loop(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """An event loop with nothing to do, beside a process that runs the rows as one batch."""
    command = [sys.executable, __file__, "--one", "offline", "--quant", arguments.quant]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as offline:

        async def run() -> dict[str, float]:
            await asyncio.sleep(2.0)
            heartbeat = Heartbeat()
            beating = asyncio.create_task(heartbeat.run())
            await asyncio.to_thread(offline.wait)
            beating.cancel()
            return heartbeat.summary()

        return asyncio.run(run())


def xllamacpp_clients(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Sixteen threads that read streams of llama-server's engine."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = N_CLIENTS
    params.n_ctx = N_CLIENTS * 256
    params.kv_unified = False
    params.n_batch = 2048
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.cache_ram_mib = 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    first_token_s: list[float] = []

    def ask(prompt: list[int], n_new: int) -> None:
        began = time.perf_counter()
        pieces: list[float] = []

        def receive(piece: object) -> None:
            pieces.append(time.perf_counter() - began)

        request = {"prompt": prompt, "max_tokens": n_new, "temperature": 0, "ignore_eos": True}
        server.handle_completions({**request, "stream": True}, receive)
        assert len(pieces) > 1, "the answer was not streamed"
        first_token_s.append(pieces[0])

    def client(prompts: list[list[int]]) -> None:
        for prompt in prompts:
            ask(prompt, N_NEW)

    prompts = questions()
    ask(prompts[0][::-1], 4)
    first_token_s.clear()
    began = time.perf_counter()
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        list(pool.map(client, [prompts[i::N_CLIENTS] for i in range(N_CLIENTS)]))
    return summarize(first_token_s, time.perf_counter() - began)


def cancel(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Leave streams in the middle; count what is computed after that."""
    from llamaherd import AsyncConfig, AsyncModel

    async def run() -> dict[str, float]:
        config = AsyncConfig(
            model_path=str(path),
            threads=arguments.threads,
            max_concurrent=N_CLIENTS,
            context_size=512,
        )
        async with await AsyncModel.load_with_config(config) as model:

            async def leave_early(prompt: list[int], n: int) -> int:
                stream = await model.generate_stream(
                    prompt, max_tokens=300, temperature=0.0, ignore_eos=True
                )
                n_seen = 0
                async for piece in stream:
                    n_seen += len(piece.tokens)
                    if n_seen >= n:
                        break
                await stream.aclose()
                return n_seen

            heartbeat = Heartbeat()
            beating = asyncio.create_task(heartbeat.run())
            prompts = questions()
            seen = await asyncio.gather(
                *(leave_early(prompts[i], 10 + 5 * i) for i in range(N_CLIENTS))
            )
            # Whatever is still in work belongs to streams that nobody reads.
            await asyncio.sleep(1.0)
            n_extra = model.stats().generated_tokens - sum(seen)
            beating.cancel()
        return {"tokens_after_leaving_per_stream": n_extra / N_CLIENTS, **heartbeat.summary()}

    return asyncio.run(run())


def overload(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Requests come three times as fast as they are answered."""
    from llamaherd import (
        BatchConfig,
        BatchingStrategy,
        BatchProcessor,
        BatchRequest,
        EngineConfig,
        GenerationConfig,
        Model,
        QueueFull,
        ThreadPoolConfig,
    )

    pool = ThreadPoolConfig(num_threads=arguments.threads)
    config = BatchConfig(
        max_batch_size=N_CLIENTS,
        strategy=BatchingStrategy.CONTINUOUS,
        max_queue_size=64,
        engine=EngineConfig(thread_pool=pool, n_ctx=N_PROMPT + N_NEW + 8),
    )
    answer = GenerationConfig.greedy(max_tokens=16, ignore_eos=True)
    prompts = questions()
    process = psutil.Process()
    refused_s: list[float] = []
    windows: list[dict[str, float]] = []
    with Model.load(path) as model, BatchProcessor(model, config) as processor:
        began = time.perf_counter()
        for id in [
            processor.submit_async(BatchRequest(prompt=prompt, config=answer))
            for prompt in prompts[:64]
        ]:
            processor.result(id)
        rate = 3 * 64 / (time.perf_counter() - began)
        latencies: list[float] = []
        began = time.perf_counter()
        n_sent = 0
        admitted: deque[int | str] = deque()
        while (now := time.perf_counter() - began) < arguments.seconds:
            while n_sent < now * rate:
                n_sent += 1
                try:
                    # A prompt of its own each time: nothing is answered from a cache.
                    head = [n_sent % 30000, n_sent // 30000, *prompts[n_sent % len(prompts)][2:]]
                    request = BatchRequest(prompt=head, config=answer)
                    sent = time.perf_counter()
                    admitted.append(processor.submit_async(request))
                except QueueFull:
                    refused_s.append(time.perf_counter() - sent)
            while admitted and (result := processor.poll(admitted[0])) is not None:
                admitted.popleft()
                latencies.append(result.latency_ms)
            if now > (len(windows) + 1) * arguments.seconds / 6:
                windows.append(
                    {
                        "latency_p95_ms": round(percentile(latencies, 0.95)),
                        "rss_mib": round(process.memory_info().rss / 2**20),
                    }
                )
                latencies = []
            time.sleep(0.002)
        processor.close(drain=False)
    return {
        "requests": n_sent,
        "refused": len(refused_s),
        "refusal_p99_ms": round(1e3 * percentile(refused_s, 0.99), 3),
        "refusal_max_ms": round(1e3 * max(refused_s), 3),
        "windows": windows,
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


ONE: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "llamaherd": llamaherd_clients,
    "offline": llamaherd_offline,
    "idle loop": idle_loop,
    "xllamacpp": xllamacpp_clients,
    "cancel": cancel,
    "overload": overload,
}


if __name__ == "__main__":
    main()
