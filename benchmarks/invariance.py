"""Does a row's answer depend on the rows beside it? Greedy answers alone and in batches.

    python benchmarks/invariance.py                          # 500 rows, every engine installed
    python benchmarks/invariance.py --rows 100 --engines llamaherd xllamacpp --model M.gguf

Each row is answered once with nothing else in flight and once in a batch of 64 rows in shuffled
order; reported is how many rows got different tokens. Half of the rows share an instruction and
differ in their last words, half have nothing in common, so prefix caches, which stay on, meet
both. Random weights have near-ties everywhere and show what a trained model shows seldom.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jobs import Job, LlamaTokenizer, common_prefix, invented_article, news_prompt, words
from make_model import QUANTS, model_path
from peers import PEERS, Outputs, Setup, installed_peers

# It answers one prompt after the other, so it has no batches to compare.
UNBATCHED = ("llama-cpp-python",)


@dataclass(frozen=True)
class Difference:
    """One engine's result.

    Attributes:
        rows: Rows compared.
        differ: Rows whose answer in a batch is not the one alone.
        first: For each of those, its number and how many tokens (of text: characters) agree.
    """

    engine: str
    rows: int
    differ: int
    first: list[tuple[int, int]]


def make_prompts(tokenizer: LlamaTokenizer, n: int, seed: int) -> list[list[int]]:
    """Prompts of two kinds in turn: with a common beginning, and with none."""
    prompts = []
    for i in range(n):
        rng = random.Random(f"invariance {seed} {i}")
        if i % 2:
            text = news_prompt(*invented_article(rng))
        else:
            source = words(rng)
            text = " ".join(next(source) for _ in range(rng.randint(5, 60)))
        prompts.append(tokenizer(text))
    return prompts


def answers(
    engine: str, model: Path, job: Job, setup: Setup, seed: int
) -> tuple[list[Any], list[Any]]:
    """Answers of all rows alone and in shuffled batches; runs in a process of its own."""
    peer = PEERS[engine]()
    peer.load(model, job, setup)
    n_new = job.max_tokens[0]

    def run(rows: list[int]) -> Outputs:
        return peer.run(Job(job.name, [job.prompts[i] for i in rows], [n_new] * len(rows)))

    alone = [run([i])[0] for i in range(len(job.prompts))]
    order = list(range(len(job.prompts)))
    random.Random(seed).shuffle(order)
    together: list[Any] = [None] * len(order)
    for begin in range(0, len(order), setup.batch_size):
        batch = order[begin : begin + setup.batch_size]
        for i, answer in zip(batch, run(batch), strict=True):
            together[i] = answer
    peer.close()
    return alone, together


def compare(engine: str, alone: list[Any], together: list[Any]) -> Difference:
    """Count the rows that differ."""
    pairs = enumerate(zip(alone, together, strict=True))
    first = [(i, common_prefix(a, b)) for i, (a, b) in pairs if a != b]
    return Difference(engine, len(alone), len(first), first)


def main() -> None:
    """Run the comparison and report."""
    arguments = parse_arguments()
    model = arguments.model or model_path(arguments.quant)
    prompts = make_prompts(LlamaTokenizer(model), arguments.rows, arguments.seed)
    job = Job("invariance", prompts, [arguments.tokens] * len(prompts))
    setup = Setup(arguments.threads, arguments.batch_size, n_slots=arguments.batch_size)
    engines = arguments.engines or [e for e in installed_peers() if e not in UNBATCHED]
    print(f"{model.name}: {arguments.rows} rows of {arguments.tokens} greedy tokens,", end=" ")
    print(f"alone and in shuffled batches of {arguments.batch_size}")
    results = []
    for engine in engines:
        # A new process for each: two copies of one native library do not go together.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            task = process.submit(answers, engine, model, job, setup, arguments.seed)
            result = compare(engine, *task.result())
        results.append(asdict(result))
        print(f"  {engine:<22}{result.differ:>5} of {result.rows} rows differ", flush=True)
    if arguments.json:
        report = {"model": model.name, "tokens": arguments.tokens, "setup": vars(setup)}
        arguments.json.write_text(json.dumps(report | {"engines": results}, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Do answers depend on the batch?")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="a GGUF file; default: one that is made here")
    model.add_argument("--quant", choices=QUANTS, default="Q4_0", help="of the model made here")
    parser.add_argument("--engines", nargs="+", choices=[e for e in PEERS if e not in UNBATCHED])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=32, help="generated per row")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seed", type=int, default=1, help="of the prompts and the shuffling")
    parser.add_argument("--json", type=Path, help="write all results here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
