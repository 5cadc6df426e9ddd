"""Requests for embeddings in OpenAI's Batch format."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from llamaherd.embeddings.embedder import Embedder
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import InputError
from llamaherd.jobs.inputs import InputRow
from llamaherd.jobs.outputs import encode_vector
from llamaherd.jobs.work import NumberedRow, Outcome
from llamaherd.models.embedding import normalized
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
    n_dimensions = model.info.n_embd

    def texts() -> Iterator[str]:
        for index, row in rows:
            try:
                found, error = _texts(row, n_dimensions), None
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


def _texts(row: InputRow, n_dimensions: int) -> list[str]:
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
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise InputError(f"{row.where}: 'encoding_format' must be float or base64")
    wanted = body.get("dimensions")
    is_number = isinstance(wanted, int) and not isinstance(wanted, bool)
    if wanted is not None and not (is_number and 1 <= wanted <= n_dimensions):
        raise InputError(f"{row.where}: 'dimensions' must be 1 to {n_dimensions}")
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
        body = row.fields["body"]
        fields = {
            "object": "list",
            "model": str(body.get("model") or model_name),
            "data": [
                {
                    "object": "embedding",
                    "index": i,
                    "embedding": _shown(one.vector, body),
                }
                for i, one in enumerate(gathered)
                if one.vector is not None
            ],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    return Outcome(index, row, fields, problem, prompt_tokens=n_tokens)


def _shown(vector: FloatArray, body: Mapping[str, Any]) -> list[float] | str:
    """A vector in the length and form that a request asks for."""
    if body.get("dimensions") is not None:
        vector = normalized(vector[: body["dimensions"]])
    if body.get("encoding_format") == "base64":
        return encode_vector(vector)
    numbers: list[float] = vector.tolist()
    return numbers
