"""Finds models that Ollama has downloaded. Reads its folder only; needs no server."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from llamaherd.errors import ModelLoadError, ModelNotFound

__all__ = ["find", "list_models"]

_REGISTRY, _LIBRARY = "registry.ollama.ai", "library"
_MODEL_LAYER = "application/vnd.ollama.image.model"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def find(name: str) -> Path:
    """File of a model, by its name in Ollama.

    Args:
        name: Such as ``"llama3.2"``, ``"llama3.2:1b"`` or ``"someone/model:tag"``.

    Raises:
        ModelNotFound: Ollama has no such model; the message lists what it has.
        ModelLoadError: Ollama's files are damaged.
    """
    model, _, tag = name.partition(":")
    parts = [*model.split("/"), tag or "latest"]
    # The name becomes a path, so nothing in it may lead out of Ollama's folder.
    if not 2 <= len(parts) <= 4 or not all(_NAME.fullmatch(part) for part in parts):
        raise ModelNotFound(f"{name!r} is not a model name of Ollama, such as llama3.2:1b")
    prefix = [_REGISTRY, _LIBRARY][: 4 - len(parts)]
    manifest = _folder().joinpath("manifests", *prefix, *parts)
    if not manifest.is_file():
        known = ", ".join(source for source, _ in list_models())
        has = f"it has: {known}" if known else f"there are no models in {_folder()}"
        raise ModelNotFound(
            f"Ollama has no model {name!r} ({has}); get it with: ollama pull {name}"
        )
    blob = _read_manifest(manifest)
    if not blob.is_file():
        raise ModelLoadError(f"Ollama's file of {name!r} is missing ({blob}); pull it again")
    return blob


def list_models() -> Iterator[tuple[str, Path]]:
    """Source and file of each model."""
    manifests = _folder() / "manifests"
    for manifest in sorted(manifests.glob("*/*/*/*")):
        try:
            blob = _read_manifest(manifest)
        except ModelLoadError:
            continue
        host, user, model, tag = manifest.relative_to(manifests).parts
        prefix = "" if host == _REGISTRY else f"{host}/{user}/"
        if not prefix and user != _LIBRARY:
            prefix = f"{user}/"
        if blob.is_file():
            yield f"ollama:{prefix}{model}:{tag}", blob


def _folder() -> Path:
    chosen = os.environ.get("OLLAMA_MODELS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".ollama" / "models"


def _read_manifest(path: Path) -> Path:
    """The file of the layer that holds the weights."""
    try:
        layers = json.loads(path.read_text(encoding="utf-8"))["layers"]
        digests = [str(layer["digest"]) for layer in layers if layer["mediaType"] == _MODEL_LAYER]
        if len(digests) == 1 and _DIGEST.fullmatch(digests[0]):
            return _folder() / "blobs" / digests[0].replace(":", "-")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"Ollama's manifest {path} cannot be read: {error}") from error
    raise ModelLoadError(f"Ollama's manifest {path} does not name one model file")
