"""`ReplicatedEngine`: hands rows to worker processes, and to another one if a worker ends.

One thread owns the workers and all state; everybody else posts to its inbox. A `submit` that
returns promises exactly one `finish` per request: a row counts as delivered when its result
has arrived here, and the rows of a worker that ended before that are run again.

The rows a worker had when it ended are suspects. They run again in halves, each half with a
worker to itself, until the row that ends workers is alone; after it has done so twice alone,
it fails. A worker that was killed from outside costs one such round.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from multiprocessing.connection import wait as wait_for_connections
from typing import Any

from llamaherd.config import EngineConfig
from llamaherd.engine.request import Request
from llamaherd.engine.row import rejected
from llamaherd.errors import (
    EngineDead,
    EngineError,
    ForkedProcess,
    LlamaherdError,
    ProcessorStopped,
    RequestCancelled,
    WorkerCrashed,
)
from llamaherd.replicas.messages import (
    pack_engine_config,
    pack_request,
    unpack_result,
    unpack_stats,
)
from llamaherd.replicas.placement import Placement
from llamaherd.replicas.process import WorkerProcess
from llamaherd.results import FinishReason, GenerationResult, ProcessorStats

__all__ = ["ReplicatedEngine"]

_log = logging.getLogger(__name__)

# Rows that a worker holds, in batches: one in work, one ready to follow.
_BATCHES_AHEAD = 2
# Workers that end so often before they are ready will never be.
_MAX_EARLY_ENDS = 3
_MAX_LONE_CRASHES = 2


@dataclass(slots=True, eq=False)
class _Row:
    request: Request
    key: int
    has_shown_text: bool = False
    is_cancelled: bool = False
    n_lone_crashes: int = 0


@dataclass(slots=True, eq=False)
class _Slot:
    """A place for a worker; another process takes it over when one ends."""

    placement: Placement
    engine_config: dict[str, Any]
    process: WorkerProcess | None = None
    is_ready: bool = False
    is_exclusive: bool = False
    """It runs suspects, and nothing else beside them."""
    n_early_ends: int = 0
    in_work: dict[int, _Row] = field(default_factory=dict)
    own_rows: deque[_Row] = field(default_factory=deque)
    """Its share of the rows if they are divided beforehand."""
    stats: ProcessorStats = field(default_factory=ProcessorStats)


@dataclass(slots=True)
class _Inbox:
    submitted: deque[Request] = field(default_factory=deque)
    cancelled: deque[Request] = field(default_factory=deque)
    cancels_all: bool = False
    is_closing: bool = False
    is_aborting: bool = False


class ReplicatedEngine:
    """Runs rows on worker processes. Every method may be called from any thread.

    Args:
        load_options: Arguments of `Model.load`, as plain data.
        config: Batching options of each worker.
        placements: Cores and threads of each worker.
    """

    def __init__(
        self, load_options: dict[str, Any], config: EngineConfig, placements: Sequence[Placement]
    ) -> None:
        self._load_options = load_options
        self._max_rows = _BATCHES_AHEAD * config.max_batch_size
        self._steals = config.thread_pool.work_stealing
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._inbox = _Inbox()
        self._death: EngineDead | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        # From here on: the supervisor's thread only.
        self._slots = [_Slot(p, pack_engine_config(_for_worker(config, p))) for p in placements]
        self._rows: dict[Request, _Row] = {}
        self._queue: deque[_Row] = deque()
        self._suspects: deque[list[_Row]] = deque()
        self._next_key = 0
        self._past_stats = ProcessorStats()
        self._busy_s = 0.0
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="llamaherd-replicas", daemon=True)
        self._thread.start()

    # ── any thread ──────────────────────────────────────────────────────────────────────

    def submit(self, requests: Sequence[Request]) -> None:
        """Accept rows.

        Raises:
            ProcessorStopped: The engine was closed.
            EngineDead: The workers cannot be started.
            ForkedProcess: Called in a forked child.
        """
        if os.getpid() != self._pid:
            raise ForkedProcess("these workers belong to the parent process; start others here")
        with self._lock:
            if self._death is not None:
                raise EngineDead(str(self._death))
            if self._inbox.is_closing:
                raise ProcessorStopped("the workers were ended; start others")
            self._inbox.submitted.extend(requests)
            self._wake()

    def cancel(self, requests: Iterable[Request]) -> None:
        """Stop rows soon. Rows that have ended are not affected."""
        with self._lock:
            self._inbox.cancelled.extend(requests)
            self._wake()

    def cancel_all(self) -> None:
        """Stop every row that was submitted before this call."""
        with self._lock:
            self._inbox.cancels_all = True
            self._wake()

    def close(self, *, drain: bool = False) -> None:
        """End the workers. May be called twice.

        Args:
            drain: Finish the accepted rows first; otherwise they end as cancelled.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._inbox.is_closing = True
            self._inbox.is_aborting = self._inbox.is_aborting or not drain
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def stats(self) -> ProcessorStats:
        """Counters of all workers together; busy time is counted once."""
        total = self._past_stats
        for slot in self._slots:
            total = _add(total, slot.stats)
        since_s = self._busy_since_s
        running_s = 0.0 if since_s is None else time.perf_counter() - since_s
        return replace(total, busy_time_s=self._busy_s + running_s)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    def _wake(self) -> None:
        # A full pipe wakes as well as a longer one would.
        with contextlib.suppress(BlockingIOError):
            if self._wake_write >= 0:
                os.write(self._wake_write, b"\0")

    # ── the supervisor's thread ─────────────────────────────────────────────────────────

    def _run(self) -> None:
        error: EngineError = ProcessorStopped("the workers were ended before the row was finished")
        try:
            for slot in self._slots:
                self._start(slot)
            while self._take_inbox():
                for slot in self._slots:
                    self._feed(slot)
                self._receive()
        except EngineDead as dead:
            error = dead
        except Exception as failure:
            _log.exception("the supervisor of the workers failed")
            error = EngineDead(f"the supervisor failed: {type(failure).__name__}: {failure}")
            error.__cause__ = failure
        finally:
            self._end_everything(error)

    def _end_everything(self, error: EngineError) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.end()
                slot.process = None
        with self._lock:
            self._inbox.is_closing = True
            if isinstance(error, EngineDead):
                self._death = error
            late = list(self._inbox.submitted)
            self._inbox.submitted.clear()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1
        reason = FinishReason.ERROR if self._death else FinishReason.CANCELLED
        self._rows.update((request, _Row(request, -1)) for request in late)
        for row in list(self._rows.values()):
            self._fail(row, error, reason)

    def _take_inbox(self) -> bool:
        """Take in what was posted. False when it is time to end."""
        with self._lock:
            inbox, self._inbox = (
                self._inbox,
                _Inbox(is_closing=self._inbox.is_closing, is_aborting=self._inbox.is_aborting),
            )
        self._accept(inbox.submitted)
        for request in list(self._rows) if inbox.cancels_all else inbox.cancelled:
            self._cancel(request)
        if inbox.is_aborting:
            return False
        self._watch_busy()
        return bool(self._rows) or not inbox.is_closing

    def _watch_busy(self) -> None:
        now_s = time.perf_counter()
        if self._rows and self._busy_since_s is None:
            self._busy_since_s = now_s
        elif not self._rows and self._busy_since_s is not None:
            self._busy_s += now_s - self._busy_since_s
            self._busy_since_s = None

    def _accept(self, requests: Iterable[Request]) -> None:
        rows = []
        for request in requests:
            row = _Row(request, self._next_key)
            self._next_key += 1
            self._rows[request] = row
            rows.append(row)
        if self._steals:
            self._queue.extend(rows)
            return
        n = len(self._slots)
        for i, slot in enumerate(self._slots):
            slot.own_rows.extend(rows[len(rows) * i // n : len(rows) * (i + 1) // n])

    def _cancel(self, request: Request) -> None:
        row = self._rows.get(request)
        if row is None:
            return
        row.is_cancelled = True
        for slot in self._slots:
            if row.key in slot.in_work and slot.process is not None:
                slot.process.send("cancel", [row.key])
                return
        for queue in (self._queue, *self._suspects, *(slot.own_rows for slot in self._slots)):
            if row in queue:
                queue.remove(row)
        self._fail(row, RequestCancelled("the row was cancelled"), FinishReason.CANCELLED)

    # ── rows to workers ─────────────────────────────────────────────────────────────────

    def _feed(self, slot: _Slot) -> None:
        """Give a worker what it should have now."""
        if not slot.is_ready or (slot.is_exclusive and slot.in_work):
            return
        slot.is_exclusive = False
        if self._suspects:
            if not slot.in_work:
                slot.is_exclusive = True
                self._hand_over(slot, self._suspects.popleft())
            return
        queue = self._queue if self._steals else slot.own_rows
        # Nobody takes so much that the others have nothing to do.
        share = -(-len(queue) // len(self._slots)) if self._steals else len(queue)
        n_rows = min(share, self._max_rows - len(slot.in_work))
        if n_rows > 0:
            self._hand_over(slot, [queue.popleft() for _ in range(n_rows)])

    def _hand_over(self, slot: _Slot, rows: list[_Row]) -> None:
        assert slot.process is not None
        slot.in_work.update((row.key, row) for row in rows)
        slot.process.send("rows", [pack_request(row.key, row.request) for row in rows])

    # ── workers ─────────────────────────────────────────────────────────────────────────

    def _start(self, slot: _Slot) -> None:
        slot.is_ready = slot.is_exclusive = False
        slot.process = WorkerProcess(self._load_options, slot.engine_config, slot.placement.cores)

    def _receive(self) -> None:
        """Sleep until a worker or the inbox has something, and take in one message of each."""
        by_connection = {
            slot.process.connection: slot for slot in self._slots if slot.process is not None
        }
        for ready in wait_for_connections([self._wake_read, *by_connection]):
            if ready == self._wake_read:
                os.read(self._wake_read, 4096)
                continue
            slot = by_connection[ready]  # type: ignore[index]
            assert slot.process is not None
            message = slot.process.receive()
            if message is None:
                self._ended(slot)
            else:
                self._handle(slot, *message)

    def _handle(self, slot: _Slot, kind: str, *content: Any) -> None:
        if kind == "ready":
            slot.is_ready = True
            slot.n_early_ends = 0
        elif kind == "failed":
            raise EngineDead(f"a worker could not load the model: {content[0]}")
        elif kind == "text":
            self._show_text(slot.in_work[content[0]], *content[1:])
        else:
            key, result, stats = content
            error = result["error"]
            if error is not None and error["type"] == "EngineDead":
                # Its engine failed as a whole; to the rows that is the same as a crash.
                self._ended(slot)
                return
            slot.stats = unpack_stats(stats)
            row = slot.in_work.pop(key)
            self._finish(row, unpack_result(result, row.request))

    def _ended(self, slot: _Slot) -> None:
        """A worker is gone: run its rows again, and start another one."""
        assert slot.process is not None
        status = slot.process.end()
        lost = list(slot.in_work.values())
        slot.in_work.clear()
        self._past_stats = _add(self._past_stats, slot.stats)
        slot.stats = ProcessorStats()
        slot.n_early_ends += not slot.is_ready
        if slot.n_early_ends >= _MAX_EARLY_ENDS:
            raise EngineDead(
                f"worker processes end before they are ready (exit status {status}); "
                "their messages are on standard error"
            )
        _log.warning(
            "a worker ended (exit status %d); its %d rows run again on another", status, len(lost)
        )
        self._suspect(lost)
        self._start(slot)

    def _suspect(self, rows: list[_Row]) -> None:
        """Run rows again that a worker had when it ended."""
        crashed = WorkerCrashed(
            "a worker process ended while it ran this row; its text until then was shown, so it "
            "is not run again"
        )
        for row in rows:
            if row.is_cancelled:
                error: LlamaherdError = RequestCancelled("the row was cancelled")
                self._fail(row, error, FinishReason.CANCELLED)
            elif row.has_shown_text:
                self._fail(row, crashed)
        rows = [row for row in rows if row.request in self._rows]
        if len(rows) == 1:
            (row,) = rows
            row.n_lone_crashes += 1
            if row.n_lone_crashes >= _MAX_LONE_CRASHES:
                error = WorkerCrashed(
                    f"{row.n_lone_crashes} worker processes ended while they ran this row alone"
                )
                self._fail(row, error)
                return
        half = (len(rows) + 1) // 2
        self._suspects.extend(part for part in (rows[:half], rows[half:]) if part)

    # ── outcomes ────────────────────────────────────────────────────────────────────────

    def _show_text(self, row: _Row, text: str, tokens: tuple[int, ...]) -> None:
        row.has_shown_text = True
        try:
            row.request.sink.text(row.request, text, tokens)
        except Exception:
            _log.exception("a receiver raised; row %d goes on without it", row.request.index)

    def _fail(
        self, row: _Row, error: LlamaherdError, reason: FinishReason = FinishReason.ERROR
    ) -> None:
        self._finish(row, rejected(row.request, reason, error))
        failed = replace(
            self._past_stats,
            items_processed=self._past_stats.items_processed + 1,
            failed=self._past_stats.failed + 1,
        )
        self._past_stats = failed

    def _finish(self, row: _Row, result: GenerationResult) -> None:
        del self._rows[row.request]
        try:
            row.request.sink.finish(row.request, result)
        except Exception:
            _log.exception("a receiver raised; the result of row %d is lost", row.request.index)


def _for_worker(config: EngineConfig, placement: Placement) -> EngineConfig:
    """A worker's options. The process is pinned as a whole, so its threads need not be."""
    pool = replace(
        config.thread_pool,
        num_threads=placement.n_threads,
        cpu_affinity=None,
        numa_aware=False,
    )
    return replace(config, thread_pool=pool)


def _add(a: ProcessorStats, b: ProcessorStats) -> ProcessorStats:
    names = [f.name for f in fields(ProcessorStats)]
    return ProcessorStats(**{name: getattr(a, name) + getattr(b, name) for name in names})
