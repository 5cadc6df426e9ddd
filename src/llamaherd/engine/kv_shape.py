"""How large the KV cache should be and how it is divided. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from llamaherd.config import KvLayout
from llamaherd.engine.plan import Demand

__all__ = ["KvShape", "choose_kv_shape"]

# llama.cpp pads a sequence's share to a multiple of this.
_CELL_ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class KvShape:
    """A KV cache.

    Attributes:
        n_slots: Sequences.
        n_tokens: Tokens in all.
        is_unified: One pool for all slots; otherwise each has an equal part of its own.
    """

    n_slots: int
    n_tokens: int
    is_unified: bool

    @property
    def n_tokens_per_slot(self) -> int:
        """Tokens that one sequence can hold."""
        return self.n_tokens if self.is_unified else self.n_tokens // self.n_slots


def choose_kv_shape(
    demand: Demand,
    *,
    layout: KvLayout,
    has_gpu: bool,
    bytes_per_token: int,
    budget_bytes: int,
) -> KvShape:
    """Choose a KV cache for a demand.

    On a CPU every sequence's attention scans all used cells of a unified cache, so decoding
    slows down beyond 16 to 32 sequences (llama.cpp issue 10860); split caches do not have
    that cost but must give every slot room for the longest row. So: split on a CPU as long as
    at least half of the wanted slots fit, else unified.

    Args:
        demand: Rows at the same time, and the longest row.
        layout: The user's wish.
        has_gpu: Whether layers run on a GPU.
        bytes_per_token: KV cache of one token.
        budget_bytes: Most memory to use. A cache for one row of `_CELL_ALIGNMENT` tokens is
            made in any case.
    """
    n_row = _align(demand.n_tokens_per_row)
    n_budget = max(_CELL_ALIGNMENT, budget_bytes // max(1, bytes_per_token))
    n_slots_split = min(demand.max_batch_size, n_budget // n_row)
    fits_split = 2 * n_slots_split >= demand.max_batch_size
    if layout == "split" or (layout == "auto" and not has_gpu and fits_split):
        n_slots = max(1, n_slots_split)
        n_row = min(n_row, _align_down(n_budget))
        return KvShape(n_slots, n_slots * n_row, is_unified=n_slots == 1)
    n_wanted = n_row * demand.max_batch_size
    return KvShape(demand.max_batch_size, min(n_wanted, _align_down(n_budget)), is_unified=True)


def _align(n_tokens: int) -> int:
    return -(-n_tokens // _CELL_ALIGNMENT) * _CELL_ALIGNMENT


def _align_down(n_tokens: int) -> int:
    return max(_CELL_ALIGNMENT, n_tokens // _CELL_ALIGNMENT * _CELL_ALIGNMENT)
