"""`BatchProcessor`: a bounded queue in front of one model."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike

from llamaherd.config import BatchConfig
from llamaherd.errors import ConfigError, RequestTimeout
from llamaherd.models.model import Model
from llamaherd.queueing.queue import RequestQueue
from llamaherd.queueing.request import BatchRequest, BatchResult, RequestId
from llamaherd.queueing.stats import BatchStats

__all__ = ["BatchProcessor"]


class BatchProcessor:
    """Takes requests one by one, from any thread, and computes them together.

    A submission that returns ends in exactly one outcome, whatever happens: an answer, or a
    result with `success=False` and the reason. Each outcome is given out once, by `submit`,
    `result`, `poll` or `as_completed`.

    Example:
        >>> from llamaherd import BatchConfig, BatchProcessor, BatchRequest, GenerationConfig
        >>> question = [{"role": "user", "content": "What is the capital of Peru?"}]
        >>> request = BatchRequest(prompt=question, config=GenerationConfig.greedy())
        >>> with BatchProcessor("demo", BatchConfig(strategy="continuous")) as processor:
        ...     print(processor.submit(request).result.text)
        The capital of Peru is Lima.

    Args:
        model: A `Model`, or anything that `Model.load` takes. A model that is loaded here is
            closed with the processor.
        config: Batch size, strategy and bounds.

    Raises:
        ModelError: The model cannot be found or loaded.
    """

    def __init__(
        self, model: Model | str | PathLike[str], config: BatchConfig | None = None
    ) -> None:
        config = config or BatchConfig()
        n_rows = config.max_batch_size * config.num_workers
        engine_config = replace(
            config.engine,
            max_batch_size=n_rows,
            token_budget=max(config.engine.token_budget, n_rows),
        )
        owned = None if isinstance(model, Model) else Model.load(model)
        model = owned or model
        assert isinstance(model, Model)
        self._queue = RequestQueue(model.open_engine(engine_config), model.encode, config)
        # Also runs when the processor is forgotten, or the interpreter ends, without a close.
        self._finalizer = weakref.finalize(self, _close, self._queue, owned)

    def submit(
        self, request: BatchRequest, *, wait: bool = False, timeout: float | None = None
    ) -> BatchResult:
        """Submit a request and wait for its result.

        Args:
            request: What to generate.
            wait: Wait for room in a full queue instead of raising `QueueFull`.
            timeout: Longest wait for the result in seconds; the request is cancelled then.

        Raises:
            QueueFull: As many requests wait as may.
            ProcessorStopped: The processor is closed.
            InvalidPrompt, TemplateError: The prompt is wrong.
            ConfigError: An option is wrong, or the id is in use.
            RequestTimeout: No result within `timeout`.
        """
        _check_timeout(timeout)
        ticket = self._queue.submit(request, wait=wait, claim=True)
        try:
            return self._queue.collect(ticket, timeout)
        except RequestTimeout:
            raise RequestTimeout(
                f"no result after {timeout:g} s, so the request was cancelled; allow more, or "
                "use submit_async and ask again"
            ) from None
        finally:
            self._queue.abandon(ticket)

    def submit_async(self, request: BatchRequest, *, wait: bool = False) -> RequestId:
        """Submit a request and return its id at once.

        Args and errors are those of `submit`. Collect the result with `result`, `poll` or
        `as_completed`; once 65,536 results wait to be collected, `QueueFull` is raised.
        """
        return self._queue.submit(request, wait=wait).id

    def result(self, id: RequestId, timeout: float | None = None) -> BatchResult:
        """Wait for a request to end, and collect its result.

        Args:
            id: What `submit_async` returned.
            timeout: Longest wait in seconds; the request goes on after it.

        Raises:
            UnknownRequest: There is no such request, or its result was collected already.
            RequestTimeout: It has not ended within `timeout`.
        """
        _check_timeout(timeout)
        return self._queue.collect(self._queue.find(id, claim=True), timeout)

    def poll(self, id: RequestId) -> BatchResult | None:
        """Collect the result of a request if it has ended; None if it has not.

        Raises:
            UnknownRequest: There is no such request, or its result was collected already.
        """
        return self._queue.try_collect(self._queue.find(id))

    def cancel(self, id: RequestId) -> bool:
        """Stop a request: one in work at the next step, one that waits at once.

        Its result, which says so, is collected like any other.

        Returns:
            Whether it was still unfinished.

        Raises:
            UnknownRequest: There is no such request, or its result was collected already.
        """
        return self._queue.cancel(self._queue.find(id))

    def as_completed(self) -> Iterator[BatchResult]:
        """Collect results as requests end, until every request has ended.

        Results that another thread waits for in `submit` or `result` are left to it. Several
        threads may iterate at once; each result goes to one of them.
        """
        while (result := self._queue.next_ready()) is not None:
            yield result

    def stats(self) -> BatchStats:
        """Counters since the processor was opened."""
        return self._queue.stats()

    def close(self, *, drain: bool = True) -> None:
        """Accept nothing more and stop. May be called twice. Results can still be collected.

        Args:
            drain: Finish what was accepted; otherwise it ends as cancelled.
        """
        self._queue.close(drain=drain)
        self._finalizer()

    def __enter__(self) -> BatchProcessor:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        # After an error nobody waits for the rest.
        self.close(drain=kind is None)


def _close(queue: RequestQueue, model: Model | None) -> None:
    queue.close(drain=False)
    if model is not None:
        model.close()


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not (timeout >= 0 and math.isfinite(timeout)):
        raise ConfigError(f"timeout is {timeout!r}; allowed: None, or seconds from 0 up")
