"""Marks, in the data given to a chat template, what could be read as a control token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llamaherd.errors import InvalidPrompt
from llamaherd.models.tokenizing import SpecialTokens

__all__ = ["Marker"]

# Noncharacters: never in text that was meant for exchange.
_MARKS = [chr(point) for point in range(0xFDD0, 0xFDF0)]
# Templates compare roles with these, and some write them into their markup: <|user|>.
_ROLES = frozenset(
    {"assistant", "developer", "function", "ipython", "model", "system", "tool", "user"}
)


class Marker:
    """Finds and marks occurrences of tokens, and of parts that a template could complete.

    Args:
        special: Tokens that must not come from the data.
        template: Source of the template.
    """

    def __init__(self, special: SpecialTokens, template: str) -> None:
        texts = list(special.tokens)
        self._special = special
        self._template = template
        self._longest = max(map(len, texts), default=0)
        self._prefixes = {text[:n] for text in texts for n in range(1, len(text))}
        self._suffixes = {text[n:] for text in texts for n in range(1, len(text))}
        self._all = "\n".join(texts)
        self._firsts = _any_of({text[0] for text in texts})
        self._lasts = _any_of({text[-1] for text in texts})

    def choose_mark(self, data: object) -> str | None:
        """A mark that does not occur in the data, or None if nothing must be marked.

        Raises:
            InvalidPrompt: There is something in the data that is neither text nor number, nor
                list or dict of such.
        """
        if not any(self._places(text) for text in _texts(data)):
            return None
        used = "".join(_texts(data)) + self._template
        for mark in _MARKS:
            if mark not in used:
                return mark
        raise InvalidPrompt("the messages use all of the noncharacters U+FDD0 to U+FDEF")

    def mark_messages(self, messages: list[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
        """Copies of messages with marks; well-known roles stay what they are."""
        return [
            {
                self._mark_text(key, mark): value
                if key == "role" and value in _ROLES
                else self.mark(value, mark)
                for key, value in message.items()
            }
            for message in messages
        ]

    def mark(self, data: Any, mark: str) -> Any:
        """A copy of data with marks in its texts."""
        if isinstance(data, str):
            return self._mark_text(data, mark)
        if isinstance(data, Mapping):
            return {self.mark(key, mark): self.mark(value, mark) for key, value in data.items()}
        if isinstance(data, (list, tuple)):
            return [self.mark(value, mark) for value in data]
        return data

    def _mark_text(self, text: str, mark: str) -> str:
        at = 0
        pieces = []
        for place in sorted(self._places(text)):
            pieces.append(text[at:place])
            at = place
        return mark.join([*pieces, text[at:]])

    def _places(self, text: str) -> set[int]:
        """Where marks go, so that no token can be complete with or without text around."""
        if text in _ROLES or not text:
            return set()
        places = set()
        is_special, is_prefix, is_suffix = (self._special.starts_at, self._prefixes, self._suffixes)
        # Templates trim texts, so the ends that count may lie further in.
        end, start = len(text.rstrip()), len(text) - len(text.lstrip())
        for match in self._firsts(text):
            i = match.start()
            if is_special(text, i):
                places.add(i + 1)
            elif len(text) - i < self._longest or end - i < self._longest:
                if text[i:] in is_prefix or text[i:end] in is_prefix:
                    places.add(i + 1)
        for match in self._lasts(text, 0, start + self._longest):
            i = match.end()
            if text[:i] in is_suffix or text[start:i] in is_suffix:
                places.add(i - 1)
        # A short text could be the middle of a token.
        if end - start < self._longest and text[start:end] and text[start:end] in self._all:
            places.add(start)
        return places


def _any_of(characters: set[str]) -> Any:
    """Finds any of some characters in text."""
    pattern = "[" + "".join(map(re.escape, sorted(characters))) + "]" if characters else "(?!)"
    return re.compile(pattern).finditer


def _texts(data: object) -> Iterator[str]:
    """All texts in the data, keys included."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _texts(value)
    elif data is not None and not isinstance(data, (bool, int, float)):
        raise InvalidPrompt(
            f"chat messages and template variables hold a {type(data).__name__}; "
            "only text, numbers, lists and dicts are allowed"
        )
