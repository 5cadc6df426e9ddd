"""The best of many scores, some at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["TopK"]

_SIGN = np.uint32(1 << 31)
_SLACK = 1024


class TopK:
    """The `k` largest scores of each row, where equal scores rank by position.

    The result does not depend on the order in which scores come.

    Args:
        n_rows: Rows that are ranked apart.
        k: Scores to keep of each, 1 or more.
    """

    def __init__(self, n_rows: int, k: int) -> None:
        self._k = k
        self._n = 0
        # Unsigned integers of which the smallest are the best: the score above, the position
        # below. They are all different, so that a partition is exact about ties.
        self._keys = np.empty((n_rows, k + max(k, _SLACK)), np.uint64)

    def __call__(self, first: int, scores: NDArray[np.float32]) -> None:
        """Take finite scores ``[n_rows, n]`` of the positions from `first` on."""
        # Adding zero makes a negative zero positive, so that the two tie.
        bits = (scores + np.float32(0)).view(np.uint32)
        falling = np.where(bits & _SIGN, bits, ~(bits | _SIGN))
        positions = np.arange(first, first + scores.shape[1], dtype=np.uint64)
        self._add((falling.astype(np.uint64) << np.uint64(32)) | positions)

    def merge(self, other: TopK) -> None:
        """Take what another one of as many rows has kept."""
        other._prune()
        self._add(other._keys[:, : other._n])

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and scores ``[n_rows, k]``, best first."""
        self._prune()
        keys = np.sort(self._keys[:, : self._n], axis=1)
        falling = (keys >> np.uint64(32)).astype(np.uint32)
        bits = np.where(falling & _SIGN, falling, ~falling & ~_SIGN)
        return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), bits.view(np.float32)

    def _add(self, keys: NDArray[np.uint64]) -> None:
        taken = 0
        while taken < keys.shape[1]:
            if self._n == self._keys.shape[1]:
                self._prune()
            part = keys[:, taken : taken + self._keys.shape[1] - self._n]
            self._keys[:, self._n : self._n + part.shape[1]] = part
            self._n += part.shape[1]
            taken += part.shape[1]

    def _prune(self) -> None:
        if self._n > self._k:
            kept = np.partition(self._keys[:, : self._n], self._k - 1, axis=1)
            self._keys[:, : self._k] = kept[:, : self._k]
            self._n = self._k
