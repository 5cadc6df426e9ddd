"""How near the native engine comes to the processor's limit, and where its time goes.

    python benchmarks/roofline.py [--model MODEL.gguf] [--json out.json] [--plot out.png]

The limit is the rate of 8-bit multiply-adds that the dot-product instruction of the instruction set
in use (LLAMAHERD_ISA) reaches on registers, measured on all threads at the same time. On AMX that
is the rate of full tiles of 64 inputs, half of which weights with a scale per 32 inputs can reach
at most. A token's work is two operations per weight (embeddings not counted; the output head only
where logits are wanted) and four per key, head dimension and query head of attention. Each point is
the median of several runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llamaherd import _native
from llamaherd.engine.plan import Chunk, Free, StepPlan
from llamaherd.hardware import available_cpus
from llamaherd.llama.gguf_file import ModelSizes, read_header
from llamaherd.runners.native import NativeOptions, NativeRunner
from llamaherd.runners.native_weights import NativeWeights, chosen_isa
from make_model import QUANTS, model_path

PREFILLS = (128, 512, 2048, 4096)
DECODES = (1, 4, 16, 64)
CONTEXT = 128
PASS = 512


@dataclass(frozen=True)
class Point:
    """One measured load.

    Attributes:
        name: What was computed.
        tokens_per_s: Tokens per second.
        share_of_limit: Operations of the matrix products per second, of the limit.
        shares: Share of the time of each operation.
    """

    name: str
    tokens_per_s: float
    share_of_limit: float
    shares: dict[str, float]


class Bench:
    """A model on a runner of its own."""

    def __init__(self, path: Path, n_threads: int) -> None:
        weights = NativeWeights(path, n_threads=n_threads)
        options = NativeOptions(
            n_slots=max(DECODES),
            n_tokens=max(DECODES) * 512 + max(PREFILLS),
            n_tokens_per_slot=max(PREFILLS) + 64,
            n_batch=2048,
            n_threads=n_threads,
            stack_size=1 << 21,
            cores=None,
            work_stealing=True,
        )
        self.runner = NativeRunner(weights, options)
        self.sizes = read_header(path).sizes()
        self.isa = chosen_isa()
        self.limit = 2 * _native.int8_peak(n_threads, 0.5, self.isa)
        tokens = np.random.default_rng(1).integers(3, weights.n_vocab, max(PREFILLS))
        self.tokens = [int(t) for t in tokens]

    def prefill(self, n: int) -> Point:
        """A prompt of `n` tokens, in passes of at most 512."""

        def run() -> None:
            self.runner.execute(StepPlan((Free(0),)))
            for start in range(0, n, PASS):
                part = self.tokens[start : min(start + PASS, n)]
                last = start + len(part) == n
                self.runner.execute(StepPlan((), (Chunk(0, start, part, last),)))

        return self._point(f"prefill {n}", run, n, n_outputs=1, n_runs=5)

    def decode(self, n_rows: int) -> Point:
        """One token for each of `n_rows` sequences of about 128 tokens."""
        for slot in range(n_rows):
            begin = slot % 64
            prompt = self.tokens[begin : begin + CONTEXT]
            self.runner.execute(StepPlan((Free(slot),), (Chunk(slot, 0, prompt, False),)))
        position = CONTEXT

        def run() -> None:
            nonlocal position
            chunks = (Chunk(s, position, [self.tokens[s]], True) for s in range(n_rows))
            self.runner.execute(StepPlan((), tuple(chunks)))
            position += 1

        return self._point(f"decode {n_rows}", run, n_rows, n_outputs=n_rows, n_runs=25)

    def _point(
        self, name: str, run: Callable[[], None], n_tokens: int, *, n_outputs: int, n_runs: int
    ) -> Point:
        run()
        before, seconds = self.runner.seconds(), []
        for _ in range(n_runs):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        total = sum(seconds)
        shares = {k: (v - before[k]) / total for k, v in self.runner.seconds().items()}
        shares["rest"] = 1 - sum(shares.values())
        median = statistics.median(seconds)
        work = n_tokens * layer_operations(self.sizes) + n_outputs * head_operations(self.sizes)
        return Point(name, n_tokens / median, work / median / self.limit, shares)


def layer_operations(sizes: ModelSizes) -> float:
    """Operations of the matrix products of one token, without the head."""
    attention = 2 * sizes.n_head * sizes.head_dim_k + 2 * sizes.n_head_kv * sizes.head_dim_k
    return 2.0 * sizes.n_layer * sizes.n_embd * (attention + 3 * sizes.n_ff)


def head_operations(sizes: ModelSizes) -> float:
    """Operations of the output head for one token."""
    return 2.0 * sizes.n_embd * sizes.n_vocab


def show(points: list[Point], limit: float, isa: str) -> None:
    print(f"limit: {limit / 1e9:.0f} billion 8-bit operations per second ({isa})")
    names = list(points[0].shares)
    print(f"{'':<14}{'tokens/s':>9}{'of limit':>10}" + "".join(f"{n:>11}" for n in names))
    for point in points:
        shares = "".join(f"{point.shares[n]:>11.0%}" for n in names)
        print(f"{point.name:<14}{point.tokens_per_s:>9.0f}{point.share_of_limit:>10.0%}{shares}")


def plot(points: list[Point], path: Path) -> None:
    """Bars of time by operation, with the share of the limit beside each."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    colors = {
        "products": "#1f6f8b",
        "attention": "#e09f3e",
        "encoding": "#9fb8ad",
        "rest": "#d9d9d9",
    }
    figure, axis = pyplot.subplots(figsize=(7.6, 0.42 * len(points) + 1.3))
    labels = [point.name for point in points]
    left = np.zeros(len(points))
    for name, color in colors.items():
        widths = np.array([100 * point.shares[name] for point in points])
        axis.barh(labels, widths, left=left, color=color, label=name, height=0.66)
        left += widths
    for i, point in enumerate(points):
        text = f"{point.tokens_per_s:,.0f} tokens/s, {point.share_of_limit:.0%} of the limit"
        axis.annotate(text, (101, i), va="center", fontsize=8, annotation_clip=False)
    axis.set_xlim(0, 100)
    axis.set_xlabel("percent of the time", fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False, labelsize=9)
    axis.invert_yaxis()
    axis.legend(ncols=4, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, dpi=160, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of the processor's limit, by operation.")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="a GGUF file; default: one that is made here")
    model.add_argument("--quant", choices=QUANTS, default="Q4_0", help="of the model made here")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--plot", type=Path, help="write a bar chart here (png, svg or pdf)")
    arguments = parser.parse_args()
    bench = Bench(arguments.model or model_path(arguments.quant), arguments.threads)
    points = [*map(bench.prefill, PREFILLS), *map(bench.decode, DECODES)]
    show(points, bench.limit, bench.isa)
    if arguments.json:
        rows = [asdict(point) for point in points]
        report = {"isa": bench.isa, "limit": bench.limit, "points": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.plot:
        plot(points, arguments.plot)


if __name__ == "__main__":
    main()
