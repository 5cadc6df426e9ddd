"""Which texts are embedded together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pack"]


def pack(lengths: Sequence[int], *, token_budget: int, max_texts: int) -> list[list[int]]:
    """Put texts of like length together, the longest first.

    Args:
        lengths: Tokens of each text, at least 1.
        token_budget: Tokens in one batch; a longer text has one of its own.
        max_texts: Texts in one batch.

    Returns:
        Positions of the texts of each batch.
    """
    batches: list[list[int]] = []
    room = 0
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[position] > room or len(batches[-1]) == max_texts:
            batches.append([])
            room = token_budget
        batches[-1].append(position)
        room -= lengths[position]
    return batches
