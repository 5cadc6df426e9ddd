"""A comparison as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from llamaherd import __version__
from llamaherd.analysis.charts import Line, bars, lines
from llamaherd.analysis.explore import Exploration
from llamaherd.analysis.tables import clean_label, same_label, table_rows
from llamaherd.analysis.validate import MISSING, OTHER, Validation, validate
from llamaherd.errors import ConfigError, OutputError

__all__ = ["report"]

_N_BINS = 10
_ROWS_PER_DOT = 10
_SHOWN_CHARACTERS = 400
# Of more labels, the most frequent and the most frequent mistakes are shown.
_MAX_LABELS = 20


@dataclass(frozen=True, slots=True)
class _Confidence:
    """One annotator's probabilities: their mean, and the share of its labels that is right."""

    name: str
    histogram: Markup
    mean: float
    share_right: float


def report(
    results: Exploration | Any,
    output: str | PathLike[str],
    *,
    gold: str | None = None,
    annotators: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    title: str = "Comparison",
    n_samples: int = 25,
    seed: int = 1234,
) -> Validation:
    """Write a page with accuracy, agreement, confidence, speed, and rows to look at.

    Args:
        results: What `explore` returned, or a table with a column per annotator (see `validate`);
            a column ``NAME probability`` beside ``NAME`` is its confidence.
        output: Path of the page.
        gold: Column with the right labels, if there is one.
        annotators: Columns with labels. Default: the variants, or all columns but `gold`.
        labels: The labels. Default: those of the exploration, of `gold`, or all that occur.
        title: Of the page.
        n_samples: Rows on which annotators disagree, or are wrong, to show.
        seed: Of the bootstrap.

    Returns:
        The statistics on the page.

    Raises:
        ConfigError, InputError: As of `validate`.
        OutputError: The page cannot be written.
    """
    if isinstance(results, Exploration) and gold in results.names:
        raise ConfigError(f"gold is {gold!r}, which is also the name of a variant; rename that")
    rows = results.wide() if isinstance(results, Exploration) else table_rows(results)
    if annotators is None:
        annotators = results.names if isinstance(results, Exploration) else None
    if labels is None and isinstance(results, Exploration):
        labels = results.labels
    if annotators is None:
        names = dict.fromkeys(name for row in rows for name in row)
        annotators = [n for n in names if n != gold and not n.endswith(" probability")]
    validation = validate(rows, annotators, gold=gold, labels=labels or None, seed=seed)
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title,
            made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            v=validation,
            gold=gold,
            answers=[*validation.labels, OTHER, MISSING],
            missing=MISSING,
            is_long=len(validation.labels) > _MAX_LABELS,
            max_labels=_MAX_LABELS,
            mistakes=_mistakes(rows, validation, gold),
            version=__version__,
            kappa=_kappa_table(validation),
            confidences=_confidences(rows, validation, gold),
            calibration=_calibration(rows, validation, gold),
            speed=_speed(results),
            samples=_samples(rows, validation, gold, n_samples),
            variants=results.variants if isinstance(results, Exploration) else (),
            colors={name: i % 8 for i, name in enumerate(validation.annotators)},
        )
    )
    try:
        Path(output).write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}") from error
    return validation


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llamaherd.analysis", "templates"),
        # Whatever stands in the data is shown, never run.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "percent": _percent,
        "number": _number,
        "thousands": "{:,}".format,
        "cut": _cut,
        "settings": _settings,
    }
    environment.filters.update(filters)
    return environment


def _percent(value: float, digits: int = 1) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.{digits}f} %"


def _number(value: float, digits: int = 2) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def _cut(value: Any, n_characters: int = _SHOWN_CHARACTERS) -> str:
    text = str(value).strip()
    return text if len(text) <= n_characters else text[: n_characters - 1] + "…"


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings that were made, as a flat list."""
    flat = {**settings, **settings.get("config", {})}
    flat.pop("config", None)
    if examples := flat.get("examples"):
        flat["examples"] = [f"{text} → {answer}" for text, answer in examples]
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
        for name, value in flat.items()
        if value is not None and value is not False and value not in ("", [], ())
    ]


def _kappa_table(validation: Validation) -> list[list[float | None]]:
    names = validation.annotators
    table: list[list[float | None]] = [[None] * len(names) for _ in names]
    for (a, b), kappa in validation.kappas.items():
        i, j = names.index(a), names.index(b)
        table[i][j] = table[j][i] = kappa
    return table


def _probability(row: Mapping[str, Any], name: str) -> float | None:
    """The probability of a row's label; also out of a file, where it is text."""
    try:
        value = float(row[f"{name} probability"])
    except (KeyError, TypeError, ValueError):
        return None
    return value if 0 <= value <= 1 else None


