"""How good labels are, and how far annotators agree: accuracy, kappa, alpha, with intervals."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaherd.analysis.agreement import Bootstrap, Interval, alpha, kappa, share_of_agreement
from llamaherd.analysis.tables import clean_label, require_columns, table_columns
from llamaherd.errors import ConfigError, InputError

__all__ = [
    "MISSING",
    "OTHER",
    "AnnotatorScore",
    "ClassScore",
    "Validation",
    "check_gold",
    "require_sklearn",
    "validate",
]

OTHER = "(other)"
"""What stands for an answer that is none of the labels."""
MISSING = "(missing)"
"""What stands for no answer: an empty cell, or a row that failed."""

# A matrix of more would be larger than the table, and nobody could read it.
_MAX_MATRIX_LABELS = 500


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One label of one annotator.

    Attributes:
        precision: Share of the items labelled so that are so.
        recall: Share of the items that are so that were labelled so.
        f1: Harmonic mean of the two.
        support: Items that are so.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class AnnotatorScore:
    """One annotator against the gold labels.

    Attributes:
        accuracy: Share of all items with a gold label that were labelled so. Missing and other
            answers count as wrong.
        interval: Bootstrap interval of it.
        n_missing: Items without an answer.
        n_other: Items whose answer is none of the labels.
        macro_f1: Mean F1 of the labels.
        classes: Scores by label.
        confusion: Counts ``[gold][answer]``, by `Validation.labels`, then other, then missing;
            empty if there are more than 500 labels.
    """

    accuracy: float
    interval: Interval
    n_missing: int
    n_other: int
    macro_f1: float
    classes: Mapping[str, ClassScore]
    confusion: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Validation:
    """What `validate` found.

    Attributes:
        n_items: Items in the table.
        n_gold: Items with a gold label.
        labels: The labels.
        annotators: Those who were compared.
        scores: Scores by annotator; empty without gold labels.
        kappas: Cohen's kappa of every pair, over the items that both answered (answers that are
            none of the labels are one class); NaN if there are none.
        alpha: Krippendorff's alpha (nominal) of all annotators, missing answers left out.
        alpha_interval: Bootstrap interval of it.
        agreement: Share of items on which all who answered agree.
        confidence: Level of the intervals.
    """

    n_items: int
    n_gold: int
    labels: tuple[str, ...]
    annotators: tuple[str, ...]
    scores: Mapping[str, AnnotatorScore]
    kappas: Mapping[tuple[str, str], float]
    alpha: float
    alpha_interval: Interval
    agreement: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; None stands for what cannot be computed."""
        data = asdict(self)
        data["kappas"] = [{"a": a, "b": b, "kappa": kappa} for (a, b), kappa in self.kappas.items()]
        plain: dict[str, Any] = _without_nan(data)
        return plain

    def __str__(self) -> str:
        lines = [f"{self.n_items} items, {self.n_gold} with a gold label"]
        for name, score in self.scores.items():
            low, high = score.interval
            lines.append(
                f"{name}: accuracy {score.accuracy:.1%} ({low:.1%} to {high:.1%}), "
                f"macro F1 {score.macro_f1:.3f}, {score.n_missing} missing, {score.n_other} other"
            )
        lines.extend(f"{a} and {b}: kappa {kappa:.3f}" for (a, b), kappa in self.kappas.items())
        if len(self.annotators) > 1:
            low, high = self.alpha_interval
            lines.append(f"Krippendorff's alpha {self.alpha:.3f} ({low:.3f} to {high:.3f})")
        return "\n".join(lines)


def validate(
    table: Any,
    annotators: Sequence[str] | None = None,
    *,
    gold: str | None = None,
    labels: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 1234,
) -> Validation:
    """Compare the labels of annotators (models or people) with gold labels and with each other.

    Labels are compared without surrounding white space and regardless of case. Nothing is left
    out in silence: an answer that is none of the labels is `OTHER`, a missing one `MISSING`, and
    both are wrong where there is a gold label.

    Args:
        table: A row per item: a pandas or polars frame, a list of mappings, or a mapping of
            columns. `widen` makes one of a table with a row per item and annotator.
        annotators: Columns with labels. Default: all but `gold`.
        gold: Column with the right labels, if there is one.
        labels: The labels. Default: those in `gold`, or else all that occur.
        n_bootstrap: Resamples for the intervals.
        confidence: Level of the intervals.
        seed: Of the bootstrap.

    Raises:
        ConfigError: A package of the extra ``analysis`` is missing, or an option is wrong.
        InputError: A column does not exist, there are no items, or a gold label is none of the
            labels.
    """
    require_sklearn()
    columns = table_columns(table)
    names = [name for name in columns if name != gold] if annotators is None else list(annotators)
    _check_options(names, n_bootstrap, confidence)
    require_columns(columns, [*names, *([gold] if gold is not None else [])])
    sources = [columns[gold]] if gold is not None else [columns[name] for name in names]
    known_labels = _label_set(labels, sources)
    codes = {name: _encode(columns[name], known_labels) for name in names}
    n_items = len(columns[names[0]])
    if n_items == 0:
        raise InputError("the table has no rows")
    bootstrap = Bootstrap(np.random.default_rng(seed), n_bootstrap, confidence)
    scores: dict[str, AnnotatorScore] = {}
    n_gold = 0
    if gold is not None:
        gold_codes = _gold_codes(columns[gold], known_labels, gold)
        n_gold = int((gold_codes >= 0).sum())
        scores = {name: _score(gold_codes, codes[name], known_labels, bootstrap) for name in names}
    table_codes = np.stack([codes[name] for name in names])
    found_alpha, interval = alpha(table_codes, bootstrap)
    return Validation(
        n_items=n_items,
        n_gold=n_gold,
        labels=known_labels,
        annotators=tuple(names),
        scores=scores,
        kappas={(a, b): kappa(codes[a], codes[b]) for a, b in itertools.combinations(names, 2)},
        alpha=found_alpha,
        alpha_interval=interval,
        agreement=share_of_agreement(table_codes),
        confidence=confidence,
    )


