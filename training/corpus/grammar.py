"""A tiny template language: ``{slot}`` is replaced by a random entry of that slot's list."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

_SLOT = re.compile(r"\{([A-Za-z_0-9]+)\}")

Filler = Callable[[random.Random], str]
Slots = Mapping[str, "Sequence[str] | Filler"]


def words(text: str) -> list[str]:
    """Splits a hand-written list: entries are separated by ``;`` or line ends."""
    entries = (entry.strip() for entry in re.split(r"[;\n]", text))
    return [entry for entry in entries if entry]


def expand(template: str, slots: Slots, rng: random.Random) -> str:
    """Fills every slot of a template, and the slots inside the fillings.

    Args:
        template: Text with ``{slot}`` marks.
        slots: Lists to choose from, or functions that make a filling up.
        rng: Source of randomness; equal states give equal text.

    Returns:
        The text without any slots left.
    """

    def fill(match: re.Match[str]) -> str:
        source = slots[match.group(1)]
        text = source(rng) if callable(source) else rng.choice(source)
        return expand(text, slots, rng) if "{" in text else text

    return _SLOT.sub(fill, template)


def first_upper(text: str) -> str:
    """Upper-cases the first letter and leaves the rest alone."""
    return text[:1].upper() + text[1:]


_SMALL = frozenset("a an the of in on at for to by and or as with from over into".split())


def title_case(text: str) -> str:
    """Capitalises the words of a headline, except the short connecting ones."""
    parts = text.split(" ")
    return " ".join(
        part if i and part in _SMALL else first_upper(part) for i, part in enumerate(parts)
    )
