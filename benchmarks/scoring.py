"""What classification and constrained output cost, against the same rows without them.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --news-csv news.csv --runs 7

- classification: every label scored, against generating one token for the same prompts (the prompt
  pass alone);
- constrained output: JSON under a schema at temperature 0, against as many tokens without one.

The ways take turns on one engine; the order changes from run to run.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from jobs import news_articles
from llamaherd import (
    Classifier,
    FinishReason,
    GenerationConfig,
    GenerationResult,
    Model,
    ParallelProcessor,
)
from make_model import QUANTS, model_path

NEWS = ["World", "Sports", "Business", "Sci/Tech"]
ALIKE = ["World news", "World affairs", "Sports", "Business"]
SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": NEWS},
        "summary": {"type": "string", "maxLength": 60},
        "places": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
        "importance": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["category", "summary", "places", "importance"],
    "additionalProperties": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--news-csv", type=Path, help="file with columns title and description")
    parser.add_argument("--quant", choices=QUANTS, default="Q4_0")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    texts = [f"{title}. {text[:100]}" for title, text in news_articles(arguments.news_csv)]
    with Model.load(model_path(arguments.quant)) as model:
        measure_classification(model, texts, arguments.runs)
        measure_constraint(model, texts, arguments.runs)


def measure_classification(model: Model, texts: list[str], n_runs: int) -> None:
    """Print the cost of scoring labels, relative to the prompt pass."""
    classifier_prompts: list[object] = []

    def prompts_alone(processor: ParallelProcessor) -> None:
        config = GenerationConfig.greedy(max_tokens=1, ignore_eos=True)
        results = processor.batch_generate(classifier_prompts, config)  # type: ignore[arg-type]
        assert all(result.success for result in results)

    def with_labels(labels: list[str]) -> Callable[[ParallelProcessor], None]:
        def run(processor: ParallelProcessor) -> None:
            assert all(row.success for row in Classifier(processor, labels).classify(texts))

        return run

    question = (
        f"Classify this text into exactly one category: {', '.join(NEWS)}. Respond with only the "
        "category name.\n\n{text}\n\nCategory:"
    )
    for text in texts:
        content = question.replace("{text}", text)
        classifier_prompts.append(
            [{"role": "user", "content": content}] if model.info.chat_template else content
        )
    ways = {
        "prompt pass": prompts_alone,
        "4 labels": with_labels(NEWS),
        "4 labels, two begin alike": with_labels(ALIKE),
    }
    report("classification", take_turns(model, ways, n_runs), len(texts))


def measure_constraint(model: Model, texts: list[str], n_runs: int) -> None:
    """Print the cost of JSON under a schema, relative to free text of the same length."""
    with ParallelProcessor(model, max_batch_size=64) as processor:
        config = GenerationConfig.greedy(max_tokens=120, json_schema=SCHEMA)
        results = processor.batch_generate(texts, config)
    lengths = [max(1, result.tokens_generated) for result in results]
    free = [GenerationConfig.greedy(max_tokens=n, ignore_eos=True) for n in lengths]
    n_tokens = sum(lengths)
    print(f"{sum(r.success for r in results)} of {len(texts)} answers complete, {n_tokens} tokens")
    ways: dict[str, Callable[[ParallelProcessor], None]] = {
        "free text": lambda processor: check(processor.batch_generate(texts, free)),
        "JSON under a schema": lambda processor: check(processor.batch_generate(texts, config)),
    }
    report("constrained output", take_turns(model, ways, n_runs), len(texts))


def check(results: list[GenerationResult]) -> None:
    assert all(result.finish_reason is not FinishReason.ERROR for result in results)


def take_turns(
    model: Model, ways: dict[str, Callable[[ParallelProcessor], None]], n_runs: int
) -> dict[str, list[float]]:
    """Seconds of every way in every run, each on an engine without cached prefixes."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for run in range(n_runs + 1):
        random.Random(run).shuffle(order)
        for name in order:
            with ParallelProcessor(model, max_batch_size=64, self_test=False) as processor:
                processor.batch_generate(["warm up"], GenerationConfig.greedy(max_tokens=2))
                began = time.perf_counter()
                ways[name](processor)
                if run:  # the first run warms up
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def report(title: str, seconds: dict[str, list[float]], n_rows: int) -> None:
    base = statistics.median(next(iter(seconds.values())))
    print(f"\n{title}, {n_rows} rows")
    print(f"{'':28s} {'median s':>9s} {'min':>7s} {'max':>7s} {'ratio':>7s}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:28s} {median:9.3f} {min(times):7.3f} {max(times):7.3f} {median / base:7.3f}")


if __name__ == "__main__":
    main()
