"""Which texts are embedded together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["next_batch"]


def next_batch(lengths: Sequence[int], *, token_budget: int, max_texts: int) -> list[int]:
    """Choose the texts of the next batch: the one that waits longest, and those most like it.

    Args:
        lengths: Tokens of each waiting text, at least 1, in the order in which they came; at
            least one text.
        token_budget: Tokens in one batch; a longer text has one of its own.
        max_texts: Texts in one batch.

    Returns:
        Positions in `lengths`; 0 is always among them, so that no text waits forever.
    """
    waiting = np.asarray(lengths)
    order = np.argsort(np.abs(waiting - waiting[0]), kind="stable")[:max_texts]
    n_fitting = np.searchsorted(np.cumsum(waiting[order]), token_budget, side="right")
    return [int(i) for i in order[: max(1, int(n_fitting))]]
