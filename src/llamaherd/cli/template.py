"""Makes the prompt of a row from a template such as ``"Classify: {text}"``."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass

from typing_extensions import Self

from llamaherd.cli.inputs import InputRow
from llamaherd.errors import ConfigError, InputError

__all__ = ["Template"]


@dataclass(frozen=True, slots=True)
class Template:
    """Text with fields in braces: ``{text}`` is the row's own text.

    Attributes:
        parts: Pieces of text, each with the name of the field after it.
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, source: str) -> Self:
        """Read a template.

        Raises:
            ConfigError: Braces are wrong, or it has no field.
        """
        hint = "write {{ and }} for braces that are not a field"
        try:
            parsed = list(string.Formatter().parse(source))
        except ValueError as error:
            raise ConfigError(f"--prompt: {error}; {hint}") from error
        for _, name, format_spec, conversion in parsed:
            if name == "" or format_spec or conversion:
                raise ConfigError(f"--prompt: a field is a name, such as {{text}}; {hint}")
        if not any(name for _, name, _, _ in parsed):
            raise ConfigError(
                "--prompt has no field such as {text}, so that all rows would be the same"
            )
        return cls(tuple((text, name) for text, name, _, _ in parsed))

    def fill(self, row: InputRow) -> str:
        """The prompt of a row; values that are not text are written as JSON.

        Raises:
            InputError: The row lacks a field.
        """
        values = dict(row.fields)
        if row.text is not None:
            values["text"] = row.text
        pieces: list[str] = []
        for text, name in self.parts:
            pieces.append(text)
            if name is None:
                continue
            if name not in values:
                known = ", ".join(sorted(values)) or "none"
                raise InputError(
                    f"{row.where}: no field {name!r} for the template; it has: {known}"
                )
            value = values[name]
            pieces.append(
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )
        return "".join(pieces)
