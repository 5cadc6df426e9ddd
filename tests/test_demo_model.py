"""The bundled model does what its card says, through the real engine."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from llamaherd import GenerationConfig, ParallelProcessor

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "src" / "llamaherd" / "models" / "demo" / "demo.gguf"
# A little below the card's figures, which are measured on more rows.
LEAST = {"capital": 0.97, "news": 0.88, "sentiment": 0.87, "extraction": 0.6}


def test_heldout_rows(processor: ParallelProcessor) -> None:
    """Accuracy per task on phrasings that the model was not trained on."""
    lines = (ROOT / "training" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    config = GenerationConfig.greedy(max_tokens=60)
    results = processor.batch_generate([row["messages"] for row in rows], config)
    asked = Counter(row["task"] for row in rows)
    right = Counter(
        row["task"]
        for row, result in zip(rows, results, strict=True)
        if result.text.strip() == row["expected"]
    )
    accuracy = {task: right[task] / asked[task] for task in asked}
    assert all(accuracy[task] >= LEAST[task] for task in LEAST), accuracy


def test_the_model_is_small_and_has_a_card() -> None:
    """At most 10 MB, and documented."""
    assert MODEL.stat().st_size <= 10_000_000
    assert "Held-out" in MODEL.with_name("MODEL_CARD.md").read_text(encoding="utf-8")
