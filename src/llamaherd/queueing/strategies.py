"""When waiting requests become a batch. Pure: no thread, no clock, no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from llamaherd.config import BatchConfig, BatchingStrategy

__all__ = ["BatchFormer", "Release", "make_former"]


@dataclass(frozen=True, slots=True)
class Release:
    """What to do now.

    Attributes:
        n_requests: Form a batch of this many; 0: none yet.
        wait_s: Decide again after so many seconds even if nothing happens; infinite if only a
            new request or the end of a batch can change the decision.
    """

    n_requests: int
    wait_s: float = math.inf


class BatchFormer(Protocol):
    """One strategy. Asked whenever there is a request waiting and room for a batch."""

    def decide(self, n_waiting: int, oldest_wait_s: float) -> Release:
        """Say how many of the waiting requests to release now."""
        ...

    def batch_ended(self, n_requests: int, duration_s: float, n_waiting: int) -> None:
        """A batch took so long, and this many requests wait now."""
        ...


class _FixedSize:
    def __init__(self, size: int) -> None:
        self._size = size

    def decide(self, n_waiting: int, oldest_wait_s: float) -> Release:
        return Release(self._size if n_waiting >= self._size else 0)

    def batch_ended(self, n_requests: int, duration_s: float, n_waiting: int) -> None:
        """Sizes do not depend on it."""


class _DynamicTimeout:
    def __init__(self, size: int, timeout_s: float) -> None:
        self._size = size
        self._timeout_s = timeout_s

    def decide(self, n_waiting: int, oldest_wait_s: float) -> Release:
        if n_waiting >= self._size or oldest_wait_s >= self._timeout_s:
            return Release(min(n_waiting, self._size))
        return Release(0, self._timeout_s - oldest_wait_s)

    def batch_ended(self, n_requests: int, duration_s: float, n_waiting: int) -> None:
        """Sizes do not depend on it."""


class _Adaptive:
    """Grows while requests queue up behind batches that are quick enough, shrinks by what is slow.

    The target is the time that a batch itself takes. Waiting does not count: under overload it
    would shrink batches, which lowers throughput and makes requests wait even longer.
    """

    def __init__(self, max_size: int, target_s: float) -> None:
        self._max_size = max_size
        self._target_s = target_s
        self._size = max(1.0, max_size / 4)

    def decide(self, n_waiting: int, oldest_wait_s: float) -> Release:
        return Release(min(n_waiting, int(self._size)))

    def batch_ended(self, n_requests: int, duration_s: float, n_waiting: int) -> None:
        if duration_s > self._target_s:
            # A batch may be late because of one long answer: never drop to a fraction at once.
            shrink = max(0.5, self._target_s / duration_s)
            self._size = max(1.0, min(self._size, n_requests) * shrink)
        elif n_waiting >= int(self._size):
            self._size = min(float(self._max_size), self._size * 1.25 + 1.0)


def make_former(config: BatchConfig) -> BatchFormer | None:
    """The strategy of a configuration; None for CONTINUOUS, which forms no batches."""
    if config.strategy is BatchingStrategy.FIXED_SIZE:
        return _FixedSize(config.max_batch_size)
    if config.strategy is BatchingStrategy.DYNAMIC_TIMEOUT:
        return _DynamicTimeout(config.max_batch_size, config.timeout_ms / 1000.0)
    if config.strategy is BatchingStrategy.ADAPTIVE:
        return _Adaptive(config.max_batch_size, config.target_latency_ms / 1000.0)
    return None
