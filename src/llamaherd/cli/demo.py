"""`llamaherd demo`: what the bundled model can do, and what batching gives on this machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from llamaherd.cli.info import hardware_facts
from llamaherd.config import GenerationConfig
from llamaherd.llama.library import library_version
from llamaherd.models.model import Model
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.results import GenerationResult, ProcessorStats

__all__ = ["demo_rows", "show_demo"]

Messages = list[dict[str, str]]
CONFIG = GenerationConfig.greedy(max_tokens=40)

_CLASSIFY = (
    "Classify this news article into exactly one category: World, Sports, Business, or Sci/Tech. "
    "Respond with only the category name.\n\nTitle: {title}\nDescription: {text}\n\nCategory:"
)
_SENTIMENT = "Classify the sentiment of this tweet as positive, negative or neutral: {text}"
_EXTRACT = "Extract the name, city and age from this sentence as JSON: {text}"
_COUNTRIES = (
    "France Japan Peru Kenya Spain Italy Canada Egypt India Norway Chile Ghana Brazil Poland "
    "Turkey Mexico Greece Cuba Nepal Ireland Portugal Sweden Finland Austria Hungary Germany "
    "Belgium Denmark Iceland Argentina Colombia Bolivia Ecuador Uruguay Venezuela Jamaica China "
    "Mongolia Thailand Vietnam Indonesia Australia Morocco Algeria Tunisia Senegal Ethiopia "
    "Uganda Zambia Angola"
).split()
_TEAMS = "Rovers Tigers Falcons United Wanderers Bears Comets Harbor".split()
_FIRMS = "Orbex Nordwind Halcyon Brightmart Zentral Ferrum Lumen Tidewater".split()
_PLACES = "Lisbon Oslo Lima Nairobi Kyoto Quito Dublin Athens".split()
_NAMES = "Maria Ahmed Sofia Daniel Priya Lucas Elena Tom".split()


@dataclass(frozen=True, slots=True)
class _Run:
    """One way of running the rows."""

    seconds: float
    results: list[GenerationResult]
    stats: ProcessorStats

    @property
    def n_tokens(self) -> int:
        return sum(r.prompt_tokens + r.tokens_generated for r in self.results)

    @property
    def reused(self) -> float:
        return self.stats.cached_prompt_tokens / max(1, self.stats.prompt_tokens)


def show_demo(source: str, *, n_rows: int, max_batch_size: int, threads: int | None) -> None:
    """Print examples, then the comparison."""
    console = Console()
    rows = list(itertools.islice(demo_rows(), n_rows))
    with Model.load(source, threads=threads) as model:
        _show_examples(console, model, rows[:4])
        console.print(
            f"\nThe same [bold]{n_rows} rows[/] one by one, and up to {max_batch_size} at a time:\n"
        )
        single = _run(model, rows, max_batch_size=1)
        batched = _run(model, rows, max_batch_size=max_batch_size)
        _show_comparison(console, single, batched)
        facts = hardware_facts()
        console.print(
            f"\n{model.info.name}: {model.info.n_params / 1e6:.1f} M parameters, "
            f"{model.info.quantisation}, engine llama.cpp (llama-cpp-python {library_version()})\n"
            f"{facts['cpu']}, {facts['usable_cpus']} CPUs, {facts['instruction_sets']}",
            style="dim",
            highlight=False,
        )
    console.print(
        '\nNext:  llamaherd run "What is the capital of Peru?"\n'
        "       llamaherd run -m hf:org/repo:Q4_K_M -i prompts.txt -o answers.jsonl\n"
        "       python: from llamaherd import ParallelProcessor   (README.md)",
        highlight=False,
        markup=False,
    )


def demo_rows() -> Iterator[Messages]:
    """Endless different rows of the four tasks in turn."""
    for i in itertools.count():
        place, name = _PLACES[i % 8], _NAMES[i // 3 % 8]
        yield _ask(f"What is the capital of {_COUNTRIES[i % len(_COUNTRIES)]}?")
        yield _ask(_CLASSIFY.format(**_news(i)))
        yield _ask(_SENTIMENT.format(text=_tweet(i)))
        yield _ask(_EXTRACT.format(text=f"{name}, {20 + i * 7 % 60}, lives in {place}."))


def _ask(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _news(i: int) -> dict[str, str]:
    team, firm, place = _TEAMS[i % 8], _FIRMS[i // 2 % 8], _PLACES[i // 3 % 8]
    kinds = (
        (
            f"{team} beat {_TEAMS[(i + 3) % 8]} {2 + i % 3}-{i % 2} in the final",
            f"The {team} scored twice in the second half to win the cup in {place} on Sunday.",
        ),
        (
            f"{firm} shares rise {2 + i % 9} percent on strong quarter",
            f"{firm} said quarterly profit beat forecasts as sales in {place} grew.",
        ),
        (
            f"Scientists in {place} find a new way to store data",
            f"Researchers built a chip that keeps {10 + i} times more data, they reported.",
        ),
        (
            f"Ministers meet in {place} after border talks fail",
            f"Officials from {3 + i % 9} countries will try again to agree on a truce.",
        ),
    )
    title, text = kinds[i % 4]
    return {"title": title, "text": text}


def _tweet(i: int) -> str:
    kinds = (
        f"I love the new cafe in {_PLACES[i % 8]}, best coffee ever!",
        f"Waited {10 + i % 50} minutes and the food was cold. Terrible.",
        f"The {_TEAMS[i % 8]} play at {1 + i % 11} on Sunday.",
    )
    return kinds[i % 3]


def _run(model: Model, rows: list[Messages], *, max_batch_size: int) -> _Run:
    """Run the rows with an engine of their own, which is warm before the clock starts."""
    with ParallelProcessor(model, max_batch_size=max_batch_size) as processor:
        processor.batch_generate([_ask("Hello"), _ask("Good morning to you")], CONFIG)
        began_s = time.perf_counter()
        results = processor.batch_generate(rows, CONFIG, progress=False)
        return _Run(time.perf_counter() - began_s, results, processor.stats())


def _show_examples(console: Console, model: Model, rows: list[Messages]) -> None:
    console.print("Four tasks, one batch:\n", style="bold")
    with ParallelProcessor(model) as processor:
        results = processor.batch_generate(rows, CONFIG, progress=False)
    for messages, result in zip(rows, results, strict=True):
        console.print(messages[0]["content"], style="dim", markup=False, highlight=False)
        answer = result.text if result.success else f"{result.error}"
        console.print(f"  -> {answer}\n", style="green", markup=False, highlight=False)


def _show_comparison(console: Console, single: _Run, batched: _Run) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "seconds", "rows/s", "tokens/s", "prompt tokens reused"):
        table.add_column(name, justify="right" if name else "left")
    for name, run in (("one by one", single), ("batched", batched)):
        table.add_row(
            name,
            f"{run.seconds:.2f}",
            f"{len(run.results) / run.seconds:.0f}",
            f"{run.n_tokens / run.seconds:.0f}",
            f"{run.reused:.0%}",
        )
    console.print(table)
    pairs = list(zip(single.results, batched.results, strict=True))
    n_equal = sum(a.text == b.text for a, b in pairs)
    console.print(
        f"\n{single.seconds / batched.seconds:.1f} times as fast; "
        f"{n_equal} of {len(pairs)} texts are the same.",
        style="bold",
        highlight=False,
    )
