"""Reads rows from files, frames and iterables, a few at a time.

A line that cannot be read becomes a row with an error that names the line, so that the others
still run.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import os
import queue
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from llamaherd.errors import ConfigError, InputError, LlamaherdError
from llamaherd.processing.reader import Read, Reader, ReadingEnded

__all__ = [
    "InputRow",
    "Source",
    "StoppableRows",
    "count_rows",
    "may_wait",
    "read_rows",
    "read_source",
    "table_columns",
]

Source = str | PathLike[str] | Iterable[Any]

_JSON_NAMES = (".jsonl", ".ndjson")
_TABLE_NAMES = (".csv", ".tsv", ".parquet")
# A file without line ends is no list of prompts.
_MAX_LINE_BYTES = 64 * 1024 * 1024
# Counting the rows of larger files would take seconds.
_MAX_COUNTED_BYTES = 256 * 1024 * 1024
_PARQUET_ROWS = 4096
# Rows that are read from a pipe before somebody wants them.
_ROWS_AHEAD = 64


@dataclass(slots=True)
class InputRow:
    """One row of input.

    Attributes:
        where: Such as ``"reviews.txt, line 7"``.
        text: Plain text of the row, if it has one.
        messages: Chat messages, if the row brings them.
        fields: All columns of the row; of plain text, ``prompt``.
        error: Why the row cannot be used.
    """

    where: str
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    error: LlamaherdError | None = None


class _StopReading(Exception):
    """Leaves a read that waits for input."""


class StoppableRows:
    """Rows with their numbers, until the input ends or `stop` is called.

    Args:
        rows: The rows.
        may_wait: Whether the next row may be long in coming, as in a pipe.
    """

    def __init__(self, rows: Iterator[InputRow], *, may_wait: bool = False) -> None:
        self._rows = rows
        self._may_wait = may_wait
        self._apart: Iterator[InputRow] | None = None
        self._events: queue.SimpleQueue[Read[InputRow] | ReadingEnded] = queue.SimpleQueue()
        self._reading_on: int | None = None
        self.n_read = 0
        self.is_stopped = False

    def __iter__(self) -> Iterator[tuple[int, InputRow]]:
        with contextlib.suppress(_StopReading):
            while (row := self._next()) is not None:
                self.n_read += 1
                yield self.n_read - 1, row

    def stop(self) -> None:
        """Let the input end. For a signal handler, on the main thread."""
        self.is_stopped = True
        if self._reading_on == threading.get_ident():
            raise _StopReading
        self._events.put(ReadingEnded(None))

    def _next(self) -> InputRow | None:
        is_main = threading.current_thread() is threading.main_thread()
        if self._may_wait and self._apart is None and not is_main:
            # A signal handler leaves a read on the main thread. On another one nothing does, so
            # that what may wait is read on a third, which can be left to itself.
            self._apart = self._read_apart()
        try:
            self._reading_on = threading.get_ident()
            return None if self.is_stopped else next(self._apart or self._rows, None)
        finally:
            self._reading_on = None

    def _read_apart(self) -> Iterator[InputRow]:
        reader = Reader(self._rows, self._events.put)
        n_awaited = 0
        try:
            while True:
                if n_awaited <= _ROWS_AHEAD // 2:
                    reader.want(_ROWS_AHEAD - n_awaited)
                    n_awaited = _ROWS_AHEAD
                event = self._events.get()
                if isinstance(event, Read):
                    n_awaited -= 1
                    yield event.item
                elif event.error is not None:
                    raise event.error
                else:
                    return
        finally:
            reader.close()


def read_rows(
    prompts: tuple[str, ...], source: str | None, *, keeps_blank: bool = False
) -> Iterator[InputRow]:
    """Rows of a command: from arguments, else from a file, else from standard input.

    Args:
        prompts: Prompts given as arguments.
        source: A path, as for `read_source`; ``"-"`` or None is standard input.
        keeps_blank: A blank line is a row of its own instead of nothing.

    Raises:
        InputError: The input cannot be opened, or has no rows.
    """
    if prompts and source is not None:
        raise InputError("give prompts as arguments or with --input, not both")
    if prompts:
        return (_text_row(f"argument {i}", p) for i, p in enumerate(prompts, 1))
    if source is None and sys.stdin.isatty():
        raise InputError("nothing to do: give arguments, or --input FILE, or pipe lines in")
    return read_source(source if source is not None else "-", keeps_blank=keeps_blank)


def read_source(source: Source, *, keeps_blank: bool = False) -> Iterator[InputRow]:
    """Rows of a file, a frame or an iterable.

    Args:
        source: A path: ``.csv``, ``.tsv`` and ``.parquet`` are tables; ``.jsonl`` and ``.ndjson``
            have an object per line, with ``prompt`` or ``messages`` or columns for a template;
            any other has a prompt per line. ``"-"`` is standard input, which is JSON if it begins
            with an object. Or a pandas or polars frame, or an iterable of mappings (columns),
            strings (prompts) or lists of chat messages.
        keeps_blank: A blank line is a row of its own instead of nothing.

    Raises:
        InputError: It cannot be opened, has no rows, or is nothing of that.
    """
    if isinstance(source, (str, PathLike)):
        name = "standard input" if source == "-" else Path(source).name
        rows = _path_rows(source, keeps_blank)
    else:
        name = type(source).__name__
        rows = _object_rows(source)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{name} is empty")
    return itertools.chain([first], rows)


def count_rows(source: Source | None) -> int | None:
    """Rows in a source, for progress; None if counting would take long, or use the input up."""
    if source is None or isinstance(source, str) and source == "-":
        return None
    if not isinstance(source, (str, PathLike)):
        return len(source) if isinstance(source, Sized) else None
    path = Path(source)
    status = path.stat()
    if path.suffix.lower() == ".parquet":
        return int(_parquet(path).metadata.num_rows)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_COUNTED_BYTES:
        return None
    with path.open("rb") as file:
        if path.suffix.lower() in _TABLE_NAMES:
            return sum(1 for _ in csv.reader(_decoded(file, path.name), _dialect(path))) - 1
        return sum(bool(line.strip()) for line in file)


def may_wait(source: Source | None) -> bool:
    """Whether the next row of a source may be long in coming, as in a pipe.

    Args:
        source: See `read_source`; None is standard input.
    """
    if source is None or isinstance(source, str) and source == "-":
        try:
            return not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
        # A program may have replaced standard input by an object without a file.
        except (AttributeError, OSError):
            return True
    is_path = isinstance(source, (str, PathLike))
    return is_path and not Path(source).is_file()  # type: ignore[arg-type]


def table_columns(source: Source) -> list[str] | None:
    """Columns of a table whose rows all have the same; None for other sources."""
    if not isinstance(source, (str, PathLike)):
        columns = getattr(source, "columns", None)
        return None if columns is None else [str(name) for name in columns]
    path = Path(source)
    kind = path.suffix.lower()
    if source == "-" or kind not in _TABLE_NAMES:
        return None
    if kind == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    with path.open("rb") as file:
        return next(csv.reader(_decoded(file, path.name), _dialect(path)), [])


# ── frames and iterables ────────────────────────────────────────────────────────────────────


def _object_rows(source: Iterable[Any]) -> Iterator[InputRow]:
    if hasattr(source, "iter_rows"):  # polars
        return _mapping_rows(source.iter_rows(named=True))
    if hasattr(source, "itertuples"):  # pandas
        columns = [str(name) for name in source.columns]  # type: ignore[attr-defined]
        rows = source.itertuples(index=False, name=None)
        return _mapping_rows(dict(zip(columns, row, strict=True)) for row in rows)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise ConfigError(
            f"the source is a {type(source).__name__}; give a path, a frame, or an iterable of "
            "mappings or strings"
        )
    return _mapping_rows(source)


def _mapping_rows(items: Iterable[Any]) -> Iterator[InputRow]:
    for number, item in enumerate(items):
        where = f"row {number}"
        if isinstance(item, str):
            yield _text_row(where, item)
        elif isinstance(item, Mapping):
            yield _columns_row(where, {str(name): _plain(value) for name, value in item.items()})
        elif _are_messages(item):
            yield InputRow(where, messages=list(item), fields={"messages": list(item)})
        else:
            yield _bad(where, f"a {type(item).__name__}; rows are mappings, texts or messages")


def _plain(value: Any) -> Any:
    """A value as JSON knows it; what stands for a missing value in frames is None."""
    if value is None or isinstance(value, (str, bool, int, list, dict)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # numpy's scalars
        return _plain(value.item())
    if hasattr(value, "tolist"):
        return value.tolist()
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)


# ── files ───────────────────────────────────────────────────────────────────────────────────


def _path_rows(source: str | PathLike[str], keeps_blank: bool) -> Iterator[InputRow]:
    if isinstance(source, str) and source == "-":
        return _line_rows(sys.stdin.buffer, "standard input", is_json=None, keeps_blank=keeps_blank)
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if kind in _TABLE_NAMES:
        return _csv_rows(file, path)
    return _line_rows(file, path.name, is_json=kind in _JSON_NAMES, keeps_blank=keeps_blank)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError("Parquet needs pyarrow: pip install 'llamaherd[tables]'") from error
    try:
        return parquet.ParquetFile(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ArrowException as error:
        raise InputError(f"{path} is no Parquet file: {error}") from error


def _parquet_rows(path: Path) -> Iterator[InputRow]:
    number = 0
    for batch in _parquet(path).iter_batches(_PARQUET_ROWS):
        for columns in batch.to_pylist():
            yield _columns_row(
                f"{path.name}, row {number}",
                {name: _plain(value) for name, value in columns.items()},
            )
            number += 1


def _csv_rows(file: BinaryIO, path: Path) -> Iterator[InputRow]:
    """A row per record; the first line names the columns."""
    # Cells may be as long as lines elsewhere; the default is 128 KiB.
    csv.field_size_limit(_MAX_LINE_BYTES)
    with file:
        reader = csv.reader(_decoded(file, path.name), _dialect(path))
        try:
            names = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path.name}: {error}") from error
        if names is None:
            return
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise InputError(f"{path.name}: two columns are called {repeated!r}")
        while True:
            where = f"{path.name}, line {reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _bad(where, str(error))
                continue
            if not cells:
                continue
            if len(cells) != len(names):
                yield _bad(where, f"{len(cells)} cells, but there are {len(names)} columns")
            else:
                row = _columns_row(where, dict(zip(names, cells, strict=True)))
                if any(
                    "\udc80" <= c <= "\udcff" for cell in cells if not cell.isascii() for c in cell
                ):
                    row.error = InputError(f"{where}: not UTF-8")
                yield row


def _dialect(path: Path) -> type[csv.Dialect]:
    return csv.excel_tab if path.suffix.lower() == ".tsv" else csv.excel


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines as text. Bytes that are not UTF-8 become surrogates, found again in their row."""
    for number, line in enumerate(_lines(file, name)):
        text = line.decode("utf-8", "surrogateescape")
        yield text.removeprefix("\ufeff") if number == 0 else text


