"""The files that a job leaves: JSON lines are its log; other formats are made of it at the end."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llamaherd.errors import ConfigError, OutputError
from llamaherd.jobs.log import parse_line

__all__ = ["check_format", "is_log", "log_path", "write_table"]

_LOGS = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv", ".parquet", ".txt")
_BATCH_ROWS = 8192
# From a JSON value's type to a column's, the most general last.
_KINDS = ("null", "bool", "int", "float", "text")


def is_log(output: Path) -> bool:
    """Whether the output is the log itself."""
    return output.suffix.lower() in _LOGS


def log_path(output: Path) -> Path:
    """Where the log of an output is."""
    return output if is_log(output) else output.with_name(output.name + ".log.jsonl")


def check_format(output: Path) -> None:
    """Make sure before the job begins that its output can be written in the end.

    Raises:
        ConfigError: The name has another ending, or a package is missing.
        OutputError: There is no such folder.
    """
    if output.suffix.lower() not in _LOGS + _TABLES:
        raise ConfigError(
            f"the output is {output.name!r}; allowed endings: {', '.join(_LOGS + _TABLES)}"
        )
    if output.suffix.lower() == ".parquet":
        _pyarrow()
    if not output.parent.is_dir():
        raise OutputError(f"cannot write {output}: there is no folder {output.parent}")


def write_table(log: Path, output: Path) -> None:
    """Write the records of a log as a table, in the order of the input, as a whole or not at all.

    Args:
        log: The log.
        output: ``.csv``, ``.tsv``, ``.parquet`` or ``.txt``, which has one answer per line.

    Raises:
        OutputError: It cannot be written.
    """
    write = {".csv": _write_csv, ".tsv": _write_csv, ".parquet": _write_parquet, ".txt": _write_txt}
    new = output.with_name(output.name + ".tmp")
    try:
        write[output.suffix.lower()](_Records(log), new, output)
        new.replace(output)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {output}: {error.strerror or error}; all rows are safe in "
            f"{log_path(output).name}, and the same command goes on from there"
        ) from error


class _Records:
    """Records in the order of the input; only their places in the log are held in memory."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._places = array("q")
        with log.open("rb") as file:
            place = 0
            for line in file:
                parsed = parse_line(line)
                if parsed is not None:
                    index = parsed[0]
                    if index >= len(self._places):
                        self._places.extend([-1] * (index + 1 - len(self._places)))
                    self._places[index] = place
                place += len(line)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._log.open("rb") as file:
            for place in self._places:
                if place >= 0:
                    file.seek(place)
                    yield json.loads(file.readline())


def _flat(value: Any) -> Any:
    """A value as a cell: an error as text, lists and objects as JSON."""
    if isinstance(value, dict) and value.keys() == {"type", "message"}:
        return f"{value['type']}: {value['message']}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _column_kinds(records: Iterable[dict[str, Any]]) -> dict[str, str]:
    """All columns, in the order in which they are met, and what is in them."""
    kinds: dict[str, str] = {}
    for record in records:
        for name, value in record.items():
            kind = _kind(_flat(value))
            known = kinds.setdefault(name, kind)
            if kind != known:
                kinds[name] = _common_kind(known, kind)
    return kinds


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for kind, type_ in (("bool", bool), ("int", int), ("float", float)):
        if isinstance(value, type_):
            return kind
    return "text"


def _common_kind(a: str, b: str) -> str:
    low, high = sorted((a, b), key=_KINDS.index)
    return high if low == "null" or (low, high) == ("int", "float") else "text"


def _write_csv(records: Iterable[dict[str, Any]], new: Path, output: Path) -> None:
    names = list(_column_kinds(records))
    dialect = csv.excel_tab if output.suffix.lower() == ".tsv" else csv.excel
    with new.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, dialect)
        writer.writerow(names)
        for record in records:
            writer.writerow([_flat(record.get(name)) for name in names])


def _write_txt(records: Iterable[dict[str, Any]], new: Path, output: Path) -> None:
    with new.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for record in records:
            file.write(" ".join(str(record.get("text") or "").split()) + "\n")


def _write_parquet(records: Iterable[dict[str, Any]], new: Path, output: Path) -> None:
    pyarrow, parquet = _pyarrow()
    types = {
        "null": pyarrow.string(),
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "text": pyarrow.string(),
    }
    kinds = _column_kinds(records)
    schema = pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    with parquet.ParquetWriter(new, schema) as writer:
        batch: list[dict[str, Any]] = []
        for record in records:
            batch.append({name: _cell(record.get(name), kind) for name, kind in kinds.items()})
            if len(batch) == _BATCH_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch.clear()
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def _cell(value: Any, kind: str) -> Any:
    flat = _flat(value)
    if flat is None or kind != "text" or isinstance(flat, str):
        # Half surrogate pairs cannot be stored.
        return flat.encode("utf-8", "replace").decode() if isinstance(flat, str) else flat
    return json.dumps(flat)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'llamaherd[tables]'") from error
    return pyarrow, parquet
