"""Splits text into the words that a byte-level BPE tokenizer merges within.

Tokens never cross these borders, so a text's tokens are its words' tokens, and words repeat.
The patterns are llama.cpp's (`llm_tokenizer_bpe`), written for Python's `re`: one for ASCII
text, and one for characters whose kind has been the same since Unicode 3.2, on which every
table agrees. Any other text is not split here.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

__all__ = ["WordSplitter", "make_word_splitter"]

WordSplitter = Callable[[str], "list[str] | None"]

# L, N and S stand for the inside of the character classes of letters, numbers and white space.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[L]+| ?[N]+| ?[^SLN]+|[S]+(?![^S])|[S]+"
# Digits are cut out first, each on its own, so white space before one is at an end.
_DIGITS_THEN_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[L]+|[N]| ?[^SLN]+|[S]+(?![^SN])|[S]+"
_CONTRACTION = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_REST = r" ?[^SLN]+[\r\n]*|[S]*[\r\n]+|[S]+(?![^S])|[S]+"
_LLAMA3 = _CONTRACTION + r"|[^\r\nLN]?[L]+|[N]{1,3}|" + _REST
_QWEN2 = _CONTRACTION + r"|[^\r\nLN]?[L]+|[N]|" + _REST

_PATTERNS = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "modern-bert"), _GPT2),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        _DIGITS_THEN_GPT2,
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "dbrx", "smaug-bpe"),
        _LLAMA3,
    ),
    **dict.fromkeys(("chatglm-bpe", "glm4"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), _QWEN2),
}
# Characters above this plane are rare in text and not worth the time to classify.
_LAST_CLASSIFIED = 0x2FFFF
_SPACE_POINTS = frozenset(
    [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]
    + [0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
)


def make_word_splitter(pre: str) -> WordSplitter | None:
    """Make the splitter of a pre-tokenizer.

    Args:
        pre: Its name in GGUF, ``tokenizer.ggml.pre``.

    Returns:
        A function from a text to its words, or to None if it has characters that are not
        classified here. None for pre-tokenizers that are not known here.
    """
    pattern = _PATTERNS.get(pre)
    if pattern is None:
        return None
    split_ascii = re.compile(_fill(pattern, "a-zA-Z", "0-9", r"\t-\r ")).findall

    def split(text: str) -> list[str] | None:
        if text.isascii():
            return split_ascii(text)
        if _unclassified()(text):
            return None
        return _compile_unicode(pattern)(text)

    return split


def _fill(pattern: str, letters: str, numbers: str, spaces: str) -> str:
    """Put the classes in; the placeholders are the only capitals inside brackets."""
    inside = {"L": letters, "N": numbers, "S": spaces}

    def fill_class(match: re.Match[str]) -> str:
        return re.sub(r"[SLN]", lambda m: inside[m[0]], match[0])

    # Contractions have classes of letters of their own, in pairs such as [sS].
    return re.sub(r"\[(?![a-z][A-Z]\])[^]]*\]", fill_class, pattern)


@functools.cache
def _compile_unicode(pattern: str) -> Callable[[str], list[str]]:
    classes = _classes()
    return re.compile(_fill(pattern, *(_as_ranges(points) for points in classes[:3]))).findall


@functools.cache
def _unclassified() -> Callable[[str], object]:
    return re.compile(f"[^{_as_ranges(_classes()[3])}]").search


@functools.cache
def _classes() -> tuple[list[int], list[int], list[int], list[int]]:
    """Code points of letters, of numbers, of white space, and of everything classified."""
    now, then = unicodedata.category, unicodedata.ucd_3_2_0.category
    letters, numbers, known = [], [], []
    for point in range(_LAST_CLASSIFIED + 1):
        character = chr(point)
        category = now(character)
        if category in ("Cn", "Co", "Cs") or then(character) != category:
            continue
        known.append(point)
        if category[0] == "L":
            letters.append(point)
        elif category[0] == "N":
            numbers.append(point)
    return letters, numbers, sorted(_SPACE_POINTS & set(known)), known


def _as_ranges(points: list[int]) -> str:
    """The inside of a character class that matches these sorted code points."""
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
