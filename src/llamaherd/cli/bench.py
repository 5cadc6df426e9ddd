"""`llamaherd bench`: how fast a model is on this machine, by how many rows run at once."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from llamaherd.cli.options import (
    EngineOption,
    GpuOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    VerboseOption,
    load_options,
)
from llamaherd.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from llamaherd.models.model import Model
    from llamaherd.processing.parallel import ParallelProcessor

__all__ = ["bench"]

_SHORT_PROMPT = 8


@dataclass(frozen=True, slots=True)
class _Speed:
    """Speed at one number of rows; medians of the runs."""

    rows: int
    prompt_tokens_per_s: float
    generated_tokens_per_s: float | None


def bench(
    model: ModelOption = "demo",
    rows: Annotated[
        str, typer.Option(metavar="N,N", help="Rows at the same time, each up to 255")
    ] = "1,4,16,64",
    prompt_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens of each prompt")
    ] = 128,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of each answer")] = 32,
    runs: Annotated[int, typer.Option(min=1, metavar="N", help="Runs; medians are shown")] = 3,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    gpu_layers: GpuOption = 0,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Measure a model on this machine, with one row and with many at once.

    Prompts are random words without a common beginning, so that nothing is reused.
    """
    from llamaherd.cli.progress import say
    from llamaherd.models.model import Model

    sizes = _parse_rows(rows)
    with Model.load(model, **load_options(engine, threads, None, gpu_layers, verbose)) as loaded:
        is_encoder = loaded.embeddings.is_encoder
        n_most = loaded.info.n_ctx_train - (0 if is_encoder else max_tokens)
        prompts = _prompts(loaded, max(sizes), min(prompt_tokens, n_most))
        measure = _measure_vectors if is_encoder else _measure_answers
        speeds: list[_Speed] = []
        try:
            for speed in measure(loaded, prompts, sizes, max_tokens, runs):
                speeds.append(speed)
                say(f"{speed.rows} at once: {speed.prompt_tokens_per_s:,.0f} prompt tokens/s")
        finally:
            # Ctrl-C shows what was measured.
            _show(loaded.info.name, loaded.info.engine, speeds, as_json=json)


def _parse_rows(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > 255:
        raise ConfigError(f"--rows is {text!r}; give numbers from 1 to 255, such as 1,16,64")
    return sizes


def _prompts(model: Model, n: int, n_tokens: int) -> list[list[int]]:
    """Token ids of random words, the same ones every time."""
    drawn = random.Random(1)
    prompts = []
    for _ in range(n):
        ids: list[int] = []
        while len(ids) < n_tokens:
            letters = "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(2, 9)))
            ids += model.tokenize(f" {letters}", add_bos=False)
        prompts.append(ids[:n_tokens])
    return prompts


def _measure_answers(
    model: Model, prompts: Sequence[list[int]], sizes: Sequence[int], max_tokens: int, runs: int
) -> Iterator[_Speed]:
    from llamaherd.processing.parallel import ParallelProcessor

    for size in sizes:
        whole, prefill, decode = prompts[:size], [], []
        short = [prompt[-_SHORT_PROMPT:] for prompt in whole]
        for _ in range(runs):
            # Each run has an engine of its own, so that it finds nothing computed.
            with ParallelProcessor(model, max_batch_size=size) as processor:
                _answer(processor, [short[0][:1]], 1)
                prefill.append(sum(map(len, whole)) / _answer(processor, whole, 1))
                decode.append(size * max_tokens / _answer(processor, short, max_tokens))
        yield _Speed(size, statistics.median(prefill), statistics.median(decode))


def _answer(processor: ParallelProcessor, prompts: Sequence[list[int]], max_tokens: int) -> float:
    """Seconds that the answers take."""
    from llamaherd.config import BatchGenerationConfig

    config = BatchGenerationConfig.greedy(max_tokens=max_tokens, ignore_eos=True)
    began = time.perf_counter()
    results = processor.batch_generate(prompts, config, progress=False)
    seconds = time.perf_counter() - began
    failed = next((result.error for result in results if result.error is not None), None)
    if failed is not None:
        raise RequestError(f"a row failed: {failed}")
    return seconds


def _measure_vectors(
    model: Model, prompts: Sequence[list[int]], sizes: Sequence[int], max_tokens: int, runs: int
) -> Iterator[_Speed]:
    from llamaherd.engine.embedding import EmbeddingRequest

    engine = model.embeddings.engine("auto")
    engine.compute([EmbeddingRequest(prompts[0])])
    for size in sizes:
        requests = [EmbeddingRequest(prompt) for prompt in prompts[:size]]
        speeds = []
        for _ in range(runs):
            began = time.perf_counter()
            engine.compute(requests)
            n_tokens = sum(len(request.tokens) for request in requests)
            speeds.append(n_tokens / (time.perf_counter() - began))
        yield _Speed(size, statistics.median(speeds), None)


def _show(name: str, engine: str, speeds: Sequence[_Speed], *, as_json: bool) -> None:
    if as_json:
        facts = {"model": name, "engine": engine, "speeds": [asdict(speed) for speed in speeds]}
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}, {engine}", title_justify="left", box=None)
    has_answers = any(speed.generated_tokens_per_s is not None for speed in speeds)
    for column in ("rows at once", "prompt tokens/s", *(("generated tokens/s", "") * has_answers)):
        table.add_column(column, justify="right")
    for speed in speeds:
        cells = [str(speed.rows), f"{speed.prompt_tokens_per_s:,.0f}"]
        if speed.generated_tokens_per_s is not None:
            first = speeds[0].generated_tokens_per_s or speed.generated_tokens_per_s
            cells += [
                f"{speed.generated_tokens_per_s:,.0f}",
                f"{speed.generated_tokens_per_s / first:.1f}x",
            ]
        table.add_row(*cells)
    Console(highlight=False).print(table)
