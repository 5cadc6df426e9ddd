"""Label a table of reviews, keep the unsure rows for a person, and go on after an interruption.

python examples/label_reviews.py [FOLDER]
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from llamaherd import GenerationConfig, classify, run_job

REVIEWS = [
    ("r1", "I love the new cafe, best coffee in years!"),
    ("r2", "Waited forty minutes and the food was cold. Terrible."),
    ("r3", "They play at eight on Sunday."),
    ("r4", "What a wonderful day, thank you all!"),
    ("r5", "The app crashes every time. I hate it."),
]


def main(folder: Path) -> None:
    source = folder / "reviews.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *REVIEWS])

    # A label for every row, from one pass over its prompt.
    labels = ["positive", "negative", "neutral"]
    instructions = "Classify the sentiment of this tweet as {labels}: {text}"
    rows = classify("demo", [text for _, text in REVIEWS], labels, instructions)
    for (id, text), row in zip(REVIEWS, rows, strict=True):
        doubt = "" if row.margin > 0.5 else "   <- look at this one"
        print(f"{id}  {row.label:9}{row.probability:5.0%}  {text}{doubt}")

    # The same as a durable job over the file; run this twice, and the second time does nothing.
    summary = run_job(
        source,
        folder / "answers.jsonl",
        prompt="Classify the sentiment of this tweet as positive, negative or neutral: {text}",
        config=GenerationConfig.greedy(max_tokens=5, choices=labels),
    )
    print(f"{summary.n_before} rows were done before, {summary.n_done} now")
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    print(f"answers by label: {[answer['text'] for answer in answers]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("."))
