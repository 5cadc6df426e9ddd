"""The durable record of a job: one line per finished row, and what the job is.

A line is with the operating system as soon as its row is finished, so that it survives the end of
the process, and on the disk within a second, so that it survives the end of the machine. A line
that was cut short is removed when the job goes on, and its row runs again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from typing_extensions import Self

from llamaherd.errors import JobChanged, OutputError

__all__ = ["JobLog", "LineParser", "parse_line", "read_settings"]

_SYNC_SECONDS = 1.0
_LINE = re.compile(rb'\{"index": (\d+), "success": (true|false)[,}].*\}\n', re.DOTALL)

LineParser = Callable[[bytes], tuple[int, bool] | None]
"""From a line to the row's index and whether it succeeded; None if the line is damaged."""


def parse_line(line: bytes) -> tuple[int, bool] | None:
    """Index and success of a record of a job."""
    match = _LINE.fullmatch(line)
    return (int(match[1]), match[2] == b"true") if match else None


def read_settings(path: Path) -> dict[str, Any] | None:
    """What the job of a log is; None if there is no job.

    Raises:
        OutputError: The file that says so is damaged.
    """
    settings = _settings_path(path)
    try:
        known = json.loads(settings.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{settings} cannot be read: {error}; begin anew with overwrite (--overwrite)"
        ) from error
    return known if isinstance(known, dict) else {}


