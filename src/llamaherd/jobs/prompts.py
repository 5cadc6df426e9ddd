"""Turns rows of a table into prompts: ``"Classify: {title}"``, or a Jinja template."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta

from llamaherd.errors import ConfigError, InputError, TemplateError
from llamaherd.jobs.inputs import InputRow
from llamaherd.models.model import Model, Prompt
from llamaherd.models.template_sandbox import TemplateSandbox

__all__ = ["PromptMaker", "RowTemplate", "TextMaker", "read_template"]


@dataclass(frozen=True)
class RowTemplate:
    """A text with places for the columns of a row.

    Attributes:
        source: As the user wrote it.
        jinja: The same as a Jinja template.
        columns: Columns that it needs.
        parts: Pieces of text, each with the column after it; empty if it is a Jinja template.
        uses_row: Whether a Jinja template asks for the whole row.
    """

    source: str
    jinja: str
    columns: frozenset[str]
    parts: tuple[tuple[str, str | None], ...] = ()
    uses_row: bool = False

    @classmethod
    def braces(cls, source: str) -> RowTemplate:
        """A template such as ``"Classify: {title}"``; ``{{`` and ``}}`` are braces.

        Raises:
            ConfigError: Braces are wrong, or it has no column.
        """
        hint = "write {{ and }} for braces that are not a column"
        try:
            parsed = list(string.Formatter().parse(source))
        except ValueError as error:
            raise ConfigError(f"the prompt {source!r}: {error}; {hint}") from error
        for _, name, format_spec, conversion in parsed:
            if name == "" or format_spec or conversion:
                raise ConfigError(
                    f"the prompt {source!r}: a column is a name, such as {{text}}; {hint}"
                )
        names = frozenset(name for _, name, _, _ in parsed if name)
        if not names:
            raise ConfigError(
                f"the prompt {source!r} has no column such as {{text}}, so that all rows would "
                "be the same"
            )
        parts = tuple((text, name) for text, name, _, _ in parsed)
        return cls(source, "".join(itertools.starmap(_in_jinja, enumerate(parts))), names, parts)

    @classmethod
    def from_jinja(cls, source: str) -> RowTemplate:
        """A Jinja template, whose variables are the columns; ``row`` is the row itself.

        Raises:
            ConfigError: It is no valid template.
        """
        try:
            names = jinja2.meta.find_undeclared_variables(TemplateSandbox().parse(source))
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f", line {line}" if line else ""
            raise ConfigError(f"the prompt template{where}: {error}") from error
        return cls(source, source, frozenset(names - {"row"}), uses_row="row" in names)

    def values(self, row: InputRow) -> dict[str, Any]:
        """The columns of a row; values that are not text are written as JSON.

        Raises:
            InputError: The row lacks a column.
        """
        if self.columns <= row.fields.keys():
            return row.fields
        values = dict(row.fields)
        if row.text is not None:
            values.setdefault("text", row.text)
        missing = sorted(self.columns - values.keys())
        if missing:
            known = ", ".join(map(str, values)) or "none"
            raise InputError(f"{row.where}: no column {missing[0]!r}; there are: {known}")
        return values

    def variables(self, values: Mapping[str, Any]) -> dict[str, str]:
        """What `jinja` is to be rendered with."""
        if not self.parts:
            return {name: _as_text(value) for name, value in values.items()}
        return {
            _variable(i): _as_text(values[name])
            for i, (_, name) in enumerate(self.parts)
            if name is not None
        }


class PromptMaker:
    """Makes the prompts of a job.

    Text of rows never becomes a control token: with a chat template it goes into messages, and
    without one only what the job's own template says can be one.

    Args:
        model: Whose prompts they are.
        template: How a row becomes a text; None takes the row's own text or messages.
        system: System message for rows that bring none.
        raw: Do without the chat template.
        examples: (question, answer) pairs, shown to the model as turns before each row.

    Raises:
        ConfigError: The options contradict each other.
    """

    def __init__(
        self,
        model: Model,
        template: RowTemplate | None,
        *,
        system: str | None,
        raw: bool,
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        has_chat = model.info.chat_template
        if system and raw:
            raise ConfigError("a system message needs the chat template; leave out raw")
        if system and not has_chat:
            raise ConfigError("a system message needs a chat template, and this model brings none")
        if examples and (raw or not has_chat):
            why = "leave out raw" if raw else "this model brings none"
            raise ConfigError(
                f"examples need a chat template; {why}, or write them into the prompt"
            )
        self._examples = [[question, answer] for question, answer in examples]
        self._uses_chat = has_chat and not raw
        self._raw = raw
        self._template = template
        self._system = system
        self._plain = None
        self._chat = None
        if template is not None and self._uses_chat:
            self._chat = TextMaker(template)
        elif template is not None and template.uses_row:
            raise ConfigError("without a chat template, a prompt file names columns, not row")
        elif template is not None:
            self._plain = model.raw_template(template.jinja)

    @property
    def columns(self) -> frozenset[str]:
        """Columns that every row needs."""
        return self._template.columns if self._template is not None else frozenset()

    def settings(self) -> dict[str, Any]:
        """What decides about the prompts, as plain data."""
        settings = {
            "prompt": self._template.source if self._template is not None else None,
            "system": self._system,
            "raw": self._raw,
        }
        # Without examples there is no entry, as in jobs that were begun before there were any.
        return {**settings, "examples": self._examples} if self._examples else settings

    def of(self, row: InputRow) -> Prompt:
        """The prompt of a row.

        Raises:
            InputError: The row lacks what the prompt needs.
        """
        if row.error is not None:
            raise row.error
        if self._template is not None:
            values = self._template.values(row)
            if self._plain is not None:
                return self._plain(self._template.variables(values))
            assert self._chat is not None
            text = self._chat.render(values)
        elif row.messages is not None:
            return self._with_messages(row, row.messages)
        elif row.text is None:
            raise InputError(_problem(row))
        else:
            text = row.text
        if not self._uses_chat or not text:
            return text
        return self._after_beginning([{"role": "user", "content": text}])

    def _with_messages(self, row: InputRow, messages: list[dict[str, Any]]) -> Prompt:
        if self._raw:
            raise InputError(f"{row.where}: messages need the chat template; leave out raw")
        return self._after_beginning(messages)

    def _after_beginning(self, messages: list[dict[str, Any]]) -> Prompt:
        """Messages after a system message, their own if they bring one, and the examples."""
        if not self._system and not self._examples:
            return messages
        head: list[dict[str, Any]] = []
        if messages[0].get("role") == "system":
            head, messages = messages[:1], messages[1:]
        elif self._system:
            head = [{"role": "system", "content": self._system}]
        turns = [
            {"role": role, "content": text}
            for example in self._examples
            for role, text in zip(("user", "assistant"), example, strict=True)
        ]
        return [*head, *turns, *messages]


def _problem(row: InputRow) -> str:
    """Why a row is no prompt."""
    if row.fields.get("messages") is not None:
        return f'{row.where}: "messages" is not a list of objects'
    if row.fields.get("prompt") is not None:
        return f'{row.where}: "prompt" is not a text'
    known = ", ".join(map(str, row.fields)) or "none"
    return (
        f'{row.where}: the row has neither "prompt" nor "messages", but: {known}; '
        "say what to ask with a prompt such as 'Classify: {title}'"
    )


class TextMaker:
    """Makes a text of every row, such as the text of a message.

    Args:
        template: How; None takes the row's own text.
    """

    def __init__(self, template: RowTemplate | None) -> None:
        self._source = template
        self._parts = template.parts if template is not None else ()
        self._sandbox = TemplateSandbox()
        self._template = self._sandbox.from_string(template.jinja if template is not None else "")

    @property
    def columns(self) -> frozenset[str]:
        """Columns that every row needs; ``text`` is also a line of text, or the prompt of a row."""
        return self._source.columns if self._source is not None else frozenset({"text"})

    def of(self, row: InputRow) -> str:
        """The text of a row.

        Raises:
            InputError: The row lacks what the text needs.
            TemplateError: The template failed.
        """
        if row.error is not None:
            raise row.error
        if self._source is not None:
            return self.render(self._source.values(row))
        if row.text is None:
            known = ", ".join(map(str, row.fields)) or "none"
            raise InputError(
                f'{row.where}: the row has no column "text", but: {known}; say what its text is '
                "with a prompt such as '{title}'"
            )
        return row.text

    def render(self, values: Mapping[str, Any]) -> str:
        """The template with the columns in it."""
        if self._parts:
            return "".join(
                text if name is None else text + _as_text(values[name])
                for text, name in self._parts
            )
        shown = {name: _as_text(value) for name, value in values.items()}
        self._sandbox.start_render()
        # A template can fail in any way that an expression on wrong data can.
        try:
            return self._template.render({**shown, "row": shown})
        except Exception as error:
            raise TemplateError(f"the prompt template failed: {error}") from error


def _in_jinja(number: int, part: tuple[str, str | None]) -> str:
    text, name = part
    literal = "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""
    # Columns may have any name.
    return literal + ("{{ " + _variable(number) + " }}" if name else "")


def _variable(number: int) -> str:
    return f"column_{number}"


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def read_template(prompt: str | None, prompt_file: str | None) -> RowTemplate | None:
    """The template that was asked for, if any.

    Raises:
        ConfigError: Both are given, or the template is wrong.
        InputError: The file cannot be read.
    """
    if prompt is not None and prompt_file is not None:
        raise ConfigError("give a prompt or a prompt file, not both")
    if prompt is not None:
        return RowTemplate.braces(prompt)
    if prompt_file is None:
        return None
    try:
        with open(prompt_file, encoding="utf-8") as file:
            source = file.read()
    except OSError as error:
        raise InputError(f"cannot read {prompt_file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{prompt_file} is not UTF-8") from error
    return RowTemplate.from_jinja(source)
