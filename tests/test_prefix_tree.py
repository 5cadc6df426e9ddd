"""The radix tree against a list of lists."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llamaherd.engine.prefix_tree import PrefixTree, common_prefix_length

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["extend", "extend", "fork", "trim", "free"]),
        st.integers(0, 4),
        st.integers(0, 4),
        TOKENS,
        st.integers(0, 12),
    ),
    max_size=60,
)


def shared(first: list[int], second: list[int]) -> int:
    n = 0
    while n < min(len(first), len(second)) and first[n] == second[n]:
        n += 1
    return n


@given(OPERATIONS, TOKENS)
@settings(max_examples=200, deadline=None)
def test_tree_equals_a_list_of_lists(operations: list[tuple], query: list[int]) -> None:
    """Matches are the longest, and name slots that really hold the tokens."""
    tree = PrefixTree()
    slots: dict[int, list[int]] = {}
    for name, slot, other, tokens, n in operations:
        if name == "extend":
            tree.extend(slot, tokens)
            slots[slot] = slots.get(slot, []) + tokens
        elif name == "fork" and slots.get(slot) and other not in slots:
            n = min(max(n, 1), len(slots[slot]))
            tree.fork(slot, other, n)
            slots[other] = slots[slot][:n]
        elif name == "trim" and slot in slots:
            tree.trim(slot, min(n, len(slots[slot])))
            slots[slot] = slots[slot][:n]
        elif name == "free":
            tree.free(slot)
            slots.pop(slot, None)
        tree.check_invariants()
        match = tree.match(query)
        assert match.n_tokens == max((shared(t, query) for t in slots.values()), default=0)
        if match.n_tokens:
            holders = list(match.slots())
            assert holders
            assert all(slots[s][: match.n_tokens] == query[: match.n_tokens] for s in holders)
        whole = tree.match(query, whole_slots=True)
        ends = [len(t) for t in slots.values() if query[: len(t)] == t]
        assert whole.n_tokens == max(ends, default=0)
        assert all(len(slots[s]) == whole.n_tokens for s in whole.slots() if whole.n_tokens)


@given(TOKENS, TOKENS, st.integers(0, 8))
def test_common_prefix_length(first: list[int], second: list[int], offset: int) -> None:
    """The halving search equals the plain loop."""
    offset = min(offset, len(second))
    assert common_prefix_length(first, second, offset) == shared(first, second[offset:])


def test_match_inside_an_edge() -> None:
    """A query that leaves an edge half way still reuses the first half."""
    tree = PrefixTree()
    tree.extend(0, [1, 2, 3, 4])
    assert tree.match([1, 2, 9]).n_tokens == 2
