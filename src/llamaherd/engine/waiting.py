"""Rows that wait for admission, and which of them is next.

Pure bookkeeping. Priorities decide, raised by how long a row has waited, so that nothing
starves. Among rows of one priority those that arrived together are ordered together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from llamaherd.engine.prefix_tree import common_prefix_length

__all__ = ["MIN_SHARED_TOKENS", "Sequence", "WaitingRows", "order_window", "urgency"]

# A row waits for another one that is computing the same beginning only if that saves at
# least this many tokens.
MIN_SHARED_TOKENS = 8
# Waiting this many steps counts as much as one level of priority.
AGEING_STEPS = 64


@dataclass(slots=True, eq=False)
class Sequence:
    """One row on its way through the model.

    Attributes:
        tokens: Prompt tokens, then generated ones.
        n_prompt: How many of them are the prompt.
        max_new_tokens: Most tokens to generate.
        priority: 0 to 255, higher first.
        interactive: Somebody is watching each token.
        slot: Where its KV cache is; None while it waits.
        n_computed: Tokens whose keys and values are in the KV cache.
        n_cached: Prompt tokens that were reused when it first started.
        n_preempted: How often it had to give up its KV cache.
    """

    tokens: list[int]
    n_prompt: int
    max_new_tokens: int
    priority: int = 0
    interactive: bool = False
    slot: int | None = None
    n_computed: int = 0
    n_cached: int = 0
    n_preempted: int = 0
    started: bool = False
    submitted_step: int = 0

    @property
    def n_pending(self) -> int:
        """Tokens that still have to be computed."""
        return len(self.tokens) - self.n_computed

    @property
    def n_left(self) -> int:
        """Tokens that may still be generated."""
        return self.max_new_tokens - (len(self.tokens) - self.n_prompt)


@dataclass(slots=True)
class _Lane:
    """Waiting rows of one priority: an ordered window, then later arrivals."""

    ordered: deque[Sequence] = field(default_factory=deque)
    arrivals: list[Sequence] = field(default_factory=list)

    def head(self) -> Sequence:
        """The next row. Sorts the arrivals once the window before them is used up."""
        if not self.ordered:
            self.ordered.extend(order_window(self.arrivals))
            self.arrivals = []
        return self.ordered[0]


class WaitingRows:
    """A queue by priority, age and likeness."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, sequence: Sequence) -> None:
        """Let a new row wait. Rows added before the next `next` call are ordered together."""
        self._lane(sequence).arrivals.append(sequence)
        self._n += 1

    def put_back(self, sequences: Iterable[Sequence]) -> None:
        """Let rows wait again, in this order, before all others of their priority."""
        for sequence in reversed(list(sequences)):
            self._lane(sequence).ordered.appendleft(sequence)
            self._n += 1

    def next(self, step: int) -> Sequence:
        """Who is next at this step; the row goes on waiting until `pop`."""
        if len(self._lanes) == 1:
            return next(iter(self._lanes.values())).head()
        heads = [lane.head() for lane in self._lanes.values() if lane.ordered or lane.arrivals]
        return max(heads, key=lambda s: urgency(s, step))

    def pop(self, sequence: Sequence) -> Sequence:
        """Take out the row that `next` gave."""
        self._lane(sequence).ordered.popleft()
        self._n -= 1
        return sequence

    def remove(self, sequence: Sequence) -> bool:
        """Take out any row; False if it does not wait here."""
        lane = self._lane(sequence)
        for queue in (lane.ordered, lane.arrivals):
            if sequence in queue:
                queue.remove(sequence)
                self._n -= 1
                return True
        return False

    def drain(self) -> list[Sequence]:
        """Take out all rows, first those of high priority."""
        rows: list[Sequence] = []
        for _, lane in sorted(self._lanes.items(), reverse=True):
            rows.extend(lane.ordered)
            rows.extend(lane.arrivals)
        self._lanes.clear()
        self._n = 0
        return rows

    def check_invariants(self) -> None:
        """Raise AssertionError if the books are wrong; for tests."""
        assert self._n == sum(len(x.ordered) + len(x.arrivals) for x in self._lanes.values())

    def _lane(self, sequence: Sequence) -> _Lane:
        return self._lanes.setdefault(sequence.priority, _Lane())


def urgency(sequence: Sequence, step: int) -> float:
    """A row's priority, raised by its age: nothing is overtaken forever."""
    return sequence.priority + (step - sequence.submitted_step) / AGEING_STEPS


def order_window(sequences: list[Sequence]) -> list[Sequence]:
    """Order rows that arrived together.

    Rows that begin alike become neighbors, so that their shared prefix is computed once and
    need not be kept for long. Rows with nothing in common run longest first, which leaves the
    short ones to fill the end of a job. Interactive rows keep their order and come first.
    """
    interactive = [s for s in sequences if s.interactive]
    rest = sorted((s for s in sequences if not s.interactive), key=lambda s: s.tokens)
    groups: list[list[Sequence]] = []
    for sequence in rest:
        if groups and (
            common_prefix_length(groups[-1][-1].tokens, sequence.tokens) >= 2 * MIN_SHARED_TOKENS
        ):
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    groups.sort(key=lambda g: max((s.max_new_tokens, len(s.tokens)) for s in g), reverse=True)
    return interactive + [sequence for group in groups for sequence in group]
