"""What the batching strategies do to batches, latency and throughput, on recorded arrivals.

    python benchmarks/strategies.py [--json out.json] [--plot out.png]

Three traces of arrivals, made from a seed and relative to what the machine can answer: steady (half
of that), bursty (the work of 1.2 seconds at once, every two seconds) and overload (half as much
again as can be answered). Each strategy gets the same requests at the same times.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

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
from make_model import QUANTS, model_path

BATCH_SIZE = 16
N_PROMPT, N_NEW = 48, 24
SECONDS = 12.0
ANSWER = GenerationConfig.greedy(max_tokens=N_NEW, ignore_eos=True)


@dataclass(frozen=True)
class Outcome:
    """One strategy on one trace.

    Attributes:
        strategy: Its name.
        trace: The trace's name.
        latencies_ms: Of every answered request, by arrival.
        arrivals_s: When those arrived.
        refused: Requests that found the queue full.
        requests_per_s: Answered requests per second, from the first arrival to the last answer.
        mean_pass: Rows in a forward pass, averaged over rows.
    """

    strategy: str
    trace: str
    latencies_ms: list[float]
    arrivals_s: list[float]
    refused: int
    requests_per_s: float
    mean_pass: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quant", choices=QUANTS, default="Q4_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    with Model.load(model_path(arguments.quant), threads=arguments.threads) as model:
        capacity = measure_capacity(model)
        print(f"capacity: {capacity:.1f} requests per second in batches of {BATCH_SIZE}")
        outcomes = [
            replay(model, strategy, trace, arrivals)
            for trace, arrivals in traces(capacity).items()
            for strategy in BatchingStrategy
        ]
    show(outcomes)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    if arguments.plot:
        plot(outcomes, arguments.plot)


def configuration(strategy: BatchingStrategy) -> BatchConfig:
    return BatchConfig(
        max_batch_size=BATCH_SIZE,
        strategy=strategy,
        max_queue_size=128,
        engine=EngineConfig(n_ctx=N_PROMPT + N_NEW + 8, thread_pool=ThreadPoolConfig()),
    )


def measure_capacity(model: Model) -> float:
    """Requests per second of a full queue."""
    chance = random.Random(1)
    config = configuration(BatchingStrategy.CONTINUOUS)
    with BatchProcessor(model, config) as processor:
        processor.submit(request(chance))
        began = time.perf_counter()
        ids = [processor.submit_async(request(chance)) for _ in range(4 * BATCH_SIZE)]
        for id in ids:
            processor.result(id)
        return len(ids) / (time.perf_counter() - began)


def traces(capacity: float) -> dict[str, list[float]]:
    """Arrival times in seconds."""
    chance = random.Random(2)
    steady = poisson(chance, 0.5 * capacity, SECONDS)
    per_burst = round(2 * 0.6 * capacity)
    bursty = [2.0 * i for i in range(int(SECONDS / 2)) for _ in range(per_burst)]
    overload = poisson(chance, 1.5 * capacity, SECONDS / 2)
    return {"steady": steady, "bursty": bursty, "overload": overload}


def poisson(chance: random.Random, rate: float, seconds: float) -> list[float]:
    times, now = [], 0.0
    while (now := now + chance.expovariate(rate)) < seconds:
        times.append(now)
    return times


def request(chance: random.Random) -> BatchRequest:
    prompt = [chance.randrange(1000, 30000) for _ in range(N_PROMPT)]
    return BatchRequest(prompt=prompt, config=ANSWER)


def replay(model: Model, strategy: BatchingStrategy, trace: str, arrivals: list[float]) -> Outcome:
    """Send a trace's requests at their times and wait for all answers."""
    chance = random.Random(3)
    requests = [request(chance) for _ in arrivals]
    with BatchProcessor(model, configuration(strategy)) as processor:
        accepted: list[tuple[float, int | str]] = []
        began = time.perf_counter()
        for at, item in zip(arrivals, requests, strict=True):
            time.sleep(max(0.0, began + at - time.perf_counter()))
            try:
                accepted.append((at, processor.submit_async(item)))
            except QueueFull:
                continue
        # FIXED_SIZE gives the rest of a batch out when the processor is closed.
        processor.close(drain=True)
        results = [processor.result(id) for _, id in accepted]
        seconds = time.perf_counter() - began
        passes = processor.stats().pass_sizes
    n_rows = sum(size * n for size, n in passes.items())
    return Outcome(
        strategy=str(strategy),
        trace=trace,
        latencies_ms=[result.latency_ms for result in results],
        arrivals_s=[at for at, _ in accepted],
        refused=len(arrivals) - len(accepted),
        requests_per_s=len(results) / seconds,
        mean_pass=sum(size * size * n for size, n in passes.items()) / n_rows,
    )


def show(outcomes: list[Outcome]) -> None:
    print(
        f"{'trace':10}{'strategy':17}{'answered':>9}{'refused':>8}{'per s':>7}"
        f"{'p50 ms':>8}{'p95 ms':>8}{'rows/pass':>11}"
    )
    for outcome in outcomes:
        ordered = sorted(outcome.latencies_ms)
        print(
            f"{outcome.trace:10}{outcome.strategy:17}{len(ordered):>9}{outcome.refused:>8}"
            f"{outcome.requests_per_s:>7.1f}{statistics.median(ordered):>8.0f}"
            f"{ordered[int(0.95 * len(ordered))]:>8.0f}{outcome.mean_pass:>11.1f}"
        )


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Latency of every request by arrival, a panel per trace; shares of throughput below."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(outcome.trace for outcome in outcomes))
    strategies = [str(strategy) for strategy in BatchingStrategy]
    colors = dict(zip(strategies, ("#8d99ae", "#e09f3e", "#6a994e", "#1f6f8b"), strict=True))
    figure, axes = pyplot.subplots(
        2, len(names), figsize=(11, 6), height_ratios=(3, 1.3), layout="constrained"
    )
    for column, trace in enumerate(names):
        above, below = axes[0][column], axes[1][column]
        for outcome in (o for o in outcomes if o.trace == trace):
            color = colors[outcome.strategy]
            seconds = [latency / 1e3 for latency in outcome.latencies_ms]
            above.plot(outcome.arrivals_s, seconds, ".", ms=4, color=color, label=outcome.strategy)
            row = strategies.index(outcome.strategy)
            below.barh(row, outcome.mean_pass, color=color)
            text = f"{outcome.mean_pass:.1f} rows, {outcome.requests_per_s:.1f} answers/s"
            below.text(outcome.mean_pass + 0.3, row, text, va="center", fontsize=8)
        above.set_title(trace)
        above.set_yscale("log")
        above.set_xlabel("arrival, s")
        below.set_yticks([])
        below.invert_yaxis()
        below.set_xlim(0, 2 * BATCH_SIZE)
        below.set_xticks(range(0, BATCH_SIZE + 1, 4))
        below.set_xlabel("rows in a pass")
        for axis in (above, below):
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("latency, s")
    axes[0][0].legend(frameon=False, fontsize=8, markerscale=2)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
