"""Tables of any kind as rows and columns, long ones made wide, and labels as they are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llamaherd.errors import InputError

__all__ = ["clean_label", "require_columns", "same_label", "table_columns", "table_rows", "widen"]


def table_columns(table: Any) -> dict[str, list[Any]]:
    """The columns of a table.

    Args:
        table: A pandas or polars frame, a list of mappings, or a mapping of columns.

    Raises:
        InputError: It is none of these, or its columns have different lengths.
    """
    if isinstance(table, Mapping):
        columns = {str(name): list(values) for name, values in table.items()}
        if len({len(values) for values in columns.values()}) > 1:
            raise InputError("the columns have different lengths")
        return columns
    if hasattr(table, "columns"):  # pandas and polars
        return {str(name): list(table[name]) for name in table.columns}
    rows = list(table)
    if not all(isinstance(row, Mapping) for row in rows):
        raise InputError("the table is no frame, list of mappings or mapping of columns")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def table_rows(table: Any) -> list[dict[str, Any]]:
    """The rows of a table of any kind that `table_columns` takes."""
    columns = table_columns(table)
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def require_columns(columns: Mapping[str, Any], names: list[str]) -> None:
    """Make sure that columns exist.

    Raises:
        InputError: One does not.
    """
    for name in names:
        if name not in columns:
            known = ", ".join(columns) or "none"
            raise InputError(f"there is no column {name!r}; there are: {known}")


def widen(
    table: Any, *, item: str, annotator: str, answer: str, gold: str | None = None
) -> list[dict[str, Any]]:
    """Make a long table wide: from a row per item and annotator to a row per item.

    Example:
        >>> from llamaherd import widen
        >>> long = [
        ...     {"text": "Great!", "coder": "Ada", "label": "positive"},
        ...     {"text": "Great!", "coder": "Ben", "label": "neutral"},
        ... ]
        >>> widen(long, item="text", annotator="coder", answer="label")
        [{'text': 'Great!', 'Ada': 'positive', 'Ben': 'neutral'}]

    Args:
        table: A table of any kind that `validate` takes.
        item: Column that says which item a row is about.
        annotator: Column that says who answered; its values become columns.
        answer: Column with the answers.
        gold: Column with the right label of the item, which is kept.

    Returns:
        A row per item, in the order of their first rows. An annotator that did not answer an item
        has None there.

    Raises:
        InputError: A column does not exist, an annotator answered an item twice or is called like
            a column, or an item has several gold labels.
    """
    columns = table_columns(table)
    kept = [item] if gold is None else [item, gold]
    require_columns(columns, [*kept, annotator, answer])
    names = list(dict.fromkeys(str(name) for name in columns[annotator]))
    clash = next((name for name in names if name in kept), None)
    if clash is not None:
        raise InputError(f"an annotator is called like the column {clash!r}; rename one of them")
    rows: dict[Any, dict[str, Any]] = {}
    for record in table_rows(columns):
        key, who = record[item], str(record[annotator])
        row = rows.setdefault(key, {name: record[name] for name in kept})
        if who in row:
            raise InputError(f"{who!r} answered item {key!r} more than once")
        if gold is not None and not _agrees(row[gold], record[gold]):
            raise InputError(f"item {key!r} has two gold labels: {row[gold]!r}, {record[gold]!r}")
        row[who] = record[answer]
    blank = dict.fromkeys(names)
    return [{name: row[name] for name in kept} | blank | row for row in rows.values()]


def clean_label(value: Any) -> str | None:
    """A label as it is shown: without surrounding white space; None if it is missing."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "item"):  # numpy's scalars
        value = value.item()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        # Frames turn whole numbers into floats as soon as one of them is missing.
        value = int(value) if value.is_integer() else value
    return str(value).strip() or None


def same_label(a: Any, b: Any) -> bool:
    """Whether two labels are the same, regardless of case; a missing one is like no other."""
    first, second = clean_label(a), clean_label(b)
    return first is not None and second is not None and first.casefold() == second.casefold()


def _agrees(a: Any, b: Any) -> bool:
    return same_label(a, b) or (clean_label(a) is None and clean_label(b) is None)
