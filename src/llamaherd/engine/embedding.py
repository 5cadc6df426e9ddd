"""The one thread that computes the embeddings of a model.

An embedding takes one step and leaves nothing behind, so there is no sequence to schedule over
time: the texts of all threads wait in one list, and every step takes those that fit together.
It runs beside the engine that generates, on the same weights; neither waits for the other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llamaherd.engine.packing import next_batch
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import (
    DecodeFailed,
    EngineDead,
    EngineError,
    ForkedProcess,
    LlamaherdError,
    ModelLoadError,
    ProcessorStopped,
    PromptTooLong,
)

__all__ = ["EmbeddingEngine", "EmbeddingRequest", "EmbeddingRunner"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A text to embed.

    Attributes:
        tokens: Its token ids, at least one.
        segment_start: Where its second segment begins, for encoders that tell segments apart;
            None if it has one segment.
    """

    tokens: Sequence[int]
    segment_start: int | None = None


class EmbeddingRunner(Protocol):
    """Computes batches of texts. Used from one thread only."""

    n_tokens: int
    """Tokens of the longest text."""
    token_budget: int
    """Tokens in a batch of several texts."""
    max_texts: int
    """Texts in a batch."""

    def execute(self, requests: Sequence[EmbeddingRequest]) -> list[FloatArray]:
        """One vector per text, or a matrix of one per token without pooling.

        Raises:
            DecodeFailed: The batch could not be computed.
        """
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


@dataclass(slots=True, eq=False)
class _Call:
    """What one `compute` waits for."""

    requests: Sequence[EmbeddingRequest]
    results: dict[int, FloatArray | LlamaherdError] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def finish(self, index: int, result: FloatArray | LlamaherdError) -> None:
        self.results[index] = result
        if len(self.results) == len(self.requests):
            self.done.set()


# A text of a call, by its index.
_Waiting = tuple[_Call, int]


class EmbeddingEngine:
    """Batches the texts of all threads over one runner.

    Args:
        open_runner: Opens a runner for texts of up to so many tokens; called on the engine's
            thread when the first text arrives, and again when one is longer than the runner takes.
    """

    def __init__(self, open_runner: Callable[[int], EmbeddingRunner]) -> None:
        self._open_runner = open_runner
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._is_closing = False
        self._death: EngineDead | None = None
        # On the engine's thread only.
        self._runner: EmbeddingRunner | None = None
        self._thread = threading.Thread(target=self._run, name="llamaherd-embed", daemon=True)
        self._thread.start()

    def compute(self, requests: Sequence[EmbeddingRequest]) -> list[FloatArray | LlamaherdError]:
        """Embed texts together with those of other threads, and wait for them.

        Args:
            requests: The texts. They are held until all are done, so give many in windows.

        Returns:
            What became of each, in order: float32 ``[dim]``, or ``[n_tokens, dim]`` without
            pooling, or the error.

        Raises:
            ProcessorStopped, EngineDead, ForkedProcess: Texts cannot be accepted.
        """
        call = _Call(requests)
        # First, since in a forked child nobody may ever release the lock.
        self._check_process()
        with self._wake:
            self._check_open()
            if not requests:
                return []
            self._waiting.extend((call, i) for i in range(len(requests)))
            self._wake.notify()
        try:
            call.done.wait()
        except BaseException:
            self._forget(call)
            raise
        return [call.results[i] for i in range(len(requests))]

    def close(self) -> None:
        """End the texts in work with `ProcessorStopped` and free the runner; may be repeated."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcess(
                "this model was loaded before the process forked, and its threads do not exist "
                "here; load the model in the child, or start workers with the 'spawn' method"
            )

    def _check_open(self) -> None:
        if self._death is not None:
            raise EngineDead(str(self._death)) from self._death.__cause__
        if self._is_closing:
            raise ProcessorStopped("the model was closed; load it again")

    def _forget(self, call: _Call) -> None:
        with self._wake:
            self._waiting = [text for text in self._waiting if text[0] is not call]

    # ── engine thread ───────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while (oldest := self._wait()) is not None:
                self._step(oldest)
        except Exception as error:
            _log.error("the embedding engine failed", exc_info=True)
            self._death = EngineDead(f"the engine failed: {type(error).__name__}: {error}")
            self._death.__cause__ = error
            self._end(self._death)
        else:
            self._end(ProcessorStopped("the model was closed before the text was embedded"))
        finally:
            self._close_runner()

    def _wait(self) -> _Waiting | None:
        """The text that waits longest; None once the engine closes."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._is_closing)
            return None if self._is_closing else self._waiting[0]

    def _step(self, oldest: _Waiting) -> None:
        call, index = oldest
        try:
            runner = self._runner_for(len(call.requests[index].tokens))
        except (ModelLoadError, PromptTooLong) as error:
            with self._wake, contextlib.suppress(ValueError):
                self._waiting.remove(oldest)
            call.finish(index, error)
            return
        batch = self._take_batch(runner)
        try:
            self._compute(runner, batch)
        except Exception:
            with self._wake:
                # They end with the others.
                self._waiting.extend(text for text in batch if text[1] not in text[0].results)
            raise

    def _take_batch(self, runner: EmbeddingRunner) -> list[_Waiting]:
        """Texts for the next step; none if whoever asked for the oldest has left meanwhile."""
        with self._wake:
            lengths = [len(call.requests[i].tokens) for call, i in self._waiting]
            if not lengths or lengths[0] > runner.n_tokens:
                return []
            chosen = next_batch(
                lengths, token_budget=runner.token_budget, max_texts=runner.max_texts
            )
            batch = [self._waiting[i] for i in chosen]
            left = set(range(len(lengths))) - set(chosen)
            self._waiting = [self._waiting[i] for i in sorted(left)]
            return batch

    def _compute(self, runner: EmbeddingRunner, batch: Sequence[_Waiting]) -> None:
        """Compute a batch; if it fails as a whole, each text alone."""
        if not batch:
            return
        try:
            vectors = runner.execute([call.requests[i] for call, i in batch])
        except DecodeFailed as error:
            if len(batch) == 1:
                call, index = batch[0]
                call.finish(index, error)
            else:
                for text in batch:
                    self._compute(runner, [text])
            return
        for (call, index), vector in zip(batch, vectors, strict=True):
            call.finish(index, vector)

    def _runner_for(self, n_tokens: int) -> EmbeddingRunner:
        if self._runner is None or n_tokens > self._runner.n_tokens:
            self._close_runner()
            self._runner = self._open_runner(n_tokens)
            if n_tokens > self._runner.n_tokens:
                raise PromptTooLong(n_tokens, self._runner.n_tokens)
        return self._runner

    def _close_runner(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _end(self, error: EngineError) -> None:
        with self._wake:
            self._is_closing = True
            late, self._waiting = self._waiting, []
        for call, index in late:
            call.finish(index, error)
