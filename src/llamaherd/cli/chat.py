"""`llamaherd chat`: a conversation with streamed answers."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from llamaherd.cli.progress import say
from llamaherd.config import GenerationConfig
from llamaherd.errors import PromptTooLong, RequestError, TemplateError
from llamaherd.models.model import Model

__all__ = ["talk"]

Messages = list[dict[str, str]]


def talk(source: str, load: dict[str, Any], config: GenerationConfig, system: str | None) -> None:
    """Read questions and stream answers until the input ends.

    Args:
        source: The model.
        load: Further arguments of `Model.load`.
        config: How to generate.
        system: System message.
    """
    is_terminal = sys.stdin.isatty()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    with Model.load(source, **load) as model:
        if not model.info.chat_template:
            raise TemplateError(
                "this model brings no chat template, so it cannot chat; use: llamaherd run --raw"
            )
        if is_terminal:
            _greet(model)
        messages = opening = [{"role": "system", "content": system}] if system else []
        while (question := _ask(is_terminal)) not in (None, "/exit", "/quit"):
            if question == "/reset":
                messages = opening
            elif question:
                messages = _turn(model, [*messages, {"role": "user", "content": question}], config)


def _greet(model: Model) -> None:
    say(f"{model.info.name}: /reset forgets the conversation, /exit leaves")
    with contextlib.suppress(ImportError):
        # Arrow keys and history for input(), where Python has it.
        import readline  # noqa: F401


def _ask(is_terminal: bool) -> str | None:
    """The next line without spaces around it; None at the end."""
    while True:
        try:
            return input("> " if is_terminal else "").strip()
        except EOFError:
            if is_terminal:
                say("")
            return None
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            say("\n/exit or Ctrl-D leaves")


def _turn(model: Model, messages: Messages, config: GenerationConfig) -> Messages:
    """Answer the last message; return the conversation after it, without a turn that failed.

    Ctrl-C ends the answer, and what there is of it counts.
    """
    parts: list[str] = []
    problem = None
    try:
        with contextlib.closing(model.stream(messages, config)) as stream:  # type: ignore[type-var]
            for piece in stream:
                parts.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
    except KeyboardInterrupt:
        problem = "stopped"
    except PromptTooLong as error:
        problem = f"{error}; /reset begins a new conversation"
    except RequestError as error:
        problem = str(error)
    sys.stdout.write("\n")
    sys.stdout.flush()
    if problem is not None:
        say(f"[{problem}]")
    if not parts:
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": "".join(parts)}]
