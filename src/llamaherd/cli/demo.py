"""`llamaherd demo`: what the bundled model can do, and what batching gives on this machine."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from llamaherd.cli.demo_rows import EXAMPLES, demo_prompts
from llamaherd.cli.exits import EXIT_FAILED_ROWS, EXIT_OK
from llamaherd.cli.info import hardware_facts
from llamaherd.cli.progress import say
from llamaherd.config import GenerationConfig
from llamaherd.llama.library import library_version
from llamaherd.models.model import Model, Prompt
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.results import GenerationResult
from llamaherd.runners.native_weights import chosen_isa

__all__ = ["show_demo"]

_CONFIG = GenerationConfig.greedy(max_tokens=40)
# On a busy machine, or with a large model, part of the rows tells as much.
_MAX_SECONDS = 15.0
_SMALL_MODEL = 50_000_000
_NEXT = """
Next:
  In Python    from llamaherd import ParallelProcessor
               ParallelProcessor("demo").batch_generate(["Once upon a time"])
  Your model   llamaherd run -m hf:org/repo:Q4_K_M -i prompts.txt -o out.jsonl
  The rest     llamaherd --help"""


@dataclass(frozen=True, slots=True)
class _Run:
    """One way of answering the rows, as far as it came.

    Attributes:
        seconds: How long it took.
        results: In no particular order.
    """

    seconds: float
    results: list[GenerationResult]

    @property
    def rows_per_second(self) -> float:
        return len(self.results) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return sum(r.prompt_tokens + r.tokens_generated for r in self.results) / self.seconds

    @property
    def reused(self) -> float:
        n_prompt = sum(r.prompt_tokens for r in self.results)
        return sum(r.cached_tokens for r in self.results) / max(1, n_prompt)

    @property
    def texts(self) -> dict[int, str]:
        return {r.index: r.text for r in self.results}


def show_demo(source: str, *, n_rows: int, max_batch_size: int, threads: int | None) -> int:
    """Print examples, then the comparison; return the exit code.

    Args:
        source: The model.
        n_rows: Rows of the comparison.
        max_batch_size: Rows in work together.
        threads: Compute threads.
    """
    console = Console(highlight=False)
    with Model.load(source, threads=threads) as model:
        _show_examples(console, model)
        prompts = [_ask(model, text) for text in itertools.islice(demo_prompts(), n_rows)]
        console.print(f"[bold]{n_rows} such rows[/], one by one and {max_batch_size} at a time:\n")
        with _status():
            single = _run(model, prompts, max_batch_size, is_batched=False)
            batched = _run(model, prompts, max_batch_size, is_batched=True)
        _show_comparison(console, single, batched)
        _show_note(console, model, single, batched, n_rows)
        _show_machine(console, model)
    console.print(_NEXT, markup=False, soft_wrap=True)
    failed = [r for r in [*single.results, *batched.results] if not r.success]
    if failed:
        say(f"{len(failed)} rows failed; the first: {failed[0].error}")
    return EXIT_FAILED_ROWS if failed else EXIT_OK


def _ask(model: Model, text: str) -> Prompt:
    return [{"role": "user", "content": text}] if model.info.chat_template else text


def _status() -> AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True).status("measuring")


def _run(model: Model, prompts: Sequence[Prompt], max_batch_size: int, *, is_batched: bool) -> _Run:
    """Answer the rows on an engine of their own, which is warm before the clock starts."""
    results: list[GenerationResult] = []
    with ParallelProcessor(model, max_batch_size=max_batch_size) as processor:
        longest = max(prompts, key=lambda prompt: len(str(prompt)))
        processor.batch_generate([longest], _CONFIG, progress=False)
        answers = (
            processor.generate_iter(prompts, _CONFIG)
            if is_batched
            else _one_by_one(processor.model, prompts)
        )
        began_s = time.perf_counter()
        for result in answers:
            results.append(result)
            if time.perf_counter() - began_s > _MAX_SECONDS:
                break
        return _Run(time.perf_counter() - began_s, results)


def _one_by_one(model: Model, prompts: Sequence[Prompt]) -> Iterator[GenerationResult]:
    for index, prompt in enumerate(prompts):
        yield replace(model.generate(prompt, _CONFIG), index=index)


def _show_examples(console: Console, model: Model) -> None:
    prompts = [_ask(model, text) for text in EXAMPLES]
    with ParallelProcessor(model) as processor:
        results = processor.batch_generate(prompts, _CONFIG, progress=False)
    console.print("Four tasks, answered together:\n", style="bold")
    for text, result in zip(EXAMPLES, results, strict=True):
        console.print(text, style="dim", markup=False)
        answer = result.text if result.success else f"{result.error}"
        console.print(f"-> {answer}\n", style="green", markup=False)


def _show_comparison(console: Console, single: _Run, batched: _Run) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "one by one", "batched"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    figures: dict[str, Callable[[_Run], str]] = {
        "rows": lambda run: str(len(run.results)),
        "seconds": lambda run: f"{run.seconds:.2f}",
        "rows/s": lambda run: f"{run.rows_per_second:.1f}",
        "tokens/s": lambda run: f"{run.tokens_per_second:.0f}",
        "prompt reused": lambda run: f"{run.reused:.0%}",
    }
    for name, figure in figures.items():
        table.add_row(name, figure(single), figure(batched))
    console.print(table)
    alone, together = single.texts, batched.texts
    both = alone.keys() & together.keys()
    n_equal = sum(alone[index] == together[index] for index in both)
    console.print(
        f"\nBatched: {batched.rows_per_second / single.rows_per_second:.1f} times as fast. "
        f"{n_equal} of {len(both)} answers are the same.",
        style="bold",
    )


def _show_note(console: Console, model: Model, single: _Run, batched: _Run, n_rows: int) -> None:
    """What limits the meaning of the figures."""
    if min(len(single.results), len(batched.results)) < n_rows:
        console.print(f"Stopped after {_MAX_SECONDS:.0f} seconds; something else may be running.")
    if model.info.n_params < _SMALL_MODEL:
        console.print(
            "A model this small fits in the processor's cache. Larger ones, whose weights every "
            "step reads from memory, gain more from batching."
        )


def _engine(name: str) -> str:
    if name == "native":
        return f"native engine, kernels for {chosen_isa()}"
    return f"{name} (llama-cpp-python {library_version()})"


def _show_machine(console: Console, model: Model) -> None:
    info, facts = model.info, hardware_facts()
    lines = (
        f"{info.name}: {info.n_params / 1e6:.1f} M parameters, {info.quantisation}",
        _engine(info.engine),
        f"{facts['cpu']}, {facts['usable_cpus']} CPUs: {facts['instruction_sets']}",
    )
    console.print("\n" + "\n".join(lines), style="dim", markup=False)
