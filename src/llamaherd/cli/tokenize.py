"""`llamaherd tokenize`: texts in, token ids out."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from llamaherd.cli.inputs import read_rows
from llamaherd.models.model import Model

__all__ = ["TokenizeOptions", "tokenize_texts"]

_TOGETHER = 1000


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """What to print, and how to tokenize."""

    count: bool
    pieces: bool
    json: bool
    special: bool
    bos: bool


def tokenize_texts(
    source: str, texts: tuple[str, ...], path: str | None, options: TokenizeOptions
) -> None:
    """Print a line per text."""
    lines = _texts(texts, path)
    with Model.load(source, vocab_only=True) as model:
        while together := list(itertools.islice(lines, _TOGETHER)):
            encoded = model.tokenize_batch(together, add_bos=options.bos, special=options.special)
            for tokens in encoded:
                sys.stdout.write(_line(model, tokens, options) + "\n")


def _texts(texts: tuple[str, ...], path: str | None) -> Iterator[str]:
    for row in read_rows(texts, path):
        if row.error is not None:
            raise row.error
        yield row.text


def _line(model: Model, tokens: list[int], options: TokenizeOptions) -> str:
    pieces = [model.detokenize([t], special=True) for t in tokens] if options.pieces else []
    if options.json:
        record: dict[str, object] = {"n_tokens": len(tokens)}
        if not options.count:
            record["tokens"] = tokens
        if options.pieces:
            record["pieces"] = pieces
        return json.dumps(record, ensure_ascii=False)
    if options.count:
        return str(len(tokens))
    if options.pieces:
        return " ".join(f"{t}:{piece!r}" for t, piece in zip(tokens, pieces, strict=True))
    return " ".join(map(str, tokens))