def _line_rows(
    file: BinaryIO, name: str, *, is_json: bool | None, keeps_blank: bool
) -> Iterator[InputRow]:
    """A row per line. With `is_json` None, it is JSON if the first line is an object."""
    with file:
        for number, line in enumerate(_lines(file, name), 1):
            if not line.strip() and not keeps_blank:
                continue
            where = f"{name}, line {number}"
            if is_json is None:
                is_json = line.lstrip().startswith(b"{")
            try:
                text = line.decode("utf-8").rstrip("\r\n").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                problem = f"byte {error.start + 1} is 0x{line[error.start]:02x}, {error.reason}"
                yield _bad(where, f"not UTF-8: {problem}")
                continue
            if len(line) > _MAX_LINE_BYTES:
                yield _bad(where, f"longer than {_MAX_LINE_BYTES >> 20} MiB")
            elif is_json:
                yield _json_row(text, where)
            else:
                yield _text_row(where, text)


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Lines; of one that is too long, only its beginning."""
    try:
        while line := file.readline(_MAX_LINE_BYTES + 1):
            rest = line
            while len(rest) > _MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(_MAX_LINE_BYTES + 1)
            yield line
    except OSError as error:
        raise InputError(f"cannot read {name} to its end: {error.strerror}") from error


# ── rows ────────────────────────────────────────────────────────────────────────────────────


def _text_row(where: str, text: str) -> InputRow:
    return InputRow(where, text=text, fields={"prompt": text})


def _json_row(line: str, where: str) -> InputRow:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, ValueError) else error
        return _bad(where, f"not JSON: {reason}")
    if not isinstance(fields, dict):
        return _bad(where, "not a JSON object")
    return _columns_row(where, fields)


def _columns_row(where: str, fields: dict[str, Any]) -> InputRow:
    messages = fields.get("messages")
    text = fields.get("prompt", fields.get("text"))
    return InputRow(
        where,
        text if isinstance(text, str) else None,
        messages if _are_messages(messages) else None,
        fields,
    )


def _are_messages(value: object) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and bool(value) and all(isinstance(m, Mapping) for m in value)  # type: ignore[attr-defined]


def _bad(where: str, problem: str) -> InputRow:
    return InputRow(where, error=InputError(f"{where}: {problem}"))
