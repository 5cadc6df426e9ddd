"""Reads rows from arguments, files and standard input, one at a time.

A line that cannot be read becomes a row with an error that names the line, so that the others
still run.
"""

from __future__ import annotations

import itertools
import json
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from llamaherd.errors import InputError, LlamaherdError

__all__ = ["InputRow", "count_rows", "read_rows"]

_JSON_NAMES = (".jsonl", ".ndjson")
# A file without line ends is no list of prompts.
_MAX_LINE_BYTES = 64 * 1024 * 1024
# Counting the rows of larger files would take seconds.
_MAX_COUNTED_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row of input.

    Attributes:
        where: Such as ``"reviews.txt, line 7"``.
        id: The row's own id, as it was given.
        text: Plain text of the row, if it has one.
        messages: Chat messages, if the row brings them.
        fields: All fields of a JSON row.
        error: Why the row cannot be used.
    """

    where: str
    id: object = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    error: LlamaherdError | None = None


def read_rows(
    prompts: tuple[str, ...], source: str | None, *, keeps_blank: bool = False
) -> Iterator[InputRow]:
    """Rows from arguments, else from a file, else from standard input.

    Args:
        prompts: Prompts given as arguments.
        source: A path; ``"-"`` or None is standard input. Files ending in ``.jsonl`` have an
            object per line with ``prompt`` or ``messages``, and optionally ``id``.
        keeps_blank: A blank line is a row of its own instead of nothing.

    Raises:
        InputError: The input cannot be opened, or has no rows.
    """
    if prompts and source is not None:
        raise InputError("give prompts as arguments or with --input, not both")
    if prompts:
        return (InputRow(f"argument {i}", text=p) for i, p in enumerate(prompts, 1))
    if source not in (None, "-"):
        path = Path(str(source))
        name, rows = str(path), _file_rows(path, keeps_blank)
    elif source is None and sys.stdin.isatty():
        raise InputError("nothing to do: give arguments, or --input FILE, or pipe lines in")
    else:
        name = "standard input"
        rows = _rows(sys.stdin.buffer, name, is_json=None, keeps_blank=keeps_blank)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{name} is empty")
    return itertools.chain([first], rows)


def count_rows(source: str | None) -> int | None:
    """Rows in a file, for progress; None if counting would take long, or use the input up."""
    if source in (None, "-"):
        return None
    status = Path(str(source)).stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_COUNTED_BYTES:
        return None
    with Path(str(source)).open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def _file_rows(path: Path, keeps_blank: bool) -> Iterator[InputRow]:
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file")
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    is_json = path.suffix.lower() in _JSON_NAMES
    return _rows(file, path.name, is_json=is_json, keeps_blank=keeps_blank)


def _rows(
    file: BinaryIO, name: str, *, is_json: bool | None, keeps_blank: bool
) -> Iterator[InputRow]:
    """A row per line. Standard input is JSON if its first line is an object."""
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
                yield InputRow(where, text=text)


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


def _json_row(line: str, where: str) -> InputRow:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, ValueError) else error
        return _bad(where, f"not JSON: {reason}")
    if not isinstance(fields, dict):
        return _bad(where, "not a JSON object")
    row_id, messages = fields.get("id"), fields.get("messages")
    text = fields.get("prompt", fields.get("text"))
    if messages is not None and not _are_messages(messages):
        return _bad(where, '"messages" is not a list of objects', row_id)
    if text is not None and not isinstance(text, str):
        return _bad(where, '"prompt" is not a text', row_id)
    return InputRow(where, row_id, text=text, messages=messages, fields=fields)


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) for m in value)


def _bad(where: str, problem: str, row_id: object = None) -> InputRow:
    return InputRow(where, row_id, error=InputError(f"{where}: {problem}"))
