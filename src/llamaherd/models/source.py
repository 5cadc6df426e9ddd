"""Finds a model's file on this machine, or brings it here.

Sources are a path, ``"demo"``, ``"hf:org/repo[:file-or-quant]"``, ``"ollama:name[:tag]"``, and
``https://`` addresses.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from llamaherd.errors import ConfigError, ModelNotFound
from llamaherd.models import download, hub, ollama

__all__ = ["LocalModel", "list_local", "resolve"]

_DEMO = Path(__file__).parent / "demo" / "demo.gguf"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that is on this machine.

    Attributes:
        source: What to give to `resolve`.
        path: Its file.
        size_bytes: Size of the file.
    """

    source: str
    path: Path
    size_bytes: int


def resolve(source: str | os.PathLike[str], *, progress: bool | None = None) -> Path:
    """Find a model's file, and download it if need be.

    Args:
        source: Path, ``"demo"``, ``"hf:..."``, ``"ollama:..."`` or ``"https://..."``.
        progress: Show a download's progress; None does in an interactive terminal.

    Returns:
        The file; of a split model, its first part. Paths are not checked here.

    Raises:
        ModelNotFound: The source names no model.
        DownloadError: The server answered wrongly or not at all.
        ConfigError: It is not a source.
    """
    if isinstance(source, os.PathLike):
        return Path(source).expanduser()
    if not isinstance(source, str) or not source.strip():
        raise ConfigError(f"the model source is {source!r}; give a path, or see Model.load")
    show = sys.stderr.isatty() if progress is None else progress
    kind, colon, rest = source.partition(":")
    if source == "demo":
        return _DEMO
    if colon and kind == "hf":
        return hub.fetch(rest, show_progress=show)
    if colon and kind == "ollama":
        return ollama.find(rest)
    if "://" in source:
        on_hub = hub.parse_url(source)
        if on_hub is not None:
            return hub.fetch_file(*on_hub, show_progress=show)
        return download.fetch(source, show_progress=show)
    path = Path(source).expanduser()
    if not path.exists() and _looks_like_repository(source):
        raise ModelNotFound(
            f"there is no file {source}; for the Hugging Face repository write hf:{source}"
        )
    return path


def list_local() -> list[LocalModel]:
    """Models on this machine: bundled, from the Hugging Face hub, from Ollama, from the web."""
    found = [("demo", _DEMO)] if _DEMO.exists() else []
    found += [*hub.list_cached(), *ollama.list_models(), *download.list_cached()]
    return [LocalModel(source, path, path.stat().st_size) for source, path in found]


def _looks_like_repository(source: str) -> bool:
    parts = source.split("/")
    if source.startswith((".", "~")) or source.endswith(".gguf") or "\\" in source:
        return False
    return len(parts) == 2 and all(parts)
