"""`llamaherd tokenize`: texts in, token ids out."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

from llamaherd.cli.exits import EXIT_FAILED_ROWS, EXIT_OK
from llamaherd.cli.output import RowWriter
from llamaherd.cli.run import list_failures
from llamaherd.errors import InputError, InvalidPrompt, LlamaherdError
from llamaherd.jobs.inputs import InputRow, read_rows
from llamaherd.models.model import Model

__all__ = ["TokenizeOptions", "tokenize_texts"]

_TOGETHER = 1000
_MAX_LISTED = 10


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
) -> int:
    """Print a line per text; return the exit code. Of a text that is wrong the line is empty."""
    rows = read_rows(texts, path, keeps_blank=True)
    failures: list[str] = []
    n_failed = 0
    with (
        RowWriter("-", source=path, overwrite=False) as writer,
        Model.load(source, vocab_only=True) as model,
    ):
        while together := list(itertools.islice(rows, _TOGETHER)):
            encoded = _encode(model, together, options)
            errors = [str(e) for e in encoded if isinstance(e, LlamaherdError)]
            n_failed += len(errors)
            failures += errors[: _MAX_LISTED - len(failures)]
            writer.write("\n".join(_line(model, e, options) for e in encoded))
    list_failures(failures, n_failed)
    return EXIT_FAILED_ROWS if n_failed else EXIT_OK


def _encode(
    model: Model, rows: list[InputRow], options: TokenizeOptions
) -> list[list[int] | LlamaherdError]:
    """Tokens of each row, or its error."""
    texts = [row.text or "" for row in rows]
    try:
        encoded = model.tokenize_batch(texts, add_bos=options.bos, special=options.special)
    except InvalidPrompt:
        # One of them is no valid text. Find out which, one by one.
        return [_encode_one(model, row, options) for row in rows]
    errors = [_problem(row) for row in rows]
    return [error or tokens for error, tokens in zip(errors, encoded, strict=True)]


def _encode_one(
    model: Model, row: InputRow, options: TokenizeOptions
) -> list[int] | LlamaherdError:
    try:
        return _problem(row) or model.tokenize(row.text or "", options.bos, options.special)
    except InvalidPrompt as error:
        return InputError(f"{row.where}: {error}")


def _problem(row: InputRow) -> LlamaherdError | None:
    if row.error is None and row.text is None:
        return InputError(f'{row.where}: the row has no "prompt" or "text"')
    return row.error


def _line(model: Model, encoded: list[int] | LlamaherdError, options: TokenizeOptions) -> str:
    """What to print for a text; nothing for one that is wrong."""
    if isinstance(encoded, LlamaherdError):
        return json.dumps({"error": str(encoded)}) if options.json else ""
    pieces = [model.detokenize([t], special=True) for t in encoded] if options.pieces else []
    if options.json:
        record: dict[str, object] = {"n_tokens": len(encoded)}
        if not options.count:
            record["tokens"] = encoded
        if options.pieces:
            record["pieces"] = pieces
        return json.dumps(record, ensure_ascii=False)
    if options.count:
        return str(len(encoded))
    if options.pieces:
        return " ".join(f"{t}:{piece!r}" for t, piece in zip(encoded, pieces, strict=True))
    return " ".join(map(str, encoded))
