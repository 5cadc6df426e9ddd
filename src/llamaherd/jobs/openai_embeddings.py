"""Requests for embeddings in OpenAI's Batch format."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from llamaherd.embeddings.embedder import Embedder
from llamaherd.errors import InputError
from llamaherd.jobs.inputs import InputRow
from llamaherd.jobs.work import NumberedRow, Outcome
from llamaherd.models.model import Model
from llamaherd.results import Embedding, RowError

__all__ = ["embedding_outcomes"]

_KNOWN = frozenset({"input", "model", "encoding_format", "dimensions", "user"})


def embedding_outcomes(model: Model, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
    """Embed the inputs of requests, which are texts or lists of texts.

    Args:
        model: The model.
        rows: The requests.
    """
    in_work: deque[tuple[int, InputRow, list[str], InputError | None]] = deque()

    def texts() -> Iterator[str]:
        for index, row in rows:
            try:
                found, error = _texts(row), None
            except InputError as problem:
                # An empty text fails, and this error takes the place of that one.
                found, error = [""], problem
            in_work.append((index, row, found, error))
            yield from found

    with Embedder(model) as embedder:
        gathered: list[Embedding] = []
        for embedding in embedder.embed_iter(texts()):
            gathered.append(embedding)
            if len(gathered) == len(in_work[0][2]):
                index, row, _, error = in_work.popleft()
                yield _outcome(index, row, gathered, error, model.info.name)
                gathered = []


def _texts(row: InputRow) -> list[str]:
    if row.error is not None:
        raise InputError(str(row.error))
    fields, body = row.fields, row.fields.get("body")
    if not isinstance(fields.get("custom_id"), str) or not isinstance(body, dict):
        raise InputError(f'{row.where}: "custom_id" or "body" is missing')
    if fields.get("url") != "/v1/embeddings":
        raise InputError(f"{row.where}: a file of embeddings has no other requests")
    unknown = sorted(body.keys() - _KNOWN)
    if unknown:
        raise InputError(f"{row.where}: {unknown[0]!r} is not supported; leave it out")
    if body.get("encoding_format") not in (None, "float"):
        raise InputError(f"{row.where}: 'encoding_format' must be float")
    if body.get("dimensions") is not None:
        raise InputError(f"{row.where}: 'dimensions' is not supported; leave it out")
    match body.get("input"):
        case str(text):
            return [text]
        case [str(), *_] as texts if all(isinstance(text, str) for text in texts):
            return list(texts)
    raise InputError(f"{row.where}: 'input' is a text or a list of texts")


def _outcome(
    index: int,
    row: InputRow,
    gathered: list[Embedding],
    error: InputError | None,
    model_name: str,
) -> Outcome:
    failed = next((one.error for one in gathered if one.error is not None), None)
    problem = RowError.from_exception(error) if error is not None else failed
    n_tokens = sum(one.n_tokens for one in gathered)
    fields: dict[str, Any] = {}
    if problem is None:
        fields = {
            "object": "list",
            "model": str(row.fields["body"].get("model") or model_name),
            "data": [
                {
                    "object": "embedding",
                    "index": i,
                    "embedding": one.vector.tolist() if one.vector is not None else [],
                }
                for i, one in enumerate(gathered)
            ],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    return Outcome(index, row, fields, problem, prompt_tokens=n_tokens)
