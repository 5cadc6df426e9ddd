"""Resident memory of many rows through `RowStream`, on a runner without a model.

    python benchmarks/memory.py --rows 1000 100000

Each number of rows runs in a process of its own. What is left is the memory of prompts, results and
bookkeeping, which must not grow with the number of rows. It also prints the time per row and token
that everything outside the forward pass takes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence

N_VOCAB = 32_000
N_NEW = 5
BATCH_SIZE = 64


def prompts(n_rows: int) -> Iterator[list[int]]:
    """Different prompts with a beginning in common."""
    rng = random.Random(0)
    stem = [rng.randrange(N_VOCAB) for _ in range(47)]
    for i in range(n_rows):
        yield [*stem, i % N_VOCAB, i // N_VOCAB, *(rng.randrange(N_VOCAB) for _ in range(60))]


def measure(n_rows: int) -> dict[str, float]:
    """Run the rows in this process."""
    import psutil

    from llamaherd.config import EngineConfig, GenerationConfig
    from llamaherd.engine.engine import Engine
    from llamaherd.engine.plan import MemoryKind, RunnerLimits
    from llamaherd.processing.rows import RowStream
    from llamaherd.runners.scripted import ScriptedRunner

    class Vocabulary:
        n_vocab = N_VOCAB
        end_tokens = frozenset({0})
        control_tokens = frozenset({0})

        def piece(self, token: int) -> bytes:
            return b"word "

        def make_sampler(self, *arguments: object) -> None:
            raise AssertionError("rows are greedy")

    def next_token(tokens: Sequence[int]) -> int:
        return 1 + (tokens[-1] * 31 + len(tokens)) % (N_VOCAB - 1)

    limits = RunnerLimits(BATCH_SIZE, BATCH_SIZE * 256, 256, 2048, MemoryKind.PARTITIONED)
    engine = Engine(
        lambda demand: ScriptedRunner(next_token, limits, N_VOCAB),
        Vocabulary(),
        EngineConfig(max_batch_size=BATCH_SIZE, self_test=False),
        n_ctx=256,
    )
    config = GenerationConfig.greedy(max_tokens=N_NEW)
    rows = RowStream(engine, prompts(n_rows), config, lambda p: list(p), max_in_flight=1024)
    n_done = sum(result.success for result in rows)
    assert n_done == n_rows
    stats = engine.stats()
    engine.close()
    outside_s = stats.schedule_time_s + stats.sample_time_s + stats.text_time_s
    return {
        "rows": n_rows,
        "rss_mb": psutil.Process().memory_info().rss / 1e6,
        "outside_us_per_token": 1e6 * outside_s / stats.generated_tokens,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.here)))
        return
    for n_rows in arguments.rows:
        command = [sys.executable, __file__, "--here", str(n_rows)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
