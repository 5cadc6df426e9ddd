"""A radix tree over token ids that knows which slot holds which computed prefix.

Every slot with computed tokens, running or parked, ends at one node; the path from the
root to it spells the slot's tokens. A new row looks for the longest path that begins like
its prompt, also inside an edge, and forks from any slot below that point.

Pure bookkeeping: the caller carries out the matching operations on the KV cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["Match", "PrefixTree", "common_prefix_length"]


class _Node:
    """An edge and its end. `slots` end exactly here; `children` go on from here."""

    __slots__ = ("children", "parent", "slots", "tokens")

    def __init__(self, parent: _Node | None, tokens: list[int]) -> None:
        self.parent = parent
        self.tokens = tokens
        self.children: dict[int, _Node] = {}
        self.slots: set[int] = set()


class Match:
    """How much of a query is computed, and where.

    Attributes:
        n_tokens: Length of the longest computed prefix of the query.
    """

    __slots__ = ("_is_whole", "_node", "n_tokens")

    def __init__(self, n_tokens: int, node: _Node, is_whole: bool = False) -> None:
        self.n_tokens = n_tokens
        self._node = node
        self._is_whole = is_whole

    def slots(self) -> Iterator[int]:
        """Slots to fork from; at least one if `n_tokens` > 0.

        They begin with the matched tokens, or hold exactly these if whole slots were asked for.
        """
        if self._is_whole:
            yield from self._node.slots
            return
        pending = [self._node]
        while pending:
            node = pending.pop()
            yield from node.slots
            pending.extend(node.children.values())


class PrefixTree:
    """Which slot holds which tokens."""

    def __init__(self) -> None:
        self._root = _Node(None, [])
        self._leaf: dict[int, _Node] = {}
        self._length: dict[int, int] = {}
        # Tokens that a slot computed although another slot already had them: their cells
        # exist twice, but the tree spells them once.
        self._duplicates: dict[int, int] = {}
        self._n_tokens = 0

    @property
    def n_tokens(self) -> int:
        """Tokens held in all slots, shared ones counted once."""
        return self._n_tokens + sum(self._duplicates.values())

    def length(self, slot: int) -> int:
        """Tokens computed in `slot`."""
        return self._length.get(slot, 0)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Record that `slot` computed `tokens` after what it already holds."""
        leaf = self._leaf.get(slot)
        if leaf is None:
            leaf = self._leaf[slot] = self._root
            leaf.slots.add(slot)
        self._length[slot] = self._length.get(slot, 0) + len(tokens)
        if leaf is not self._root and not leaf.children and len(leaf.slots) == 1:
            leaf.tokens.extend(tokens)
            self._n_tokens += len(tokens)
            return
        end, n_shared = self._walk(leaf, tokens)
        end = self._split(end, n_shared) if end is not leaf else leaf
        n_matched = self._depth(end) - self._depth(leaf)
        if n_matched:
            self._duplicates[slot] = self._duplicates.get(slot, 0) + n_matched
        if n_matched < len(tokens):
            child = _Node(end, list(tokens[n_matched:]))
            end.children[tokens[n_matched]] = child
            self._n_tokens += len(child.tokens)
            end = child
        self._move(slot, end)

    def fork(self, parent: int, child: int, n_tokens: int) -> None:
        """Record that `child`, empty until now, begins with `n_tokens` of `parent`."""
        node = self._node_at(parent, n_tokens)
        node.slots.add(child)
        self._leaf[child] = node
        self._length[child] = n_tokens

    def trim(self, slot: int, n_tokens: int) -> None:
        """Record that `slot` keeps only its first `n_tokens`."""
        if n_tokens >= self._length[slot]:
            return
        self._move(slot, self._node_at(slot, n_tokens))
        self._length[slot] = n_tokens
        self._limit_duplicates(slot)

    def free(self, slot: int) -> None:
        """Record that `slot` is empty."""
        leaf = self._leaf.pop(slot, None)
        self._length.pop(slot, None)
        self._duplicates.pop(slot, None)
        if leaf is not None:
            leaf.slots.discard(slot)
            self._prune(leaf)

    def match(self, tokens: Sequence[int], *, whole_slots: bool = False) -> Match:
        """Find the longest computed prefix of `tokens`. Changes nothing.

        Args:
            tokens: The query.
            whole_slots: Accept only a prefix at which some slot ends, for memory that cannot
                be cut back.
        """
        end, n_shared = self._walk(self._root, tokens)
        depth = self._depth(end) - len(end.tokens) + n_shared if end is not self._root else 0
        if not whole_slots:
            return Match(depth, end)
        node: _Node | None = end
        if n_shared < len(end.tokens):
            depth -= n_shared
            node = end.parent
        while node is not None and node is not self._root and not node.slots:
            depth -= len(node.tokens)
            node = node.parent
        return Match(depth, node or self._root, is_whole=True)

    def check_invariants(self) -> None:
        """Raise AssertionError if the books are wrong; for tests."""
        total = 0
        seen: set[int] = set()
        pending = [(self._root, 0)]
        while pending:
            node, depth = pending.pop()
            depth += len(node.tokens)
            total += len(node.tokens)
            for slot in node.slots:
                assert self._leaf[slot] is node, f"slot {slot} is not at its node"
                assert self._length[slot] == depth, f"slot {slot} has a wrong length"
                seen.add(slot)
            if node is not self._root:
                assert node.tokens, "an empty edge"
                assert node.slots or node.children, "a node that nobody holds"
            for first, child in node.children.items():
                assert child.parent is node and child.tokens[0] == first, "a misplaced edge"
                pending.append((child, depth))
        assert seen == set(self._leaf), "a slot is lost"
        assert total == self._n_tokens, f"{total} tokens in the tree, {self._n_tokens} in the books"

    def _walk(self, node: _Node, tokens: Sequence[int]) -> tuple[_Node, int]:
        """Follow `tokens` down from `node`; the last node reached and how much of its edge fits."""
        position = 0
        n_shared = len(node.tokens)
        while position < len(tokens):
            child = node.children.get(tokens[position])
            if child is None:
                break
            n_shared = common_prefix_length(child.tokens, tokens, position)
            node = child
            position += n_shared
            if n_shared < len(child.tokens):
                break
        return node, n_shared

    def _split(self, node: _Node, n_tokens: int) -> _Node:
        """Make a node end after the first `n_tokens` of `node`'s edge; return that node."""
        if n_tokens == len(node.tokens):
            return node
        assert node.parent is not None
        upper = _Node(node.parent, node.tokens[:n_tokens])
        node.parent.children[upper.tokens[0]] = upper
        node.tokens = node.tokens[n_tokens:]
        node.parent = upper
        upper.children[node.tokens[0]] = node
        return upper

    def _node_at(self, slot: int, n_tokens: int) -> _Node:
        """The node at depth `n_tokens` on the way to `slot`, made by a split if need be."""
        if n_tokens == 0:
            return self._root
        node = self._leaf[slot]
        depth = self._length[slot]
        while depth - len(node.tokens) >= n_tokens:
            depth -= len(node.tokens)
            assert node.parent is not None
            node = node.parent
        return self._split(node, n_tokens - (depth - len(node.tokens)))

    def _move(self, slot: int, node: _Node) -> None:
        old = self._leaf[slot]
        old.slots.discard(slot)
        node.slots.add(slot)
        self._leaf[slot] = node
        self._prune(old)

    def _prune(self, node: _Node) -> None:
        """Remove `node` and its ancestors as long as nobody holds them."""
        while node.parent is not None and not node.slots and not node.children:
            del node.parent.children[node.tokens[0]]
            self._n_tokens -= len(node.tokens)
            node = node.parent

    def _limit_duplicates(self, slot: int) -> None:
        if slot in self._duplicates:
            self._duplicates[slot] = min(self._duplicates[slot], self._length[slot])

    def _depth(self, node: _Node) -> int:
        depth = 0
        current: _Node | None = node
        while current is not None:
            depth += len(current.tokens)
            current = current.parent
        return depth


def common_prefix_length(first: Sequence[int], second: Sequence[int], offset: int = 0) -> int:
    """How many tokens `first` and `second[offset:]` share at their beginning."""
    n = min(len(first), len(second) - offset)
    if first[:n] == second[offset : offset + n]:
        return n
    # Slices compare in C; halving finds the difference in O(n) instead of a Python loop.
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[offset + low : offset + middle]:
            low = middle
        else:
            high = middle
    return low
