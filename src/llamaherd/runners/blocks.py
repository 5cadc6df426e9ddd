"""The books of a paged KV cache: which blocks hold the tokens of which slot.

Pure bookkeeping. Slots that begin alike share whole blocks by reference count; a block that
several slots refer to is copied before one of them writes into it.
"""

from __future__ import annotations

__all__ = ["BlockTables"]


class BlockTables:
    """Blocks of every slot.

    Args:
        n_blocks: Blocks in the cache.
        n_slots: Slots.
        block_size: Tokens per block.
    """

    def __init__(self, n_blocks: int, n_slots: int, block_size: int) -> None:
        self._block_size = block_size
        self._n_users = [0] * n_blocks
        # The block that was freed last is taken first: its memory is in use already.
        self._free = list(range(n_blocks - 1, -1, -1))
        self._tables: list[list[int]] = [[] for _ in range(n_slots)]

    @property
    def n_free(self) -> int:
        """Blocks that nobody uses."""
        return len(self._free)

    def table(self, slot: int) -> list[int]:
        """Blocks of a slot, in the order of its tokens."""
        return self._tables[slot]

    def trim(self, slot: int, n_tokens: int) -> None:
        """Keep the blocks of a slot's first tokens only."""
        table = self._tables[slot]
        n_kept = -(-n_tokens // self._block_size)
        for block in table[n_kept:]:
            self._n_users[block] -= 1
            if self._n_users[block] == 0:
                self._free.append(block)
        del table[n_kept:]

    def fork(self, parent: int, child: int, n_tokens: int) -> None:
        """Let `child`, which is empty, share the blocks of a parent's first tokens."""
        shared = self._tables[parent][: -(-n_tokens // self._block_size)]
        for block in shared:
            self._n_users[block] += 1
        self._tables[child] = shared

    def n_missing(self, slot: int, start: int, n_tokens: int) -> int:
        """Free blocks that `extend` would take."""
        table = self._tables[slot]
        n_new = -(-(start + n_tokens) // self._block_size) - len(table)
        return max(0, n_new) + self._must_copy(slot, start)

    def extend(self, slot: int, start: int, n_tokens: int) -> tuple[int, int] | None:
        """Make room for tokens from `start` on.

        Returns:
            A block to copy and where to, if the tokens begin in a block that others use too.
        """
        table = self._tables[slot]
        copy = None
        if self._must_copy(slot, start):
            index = start // self._block_size
            copy = table[index], self._take()
            self._n_users[table[index]] -= 1
            table[index] = copy[1]
        while len(table) * self._block_size < start + n_tokens:
            table.append(self._take())
        return copy

    def _must_copy(self, slot: int, start: int) -> bool:
        table, index = self._tables[slot], start // self._block_size
        return index < len(table) and self._n_users[table[index]] > 1

    def _take(self) -> int:
        block = self._free.pop()
        self._n_users[block] = 1
        return block
