"""From token bytes to text: never half a character, never part of a stop string.

No input or output of its own: bytes in, safe text out, `flush` at the end. The text does
not depend on how the bytes were cut into pieces.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

__all__ = ["StopMatcher", "TextStream", "strip_control", "strip_thinking"]

_THINKING = re.compile(r"<think>.*?(?:</think>\s*|\Z)", re.DOTALL)


class StopMatcher:
    """Finds the first stop string in text that arrives in pieces.

    The stop string whose match ends first wins; among those the one that begins first.
    (With "begins first wins" the result would depend on how the text was cut.)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; return what can no longer become part of a stop string."""
        if self.stopped:
            return ""
        text = self._held + text
        end, start = min(
            (
                (position + len(stop), position)
                for stop in self._stops
                if (position := text.find(stop)) >= 0
            ),
            default=(-1, -1),
        )
        if end >= 0:
            self.stopped = True
            self._held = ""
            return text[:start]
        keep = self._length_to_hold(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text held back, once no more can follow."""
        held, self._held = self._held, ""
        return held

    def _length_to_hold(self, text: str) -> int:
        """Length of the longest end of `text` that is a proper beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


class TextStream:
    """One row's bytes as text."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stops) if stops else None
        self._parts: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._matcher is not None and self._matcher.stopped

    @property
    def text(self) -> str:
        """Everything returned so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def push(self, piece: bytes) -> str:
        """Add the bytes of a token; return the text that is safe to show."""
        return self._emit(self._decoder.decode(piece))

    def flush(self) -> str:
        """End of the row: return what was held back."""
        shown = self._emit(self._decoder.decode(b"", final=True))
        if self._matcher is not None and not self._matcher.stopped:
            held = self._matcher.flush()
            if held:
                self._parts.append(held)
                shown += held
        return shown

    def _emit(self, text: str) -> str:
        if self._matcher is not None and text:
            text = self._matcher.push(text)
        if text:
            self._parts.append(text)
        return text


def strip_thinking(text: str) -> str:
    """Remove ``<think>...</think>`` passages, also one that was never closed."""
    return _THINKING.sub("", text)


def strip_control(text: str) -> str:
    """Remove written-out control tokens such as ``<|eot_id|>`` and surrounding white space."""
    return re.sub(r"<\|[^|<>\s]{1,64}\|>|</?s>", "", text).strip()
