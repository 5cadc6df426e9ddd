"""What travels between this process and its workers: tuples, lists, dicts, numbers and text only.

    to a worker      ("start", load options, engine options, cores)
                     ("rows", [row, ...])           rows to run
                     ("cancel", [key, ...])         rows to stop
    from a worker    ("ready",)                     the model is loaded
                     ("failed", text)               it cannot be
                     ("text", key, text, tokens)    more text of a row that is streamed
                     ("done", key, result, stats)   a row's outcome, and the engine's counters

A row is (key, tokens, options of its GenerationConfig, seed, priority, whether it is streamed,
tokens to be scored).
"""

from __future__ import annotations

from dataclasses import asdict, astuple, fields
from typing import Any

from llamaherd.config import EngineConfig, GenerationConfig, ThreadPoolConfig
from llamaherd.engine.request import Request, Sink
from llamaherd.results import (
    FinishReason,
    GenerationResult,
    ProcessorStats,
    RowError,
    TokenLogprob,
)

__all__ = [
    "pack_engine_config",
    "pack_request",
    "pack_result",
    "pack_stats",
    "unpack_engine_config",
    "unpack_request",
    "unpack_result",
    "unpack_stats",
]

Row = tuple[int, list[int], dict[str, Any], int, int, bool, tuple[int, ...]]


def pack_request(key: int, request: Request) -> Row:
    """A request as plain data."""
    config = {f.name: getattr(request.config, f.name) for f in fields(request.config)}
    config["logit_bias"] = dict(request.config.logit_bias)
    streaming = request.sink.streaming
    return (
        key,
        list(request.tokens),
        config,
        request.seed,
        request.priority,
        streaming,
        request.scored_tokens,
    )


def unpack_request(row: Row, sink: Sink) -> Request:
    """A request in the worker; its key is its index."""
    key, tokens, config, seed, priority, _, scored = row
    return Request(
        tokens,
        GenerationConfig(**config),
        sink,
        seed,
        index=key,
        priority=priority,
        scored_tokens=scored,
    )


def pack_result(result: GenerationResult) -> dict[str, Any]:
    """A result as plain data."""
    return {**asdict(result), "finish_reason": str(result.finish_reason)}


def unpack_result(packed: dict[str, Any], request: Request) -> GenerationResult:
    """A result as its caller knows it."""
    error, logprobs = packed["error"], packed["logprobs"]
    return GenerationResult(
        **{
            **packed,
            "finish_reason": FinishReason(packed["finish_reason"]),
            "error": None if error is None else RowError(**error),
            "logprobs": None if logprobs is None else tuple(TokenLogprob(**p) for p in logprobs),
            "index": request.index,
            "id": request.id,
            "choice": request.choice,
        }
    )


def pack_stats(stats: ProcessorStats) -> tuple[float, ...]:
    """Counters as plain data."""
    return astuple(stats)


def unpack_stats(packed: tuple[Any, ...]) -> ProcessorStats:
    """Counters of one worker."""
    return ProcessorStats(*packed)


def pack_engine_config(config: EngineConfig) -> dict[str, Any]:
    """Batching options as plain data."""
    return asdict(config)


def unpack_engine_config(packed: dict[str, Any]) -> EngineConfig:
    """Batching options in the worker."""
    thread_pool = ThreadPoolConfig(**packed["thread_pool"])
    return EngineConfig(**{**packed, "thread_pool": thread_pool})
