"""Late interaction against numpy's own matrix product of the same size.

    python benchmarks/maxsim.py [--documents 10000] [--tokens 128] [--dim 128] [--query-tokens 32]

The product takes all documents at once into an array that exists already, on as many threads as
the scorer has, and stops there: it computes no score. Cases take turns, after a pause each, because
the BLAS keeps its threads spinning for a while. Vectors are random, of length 1. Reported are
medians and ranges, times relative to the product of the same number of tokens, and the memory
that a search takes beside the vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable

PAUSE_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=128, help="of a document, or their mean")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--query-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16, help="queries in the batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--block-bytes", type=int, help="by default the scorer's")
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    # Read by the BLAS when numpy is imported.
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    report = compare(arguments)
    print(json.dumps(report))
    show(report)


def compare(arguments: argparse.Namespace) -> dict[str, object]:
    import numpy as np

    from llamaherd import LateInteractionScorer

    rng = np.random.default_rng(0)
    n, mean = arguments.documents, arguments.tokens
    varied = rng.integers(max(1, mean // 4), 2 * mean - max(1, mean // 4) + 1, n)
    # As many tokens in all, so that one product is the measure of both.
    lengths = {"even": np.full(n, mean), "varied": cut(varied, n * mean)}

    def unit(n_tokens: int) -> np.ndarray:
        found = rng.standard_normal((n_tokens, arguments.dim), dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    matrix = unit(n * mean)

    def scorer(kind: str, dtype: str) -> LateInteractionScorer:
        documents = iter(np.split(matrix, np.cumsum(lengths[kind])[:-1]))
        options = {} if arguments.block_bytes is None else {"block_bytes": arguments.block_bytes}
        return LateInteractionScorer(
            documents, dtype=dtype, num_threads=arguments.threads, **options
        )

    scorers = {(k, d): scorer(k, d) for k in lengths for d in ("float32", "float16")}
    queries = [unit(arguments.query_tokens) for _ in range(arguments.batch)]
    query = queries[0]
    products = np.empty((n * mean, arguments.query_tokens), np.float32)
    cases: dict[str, Callable[[], object]] = {
        "numpy: product only": lambda: np.matmul(matrix, query.T, out=products),
        "numpy: product, max, sum": lambda: (
            np.matmul(matrix, query.T, out=products).reshape(n, mean, -1).max(axis=1).sum(axis=1)
        ),
    }
    for (kind, dtype), one in scorers.items():
        cases[f"score, {kind} lengths, {dtype}"] = lambda one=one: one.score(query)
    for kind, dtype in (("even", "float32"), ("varied", "float16")):
        one = scorers[kind, dtype]
        cases[f"search, {kind} lengths, {dtype}"] = lambda one=one: one.search(query, 100)
        name = f"search_batch, {kind} lengths, {dtype}"
        cases[name] = lambda one=one: one.search_batch(queries, 100)
    seconds = timed(cases, arguments.runs)
    operations = 2 * n * mean * arguments.dim * arguments.query_tokens
    searching = scorers["varied", "float16"]
    return {
        "documents": n,
        "tokens": n * mean,
        "dim": arguments.dim,
        "query_tokens": arguments.query_tokens,
        "batch": len(queries),
        "threads": arguments.threads,
        "runs": arguments.runs,
        "numpy": np.__version__,
        "stored_mib": {d: scorers["even", d].nbytes >> 20 for d in ("float32", "float16")},
        "products_mib": products.nbytes >> 20,
        "search_peak_mib": peak_mib(lambda: searching.search(query, 100)),
        "search_batch_peak_mib": peak_mib(lambda: searching.search_batch(queries, 100)),
        "cases": summary(seconds, operations, len(queries)),
    }


def summary(
    seconds: dict[str, list[float]], operations: int, batch: int
) -> list[dict[str, object]]:
    """Figures of each case per query, which takes so many operations."""
    base = statistics.median(seconds["numpy: product only"])
    rows: list[dict[str, object]] = []
    for name, times in seconds.items():
        n_queries = batch if name.startswith("search_batch") else 1
        median = statistics.median(times) / n_queries
        rows.append(
            {
                "case": name,
                "ms_per_query": round(1e3 * median, 1),
                "range_ms": [round(1e3 * f(times) / n_queries, 1) for f in (min, max)],
                "gflops": round(operations / median / 1e9),
                "speed_of_numpy_product": round(base / median, 2),
            }
        )
    return rows


def cut(lengths, total: int):
    """The lengths, changed by a token each where needed so that they sum up to `total`."""
    lengths = lengths.copy()
    while (missing := total - int(lengths.sum())) != 0:
        step = 1 if missing > 0 else -1
        lengths[: abs(missing)] += step
    return lengths


def timed(cases: dict[str, Callable[[], object]], n_runs: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for run in range(n_runs + 1):
        for name, case in cases.items():
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            case()
            if run:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def peak_mib(case: Callable[[], object]) -> float:
    tracemalloc.start()
    case()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(peak / 2**20, 1)


def show(report: dict[str, object]) -> None:
    print(f"{'':44}{'ms/query':>9}  {'range':>16}{'GFLOPS':>8}  speed of the product")
    for row in report["cases"]:
        low, high = row["range_ms"]
        print(
            f"{row['case']:44}{row['ms_per_query']:9.1f}  {low:7.1f} to {high:5.1f}"
            f"{row['gflops']:8}  {row['speed_of_numpy_product']:.2f}",
        )


if __name__ == "__main__":
    main()
