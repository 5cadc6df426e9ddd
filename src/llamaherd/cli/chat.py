"""`llamaherd chat`: a conversation with streamed answers."""

from __future__ import annotations

import contextlib
import sys

from llamaherd.cli.progress import say
from llamaherd.config import GenerationConfig
from llamaherd.errors import RequestError
from llamaherd.models.model import Model

__all__ = ["talk"]


def talk(model: Model, config: GenerationConfig, system: str | None) -> None:
    """Read questions and stream answers until the input ends."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        say(f"{model.info.name}: /reset forgets the conversation, /exit leaves")
        with contextlib.suppress(ImportError):
            # Arrow keys and history for input(), where Python has it.
            import readline  # noqa: F401
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    while (question := _ask(is_terminal)) is not None:
        if question in ("/exit", "/quit"):
            break
        if question == "/reset":
            messages = list(opening)
            continue
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": _answer(model, messages, config)})


def _ask(is_terminal: bool) -> str | None:
    """The next line without spaces around it; None at the end."""
    try:
        return input("> " if is_terminal else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None


def _answer(model: Model, messages: list[dict[str, str]], config: GenerationConfig) -> str:
    """Stream an answer; Ctrl-C ends the answer, not the conversation."""
    parts: list[str] = []
    stream = model.stream(messages, config)
    try:
        for piece in stream:
            parts.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        say(" [interrupted]")
    except RequestError as error:
        say(f"[{error}]")
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(parts)
