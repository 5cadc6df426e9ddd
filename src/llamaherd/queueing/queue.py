"""The queue behind `BatchProcessor`: bounded, ordered by priority and age, released in batches.

A submission that returns ends in exactly one outcome. Everything waits on condition variables;
nothing polls. One lock guards all state; the engine, encoding and callbacks run outside of it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from llamaherd.config import BatchConfig
from llamaherd.engine.engine import Engine
from llamaherd.engine.row import rejected
from llamaherd.engine.waiting import Sequence, WaitingRows
from llamaherd.errors import (
    CallbackError,
    ConfigError,
    EngineError,
    LlamaherdError,
    ProcessorStopped,
    QueueFull,
    RequestCancelled,
    RequestTimeout,
    UnknownRequest,
)
from llamaherd.models.calls import make_request
from llamaherd.models.model import Prompt
from llamaherd.queueing.callbacks import CallbackThread, Delivery
from llamaherd.queueing.request import BatchRequest, BatchResult, RequestId
from llamaherd.queueing.stats import BatchStats, StatsRecorder
from llamaherd.queueing.strategies import make_former
from llamaherd.queueing.ticket import Batch, Ticket
from llamaherd.results import FinishReason, GenerationResult, RowError

__all__ = ["RequestQueue"]

# Results that nobody collects are kept up to this number, then submissions are refused.
_MAX_UNCOLLECTED = 65_536


class RequestQueue:
    """Requests on their way to an engine and results on their way back.

    Args:
        engine: Where the rows run; closed with the queue.
        encode: Turns a prompt into token ids.
        config: Size, strategy and bounds.
    """

    def __init__(
        self, engine: Engine, encode: Callable[[Prompt], list[int]], config: BatchConfig
    ) -> None:
        self._engine = engine
        self._encode = encode
        self._config = config
        self._capacity = config.max_batch_size * config.num_workers
        self._former = make_former(config)
        self._callbacks = CallbackThread()
        lock = threading.Lock()
        self._lock = lock
        self._changed = threading.Condition(lock)
        """For the dispatcher: a request came, a batch ended, the queue closes."""
        self._room = threading.Condition(lock)
        self._ended = threading.Condition(lock)
        # The lock guards what follows.
        self._stats = StatsRecorder()
        self._tickets: dict[RequestId, Ticket] = {}
        self._ready: OrderedDict[RequestId, Ticket] = OrderedDict()
        """Ended, not collected, and nobody waits for them in particular; oldest first."""
        self._waiting = WaitingRows()
        self._by_place: dict[Sequence, Ticket] = {}
        """Those that wait for a batch; oldest first."""
        self._encoding: set[RequestId] = set()
        """Accepted, but their prompts are not token ids yet."""
        self._n_in_engine = 0
        self._n_batches = 0
        self._n_unfinished = 0
        self._n_unclaimed = 0
        self._next_id = 0
        self._is_closing = False
        self._is_aborting = False
        self._dispatcher: threading.Thread | None = None
        if self._former is not None:
            self._dispatcher = threading.Thread(
                target=self._dispatch, name="llamaherd-batches", daemon=True
            )
            self._dispatcher.start()

    # ── submitting ──────────────────────────────────────────────────────────────────────

    def submit(self, request: BatchRequest, *, wait: bool, claim: bool = False) -> Ticket:
        """Accept a request. With `claim`, its result is kept for `collect` alone."""
        submitted_s = time.perf_counter()
        with self._lock:
            self._take_room(wait)
            id = self._new_id(request.id)
            self._encoding.add(id)
        ticket = Ticket(id, self, submitted_s, streaming=request.callback is not None)
        ticket.n_claims = int(claim)
        try:
            self._prepare(ticket, request)
            with self._lock:
                self._check_open()
                self._enter(ticket)
        finally:
            with self._lock:
                self._encoding.discard(id)
                if id not in self._tickets:
                    self._room.notify()
        if self._former is None:
            self._join_running_batch(ticket)
        return ticket

    def _check_open(self) -> None:
        if self._is_closing:
            raise ProcessorStopped("the batch processor is closed; open a new one")
        self._engine.check_open()

    def _take_room(self, wait: bool) -> None:
        """Reserve a place in the queue."""
        self._check_open()
        while self._depth() >= self._config.max_queue_size:
            if not wait:
                self._stats.n_rejected += 1
                raise QueueFull(
                    f"{self._config.max_queue_size} requests wait already; try again later, "
                    "submit with wait=True, or raise max_queue_size"
                )
            self._room.wait()
            self._check_open()
        if len(self._ready) >= _MAX_UNCOLLECTED:
            self._stats.n_rejected += 1
            raise QueueFull(
                f"{len(self._ready)} results wait to be collected; take them with result, poll "
                "or as_completed"
            )

    def _depth(self) -> int:
        """Requests that wait for a batch, or, without batches, for a place in the running one."""
        n_held = len(self._by_place) + len(self._encoding)
        if self._former is not None:
            return n_held
        return max(0, self._n_in_engine + n_held - self._capacity)

    def _new_id(self, wanted: RequestId | None) -> RequestId:
        if wanted is None:
            while self._next_id in self._tickets or self._next_id in self._encoding:
                self._next_id += 1
            self._next_id += 1
            return self._next_id - 1
        if wanted in self._tickets or wanted in self._encoding:
            raise ConfigError(
                f"id {wanted!r} belongs to a request whose result was not collected yet; "
                "use another, or leave it out"
            )
        return wanted

    def _prepare(self, ticket: Ticket, request: BatchRequest) -> None:
        name = None if request.id is None else str(request.id)
        tokens = self._encode(request.prompt)
        ticket.request = make_request(
            tokens, request.config, ticket, id=name, priority=request.priority
        )
        if request.callback is not None:
            ticket.delivery = Delivery(
                request.callback,
                lambda error: self._callback_raised(ticket, error),
                lambda result: self._complete(ticket, result),
            )

    def _enter(self, ticket: Ticket) -> None:
        self._encoding.discard(ticket.id)
        self._tickets[ticket.id] = ticket
        self._n_unfinished += 1
        self._n_unclaimed += ticket.n_claims == 0
        if self._former is None:
            self._n_in_engine += 1
            return
        request = ticket.request
        ticket.place = Sequence(
            tokens=request.tokens,
            n_prompt=len(request.tokens),
            max_new_tokens=request.config.max_tokens,
            priority=request.priority,
            interactive=ticket.streaming,
            submitted_step=self._engine.stats().batches_processed,
        )
        self._waiting.add(ticket.place)
        self._by_place[ticket.place] = ticket
        self._changed.notify()

    def _join_running_batch(self, ticket: Ticket) -> None:
        try:
            self._engine.submit([ticket.request])
        except EngineError:
            with self._lock:
                self._n_in_engine -= 1
                self._n_unfinished -= 1
                self._n_unclaimed -= ticket.n_claims == 0
                del self._tickets[ticket.id]
                self._ended.notify_all()
            raise
        with self._lock:
            self._stats.record_batch(1)
        self._catch_up_on_cancel([ticket])

    def _catch_up_on_cancel(self, tickets: list[Ticket]) -> None:
        """Cancel rows whose cancellation came just before the engine knew them."""
        late = [ticket.request for ticket in tickets if ticket.is_cancelled]
        if late:
            self._engine.cancel(late)

    # ── batches ─────────────────────────────────────────────────────────────────────────

    def _dispatch(self) -> None:
        while True:
            with self._lock:
                tickets = self._next_batch()
            if not tickets:
                return
            try:
                self._engine.submit([ticket.request for ticket in tickets])
            except EngineError as error:
                for ticket in tickets:
                    self.finish(ticket, rejected(ticket.request, FinishReason.ERROR, error))
            else:
                self._catch_up_on_cancel(tickets)

    def _next_batch(self) -> list[Ticket]:
        """Wait for the next batch; empty when there will be none."""
        while True:
            wait_s = math.inf
            if self._by_place and self._n_batches < self._config.num_workers:
                n_requests, wait_s = self._decide()
                if n_requests:
                    return self._form(n_requests)
            elif self._is_closing and not self._by_place:
                return []
            self._changed.wait(None if wait_s == math.inf else wait_s)

    def _decide(self) -> tuple[int, float]:
        n_waiting = len(self._by_place)
        if self._is_closing or not self._engine.is_open:
            return min(n_waiting, self._config.max_batch_size), math.inf
        assert self._former is not None
        oldest = next(iter(self._by_place.values()))
        release = self._former.decide(n_waiting, time.perf_counter() - oldest.submitted_s)
        return release.n_requests, release.wait_s

    def _form(self, n_requests: int) -> list[Ticket]:
        batch = Batch(n_requests, n_requests, time.perf_counter())
        step = self._engine.stats().batches_processed
        tickets = []
        for _ in range(n_requests):
            place = self._waiting.pop(self._waiting.next(step))
            ticket = self._by_place.pop(place)
            ticket.place = None
            ticket.batch = batch
            tickets.append(ticket)
        self._n_in_engine += n_requests
        self._n_batches += 1
        self._stats.record_batch(n_requests)
        self._room.notify(n_requests)
        return tickets

    def _leave_batch(self, ticket: Ticket, now_s: float) -> None:
        self._n_in_engine -= 1
        batch = ticket.batch
        if batch is None:
            self._room.notify()
            return
        batch.n_left -= 1
        if batch.n_left == 0:
            self._n_batches -= 1
            assert self._former is not None
            n_waiting = len(self._by_place)
            self._former.batch_ended(batch.n_requests, now_s - batch.started_s, n_waiting)
            self._changed.notify()

    # ── outcomes ────────────────────────────────────────────────────────────────────────

    def text(self, ticket: Ticket, piece: str) -> None:
        """More text of a request with a callback; called on the engine's thread."""
        assert ticket.delivery is not None
        self._callbacks.text(ticket.delivery, piece)

    def finish(self, ticket: Ticket, result: GenerationResult) -> None:
        """The engine, or a cancellation, ended a request. Its callback gets the rest first."""
        with self._lock:
            ticket.ended_s = time.perf_counter()
            if ticket.place is None:
                self._leave_batch(ticket, ticket.ended_s)
        if ticket.delivery is not None:
            self._callbacks.finish(ticket.delivery, result)
        else:
            self._complete(ticket, result)

    def _callback_raised(self, ticket: Ticket, error: Exception) -> None:
        ticket.callback_error = CallbackError(
            f"the callback raised {type(error).__name__}: {error}"
        )
        self._engine.cancel([ticket.request])

    def _complete(self, ticket: Ticket, result: GenerationResult) -> None:
        """Publish the outcome."""
        if ticket.callback_error is not None:
            result = _failed(result, ticket.callback_error)
        latency_ms = 1000.0 * (ticket.ended_s - ticket.submitted_s)
        queue_time_ms = max(0.0, latency_ms - result.processing_time_ms)
        with self._lock:
            ticket.outcome = BatchResult(ticket.id, result, latency_ms, queue_time_ms)
            self._stats.record(ticket.outcome)
            self._n_unfinished -= 1
            if ticket.n_claims == 0:
                self._n_unclaimed -= 1
                self._ready[ticket.id] = ticket
            elif ticket.is_abandoned:
                self._take(ticket)
            ticket.done.set()
            self._ended.notify_all()

    # ── collecting ──────────────────────────────────────────────────────────────────────

    def find(self, id: RequestId, *, claim: bool = False) -> Ticket:
        """The request with this id."""
        with self._lock:
            ticket = self._tickets.get(id)
            if ticket is None:
                raise _unknown(id)
            if claim:
                self._claim(ticket)
            return ticket

    def _claim(self, ticket: Ticket) -> None:
        if ticket.n_claims == 0:
            if ticket.outcome is None:
                self._n_unclaimed -= 1
                # Whoever takes results as they come does not wait for this one.
                self._ended.notify_all()
            else:
                self._ready.pop(ticket.id, None)
        ticket.n_claims += 1

    def collect(self, ticket: Ticket, timeout_s: float | None) -> BatchResult:
        """Wait for a claimed request and take its result. Gives the claim back in any case."""
        try:
            ticket.done.wait(timeout_s)
        except BaseException:
            with self._lock:
                self._unclaim(ticket)
            raise
        with self._lock:
            self._unclaim(ticket)
            if ticket.outcome is None:
                raise RequestTimeout(
                    f"request {ticket.id!r} has no result after {timeout_s:g} s; it goes on: "
                    "ask again, or cancel it"
                )
            return self._take(ticket)

    def _unclaim(self, ticket: Ticket) -> None:
        ticket.n_claims -= 1
        if ticket.n_claims or ticket.is_collected:
            return
        if ticket.outcome is None:
            self._n_unclaimed += 1
        else:
            self._ready[ticket.id] = ticket
            self._ended.notify_all()

    def try_collect(self, ticket: Ticket) -> BatchResult | None:
        """The result if there is one and nobody waits for it."""
        with self._lock:
            return self._take(ticket) if ticket.id in self._ready else None

    def next_ready(self) -> BatchResult | None:
        """Wait for any request that nobody waits for in particular; None when there is none."""
        with self._lock:
            while not self._ready:
                if self._n_unclaimed == 0:
                    return None
                self._ended.wait()
            return self._take(next(iter(self._ready.values())))

    def _take(self, ticket: Ticket) -> BatchResult:
        if ticket.is_collected:
            raise _unknown(ticket.id)
        ticket.is_collected = True
        self._ready.pop(ticket.id, None)
        del self._tickets[ticket.id]
        assert ticket.outcome is not None
        return ticket.outcome

    # ── ending ──────────────────────────────────────────────────────────────────────────

    def cancel(self, ticket: Ticket) -> bool:
        """Stop a request; False if it has ended."""
        with self._lock:
            if ticket.outcome is not None:
                return False
            ticket.is_cancelled = True
            place = ticket.place
            is_waiting = place is not None and self._by_place.pop(place, None) is not None
            if place is not None and is_waiting:
                self._waiting.remove(place)
                self._room.notify()
        if place is None:
            self._engine.cancel([ticket.request])
        elif is_waiting:
            error = RequestCancelled("the request was cancelled while it waited for a batch")
            self.finish(ticket, rejected(ticket.request, FinishReason.CANCELLED, error))
        return True

    def abandon(self, ticket: Ticket) -> None:
        """Stop a request whose result nobody will collect; nothing if it was collected."""
        with self._lock:
            if ticket.is_collected:
                return
            if ticket.outcome is not None:
                self._take(ticket)
                return
            ticket.is_abandoned = True
            self._claim(ticket)
        self.cancel(ticket)

    def stats(self) -> BatchStats:
        """Counters since the queue was opened."""
        engine = self._engine.stats()
        pass_sizes = self._engine.pass_sizes()
        with self._lock:
            return self._stats.summary(
                queue_depth=self._depth(),
                in_work=min(self._n_in_engine, self._capacity),
                busy_time_s=engine.busy_time_s,
                pass_sizes=pass_sizes,
            )

    def close(self, *, drain: bool) -> None:
        """Accept nothing more, finish or cancel what there is, and end the threads."""
        if self._callbacks.is_current():
            raise CallbackError(
                "close was called from a callback, which it would wait for; "
                "call it from another thread"
            )
        stopped = ProcessorStopped("the processor was closed before the request was finished")
        with self._lock:
            self._is_closing = True
            self._is_aborting = self._is_aborting or not drain
            left = [] if drain else list(self._by_place.values())
            if not drain:
                self._waiting.drain()
                self._by_place.clear()
            self._changed.notify_all()
            self._room.notify_all()
            self._ended.notify_all()
        for ticket in left:
            self.finish(ticket, rejected(ticket.request, FinishReason.CANCELLED, stopped))
        with self._lock:
            while self._n_unfinished and not self._is_aborting:
                self._ended.wait()
        self._engine.close(drain=drain)
        if self._dispatcher is not None:
            self._dispatcher.join()
        self._callbacks.close()


def _failed(result: GenerationResult, error: LlamaherdError) -> GenerationResult:
    return replace(
        result,
        success=False,
        finish_reason=FinishReason.ERROR,
        error=RowError.from_exception(error),
    )


def _unknown(id: RequestId) -> UnknownRequest:
    return UnknownRequest(f"no request has id {id!r}, or its result was collected already")