class JobLog:
    """The log of one job. Use it as a context manager.

    Beside `path` lie ``path.job.json``, which says what the job is, and, while it runs,
    ``path.lock``, which keeps other processes out.

    Args:
        path: The log.
        settings: What the job is, as plain data. A job goes on only with the same.
        overwrite: Begin anew, whatever is there.
        accept_changes: Go on even if the settings are not those of the rows that are done.
        retry_failed: Let rows that failed run again.
        parse: Reads a line.

    Attributes:
        n_done: Rows that are in the log.
        n_failed: Those of them that failed.

    Raises:
        JobChanged: The log belongs to another job.
        OutputError: It cannot be written, another process writes it, or there is a file that is
            no job's.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        accept_changes: bool = False,
        retry_failed: bool = False,
        parse: LineParser = parse_line,
    ) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._parse = parse
        self._done = bytearray()
        self.n_done = self.n_failed = 0
        self._descriptor: int | None = None
        self._length = 0
        self._is_dirty = False
        self._sync_error: OSError | None = None
        self._closing = threading.Event()
        self._take_lock()
        try:
            with self._errors("write"):
                known = None if overwrite else read_settings(path)
                if overwrite or (known is None and not path.exists()):
                    self._begin(settings)
                else:
                    self._check_settings(known, settings, accept_changes)
                    self._read(drops_failed=retry_failed)
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                self._length = os.fstat(self._descriptor).st_size
        except BaseException:
            self._release_lock()
            raise
        self._syncing = threading.Thread(target=self._sync_often, name="llamaherd-log", daemon=True)
        self._syncing.start()

    def is_done(self, index: int) -> bool:
        """Whether a row is in the log."""
        byte, bit = divmod(index, 8)
        return byte < len(self._done) and bool(self._done[byte] >> bit & 1)

    def append(self, index: int, line: str, *, success: bool) -> None:
        """Add a finished row.

        Raises:
            OutputError: It cannot be written, for example because the disk is full. The log is as
                it was before, so that the job can go on.
        """
        assert self._descriptor is not None
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._errors("go on writing"):
            if self._sync_error is not None:
                raise self._sync_error
            try:
                n_written = os.write(self._descriptor, data)
                while n_written < len(data):
                    n_written += os.write(self._descriptor, data[n_written:])
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._length)
                raise
        self._length += len(data)
        self._is_dirty = True
        self._mark(index, success)

    def close(self) -> None:
        """Bring everything to the disk. May be called twice.

        Raises:
            OutputError: That failed.
        """
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        self._closing.set()
        self._syncing.join()
        try:
            with self._errors("finish"):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
            self._release_lock()

    def discard(self) -> None:
        """Close and remove the log and what belongs to it, but for the settings."""
        self.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ── what was there before ───────────────────────────────────────────────────────────

    def _begin(self, settings: Mapping[str, Any]) -> None:
        self._path.unlink(missing_ok=True)
        _replace(
            _settings_path(self._path), json.dumps(settings, ensure_ascii=False, indent=1).encode()
        )

    def _check_settings(
        self, known: dict[str, Any] | None, settings: Mapping[str, Any], accept_changes: bool
    ) -> None:
        if known is None:
            raise OutputError(
                f"{self._path} exists and is no job's output; name another, or begin anew with "
                "overwrite (--overwrite)"
            )
        # As JSON would give them back.
        wanted = json.loads(json.dumps(settings))
        changes = [
            f"  {name}: {_shown(known.get(name))} -> {_shown(wanted.get(name))}"
            for name in sorted({*known, *wanted})
            if known.get(name) != wanted.get(name)
        ]
        if changes and not accept_changes:
            raise JobChanged(
                "\n".join(
                    [
                        f"{self._path} was begun with other settings:",
                        *changes,
                        "take the old ones, name another output, begin anew with overwrite "
                        "(--overwrite), or go on with accept_changes (--accept-changes)",
                    ]
                )
            )
        if changes:
            _replace(
                _settings_path(self._path),
                json.dumps(wanted, ensure_ascii=False, indent=1).encode(),
            )

    def _read(self, *, drops_failed: bool) -> None:
        """Learn which rows are done. Lines that are damaged, or to be done again, are removed."""
        if not self._path.exists():
            return
        if all(is_kept for is_kept, _ in self._scan(drops_failed)):
            return
        new = self._path.with_name(self._path.name + ".tmp")
        with new.open("wb") as out:
            out.writelines(line for is_kept, line in self._scan(drops_failed) if is_kept)
            out.flush()
            os.fsync(out.fileno())
        new.replace(self._path)

    def _scan(self, drops_failed: bool) -> Iterator[tuple[bool, bytes]]:
        """Every line, and whether it stays; those that do are on the books afterwards."""
        self._done.clear()
        self.n_done = self.n_failed = 0
        with self._path.open("rb") as file:
            for line in file:
                parsed = self._parse(line)
                is_kept = (
                    parsed is not None
                    and not (drops_failed and not parsed[1])
                    and not self.is_done(parsed[0])
                )
                if parsed is not None and is_kept:
                    self._mark(*parsed)
                yield is_kept, line

    def _mark(self, index: int, success: bool) -> None:
        byte, bit = divmod(index, 8)
        if byte >= len(self._done):
            self._done.extend(bytes(byte + 1 - len(self._done)))
        self._done[byte] |= 1 << bit
        self.n_done += 1
        self.n_failed += not success

    # ── the disk ────────────────────────────────────────────────────────────────────────

    def _sync_often(self) -> None:
        descriptor = self._descriptor
        assert descriptor is not None
        while not self._closing.wait(_SYNC_SECONDS):
            if not self._is_dirty:
                continue
            self._is_dirty = False
            try:
                os.fsync(descriptor)
            except OSError as error:
                self._sync_error = error
                return

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot {verb} {self._path}: {error.strerror or error}; {self.n_done} rows are "
                "in it, and the same job goes on from there"
            ) from error

    def _take_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(f"another process is working on {self._path}") from error
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error

    def _release_lock(self) -> None:
        self._lock.release()
        with contextlib.suppress(OSError):
            os.unlink(self._lock.lock_file)


def _settings_path(path: Path) -> Path:
    return path.with_name(path.name + ".job.json")


def _replace(path: Path, data: bytes) -> None:
    """Write a file as a whole: afterwards there is the old one or the new one."""
    new = path.with_name(path.name + ".tmp")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
