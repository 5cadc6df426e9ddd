"""Measures the exported model on held-out rows, through llamaherd itself.

Run ``python training/evaluate.py [--news labelled.csv]`` from the repository root, where llamaherd
is installed. It also checks that nothing held out occurs in training text.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import Counter
from pathlib import Path

from corpus.examples import (
    TASKS,
    Example,
    check_disjoint,
    exact_capital_rows,
    heldout_rows,
    new_name_rows,
    training_example,
)
from llamaherd import GenerationConfig, ParallelProcessor

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "src" / "llamaherd" / "models" / "demo" / "demo.gguf"
NEWS_PROMPT = (
    "Classify this news article into exactly one category: World, Sports, Business, or Sci/Tech. "
    "Respond with only the category name.\n\nTitle: {title}\nDescription: {text}\n\nCategory:"
)
SEED = 7
N_TRAINING_PROMPTS = 30_000


def news_rows(path: Path) -> list[Example]:
    """Rows of a CSV with the columns class, title and description."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Example(
                "real news",
                (
                    (
                        NEWS_PROMPT.format(title=row["title"], text=row["description"][:100]),
                        row["class"],
                    ),
                ),
                "You are a helpful assistant.",
            )
            for row in csv.DictReader(file)
        ]


def is_right(row: Example, text: str) -> bool:
    """Whether an answer is the expected one; JSON is compared as data."""
    if row.task not in ("extraction", "new names"):
        return text.strip() == row.expected
    try:
        return bool(json.loads(text) == json.loads(row.expected))
    except json.JSONDecodeError:
        return False


def evaluate(model: Path, rows: list[Example], n_wrong_shown: int) -> None:
    """Prints the accuracy per task, and a few of the wrong answers."""
    with ParallelProcessor(model) as processor:
        results = processor.batch_generate(
            [row.messages() for row in rows], GenerationConfig.greedy(max_tokens=60)
        )
    asked, right = Counter(), Counter()
    shown: Counter[str] = Counter()
    for row, result in zip(rows, results, strict=True):
        asked[row.task] += 1
        right[row.task] += is_right(row, result.text)
        if not is_right(row, result.text) and shown[row.task] < n_wrong_shown:
            shown[row.task] += 1
            print(f"wrong: {row.turns[-1][0][-90:]!r} -> {result.text!r}, not {row.expected!r}")
    for task, n in asked.items():
        print(f"{task:14} {right[task]:4} of {n:4}  {right[task] / n:6.1%}")


def main() -> None:
    """Reads the command line, makes the rows and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--news", type=Path, help="CSV with the columns class, title, description")
    parser.add_argument("--per-task", type=int, default=250)
    parser.add_argument("--wrong", type=int, default=3, help="wrong answers to show per task")
    parser.add_argument("--write", type=Path, help="write 60 held-out rows per task as JSON lines")
    args = parser.parse_args()
    rows = heldout_rows(args.per_task, SEED)
    rng = random.Random(SEED + 1)
    prompts = {
        training_example(rng.choice(TASKS), rng).turns[-1][0] for _ in range(N_TRAINING_PROMPTS)
    }
    check_disjoint(prompts, rows)
    rows += [*exact_capital_rows(), *new_name_rows(args.per_task, SEED)]
    if args.news:
        rows += news_rows(args.news)
    if args.write:
        lines = [
            {"task": row.task, "messages": row.messages(), "expected": row.expected}
            for row in heldout_rows(60, SEED)
        ]
        args.write.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    evaluate(args.model, rows, args.wrong)


if __name__ == "__main__":
    main()
