"""Where rows are written: a file or standard output, always UTF-8, flushed row by row."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TextIO

from typing_extensions import Self

from llamaherd.errors import OutputError

__all__ = ["RowWriter"]


class RowWriter:
    """Writes lines. Use it as a context manager.

    The file is opened first, so that a place that cannot be written is known before a model is
    loaded, and an old file is emptied by the first line only.

    Args:
        target: A path, or ``"-"`` for standard output.
        source: The path that is read meanwhile, if any; it cannot be the target.
        overwrite: Replace a file that exists.

    Raises:
        OutputError: It cannot be written, exists, or is the input.
    """

    def __init__(self, target: str, *, source: str | None, overwrite: bool) -> None:
        self._path = None if target == "-" else Path(target)
        self._n_lines = 0
        self._is_new = False
        if self._path is None:
            self._file: TextIO = sys.stdout
            return
        self._check(self._path, source, overwrite)
        self._is_new = not self._path.exists()
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        self._file = open(
            descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        )

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches the lines come."""
        return self._path is None and self._file.isatty()

    def write_json(self, record: dict[str, object]) -> None:
        """Write an object. Half surrogate pairs come out as JSON escapes."""
        self.write(json.dumps(record, ensure_ascii=False))

    def write(self, line: str) -> None:
        """Write a line and flush it, so that a reader has it at once and a crash keeps it.

        Raises:
            OutputError: It cannot be written, for example because the disk is full.
            BrokenPipeError: The reader has gone.
        """
        try:
            if self._n_lines == 0:
                self._empty()
            self._file.write(line + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            name = self._path or "standard output"
            raise OutputError(
                f"cannot write {name}: {error.strerror}; {self._n_lines} rows are written"
            ) from error
        self._n_lines += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._file.close()
        if self._n_lines == 0 and self._is_new:
            self._path.unlink(missing_ok=True)

    def _empty(self) -> None:
        if self._path is not None and self._path.is_file():
            self._file.truncate(0)

    @staticmethod
    def _check(path: Path, source: str | None, overwrite: bool) -> None:
        if not path.is_file():
            return
        if source not in (None, "-") and path.samefile(str(source)):
            raise OutputError(f"{path} is the input; name another output")
        if not overwrite:
            raise OutputError(f"{path} exists; name another output, or add --overwrite")
