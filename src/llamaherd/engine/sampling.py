"""Which token comes next, for all rows of a step at once.

Greedy rows are one vectorized argmax. For the others the logits are cut to the candidates
that can possibly be drawn before the row's own sampler sees them, since samplers are slow
on a whole vocabulary. Pure: the row's sampler is given (see `vocabulary.RowSampler`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamaherd.config import GenerationConfig
from llamaherd.engine.plan import FloatArray
from llamaherd.engine.vocabulary import Constraint, RowSampler

__all__ = [
    "Logprobs",
    "SamplingRow",
    "row_logprobs",
    "sample",
    "token_scores",
    "top_candidates",
]

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What the sampler must know of a row.

    Attributes:
        config: Its sampling options.
        sampler: Its own sampler; None when the most probable token is taken as it is.
        recent: Tokens that the penalties look at, for rows with penalties.
        forbidden: Tokens that must not be drawn.
        constraint: Says which tokens may be drawn at all.
    """

    config: GenerationConfig
    sampler: RowSampler | None
    recent: Sequence[int] = ()
    forbidden: Sequence[int] = ()
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural-log probabilities at one position: the chosen token's, and the most probable."""

    chosen: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


def sample(logits: FloatArray, rows: Sequence[SamplingRow]) -> list[int]:
    """Choose one token per row.

    Args:
        logits: Float32 ``[n_rows, n_vocab]``; not changed.
        rows: One entry per row of `logits`.

    Returns:
        Token ids in the order of the rows; -1 where the logits hold no number to choose by.
    """
    best = logits.argmax(axis=1)
    # A NaN wins every argmax, so looking at the winners finds any.
    valid = np.isfinite(logits[np.arange(len(rows)), best])
    tokens = [int(token) if ok else -1 for token, ok in zip(best, valid, strict=True)]
    for i, row in enumerate(rows):
        is_plain = row.sampler is None and not row.config.logit_bias and row.constraint is None
        if valid[i] and not (is_plain and tokens[i] not in row.forbidden):
            tokens[i] = _sample_row(logits[i], row)
    return tokens


def row_logprobs(logits: FloatArray, token: int, n_top: int) -> Logprobs:
    """Log probabilities under the model itself, before bias, penalties and temperature.

    Args:
        logits: Float32 ``[n_vocab]``.
        token: The token that was chosen.
        n_top: How many of the most probable tokens to report.
    """
    peak = float(logits.max())
    total = peak + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    top = _largest(logits, n_top) if n_top else np.empty(0, dtype=np.int64)
    top = top[np.lexsort((top, -logits[top]))]
    return Logprobs(
        float(logits[token]) - total,
        tuple(int(t) for t in top),
        tuple(float(logits[t]) - total for t in top),
    )


def token_scores(logits: FloatArray, tokens: Sequence[int]) -> tuple[float, ...]:
    """Natural-log probabilities of some tokens under the model itself.

    Args:
        logits: Float32 ``[n_vocab]``.
        tokens: Their ids.
    """
    peak = float(logits.max())
    # float32 terms in a float64 sum: good to 1e-6, and several times faster than all in float64.
    total = peak + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
    return tuple(float(logits[token]) - total for token in tokens)


def top_candidates(logits: FloatArray, n: int) -> NDArray[np.int64]:
    """Ids of at least the `n` largest logits, in no particular order.

    The n-th largest of the block maxima is a lower bound for the n-th largest logit, so only
    a small part of a large vocabulary has to be partitioned.
    """
    n_blocks = len(logits) // _BLOCK
    if n_blocks <= 2 * n:
        return _largest(logits, n)
    maxima = logits[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).max(axis=1)
    bound = np.partition(maxima, n_blocks - n)[n_blocks - n]
    return np.flatnonzero(logits >= bound)


def _largest(logits: FloatArray, n: int) -> NDArray[np.int64]:
    if n >= len(logits):
        return np.arange(len(logits))
    return np.argpartition(logits, len(logits) - n)[len(logits) - n :]


def _sample_row(logits: FloatArray, row: SamplingRow) -> int:
    config = row.config
    if row.constraint is not None:
        logits = np.where(row.constraint.allowed(), logits, np.float32(-np.inf))
    if config.logit_bias or row.forbidden:
        logits = logits.copy()
        for token, bias in config.logit_bias.items():
            logits[token] += bias
        for token in row.forbidden:
            logits[token] = -np.inf
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        return -1
    if row.sampler is None:
        return best
    ids = _candidates(logits, row)
    if row.constraint is not None:
        ids = ids[np.isfinite(logits[ids])]
    return row.sampler.pick(ids.astype(np.int32), logits[ids])


def _candidates(logits: FloatArray, row: SamplingRow) -> NDArray[np.int64]:
    """Every token that the row's cut-offs can let through."""
    config = row.config
    if not config.is_greedy and config.top_k == 0:
        return np.arange(len(logits))
    n = 1 if config.is_greedy else config.top_k
    if not config.has_penalties:
        return top_candidates(logits, n)
    # A penalty moves only recent tokens, so those and as many more make the cut exact.
    recent = np.unique(np.asarray(row.recent, dtype=np.int64))
    return np.union1d(top_candidates(logits, n + len(recent)), recent)
