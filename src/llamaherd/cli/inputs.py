"""Rows for the commands: from arguments, a file or standard input, one at a time."""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from llamaherd.errors import InputError, LlamaherdError

__all__ = ["InputRow", "count_lines", "fill_template", "read_rows"]


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row of input.

    Attributes:
        where: Such as ``"reviews.txt, line 7"``.
        id: The row's own id, if it has one.
        text: Plain text of the row.
        messages: Chat messages, if the row brings them.
        fields: All fields of a JSON row.
        error: Why the row cannot be used.
    """

    where: str
    id: str | None = None
    text: str = ""
    messages: list[dict[str, Any]] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    error: LlamaherdError | None = None


def read_rows(prompts: tuple[str, ...], source: str | None) -> Iterator[InputRow]:
    """Rows from arguments, else from a file, else from standard input.

    Args:
        prompts: Prompts given as arguments.
        source: A path; ``"-"`` or None is standard input. Files ending in ``.jsonl`` have an
            object per line with ``prompt`` or ``messages``, and optionally ``id``.

    Raises:
        InputError: The input cannot be opened, or has no rows.
    """
    if prompts and source is not None:
        raise InputError("give prompts as arguments or with --input, not both")
    if prompts:
        return (InputRow(f"argument {i}", text=p) for i, p in enumerate(prompts, 1))
    if source is None and sys.stdin.isatty():
        raise InputError("no prompts: give them as arguments, with --input FILE, or pipe them in")
    if source in (None, "-"):
        return _lines(sys.stdin.buffer, "standard input", is_json=None)
    return _file_rows(Path(str(source)))


def count_lines(source: str | None) -> int | None:
    """Rows in a file, for progress; None if that is not known beforehand."""
    if source in (None, "-"):
        return None
    with Path(str(source)).open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def fill_template(template: str, row: InputRow) -> str:
    """Put a row into a template such as ``"Classify: {text}"``.

    Raises:
        InputError: The template names a field that the row does not have.
    """
    values = {**row.fields, "text": row.text}
    for _, name, _, _ in string.Formatter().parse(template):
        if name is not None and name not in values:
            known = ", ".join(sorted(values))
            raise InputError(f"{row.where}: no field {name!r} for the template; it has: {known}")
    return "".join(
        literal + (str(values[name]) if name is not None else "")
        for literal, name, _, _ in string.Formatter().parse(template)
    )


def _file_rows(path: Path) -> Iterator[InputRow]:
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file")
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if path.stat().st_size == 0:
        file.close()
        raise InputError(f"{path} is empty")
    return _lines(file, path.name, is_json=path.suffix == ".jsonl")


def _lines(file: BinaryIO, name: str, *, is_json: bool | None) -> Iterator[InputRow]:
    """A row per line that is not blank. Standard input is JSON if its first line is an object."""
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            if is_json is None:
                is_json = line.lstrip().startswith(b"{")
            try:
                text = line.decode("utf-8").strip("\r\n").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                yield InputRow(where, error=InputError(f"{where}: not UTF-8 ({error.reason})"))
                continue
            yield _json_row(text, where) if is_json else InputRow(where, text=text)


def _json_row(line: str, where: str) -> InputRow:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        return InputRow(where, error=InputError(f"{where}: not JSON: {error.msg}"))
    if not isinstance(fields, dict):
        return InputRow(where, error=InputError(f"{where}: not a JSON object"))
    row_id = str(fields["id"]) if fields.get("id") is not None else None
    messages = fields.get("messages")
    if messages is not None:
        return InputRow(where, row_id, messages=messages, fields=fields)
    text = fields.get("prompt", fields.get("text", ""))
    if not isinstance(text, str):
        return InputRow(where, row_id, error=InputError(f"{where}: the prompt is not a text"))
    return InputRow(where, row_id, text=text, fields=fields)
