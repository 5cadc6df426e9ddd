"""A request as callers submit it to the queue, and what they get back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llamaherd.config import GenerationConfig, config_dataclass
from llamaherd.errors import ConfigError
from llamaherd.models.model import Prompt
from llamaherd.results import GenerationResult

__all__ = ["BatchRequest", "BatchResult", "RequestId"]

RequestId = int | str


@config_dataclass
class BatchRequest:
    """One prompt for a `BatchProcessor`.

    Attributes:
        prompt: Text, chat messages or token ids; see `Model.encode`.
        id: The caller's name for it; None takes the next free number.
        config: How to generate.
        priority: 0 to 255, higher first. Waiting raises it, so that nothing starves.
        callback: Called with each new piece of text, on a thread of the processor. Pieces merge
            while it is busy. If it raises, this request alone fails, with `CallbackError`.
    """

    prompt: Prompt
    id: RequestId | None = None
    config: GenerationConfig = field(default_factory=GenerationConfig)
    priority: int = 0
    callback: Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        priority: object = self.priority
        is_whole = isinstance(priority, int) and not isinstance(priority, bool)
        if not is_whole or not 0 <= self.priority <= 255:
            raise ConfigError(
                f"BatchRequest.priority is {priority!r}; allowed: a whole number from 0 to 255"
            )
        id: object = self.id
        if isinstance(id, bool) or not isinstance(id, (int, str, type(None))):
            raise ConfigError(f"BatchRequest.id is {id!r}; allowed: a whole number or a string")
        if not isinstance(self.config, GenerationConfig):
            raise ConfigError(
                f"BatchRequest.config is a {type(self.config).__name__}; "
                "allowed: a GenerationConfig"
            )
        if self.callback is not None and not callable(self.callback):
            raise ConfigError(f"BatchRequest.callback is {self.callback!r}; allowed: a function")


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The one outcome of a request.

    Attributes:
        id: The request's id.
        result: The answer; if the request failed, `result.success` is False and
            `result.error` says why.
        latency_ms: From `submit` to the end.
        queue_time_ms: The part of it before the first step: waiting for a batch and for a slot.
    """

    id: RequestId
    result: GenerationResult
    latency_ms: float
    queue_time_ms: float