def check_gold(values: Sequence[Any], column: str, labels: Sequence[str] | None = None) -> None:
    """Make sure before long work that answers can be compared with gold labels.

    Args:
        values: The gold labels.
        column: Their column, for the message.
        labels: The labels, if they are given.

    Raises:
        InputError: There is no gold label, or one that is none of the labels.
    """
    if all(clean_label(value) is None for value in values):
        raise InputError(f"the column {column!r} has no label")
    _gold_codes(values, _label_set(labels, [values]), column)


def require_sklearn() -> None:
    """Make sure that what the statistics need is installed.

    Raises:
        ConfigError: It is not.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "statistics need scikit-learn: pip install 'llamaherd[analysis]'"
        ) from error


# ── labels ──────────────────────────────────────────────────────────────────────────────────


def _check_options(names: Sequence[str], n_bootstrap: int, confidence: float) -> None:
    if not names:
        raise ConfigError("there is no annotator: name columns with labels")
    repeated = next((name for name in names if list(names).count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"annotators has {repeated!r} more than once")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; allowed: a number between 0 and 1")
    if n_bootstrap < 1:
        raise ConfigError(f"n_bootstrap is {n_bootstrap}; allowed: 1 or more")


def _label_set(labels: Sequence[str] | None, sources: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    if labels is not None:
        found = [text for label in labels if (text := clean_label(label)) is not None]
    else:
        cleaned = (clean_label(value) for source in sources for value in source)
        found = sorted({text for text in cleaned if text is not None})
    by_key: dict[str, str] = {}
    for text in found:
        by_key.setdefault(text.casefold(), text)
    if not by_key:
        raise InputError("there are no labels in the table")
    return tuple(by_key.values())


def _encode(values: Sequence[Any], labels: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of labels; ``len(labels)`` is another answer, -1 a missing one."""
    numbers = {label.casefold(): i for i, label in enumerate(labels)}
    cleaned = (clean_label(value) for value in values)
    return np.array(
        [-1 if text is None else numbers.get(text.casefold(), len(labels)) for text in cleaned],
        dtype=np.int64,
    )


def _gold_codes(values: Sequence[Any], labels: Sequence[str], column: str) -> NDArray[np.int64]:
    """Numbers of the right labels, all of which must be known: no item is left out in silence."""
    codes = _encode(values, labels)
    if not (codes >= 0).any():
        raise InputError(f"the column {column!r} has no label")
    unknown = np.flatnonzero(codes == len(labels))
    if len(unknown):
        raise InputError(
            f"the column {column!r} has {values[unknown[0]]!r} in row {unknown[0]} "
            f"({len(unknown)} such rows), which is none of the labels: {', '.join(labels)}; "
            "add it to the labels, or leave these rows out"
        )
    return codes


# ── statistics ──────────────────────────────────────────────────────────────────────────────


def _score(
    gold: NDArray[np.int64],
    answers: NDArray[np.int64],
    labels: Sequence[str],
    bootstrap: Bootstrap,
) -> AnnotatorScore:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    n = len(labels)
    has_gold = gold >= 0
    shown = np.where(answers < 0, n + 1, answers)
    accuracy = float((gold == answers)[has_gold].mean())
    matrix: Iterable[Iterable[int]] = ()
    with warnings.catch_warnings():
        # Free text has as many labels as rows, and scikit-learn before 1.8 takes that for numbers.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        precision, recall, f1, support = precision_recall_fscore_support(
            gold[has_gold], shown[has_gold], labels=range(n), zero_division=0.0
        )
        if n <= _MAX_MATRIX_LABELS:
            matrix = confusion_matrix(gold[has_gold], shown[has_gold], labels=range(n + 2))[:n]
    return AnnotatorScore(
        accuracy=accuracy,
        interval=bootstrap.of_share(accuracy, int(has_gold.sum())),
        n_missing=int((answers[has_gold] < 0).sum()),
        n_other=int((answers[has_gold] == n).sum()),
        macro_f1=float(np.mean(f1)),
        classes={
            label: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, label in enumerate(labels)
        },
        confusion=[[int(count) for count in row] for row in matrix],
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
