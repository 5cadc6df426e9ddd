"""The files that a job leaves: JSON lines are its log; other formats are made of it at the end."""

from __future__ import annotations

import base64
import csv
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaherd.errors import ConfigError, OutputError
from llamaherd.jobs.log import parse_line, read_settings

__all__ = [
    "TABLES",
    "VECTOR_TABLES",
    "LogRecords",
    "TableWriter",
    "check_format",
    "encode_vector",
    "is_log",
    "log_path",
    "write_table",
]

_LOGS = (".jsonl", ".ndjson")
_BATCH_ROWS = 8192
# Vectors of so many rows are in memory together.
_BATCH_BYTES = 32 * 1024 * 1024
_FLOAT = np.dtype("<f4")
# From a JSON value's type to a column's, the most general last.
_KINDS = ("null", "bool", "int", "float", "text")


def is_log(output: Path) -> bool:
    """Whether the output is the log itself."""
    return output.suffix.lower() in _LOGS


def log_path(output: Path) -> Path:
    """Where the log of an output is."""
    return output if is_log(output) else output.with_name(output.name + ".log.jsonl")


def check_format(output: Path, tables: Mapping[str, TableWriter]) -> None:
    """Make sure before the job begins that its output can be written in the end.

    Args:
        output: The output.
        tables: What can be made of the log, by its ending.

    Raises:
        ConfigError: The name has another ending, or a package is missing.
        OutputError: There is no such folder.
    """
    endings = (*_LOGS, *tables)
    if output.suffix.lower() not in endings:
        raise ConfigError(f"the output is {output.name!r}; allowed endings: {', '.join(endings)}")
    if output.suffix.lower() == ".parquet":
        _pyarrow()
    if not output.parent.is_dir():
        raise OutputError(f"cannot write {output}: there is no folder {output.parent}")


def write_table(log: Path, output: Path, tables: Mapping[str, TableWriter]) -> None:
    """Write the records of a log as a table, in the order of the input, as a whole or not at all.

    Args:
        log: The log.
        output: Where; its ending is one of `tables`.
        tables: What can be made of the log, by its ending.

    Raises:
        OutputError: It cannot be written.
    """
    new = output.with_name(output.name + ".tmp")
    try:
        tables[output.suffix.lower()](LogRecords(log), new, output)
        new.replace(output)
    except OSError as error:
        raise OutputError(
            f"cannot write {output}: {error.strerror or error}; all rows are safe in "
            f"{log_path(output).name}, and the same command goes on from there"
        ) from error
    finally:
        # There is none if it has become the output.
        new.unlink(missing_ok=True)


def encode_vector(vector: NDArray[np.float32]) -> str:
    """A vector as it stands in a log: base64 of little-endian float32."""
    return base64.b64encode(vector.astype(_FLOAT).tobytes()).decode("ascii")


class LogRecords:
    """Records in the order of the input; only their places in the log are held in memory.

    Args:
        log: The log.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._n_rows = 0
        self._places = array("q")
        with log.open("rb") as file:
            place = 0
            for line in file:
                parsed = parse_line(line)
                if parsed is not None:
                    index = parsed[0]
                    if index >= len(self._places):
                        self._places.extend([-1] * (index + 1 - len(self._places)))
                    self._n_rows += self._places[index] < 0
                    self._places[index] = place
                place += len(line)

    def __len__(self) -> int:
        return self._n_rows

    @property
    def n_dimensions(self) -> int:
        """Values of a vector, which the settings of a job say that makes vectors."""
        return int((read_settings(self._log) or {})["dim"])

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


def _write_csv(records: LogRecords, new: Path, output: Path) -> None:
    names = list(_column_kinds(records))
    dialect = csv.excel_tab if output.suffix.lower() == ".tsv" else csv.excel
    with new.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, dialect)
        writer.writerow(names)
        for record in records:
            writer.writerow([_flat(record.get(name)) for name in names])


def _write_txt(records: LogRecords, new: Path, output: Path) -> None:
    with new.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for record in records:
            file.write(" ".join(str(record.get("text") or "").split()) + "\n")


def _write_parquet(records: LogRecords, new: Path, output: Path) -> None:
    _write_columns(records, new, {}, _BATCH_ROWS)


def _write_vector_parquet(records: LogRecords, new: Path, output: Path) -> None:
    dim = records.n_dimensions
    n_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (_FLOAT.itemsize * dim)))
    _write_columns(records, new, {"embedding": dim}, n_rows)


def _write_columns(
    records: LogRecords, new: Path, vectors: Mapping[str, int], batch_rows: int
) -> None:
    """Write Parquet; `vectors` are columns of encoded vectors, and how many values these have."""
    pyarrow, parquet = _pyarrow()
    types = {
        "null": pyarrow.string(),
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "text": pyarrow.string(),
    }
    kinds = _column_kinds(records)
    schema = pyarrow.schema(
        (name, pyarrow.list_(pyarrow.float32(), vectors[name]) if name in vectors else types[kind])
        for name, kind in kinds.items()
    )

    def cell(name: str, value: Any) -> Any:
        return _vector(value, vectors[name]) if name in vectors else _cell(value, kinds[name])

    with parquet.ParquetWriter(new, schema) as writer:
        batch: list[dict[str, Any]] = []
        for record in records:
            batch.append({name: cell(name, record.get(name)) for name in kinds})
            if len(batch) == batch_rows:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch.clear()
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def _write_npy(records: LogRecords, new: Path, output: Path) -> None:
    # Written like a stream: a full disk is an error, and would be a signal with a mapped file.
    dim = records.n_dimensions
    header = {"descr": _FLOAT.str, "fortran_order": False, "shape": (len(records), dim)}
    missing = np.full(dim, np.nan, _FLOAT)
    with new.open("wb") as file:
        # Not every numpy says what this takes.
        write_header: Any = np.lib.format.write_array_header_1_0
        write_header(file, header)
        for record in records:
            vector = _vector(record.get("embedding"), dim)
            file.write((vector if vector is not None else missing).tobytes())


def _vector(value: str | None, dim: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    vector = np.frombuffer(base64.b64decode(value), _FLOAT)
    if vector.size != dim:
        raise OutputError(
            f"the log has a vector of {vector.size} values, and the job's have {dim}; begin anew "
            "with overwrite (--overwrite)"
        )
    return vector


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


TableWriter = Callable[[LogRecords, Path, Path], None]
"""Writes records into a new file (the second argument) that becomes the output (the third)."""

TABLES: Mapping[str, TableWriter] = {
    ".csv": _write_csv,
    ".tsv": _write_csv,
    ".parquet": _write_parquet,
    ".txt": _write_txt,
}
VECTOR_TABLES: Mapping[str, TableWriter] = {".parquet": _write_vector_parquet, ".npy": _write_npy}
"""Tables of the column ``embedding``, which `encode_vector` has encoded."""
