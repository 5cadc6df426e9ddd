"""Downloads model files from plain web addresses into a cache.

A broken connection is taken up where it broke, also by a later process, as long as the server
says that the file is still the same. A file appears under its name only when it is complete
and, if a checksum is known (``#sha256=...`` at the end of the address), correct.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

from llamaherd.errors import ConfigError, DownloadError, ModelError, ModelNotFound
from llamaherd.llama.gguf_file import check_model_file

__all__ = ["cache_folder", "fetch", "list_cached"]

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 100_000_000
_TIMEOUT_S = 30.0
# Attempts in a row that bring nothing, before giving up.
_MAX_FRUITLESS = 4
_FIRST_PAUSE_S = 0.5


def cache_folder() -> Path:
    """Where downloads are kept: LLAMAHERD_CACHE, or the platform's folder for caches."""
    chosen = os.environ.get("LLAMAHERD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llamaherd"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "llamaherd" / "cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llamaherd"


def fetch(url: str, *, show_progress: bool = False) -> Path:
    """Download a file, or find it in the cache.

    Args:
        url: ``https://`` address, or ``http://`` on this machine; ``#sha256=...`` is checked.
        show_progress: Show a progress bar.

    Raises:
        ConfigError: The address is not allowed.
        ModelNotFound: The server has no such file.
        DownloadError: It refused, broke off for good, or sent something else.
    """
    _check_address(url)
    address, fragment = urldefrag(url)
    checksum = _parse_checksum(fragment)
    # Another checksum means another file, so the whole address is the key.
    folder = cache_folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = folder / _file_name(address)
    if target.exists():
        return target
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not target.exists():
            part = _Part(target.with_name(target.name + ".part"), address, show_progress)
            part.complete()
            _check_content(part.path, checksum, url)
            # Only now, and at once, does the file get its name.
            part.path.replace(target)
            (folder / "url").write_text(url, encoding="utf-8")
            part.validator_path.unlink(missing_ok=True)
    return target


def list_cached() -> Iterator[tuple[str, Path]]:
    """Address and file of each downloaded model."""
    for note in sorted((cache_folder() / "urls").glob("*/url")):
        for path in note.parent.glob("*.gguf"):
            yield note.read_text(encoding="utf-8"), path


@dataclass(slots=True)
class _Part:
    """A file on its way."""

    path: Path
    url: str
    show_progress: bool

    @property
    def validator_path(self) -> Path:
        """Where the server's name for this version of the file is kept."""
        return self.path.with_name(self.path.name + ".etag")

    def complete(self) -> None:
        """Go on until the file is there."""
        fruitless = 0
        while True:
            before = self._size()
            try:
                if self._receive():
                    return
                reason: Exception = DownloadError("the connection broke off")
            except _http_errors() as error:
                reason = error
            fruitless = 0 if self._size() > before else fruitless + 1
            if fruitless >= _MAX_FRUITLESS:
                raise DownloadError(
                    f"the download of {self.url} failed: {reason}; what has arrived is kept, "
                    "so trying again goes on from there"
                ) from reason
            time.sleep(_FIRST_PAUSE_S * 2**fruitless)

    def _receive(self) -> bool:
        """One request; True when the file is complete."""
        from huggingface_hub import get_session

        session: Any = get_session()
        headers = {"Accept-Encoding": "identity"}
        validator = self._validator()
        if self._size() and validator:
            headers |= {"Range": f"bytes={self._size()}-", "If-Range": validator}
        with session.stream(
            "GET", self.url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True
        ) as response:
            if response.status_code == 416:
                self.path.unlink()
                return False
            _check_status(response, self.url)
            return self._write(response)

    def _write(self, response: Any) -> bool:
        offset = self._size() if response.status_code == 206 else 0
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        self.validator_path.write_text("" if validator.startswith("W/") else validator)
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else None
        if total is not None:
            _check_space(self.path.parent, total - offset)
        with (
            self.path.open("ab" if offset else "wb") as file,
            _progress_bar(self.path.stem, total, offset, self.show_progress) as bar,
        ):
            # As it arrives: chunks of a fixed size would lose the last one at a break.
            for chunk in response.iter_raw():
                file.write(chunk)
                bar.update(len(chunk))
        return total is None or self._size() == total

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _validator(self) -> str:
        path = self.validator_path
        return path.read_text(encoding="utf-8") if path.exists() else ""


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
        return
    if parts.scheme == "http":
        raise ConfigError(
            f"{url} is not encrypted, so anyone on the way could change the model; use https://"
        )
    raise ConfigError(f"{parts.scheme}:// is not a model source; use a path, hf:, ollama: or https")


def _parse_checksum(fragment: str) -> str | None:
    if not fragment:
        return None
    kind, _, value = fragment.partition("=")
    value = value.lower()
    if kind != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ConfigError(f"#{fragment} is not a checksum; write #sha256= and 64 hex digits")
    return value


def _file_name(address: str) -> str:
    name = unquote(urlsplit(address).path).replace("\\", "/").rsplit("/", 1)[-1]
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".")
    return safe if safe.endswith(".gguf") else f"{safe or 'model'}.gguf"


def _check_status(response: Any, url: str) -> None:
    # A redirect must not lead out of what was allowed.
    _check_address(str(response.url))
    status = response.status_code
    if status in (200, 206):
        return
    if status in (404, 410):
        raise ModelNotFound(f"there is no file at {url} (the server answered {status})")
    if status in (401, 403):
        raise DownloadError(
            f"the server refused {url} ({status}); download it in a browser and give its path"
        )
    if status in (408, 429) or status >= 500:
        raise ConnectionError(f"the server answered {status}")
    raise DownloadError(f"the server answered {status} for {url}")


def _check_space(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes + _SPARE_BYTES > free:
        raise DownloadError(
            f"the file needs {n_bytes / 1e9:.1f} GB but {folder} has {free / 1e9:.1f} GB free; "
            "make room, or set LLAMAHERD_CACHE to another disk"
        )


def _check_content(path: Path, checksum: str | None, url: str) -> None:
    """Delete what is not the model that was asked for."""
    try:
        if checksum is not None:
            found = _sha256(path)
            if found != checksum:
                raise DownloadError(
                    f"{url} has another content: its SHA-256 is {found}; the file was changed, "
                    "or the checksum is wrong"
                )
        check_model_file(path)
    except ModelError as error:
        path.unlink(missing_ok=True)
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{url} did not give a model: {error}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _progress_bar(name: str, total: int | None, done: int, show: bool) -> Any:
    from huggingface_hub.utils.tqdm import tqdm

    return tqdm(  # type: ignore[no-untyped-call]
        desc=name, total=total, initial=done, unit="B", unit_scale=True, disable=not show
    )


def _http_errors() -> tuple[type[Exception], ...]:
    """What a connection can fail with, in the HTTP library that huggingface_hub uses."""
    from huggingface_hub import errors

    return (errors.HTTPError, ConnectionError, TimeoutError)  # type: ignore[attr-defined]
