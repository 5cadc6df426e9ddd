"""How far annotators agree beyond chance, in time and memory linear in the answers.

Answers are numbers of labels, -1 where there is none, one row per annotator. Free text has about as
many different answers as items, for which matrices of all pairs of answers would be too large.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bootstrap", "Interval", "alpha", "kappa", "share_of_agreement"]

Codes = NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Percentile intervals from items that are drawn again, with replacement.

    Attributes:
        random: Draws the items.
        n_draws: How often.
        confidence: Level of the intervals.
    """

    random: np.random.Generator
    n_draws: int
    confidence: float

    def of_share(self, share: float, n_items: int) -> Interval:
        """Of a share: items that are drawn again have it in a binomial number of cases."""
        return self._interval(self.random.binomial(n_items, share, self.n_draws) / n_items)

    def of_weights(
        self, statistic: Callable[[NDArray[np.float64]], float], n_items: int
    ) -> Interval:
        """Of a function of how often each item counts. Draws for which it is NaN are left out."""
        found = np.empty(self.n_draws)
        for i in range(self.n_draws):
            drawn = self.random.integers(0, n_items, n_items)
            found[i] = statistic(np.bincount(drawn, minlength=n_items).astype(float))
        return self._interval(found[~np.isnan(found)])

    def _interval(self, values: NDArray[np.float64]) -> Interval:
        if not len(values):
            return math.nan, math.nan
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)


def kappa(a: Codes, b: Codes) -> float:
    """Cohen's kappa over the items that both answered; NaN if there are none."""
    both = (a >= 0) & (b >= 0)
    n = int(both.sum())
    if not n:
        return math.nan
    a, b = a[both], b[both]
    size = int(max(a.max(), b.max())) + 1
    by_chance = float(np.bincount(a, minlength=size) @ np.bincount(b, minlength=size)) / n**2
    if by_chance == 1.0:
        return 1.0  # both always say the same, for which the formula is 0 / 0
    return (float((a == b).mean()) - by_chance) / (1 - by_chance)


def alpha(codes: Codes, bootstrap: Bootstrap) -> tuple[float, Interval]:
    """Krippendorff's alpha for nominal data, and its interval; NaN if no two answered an item."""
    answers = _Answers.of(codes)
    n_items = codes.shape[1]
    whole = answers.alpha(np.ones(n_items))
    if math.isnan(whole):
        return whole, (math.nan, math.nan)
    return whole, bootstrap.of_weights(answers.alpha, n_items)


def share_of_agreement(codes: Codes) -> float:
    """Share of the items that several answered, on which all of them agree."""
    highest = codes.max(axis=0)
    lowest = np.where(codes < 0, np.iinfo(np.int64).max, codes).min(axis=0)
    answered = (codes >= 0).sum(axis=0) > 1
    return float((highest == lowest)[answered].mean()) if answered.any() else math.nan


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers to items that at least two answered.

    Attributes:
        n_answers: By item; 0 where fewer than two answered.
        n_agreeing: By item: answers, each by the share of the others that are the same.
        values: Every answer.
        items: The item of every answer.
    """

    n_answers: NDArray[np.float64]
    n_agreeing: NDArray[np.float64]
    values: Codes
    items: Codes

    @classmethod
    def of(cls, codes: Codes) -> _Answers:
        answered = codes >= 0
        n_answers = answered.sum(axis=0)
        counts = n_answers >= 2
        pairs = np.zeros(codes.shape[1])
        for a, b in itertools.combinations(codes, 2):
            pairs += 2.0 * ((a == b) & (a >= 0))
        values_at = answered & counts
        return cls(
            n_answers=np.where(counts, n_answers, 0).astype(float),
            n_agreeing=np.where(counts, pairs / np.maximum(1, n_answers - 1), 0.0),
            values=codes[values_at],
            items=np.nonzero(values_at)[1],
        )

    def alpha(self, weights: NDArray[np.float64]) -> float:
        """Alpha, if each item counts as often as it is said here."""
        n = float(weights @ self.n_answers)
        if n == 0:
            return math.nan
        of_value = np.bincount(self.values, weights=weights[self.items])
        expected = (n * n - float(of_value @ of_value)) / (n - 1)
        if expected == 0:
            return 1.0  # all always say the same, for which the formula is 0 / 0
        return 1 - (n - float(weights @ self.n_agreeing)) / expected
