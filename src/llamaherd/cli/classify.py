"""`llamaherd classify`: the probability of every label for each row of a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

from llamaherd.cli.run import RunOptions, run_rows
from llamaherd.errors import ConfigError, InputError
from llamaherd.jobs.prompts import TextMaker, read_template
from llamaherd.jobs.work import Labels, Work
from llamaherd.processing.classify import Classifier
from llamaherd.processing.parallel import ParallelProcessor

__all__ = ["LabelOptions", "classify_rows", "read_examples"]


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What is to be decided, and how."""

    labels: tuple[str, ...]
    instructions: str | None
    examples: tuple[tuple[str, str], ...]
    calibrate: bool


def classify_rows(
    source: str, load: dict[str, Any], labels: LabelOptions, options: RunOptions
) -> int:
    """Label all rows and write the labels; return the exit code."""
    return run_rows(source, load, _Labeling(labels, options), options)


def read_examples(path: str | None) -> tuple[tuple[str, str], ...]:
    """Texts and their labels.

    Args:
        path: A CSV file with the columns ``text`` and ``label``.

    Raises:
        InputError: It cannot be read, or lacks a column.
    """
    if path is None:
        return ()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not rows or not {"text", "label"} <= rows[0].keys():
        raise InputError(f"{path} needs the columns text and label, and a row")
    return tuple((row["text"], row["label"]) for row in rows)


class _Labeling:
    def __init__(self, labels: LabelOptions, options: RunOptions) -> None:
        if len(labels.labels) < 2:
            raise ConfigError("give at least two labels: --labels World,Sports")
        self._labels = labels
        self._template = read_template(options.prompt, options.prompt_file)

    def make(self, processor: ParallelProcessor, *, ordered: bool) -> Work:
        wanted = self._labels
        classifier = Classifier(
            processor,
            wanted.labels,
            instructions=wanted.instructions,
            examples=wanted.examples,
            calibrate=wanted.calibrate,
        )
        settings = {
            "labels": list(wanted.labels),
            "instructions": wanted.instructions,
            "examples": [list(example) for example in wanted.examples],
            "calibrate": wanted.calibrate,
            "prompt": self._template.source if self._template is not None else None,
        }
        return Labels(classifier, TextMaker(self._template), settings)
