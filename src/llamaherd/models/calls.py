"""Single calls on an engine: wait for one answer, or read it while it is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from llamaherd.config import GenerationConfig
from llamaherd.engine.request import Request, RowEngine, Sink
from llamaherd.engine.seeds import draw_seed
from llamaherd.errors import (
    ConfigError,
    LlamaherdError,
    RequestCancelled,
    RequestError,
    RequestTimeout,
)
from llamaherd.results import FinishReason, GenerationResult

__all__ = [
    "AnswerSink",
    "Closeable",
    "StreamSink",
    "failure_of",
    "make_request",
    "read_stream",
    "wait_for",
]


class Closeable(Protocol):
    """Something that uses a model's weights until it is closed."""

    def close(self) -> None:
        """Stop using them. May be called twice."""
        ...


def make_request(
    tokens: list[int],
    config: GenerationConfig,
    sink: Sink,
    *,
    id: str | None = None,
    priority: int = 0,
) -> Request:
    """The request of a single call.

    Args:
        tokens: The prompt's token ids.
        config: How to generate; a missing seed is drawn here.
        sink: Receives the outcome.
        id: The caller's id.
        priority: 0 to 255, higher first.

    Raises:
        ConfigError: Several answers were asked for.
    """
    if config.n != 1:
        raise ConfigError(
            f"n is {config.n}; for several answers use ParallelProcessor.batch_generate"
        )
    seed = config.seed if config.seed is not None else draw_seed()
    return Request(tokens, config, sink, seed, id=id, priority=priority)


class AnswerSink:
    """Waits for the result of one request."""

    streaming = False

    def __init__(self) -> None:
        self._done = threading.Event()
        self._result: GenerationResult | None = None

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        """Not used: the answer is taken whole."""

    def finish(self, request: Request, result: GenerationResult) -> None:
        """Called on the engine's thread."""
        self._result = result
        self._done.set()

    def wait(self) -> GenerationResult:
        """Block until the row ended."""
        self._done.wait()
        assert self._result is not None
        return self._result


class StreamSink:
    """Holds text until somebody reads it.

    Pieces merge, so a slow reader costs little memory and never holds up the engine.
    """

    streaming = True

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._pending: list[str] = []
        self._result: GenerationResult | None = None

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        """Called on the engine's thread."""
        with self._ready:
            self._pending.append(piece)
            self._ready.notify()

    def finish(self, request: Request, result: GenerationResult) -> None:
        """Called on the engine's thread."""
        with self._ready:
            self._result = result
            self._ready.notify()

    def read(self) -> tuple[str, GenerationResult | None]:
        """Block until there is text or the end; return what is there."""
        with self._ready:
            while not self._pending and self._result is None:
                self._ready.wait()
            text = "".join(self._pending)
            self._pending.clear()
            return text, self._result


def wait_for(engine: RowEngine, request: Request, sink: AnswerSink) -> GenerationResult:
    """Run one request. Leaving by an exception, such as Ctrl-C, cancels it."""
    engine.submit([request])
    try:
        return sink.wait()
    except BaseException:
        engine.cancel([request])
        raise


def read_stream(engine: RowEngine, request: Request, sink: StreamSink) -> Iterator[str]:
    """Run one request and give its text as it is written. Leaving early cancels it.

    Raises:
        RequestError: The row failed; text before the failure was given.
    """
    engine.submit([request])
    result: GenerationResult | None = None
    try:
        while result is None:
            text, result = sink.read()
            if text:
                yield text
        error = failure_of(result)
        if error is not None:
            raise error
    finally:
        if result is None:
            engine.cancel([request])


def failure_of(result: GenerationResult) -> LlamaherdError | None:
    """What to raise for a row that failed, for callers that have no use for partial answers."""
    if result.error is None:
        return None
    kinds: dict[FinishReason, type[LlamaherdError]] = {
        FinishReason.TIMEOUT: RequestTimeout,
        FinishReason.CANCELLED: RequestCancelled,
    }
    return kinds.get(result.finish_reason, RequestError)(str(result.error))