def _probabilities(
    rows: Sequence[Mapping[str, Any]], name: str, gold: str | None
) -> list[tuple[float, bool]]:
    """Each row's probability, and whether its label is right; only rows with a gold label count."""
    return [
        (value, gold is not None and same_label(row.get(name), row.get(gold)))
        for row in rows
        if (value := _probability(row, name)) is not None
        and (gold is None or clean_label(row.get(gold)) is not None)
    ]


def _confidences(
    rows: Sequence[Mapping[str, Any]], validation: Validation, gold: str | None
) -> list[_Confidence]:
    edges = [i / _N_BINS for i in range(_N_BINS + 1)]
    charts = []
    for name in validation.annotators:
        found = _probabilities(rows, name, gold)
        if not found:
            continue
        counts = {True: [0] * _N_BINS, False: [0] * _N_BINS}
        for value, is_right in found:
            counts[is_right][min(_N_BINS - 1, int(value * _N_BINS))] += 1
        parts = (
            [("right", counts[True]), ("wrong", counts[False])]
            if gold is not None
            else [("all", counts[False])]
        )
        histogram = bars(parts, edges, x_title="probability of the label")
        charts.append(_Confidence(name, histogram, *_means(found)))
    return charts


def _means(found: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """Mean probability, and the share that is right."""
    return sum(v for v, _ in found) / len(found), sum(r for _, r in found) / len(found)


def _calibration(
    rows: Sequence[Mapping[str, Any]], validation: Validation, gold: str | None
) -> Markup | None:
    """How often labels of a probability are right."""
    if gold is None:
        return None
    data = []
    for color, name in enumerate(validation.annotators):
        found = sorted(_probabilities(rows, name, gold))
        # As many rows for each dot: bins of equal width would let a few rows look like a trend.
        n_dots = min(_N_BINS, len(found) // _ROWS_PER_DOT)
        ends = [len(found) * i // n_dots for i in range(n_dots + 1)] if n_dots else []
        points = [_means(found[low:high]) for low, high in itertools.pairwise(ends)]
        if points:
            data.append(Line(name, color % 8, points))
    if not data:
        return None
    return lines(
        data,
        x_title="probability of the label",
        y_title="share that is right",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        has_diagonal=True,
        has_dots=True,
    )


def _mistakes(
    rows: Sequence[Mapping[str, Any]], validation: Validation, gold: str | None
) -> dict[str, list[tuple[tuple[str, str], int]]]:
    """By annotator: (is, labelled as), and how often."""
    if gold is None:
        return {}
    found = {}
    for name in validation.annotators:
        pairs = ((clean_label(row.get(gold)), clean_label(row.get(name))) for row in rows)
        counts = Counter(
            (is_, labelled or MISSING)
            for is_, labelled in pairs
            if is_ is not None and not same_label(is_, labelled)
        )
        found[name] = counts.most_common(_MAX_LABELS)
    return found


def _speed(results: Any) -> Markup | None:
    if not isinstance(results, Exploration):
        return None
    data = [
        Line(variant.name, i % 8, variant.speed)
        for i, variant in enumerate(results.variants)
        if len(variant.speed) > 1
    ]
    return lines(data, x_title="seconds", y_title="rows done") if data else None


def _samples(
    rows: Sequence[Mapping[str, Any]], validation: Validation, gold: str | None, n: int
) -> list[dict[str, Any]]:
    """Rows on which annotators disagree, those with the most different answers first."""
    names = validation.annotators
    hidden = {*names, *(f"{name} probability" for name in names), gold, "index"}

    def difference(row: Mapping[str, Any]) -> tuple[int, int]:
        answers = {(clean_label(row.get(name)) or MISSING).casefold() for name in names}
        if gold is None or clean_label(row.get(gold)) is None:
            return len(answers), 0
        return len(answers), sum(not same_label(row.get(name), row.get(gold)) for name in names)

    chosen = [row for row in rows if difference(row) > (1, 0)]
    chosen.sort(key=difference, reverse=True)
    return [
        {
            "text": [
                (name, value)
                for name, value in row.items()
                if name not in hidden and clean_label(value) is not None
            ],
            "gold": clean_label(row.get(gold)) if gold is not None else None,
            "answers": [
                (
                    name,
                    clean_label(row.get(name)),
                    _probability(row, name),
                    gold is not None and same_label(row.get(name), row.get(gold)),
                )
                for name in names
            ],
        }
        for row in chosen[:n]
    ]
