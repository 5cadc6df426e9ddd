"""What the queue counts, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from llamaherd.queueing.request import BatchResult

__all__ = ["BatchStats", "StatsRecorder"]

# Percentiles are those of this many recent requests.
_N_RECENT = 4096


@dataclass(frozen=True, slots=True)
class BatchStats:
    """Counters since the processor was opened.

    Attributes:
        total_requests: Requests that ended, successfully or not.
        total_tokens: Tokens generated for them.
        failed: Requests that ended with an error, a timeout or a cancellation.
        rejected: Submissions that were refused with `QueueFull`.
        avg_latency_ms: Mean time from submission to the end.
        avg_queue_time_ms: Mean time from submission to the first step.
        avg_throughput_tps: Tokens generated per second in which the engine had work.
        p50_latency_ms: Half of the 4096 most recent requests took no longer than this.
        p95_latency_ms: 95 of 100 took no longer.
        p99_latency_ms: 99 of 100 took no longer.
        queue_depth: Requests that wait now.
        in_work: Requests that are being computed now.
        batch_sizes: How many batches of which size were formed. CONTINUOUS hands every request
            over by itself.
        pass_sizes: How many forward passes had how many rows.
    """

    total_requests: int = 0
    total_tokens: int = 0
    failed: int = 0
    rejected: int = 0
    avg_latency_ms: float = 0.0
    avg_queue_time_ms: float = 0.0
    avg_throughput_tps: float = 0.0
    p50_latency_ms: float = 0.0
    p95_latency_ms: float = 0.0
    p99_latency_ms: float = 0.0
    queue_depth: int = 0
    in_work: int = 0
    batch_sizes: Mapping[int, int] = field(default_factory=dict)
    pass_sizes: Mapping[int, int] = field(default_factory=dict)


class StatsRecorder:
    """Raw numbers; `summary` derives the rest. The caller holds a lock."""

    def __init__(self) -> None:
        self.n_rejected = 0
        self._n_requests = 0
        self._n_tokens = 0
        self._n_failed = 0
        self._latency_ms = 0.0
        self._queue_time_ms = 0.0
        self._recent_ms: deque[float] = deque(maxlen=_N_RECENT)
        self._batch_sizes: Counter[int] = Counter()

    def record(self, result: BatchResult) -> None:
        """A request ended."""
        self._n_requests += 1
        self._n_tokens += result.result.tokens_generated
        self._n_failed += not result.result.success
        self._latency_ms += result.latency_ms
        self._queue_time_ms += result.queue_time_ms
        self._recent_ms.append(result.latency_ms)

    def record_batch(self, n_requests: int) -> None:
        """A batch was formed."""
        self._batch_sizes[n_requests] += 1

    def summary(
        self,
        *,
        queue_depth: int,
        in_work: int,
        busy_time_s: float,
        pass_sizes: Mapping[int, int],
    ) -> BatchStats:
        """The numbers as callers see them."""
        recent = sorted(self._recent_ms)
        n = max(1, self._n_requests)
        return BatchStats(
            total_requests=self._n_requests,
            total_tokens=self._n_tokens,
            failed=self._n_failed,
            rejected=self.n_rejected,
            avg_latency_ms=self._latency_ms / n,
            avg_queue_time_ms=self._queue_time_ms / n,
            avg_throughput_tps=self._n_tokens / busy_time_s if busy_time_s else 0.0,
            p50_latency_ms=_percentile(recent, 50),
            p95_latency_ms=_percentile(recent, 95),
            p99_latency_ms=_percentile(recent, 99),
            queue_depth=queue_depth,
            in_work=in_work,
            batch_sizes=dict(sorted(self._batch_sizes.items())),
            pass_sizes=dict(sorted(pass_sizes.items())),
        )


def _percentile(ordered: list[float], percent: int) -> float:
    """The smallest value that `percent` of all values do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else 0.0
