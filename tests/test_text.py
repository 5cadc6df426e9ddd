"""Text that arrives in pieces: the same however it is cut, and never half of anything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamaherd.engine.text import TextStream, strip_control, strip_thinking

ALPHABET = st.sampled_from("ab\u00e9\u4e2d\U0001f600")
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3)


def first_stop(text: str, stops: list[str]) -> str:
    """The obvious implementation: the first prefix that ends with a stop string."""
    for end in range(1, len(text) + 1):
        hits = [s for s in stops if text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


@given(st.text(ALPHABET, max_size=20), STOPS, st.lists(st.integers(0, 80), max_size=12))
def test_text_does_not_depend_on_the_cuts(text: str, stops: list[str], cuts: list[int]) -> None:
    """Bytes cut anywhere, also inside a character or a stop string, give the same text."""
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    stream = TextStream(stops)
    shown = [stream.push(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    shown.append(stream.flush())
    assert "".join(shown) == stream.text == first_stop(text, stops)


@given(st.text(ALPHABET, max_size=20), STOPS)
def test_nothing_shown_is_taken_back(text: str, stops: list[str]) -> None:
    """Every piece is final: no part of a stop string and no broken character is ever shown."""
    stream = TextStream(stops)
    shown = ""
    for byte in text.encode():
        shown += stream.push(bytes([byte]))
        assert "\ufffd" not in shown
        assert not any(stop in shown for stop in stops)


def test_invalid_bytes_are_replaced() -> None:
    """A model may write bytes that are no text; they must not raise."""
    stream = TextStream()
    assert stream.push(b"\xff\xe4\xb8") + stream.flush() == "\ufffd\ufffd"


def test_strip() -> None:
    """Control tokens and thinking are removed, ordinary text is not."""
    assert strip_control(" a <|eot_id|>b</s>\n") == "a b"
    assert strip_control("1 < 2 | 3 > 2") == "1 < 2 | 3 > 2"
    assert strip_thinking("<think>hm\n</think>\n\nyes") == "yes"
    assert strip_thinking("yes <think>but") == "yes "
