"""OpenAI's Batch format: a request per line in, a response per line out.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from llamaherd.config import GenerationConfig
from llamaherd.engine.seeds import draw_seed
from llamaherd.errors import ConfigError, InputError, LlamaherdError
from llamaherd.jobs.inputs import InputRow
from llamaherd.jobs.job import RecordForm
from llamaherd.jobs.openai_embeddings import embedding_outcomes
from llamaherd.jobs.work import NumberedRow, Outcome
from llamaherd.models.model import Prompt
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.processing.rows import NumberedPrompt
from llamaherd.results import GenerationResult, RowError, TokenLogprob

__all__ = ["BATCH_FORM", "BatchAnswers"]

_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_EMBEDDINGS = "/v1/embeddings"
# Without an effect on the answer.
_IGNORED = frozenset({"metadata", "model", "service_tier", "store", "stream_options", "user"})
_SAME = ("temperature", "top_p", "seed", "n", "presence_penalty", "frequency_penalty")
_OUR_OWN = ("top_k", "min_p", "repeat_penalty")
_DEFAULTS: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 200}
_LINE = re.compile(
    rb'\{"id": "batch_req_(\d+)", "custom_id": .*"error": (null|\{.*\})\}\n', re.DOTALL
)


@dataclass
class _Gathered:
    """A request in work."""

    index: int
    row: InputRow
    error: LlamaherdError | None
    n_choices: int
    results: list[GenerationResult]


class BatchAnswers:
    """Answers the requests of a batch file.

    Args:
        processor: Runs the rows.
        max_tokens: Most tokens of answers whose request does not say.
    """

    def __init__(self, processor: ParallelProcessor, *, max_tokens: int) -> None:
        self.columns = frozenset[str]()
        self._processor = processor
        self._max_tokens = max_tokens
        self._seed = draw_seed()

    def settings(self) -> dict[str, Any]:
        """What decides about the answers beside the requests."""
        return {"task": "openai batch", "max_tokens": self._max_tokens, "seed": self._seed}

    def go_on(self, settings: Mapping[str, Any]) -> None:
        """Take the seed of an earlier run."""
        self._seed = settings.get("seed", self._seed)

    def outcomes(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        """Answer the requests. A file that begins with an embedding has only those."""
        first = next(rows, None)
        if first is None:
            return
        rows = itertools.chain([first], rows)
        if first[1].fields.get("url") == _EMBEDDINGS:
            yield from embedding_outcomes(self._processor.model, rows)
        else:
            yield from self._answers(rows)

    def _answers(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        in_work: dict[int, _Gathered] = {}

        def prompts() -> Iterator[NumberedPrompt]:
            for position, (index, row) in enumerate(rows):
                prompt: Prompt = ""
                config = GenerationConfig.greedy()
                error: LlamaherdError | None = None
                try:
                    prompt, config = self._read(row)
                except LlamaherdError as problem:
                    # An empty prompt fails, and this error takes the place of that one.
                    error = problem
                in_work[position] = _Gathered(index, row, error, config.n, [])
                yield NumberedPrompt(prompt, index, config)

        call = GenerationConfig(seed=self._seed)
        for result in self._processor.generate_iter(prompts(), call):
            gathered = in_work[result.index]
            gathered.results.append(result)
            if len(gathered.results) == gathered.n_choices:
                del in_work[result.index]
                yield self._outcome(gathered)

    def _read(self, row: InputRow) -> tuple[Prompt, GenerationConfig]:
        """Prompt and options of a request.

        Raises:
            InputError: The request is wrong, or asks for what does not exist.
        """
        if row.error is not None:
            raise row.error
        fields, body = row.fields, row.fields.get("body")
        if not isinstance(fields.get("custom_id"), str):
            raise InputError(f'{row.where}: "custom_id" is missing')
        if not isinstance(body, dict):
            raise InputError(f'{row.where}: "body" is not an object')
        url = fields.get("url")
        if url == _EMBEDDINGS:
            raise InputError(f"{row.where}: embeddings need a file of their own")
        if url not in (_CHAT, _COMPLETIONS):
            raise InputError(f'{row.where}: "url" is {url!r}; allowed: {_CHAT}, {_COMPLETIONS}')
        try:
            options = _options(body, is_chat=url == _CHAT)
            options.setdefault("max_tokens", self._max_tokens if url == _CHAT else 16)
            return _prompt(body, is_chat=url == _CHAT), GenerationConfig(**options)
        except (ConfigError, InputError) as error:
            raise InputError(f"{row.where}: {error}") from error

    def _outcome(self, gathered: _Gathered) -> Outcome:
        results = sorted(gathered.results, key=lambda result: result.choice)
        first = results[0]
        failed = next((result.error for result in results if result.error is not None), None)
        error = RowError.from_exception(gathered.error) if gathered.error is not None else failed
        fields: dict[str, Any] = {}
        if error is None:
            is_chat = gathered.row.fields["url"] == _CHAT
            body = gathered.row.fields["body"]
            name = body.get("model") or self._processor.model.info.name
            fields = _response(gathered.index, str(name), results, is_chat)
        return Outcome(
            gathered.index,
            gathered.row,
            fields,
            error,
            is_cancelled=error is not None and error.type == "RequestCancelled",
            prompt_tokens=first.prompt_tokens,
            cached_tokens=first.cached_tokens,
            generated_tokens=sum(result.tokens_generated for result in results),
        )


# ── requests ────────────────────────────────────────────────────────────────────────────────


def _prompt(body: Mapping[str, Any], *, is_chat: bool) -> Prompt:
    name = "messages" if is_chat else "prompt"
    value = body.get(name)
    if is_chat or isinstance(value, str):
        if not value or not isinstance(value, list if is_chat else str):
            raise InputError(f'"{name}" is missing or of the wrong type')
        return cast("Prompt", value)
    match value:
        case [str(text)]:
            return text
        case [int(), *_] | [[int(), *_]]:
            return cast("Prompt", value[0] if isinstance(value[0], list) else value)
    raise InputError('"prompt" is a text or one list of token ids; a request has one prompt')


def _options(body: Mapping[str, Any], *, is_chat: bool) -> dict[str, Any]:
    options = dict(_DEFAULTS)
    known = {*_IGNORED, "messages" if is_chat else "prompt"}
    for name in (*_SAME, *_OUR_OWN):
        known.add(name)
        if body.get(name) is not None:
            options[name] = body[name]
    for name, read in _READERS.items():
        known.add(name)
        if body.get(name) is not None:
            options.update(read(body[name], is_chat))
    unknown = sorted(name for name in body.keys() - known if body[name] is not None)
    if unknown:
        raise InputError(f"{unknown[0]!r} is not supported; leave it out")
    if options.get("temperature") == 0:
        options.pop("seed", None)
    return options


def _read_stream(value: Any, is_chat: bool) -> dict[str, Any]:
    if value:
        raise InputError("'stream' has no place in a batch; leave it out")
    return {}


def _read_stop(value: Any, is_chat: bool) -> dict[str, Any]:
    return {"stop": (value,) if isinstance(value, str) else tuple(value)}


def _read_bias(value: Any, is_chat: bool) -> dict[str, Any]:
    try:
        return {"logit_bias": {int(token): float(bias) for token, bias in value.items()}}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError("'logit_bias' is not a mapping from token ids to numbers") from error


def _read_logprobs(value: Any, is_chat: bool) -> dict[str, Any]:
    if is_chat:
        return {"logprobs": 0} if value is True else {}
    return {"logprobs": value}


def _read_format(value: Any, is_chat: bool) -> dict[str, Any]:
    match value:
        case {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"json_schema": {"type": "object"}}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"json_schema": schema}
    raise InputError("'response_format' is text, json_object, or json_schema with a schema")


_READERS: dict[str, Callable[[Any, bool], dict[str, Any]]] = {
    "stream": _read_stream,
    "max_tokens": lambda value, is_chat: {"max_tokens": value},
    "max_completion_tokens": lambda value, is_chat: {"max_tokens": value},
    "stop": _read_stop,
    "logit_bias": _read_bias,
    "logprobs": _read_logprobs,
    "top_logprobs": lambda value, is_chat: {"logprobs": value},
    "response_format": _read_format,
}


# ── responses ───────────────────────────────────────────────────────────────────────────────


def _response(
    index: int, model: str, results: list[GenerationResult], is_chat: bool
) -> dict[str, Any]:
    n_prompt = results[0].prompt_tokens
    n_new = sum(result.tokens_generated for result in results)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{index}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [_choice(result, is_chat) for result in results],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_new,
            "total_tokens": n_prompt + n_new,
            "prompt_tokens_details": {"cached_tokens": results[0].cached_tokens},
        },
    }


def _choice(result: GenerationResult, is_chat: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": result.choice,
        "finish_reason": result.finish_reason.value,
        "logprobs": None,
    }
    if is_chat:
        choice["message"] = {"role": "assistant", "content": result.text, "refusal": None}
        if result.logprobs is not None:
            choice["logprobs"] = {"content": [_chat_logprob(entry) for entry in result.logprobs]}
        return choice
    choice["text"] = result.text
    if result.logprobs is not None:
        choice["logprobs"] = {
            "tokens": [entry.text for entry in result.logprobs],
            "token_logprobs": [entry.logprob for entry in result.logprobs],
            "top_logprobs": [
                {text: value for _, text, value in entry.top} for entry in result.logprobs
            ],
        }
    return choice


def _chat_logprob(entry: TokenLogprob) -> dict[str, Any]:
    return {
        **_token_logprob(entry.text, entry.logprob),
        "top_logprobs": [_token_logprob(text, value) for _, text, value in entry.top],
    }


def _token_logprob(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _write(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    return {
        "id": f"batch_req_{outcome.index}",
        "custom_id": outcome.row.fields.get("custom_id"),
        "response": None
        if error is not None
        else {
            "status_code": 200,
            "request_id": f"req_{outcome.index}",
            "body": dict(outcome.fields),
        },
        "error": None if error is None else {"code": error.type, "message": error.message},
    }


def _parse(line: bytes) -> tuple[int, bool] | None:
    match = _LINE.fullmatch(line)
    return (int(match[1]), line.endswith(b'"error": null}\n')) if match else None


BATCH_FORM = RecordForm(_write, _parse)
"""How the lines of an output file are written and read."""
