"""Conversations as files: small JSON, checked against the model, replaced in one step."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaherd.errors import InputError, OutputError
from llamaherd.models.model import Model

__all__ = ["Conversation", "read_conversation", "write_conversation"]

_FORMAT = "llamaherd conversation"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said so far: chat messages, or token ids. Both empty at the start."""

    messages: tuple[Mapping[str, Any], ...] = ()
    tokens: tuple[int, ...] = ()


def write_conversation(path: Path, conversation: Conversation, model: Model) -> None:
    """Write a file; whatever goes wrong, one that was there before stays whole.

    Raises:
        OutputError: It cannot be written.
    """
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": {"name": model.info.name, "fingerprint": model.fingerprint()},
        "messages": list(conversation.messages),
        "tokens": list(conversation.tokens),
    }
    try:
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    except (TypeError, ValueError) as error:
        raise OutputError(f"a message cannot be written as JSON: {error}") from error
    try:
        _replace(path, text)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def read_conversation(path: Path, model: Model) -> Conversation:
    """Read a file.

    Raises:
        InputError: It cannot be read, is damaged, or belongs to another model.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no saved conversation, or it was cut short: {error}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path} is no saved conversation")
    if content.get("version") != _VERSION:
        raise InputError(
            f"{path} has version {content.get('version')!r} of the format; "
            f"this release reads version {_VERSION}"
        )
    _check_model(path, content.get("model"), model)
    messages: Any = content.get("messages")
    tokens: Any = content.get("tokens")
    if not _are_messages(messages) or not _are_tokens(tokens) or (messages and tokens):
        raise InputError(f"{path} is damaged: its messages or tokens are not what was written")
    return Conversation(tuple(messages), tuple(tokens))


def _check_model(path: Path, saved: object, model: Model) -> None:
    if not isinstance(saved, dict) or not isinstance(saved.get("fingerprint"), str):
        raise InputError(f"{path} is damaged: it does not say which model it belongs to")
    if saved["fingerprint"] != model.fingerprint():
        raise InputError(
            f"{path} belongs to another model ({saved.get('name')!r}, this is "
            f"{model.info.name!r}); load that model"
        )


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in value
    )


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(token) is int and token >= 0 for token in value)
