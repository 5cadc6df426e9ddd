"""The one thread that owns a runner, and the loop that drives it.

Everything else posts to its inbox and is called back. A `submit` that returns promises
exactly one `finish` per request. Rows fail alone: errors of a row are values in its result;
only a failure of the engine itself (`EngineDead`) reaches every row.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from llamaherd.config import EngineConfig
from llamaherd.engine.canary import find_interference
from llamaherd.engine.counters import Counters
from llamaherd.engine.plan import Demand, FloatArray, Runner, StepOutput, StepPlan
from llamaherd.engine.request import Request
from llamaherd.engine.row import Row, check_request, rejected
from llamaherd.engine.sampling import sample
from llamaherd.engine.scheduler import Scheduler, Step
from llamaherd.engine.vocabulary import Vocabulary
from llamaherd.engine.waiting import Sequence as Work
from llamaherd.errors import (
    CallbackError,
    ConfigError,
    DecodeFailed,
    EngineDead,
    EngineError,
    ForkedProcess,
    KvExhausted,
    LlamaherdError,
    ProcessorStopped,
    PromptTooLong,
    RequestCancelled,
    RequestTimeout,
)
from llamaherd.results import FinishReason, GenerationResult, ProcessorStats

__all__ = ["Engine"]

_log = logging.getLogger(__name__)

# KV caches are sized in steps of doubling lengths, so that an engine is rarely rebuilt.
_SMALLEST_SLOT = 256


@dataclass(slots=True)
class _Inbox:
    submitted: deque[tuple[float, Sequence[Request]]] = field(default_factory=deque)
    cancelled: deque[Request] = field(default_factory=deque)
    cancels_all: bool = False
    is_closing: bool = False
    is_aborting: bool = False


class Engine:
    """Continuous batching over one runner. Every method may be called from any thread.

    Args:
        open_runner: Opens a runner for a demand; called on the engine's thread, when the
            first row arrives and again when a row needs a larger KV cache. The runner may
            hold less per slot than was asked for.
        vocabulary: Tokens of the model.
        config: Batching options.
        n_ctx: Tokens that one row may hold.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        open_runner: Callable[[Demand], Runner],
        vocabulary: Vocabulary,
        config: EngineConfig,
        *,
        n_ctx: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._open_runner = open_runner
        self._vocabulary = vocabulary
        self._config = config
        self._n_ctx = n_ctx
        self._clock = clock
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._inbox = _Inbox()
        self._death: EngineDead | None = None
        self._counters = Counters()
        # From here on: engine thread only.
        self._runner: Runner | None = None
        self._scheduler: Scheduler | None = None
        self._max_batch_size = config.max_batch_size
        self._is_cautious = False
        self._rows: dict[Work, Row] = {}
        self._by_request: dict[Request, Row] = {}
        self._n_needed = 0
        self._thread = threading.Thread(target=self._run, name="llamaherd-engine", daemon=True)
        self._thread.start()

    # ── any thread ──────────────────────────────────────────────────────────────────────

    def submit(self, requests: Sequence[Request]) -> None:
        """Accept rows, to be batched with everything in work. Errors are those of `check_open`."""
        self.check_open()
        for config in {id(request.config): request.config for request in requests}.values():
            # Compiled on this thread; a grammar that is wrong fails its rows when they start.
            with contextlib.suppress(ConfigError):
                self._vocabulary.prepare(config)
        with self._wake:
            self.check_open()
            self._inbox.submitted.append((self._clock(), requests))
            self._wake.notify()

    def cancel(self, requests: Iterable[Request]) -> None:
        """Stop rows at the next step. Rows that have ended are not affected."""
        with self._wake:
            self._inbox.cancelled.extend(requests)
            self._wake.notify()

    def cancel_all(self) -> None:
        """Stop every row that was submitted before this call, at the next step."""
        with self._wake:
            self._inbox.cancels_all = True
            self._wake.notify()

    def close(self, *, drain: bool = False) -> None:
        """Finish (`drain`) or cancel the accepted rows, and free the runner; may be repeated."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            self._inbox.is_closing = True
            self._inbox.is_aborting = self._inbox.is_aborting or not drain
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def stats(self) -> ProcessorStats:
        """Counters since the engine was opened."""
        return self._counters.stats()

    def pass_sizes(self) -> dict[int, int]:
        """How many forward passes there were with how many rows each."""
        return dict(self._counters.pass_sizes)

    @property
    def is_open(self) -> bool:
        """Whether rows are accepted."""
        return not self._inbox.is_closing

    def check_open(self) -> None:
        """Raise `ProcessorStopped`, `EngineDead` or `ForkedProcess` if rows cannot be accepted."""
        if os.getpid() != self._pid:
            raise ForkedProcess(
                "this model was loaded before the process forked, and its threads do not exist "
                "here; load the model in the child, or start workers with the 'spawn' method"
            )
        if self._death is not None:
            raise EngineDead(str(self._death)) from self._death.__cause__
        if self._inbox.is_closing:
            raise ProcessorStopped("the engine is closed; open a new one")

    # ── engine thread ───────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._step()
        except Exception as error:
            _log.error("the engine failed", exc_info=not isinstance(error, LlamaherdError))
            dead = EngineDead(f"the engine failed: {type(error).__name__}: {error}")
            dead.__cause__ = error
            self._die(dead, FinishReason.ERROR)
        else:
            self._die(ProcessorStopped("the engine was closed before the row was finished"))
        finally:
            if self._runner is not None:
                self._runner.close()
                self._runner = None

    def _die(self, error: EngineError, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End every row with `error`, also those that arrive while this runs."""
        with self._wake:
            self._inbox.is_closing = True
            if isinstance(error, EngineDead):
                self._death = error
            late = [request for _, requests in self._inbox.submitted for request in requests]
            self._inbox.submitted.clear()
        for request in late:
            self._reject(request, error, reason)
        for row in list(self._rows.values()):
            self._finish(row, reason, error, may_retry=False)

    def _wait_for_work(self) -> bool:
        """Take in the inbox; sleep while there is nothing to do. False when it is time to end."""
        while True:
            with self._wake:
                while not self._has_work():
                    if self._inbox.is_closing:
                        return False
                    self._wake.wait()
                if self._inbox.is_aborting:
                    return False
                submitted, self._inbox.submitted = self._inbox.submitted, deque()
                # Exchanged in one go: a stream that is garbage collected on this very thread
                # cancels its row in between any two instructions.
                cancelled, self._inbox.cancelled = self._inbox.cancelled, deque()
                cancels_all, self._inbox.cancels_all = self._inbox.cancels_all, False
            for submitted_s, requests in submitted:
                self._accept(submitted_s, requests)
            for request in list(self._by_request) if cancels_all else cancelled:
                self._cancel(request)
            if self._rows:
                return True

    def _has_work(self) -> bool:
        inbox = self._inbox
        return bool(self._rows or inbox.submitted or inbox.cancelled or inbox.cancels_all)

    def _accept(self, submitted_s: float, requests: Sequence[Request]) -> None:
        """Check rows and hand them to the scheduler."""
        rows = []
        for request in requests:
            try:
                check_request(request, self._vocabulary, self._n_ctx)
                row = Row(request, self._vocabulary, self._n_ctx, submitted_s)
            except LlamaherdError as error:
                self._reject(request, error)
                continue
            rows.append(row)
            self._rows[row.sequence] = row
            self._by_request[request] = row
        for row in rows:
            n_tokens = row.sequence.n_prompt + row.sequence.max_new_tokens
            self._n_needed = max(self._n_needed, n_tokens)
        if self._scheduler is not None:
            self._scheduler.add([row.sequence for row in rows])
        for row in rows:
            self._move(row, row.begin)

    def _reject(
        self,
        request: Request,
        error: LlamaherdError,
        reason: FinishReason = FinishReason.ERROR,
    ) -> None:
        """End a request that never became a row."""
        self._counters.items += 1
        self._counters.failed += 1
        self._deliver(request, rejected(request, reason, error))

    def _cancel(self, request: Request) -> None:
        row = self._by_request.get(request)
        if row is not None:
            error = RequestCancelled("the row was cancelled")
            self._finish(row, FinishReason.CANCELLED, error, may_retry=False)

    # ── one step ────────────────────────────────────────────────────────────────────────

    def _step(self) -> None:
        self._ensure_runner()
        began_s = self._clock()
        self._expire(began_s)
        assert self._scheduler is not None
        if not self._scheduler.has_work:
            return
        step = self._scheduler.schedule()
        self._note_starts(step, began_s)
        planned_s = self._clock()
        self._counters.schedule_s += planned_s - began_s
        output = self._execute(step)
        if output is not None:
            self._advance(step, output)
        self._counters.busy_s += self._clock() - began_s

    def _note_starts(self, step: Step, now_s: float) -> None:
        for sequence in step.sequences:
            row = self._rows[sequence]
            if row.started_s is None:
                row.started_s = now_s
                self._counters.queue_s += now_s - row.submitted_s
                self._counters.prompt_tokens += sequence.n_prompt
                self._counters.cached_tokens += min(sequence.n_cached, sequence.n_prompt)

    def _execute(self, step: Step) -> StepOutput | None:
        """Run the plan; None when it has to be planned anew or was carried out row by row."""
        assert self._runner is not None and self._scheduler is not None
        began_s = self._clock()
        try:
            output = self._runner.execute(step.plan)
        except DecodeFailed as error:
            self._isolate(step, error)
            return None
        finally:
            self._counters.forward_s += self._clock() - began_s
        if output.no_room or step.plan.is_empty:
            self._make_room()
            return None
        self._counters.count_pass(len(step.plan.chunks))
        return output

    def _make_room(self) -> None:
        assert self._scheduler is not None
        hopeless = self._scheduler.make_room()
        if hopeless is not None:
            self._fail(hopeless, KvExhausted("the KV cache has no room for this row"))

    def _isolate(self, step: Step, error: DecodeFailed) -> None:
        """A step failed: run its rows one by one, so that only the culprit fails."""
        assert self._runner is not None and self._scheduler is not None
        if len(step.sequences) == 1:
            self._fail(step.sequences[0], error)
            return
        _log.warning("a batch failed (%s); its %d rows run alone", error, len(step.sequences))
        for sequence, chunk in zip(step.sequences, step.plan.chunks, strict=True):
            alone = Step(StepPlan(chunks=(chunk,)), (sequence,))
            try:
                output = self._runner.execute(alone.plan)
            except DecodeFailed as row_error:
                self._fail(sequence, row_error)
                continue
            if not output.no_room:
                self._counters.count_pass(1)
                self._advance(alone, output)

    def _advance(self, step: Step, output: StepOutput) -> None:
        """Book the computed chunks, sample, and move every row on."""
        assert self._scheduler is not None
        began_s = self._clock()
        self._scheduler.commit(step)
        pairs = zip(step.sequences, step.plan.chunks, strict=True)
        rows = [self._rows[s] for s, chunk in pairs if chunk.wants_logits]
        self._counters.computed_prompt_tokens += sum(
            max(0, min(chunk.start + len(chunk.tokens), sequence.n_prompt) - chunk.start)
            for sequence, chunk in zip(step.sequences, step.plan.chunks, strict=True)
        )
        sampling_s = self._clock()
        tokens = sample(output.logits, [row.sampling for row in rows]) if rows else []
        sampled_s = self._clock()
        for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            self._push(row, token, output.logits[i])
        self._counters.schedule_s += sampling_s - began_s
        self._counters.sample_s += sampled_s - sampling_s
        self._counters.text_s += self._clock() - sampled_s

    def _push(self, row: Row, token: int, logits: FloatArray) -> None:
        if token < 0:
            self._fail(row.sequence, DecodeFailed("the model gave no valid logits for this row"))
            return
        if row.request.scored_tokens:
            self._move(row, lambda: row.score(logits))
        else:
            self._move(row, lambda: row.push(token, logits))

    def _move(self, row: Row, move: Callable[[], FinishReason | None]) -> None:
        """Let a row take tokens, and end it if they end it."""
        n_before = len(row.sequence.tokens)
        try:
            reason = move()
        except LlamaherdError as error:
            self._finish(row, FinishReason.ERROR, error)
            return
        except Exception as error:
            # The sink is the caller's code: it may fail its own row, nobody else's.
            failure = CallbackError(f"the stream callback raised {type(error).__name__}: {error}")
            self._finish(row, FinishReason.ERROR, failure, may_retry=False)
            return
        self._counters.generated_tokens += len(row.sequence.tokens) - n_before
        if reason is not None:
            self._finish(row, reason, row.shortfall())

    def _expire(self, now_s: float) -> None:
        """End rows that ran longer than they may."""
        for row in list(self._rows.values()):
            timeout_ms = row.request.config.timeout_ms
            if timeout_ms is None or row.started_s is None:
                continue
            ran_ms = 1000.0 * (now_s - row.started_s)
            if ran_ms >= timeout_ms:
                error = RequestTimeout(
                    f"the row ran {ran_ms:.0f} ms, its timeout_ms is {timeout_ms:g}; "
                    "raise it or lower max_tokens"
                )
                self._finish(row, FinishReason.TIMEOUT, error)

    # ── outcomes ────────────────────────────────────────────────────────────────────────

    def _fail(self, sequence: Work, error: LlamaherdError) -> None:
        self._finish(self._rows[sequence], FinishReason.ERROR, error)

    def _finish(
        self,
        row: Row,
        reason: FinishReason,
        error: LlamaherdError | None = None,
        *,
        may_retry: bool = True,
    ) -> None:
        """Take a row out and deliver its result, or start it again."""
        if self._scheduler is not None:
            self._scheduler.remove(row.sequence)
        del self._rows[row.sequence]
        if error is not None and error.retryable and may_retry and row.can_retry:
            row.restart(self._n_ctx)
            row.started_s = None
            self._rows[row.sequence] = row
            self._counters.retried += 1
            if self._scheduler is not None:
                self._scheduler.add([row.sequence])
            self._move(row, row.begin)
            return
        del self._by_request[row.request]
        self._counters.items += 1
        self._counters.failed += error is not None
        self._counters.preempted += row.sequence.n_preempted
        try:
            result = row.result(reason, self._clock(), error)
        finally:
            row.close()
        self._deliver(row.request, result)

    def _deliver(self, request: Request, result: GenerationResult) -> None:
        try:
            request.sink.finish(request, result)
        except Exception:
            _log.exception("a receiver raised; the result of row %d is lost", request.index)

    # ── the runner ──────────────────────────────────────────────────────────────────────

    def _ensure_runner(self) -> None:
        """Open the runner, or a larger one when a row needs more than its slots hold."""
        if self._runner is not None and self._n_needed <= self._runner.limits.n_tokens_per_slot:
            return
        waiting = [row.sequence for row in self._rows.values()]
        if self._scheduler is not None:
            waiting = self._scheduler.drain()
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        n_tokens = _SMALLEST_SLOT
        while n_tokens < self._n_needed:
            n_tokens *= 2
        self._runner = self._open_tested(min(n_tokens, max(self._n_ctx, self._n_needed)))
        limits = self._runner.limits
        self._scheduler = Scheduler(
            limits,
            max_running=self._max_batch_size,
            interactive_chunk=self._config.interactive_chunk,
        )
        self._scheduler.add(waiting)
        if limits.n_tokens_per_slot < self._n_needed:
            self._shrink(limits.n_tokens_per_slot)

    def _shrink(self, n_ctx: int) -> None:
        """Memory allows less than the rows asked for: shorten answers, fail prompts too long."""
        _log.warning("memory allows %d tokens per row, not %d", n_ctx, self._n_needed)
        self._n_ctx = self._n_needed = n_ctx
        for row in list(self._rows.values()):
            sequence = row.sequence
            room = n_ctx - sequence.n_prompt
            if room < 1:
                error = PromptTooLong(sequence.n_prompt, n_ctx)
                self._finish(row, FinishReason.ERROR, error)
            else:
                sequence.max_new_tokens = min(sequence.max_new_tokens, room)

    def _open_tested(self, n_tokens_per_row: int) -> Runner:
        """Open a runner in which rows do not disturb each other, stepping down if they do."""
        while True:
            demand = Demand(n_tokens_per_row, self._max_batch_size, self._is_cautious)
            runner = self._open_runner(demand)
            if not self._config.self_test or self._max_batch_size == 1:
                return runner
            trouble = find_interference(runner, self._vocabulary)
            if trouble is None:
                return runner
            runner.close()
            if runner.limits.is_invariant:
                raise EngineError(
                    f"{trouble}; the native engine fails here: take engine='llama.cpp'"
                )
            if not self._is_cautious:
                self._is_cautious = True
                _log.warning("%s; trying again without optional fast paths", trouble)
            else:
                self._max_batch_size = 1
                _log.warning("%s; rows now run one at a time", trouble)
