"""Who computes what in the next step.

Pure policy: integers in, a `StepPlan` out. No thread, clock, model or text. There are no
phases: a sequence has tokens and a number of computed ones, and each step lets the second
catch up. Running sequences come first, so nobody's next token waits behind a long prompt;
the rest of the token budget goes to prompts.

Every slot is free, running, or parked. A parked slot belongs to nobody: it keeps the tokens
of a finished sequence, so that a row that begins alike need not compute them again, and is
given up, least recently used first, when the room is needed.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass

from llamaherd.engine.plan import (
    Chunk,
    Fork,
    Free,
    MemoryKind,
    MemoryOperation,
    RunnerLimits,
    StepPlan,
    Trim,
)
from llamaherd.engine.prefix_tree import PrefixTree
from llamaherd.engine.waiting import MIN_SHARED_TOKENS, Sequence, WaitingRows, urgency

__all__ = ["Scheduler", "Step"]

# Idle sequences slow down attention in a unified KV cache (llama.cpp issue 25804): few stay.
MAX_PARKED_UNIFIED = 8
# A waiting row that is this many levels of priority above a running one takes its place.
URGENT_LEVELS = 128


@dataclass(frozen=True, slots=True)
class Step:
    """A plan and the sequences behind its chunks, in the same order."""

    plan: StepPlan
    sequences: tuple[Sequence, ...]


class Scheduler:
    """Admission, token budget, priorities, preemption and prefix reuse for one runner.

    Args:
        limits: What the runner can hold.
        max_running: Sequences in work at the same time.
        interactive_chunk: Prompt tokens per step while an interactive sequence is in work that
            would have to wait for it.
    """

    def __init__(
        self, limits: RunnerLimits, *, max_running: int, interactive_chunk: int = 256
    ) -> None:
        self._limits = limits
        self._max_running = min(max_running, limits.n_slots)
        self._interactive_chunk = interactive_chunk
        self._pooled = limits.memory in (MemoryKind.UNIFIED, MemoryKind.PAGED)
        self._tree = PrefixTree()
        self._free = list(range(limits.n_slots))
        self._running: list[Sequence] = []
        self._parked: OrderedDict[int, None] = OrderedDict()
        self._waiting = WaitingRows()
        self._step = 0
        self._chunk_cap = limits.n_batch
        self._pending_operations: list[MemoryOperation] = []
        # Share of their allowance that finished sequences really used.
        self._used_share = 1.0
        self._n_interactive = 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self._running or self._waiting)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Let sequences wait for admission. A call's sequences are ordered together."""
        for sequence in sequences:
            sequence.submitted_step = self._step
            self._waiting.add(sequence)
            self._n_interactive += sequence.interactive

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that is finished, cancelled or failed; its slot is parked."""
        if sequence.slot is None:
            if self._waiting.remove(sequence):
                self._n_interactive -= sequence.interactive
            return
        self._running.remove(sequence)
        self._n_interactive -= sequence.interactive
        self._park(sequence.slot)
        sequence.slot = None
        if sequence.max_new_tokens:
            used = (len(sequence.tokens) - sequence.n_prompt) / sequence.max_new_tokens
            self._used_share += 0.05 * (used - self._used_share)

    def schedule(self) -> Step:
        """Decide the next step. Its memory operations are on the books at once."""
        self._step += 1
        operations = self._pending_operations
        self._pending_operations = []
        self._secure_decodes(operations)
        self._yield_to_urgent(operations)
        if self._limits.memory is MemoryKind.PARTITIONED and not self._waiting:
            self._close_gaps(operations)
        budget = self._limits.n_batch
        chunks = [(s, _chunk(s, 1)) for s in self._running if s.n_pending == 1]
        budget -= len(chunks)
        if self._must_hurry():
            budget = min(budget, self._interactive_chunk)
        for sequence in self._running:
            if sequence.n_pending > 1:
                budget = self._add_prompt(sequence, chunks, budget)
        self._admit(operations, chunks, budget)
        return Step(
            StepPlan(tuple(operations), tuple(chunk for _, chunk in chunks)),
            tuple(sequence for sequence, _ in chunks),
        )

    def _must_hurry(self) -> bool:
        """Whether somebody would watch this step take long.

        Interactive prompts among themselves run together: none of them would be answered sooner
        by smaller steps, except the first.
        """
        is_mixed = self._n_interactive < len(self._running) + len(self._waiting)
        return bool(self._n_interactive) and (
            is_mixed or any(s.interactive and s.n_pending == 1 for s in self._running)
        )

    def commit(self, step: Step) -> None:
        """The step's chunks are computed."""
        for sequence, chunk in zip(step.sequences, step.plan.chunks, strict=True):
            self._tree.extend(chunk.slot, chunk.tokens)
            sequence.n_computed += len(chunk.tokens)
        self._chunk_cap = self._limits.n_batch

    def make_room(self) -> Sequence | None:
        """The runner had no room for the last step: give something up, so that it can be retried.

        Returns:
            The one sequence that cannot be helped: it runs alone and its smallest step does
            not fit. The caller fails it.
        """
        if self._parked:
            for slot in list(self._parked):
                self._evict(slot, self._pending_operations)
            return None
        if len(self._running) > 1:
            self._preempt(self._victim(), self._pending_operations)
            return None
        if self._chunk_cap > 1 and self._running and self._running[0].n_pending > 1:
            self._chunk_cap = max(1, min(self._chunk_cap, self._running[0].n_pending) // 2)
            return None
        return self._running[0] if self._running else None

    def drain(self) -> list[Sequence]:
        """Take out every sequence with nothing computed, for a new scheduler to `add`."""
        for sequence in self._running:
            sequence.slot = None
            sequence.n_preempted += sequence.n_computed > 0
            sequence.n_computed = 0
        left = [*self._running, *self._waiting.drain()]
        self._running = []
        self._n_interactive = 0
        return left

    def check_invariants(self) -> None:
        """Raise AssertionError if the books are wrong; for tests."""
        self._tree.check_invariants()
        slots = [s.slot for s in self._running if s.slot is not None]
        assert len(slots) == len(self._running), "a running sequence has no slot"
        everything = sorted([*slots, *self._parked, *self._free])
        assert everything == list(range(self._limits.n_slots)), "slots lost or held twice"
        for sequence in self._running:
            assert sequence.slot is not None
            assert self._tree.length(sequence.slot) == sequence.n_computed, "wrong length"
            assert sequence.n_pending >= 0, "computed more tokens than there are"
        self._waiting.check_invariants()

    # ── room ────────────────────────────────────────────────────────────────────────────

    def _n_free_tokens(self) -> int:
        """Room in the pool, at least.

        In a paged cache a slot's last block may be nearly empty, and the block in which it
        branched off is a copy of its own. A slot that is alone wastes nothing that it needs.
        """
        n_slots = len(self._running) + len(self._parked)
        n_wasted = (self._limits.block_size - 1) * (2 * n_slots - 1) if n_slots > 1 else 0
        return self._limits.n_tokens - self._tree.n_tokens - n_wasted

    def _secure_decodes(self, operations: list[MemoryOperation]) -> None:
        """Make sure that every running sequence can take one more token."""
        if not self._pooled:
            return
        while len(self._running) > 1 and self._n_free_tokens() < len(self._running):
            if self._parked:
                self._evict(next(iter(self._parked)), operations)
            else:
                self._preempt(self._victim(), operations)
        while self._parked and self._n_free_tokens() < len(self._running):
            self._evict(next(iter(self._parked)), operations)

    def _expected_tokens(self, sequence: Sequence) -> int:
        """Room that a sequence will still need, going by what finished ones used."""
        expected = sequence.max_new_tokens * min(1.0, 1.2 * self._used_share)
        n_generated = len(sequence.tokens) - sequence.n_prompt
        n_left = min(sequence.n_left, max(1, round(expected) - n_generated))
        return sequence.n_pending + n_left

    def _victim(self) -> Sequence:
        """Who gives way: the lowest priority, and among those the youngest."""
        return min(reversed(self._running), key=lambda s: s.priority)

    def _yield_to_urgent(self, operations: list[MemoryOperation]) -> None:
        """In a full batch, let the least urgent row make room for one that cannot wait.

        At most one a step, so that a flood of urgent rows does not throw out everybody at once.
        """
        if not self._waiting or len(self._running) < self._max_running:
            return
        victim = min(reversed(self._running), key=lambda s: urgency(s, self._step))
        gap = urgency(self._waiting.next(self._step), self._step) - urgency(victim, self._step)
        if gap >= URGENT_LEVELS:
            self._preempt(victim, operations)

    def _preempt(self, sequence: Sequence, operations: list[MemoryOperation]) -> None:
        """Send a sequence back to the head of its lane. It keeps its generated tokens."""
        assert sequence.slot is not None
        self._running.remove(sequence)
        self._clear(sequence.slot, operations)
        sequence.slot = None
        sequence.n_computed = 0
        sequence.n_preempted += 1
        self._waiting.put_back([sequence])

    def _park(self, slot: int) -> None:
        if self._tree.length(slot) == 0:
            self._clear(slot, self._pending_operations)
            return
        self._parked[slot] = None
        is_unified = self._limits.memory is MemoryKind.UNIFIED
        if is_unified and len(self._parked) > MAX_PARKED_UNIFIED:
            self._evict(next(iter(self._parked)), self._pending_operations)

    def _evict(self, slot: int, operations: list[MemoryOperation]) -> None:
        del self._parked[slot]
        self._clear(slot, operations)

    def _clear(self, slot: int, operations: list[MemoryOperation]) -> None:
        self._tree.free(slot)
        operations.append(Free(slot))
        # Low slots first: a partitioned cache is fastest when running slots are neighbors.
        bisect.insort(self._free, slot)

    # ── prompts ─────────────────────────────────────────────────────────────────────────

    def _add_prompt(
        self, sequence: Sequence, chunks: list[tuple[Sequence, Chunk]], budget: int
    ) -> int:
        """Schedule as much of a prompt as fits; return the budget that is left."""
        n_tokens = min(sequence.n_pending, budget, self._chunk_cap)
        if self._pooled:
            n_tokens = min(n_tokens, self._n_free_tokens() - sum(len(c.tokens) for _, c in chunks))
        if n_tokens <= 0:
            return budget
        chunks.append((sequence, _chunk(sequence, n_tokens)))
        return budget - n_tokens

    def _admit(
        self,
        operations: list[MemoryOperation],
        chunks: list[tuple[Sequence, Chunk]],
        budget: int,
    ) -> None:
        """Start waiting sequences while slots, KV cache and budget last."""
        held: list[Sequence] = []
        leaders = [s for s in self._running if s.n_pending > 1]
        reserved = sum(self._expected_tokens(s) for s in self._running) if self._pooled else 0
        while (
            budget > 0
            and self._waiting
            and len(self._running) < self._max_running
            and len(held) < 2 * self._max_running
        ):
            sequence = self._waiting.next(self._step)
            query = sequence.tokens[:-1]
            match = self._tree.match(query, whole_slots=self._limits.memory is MemoryKind.RECURRENT)
            if self._is_computing_elsewhere(query, match.n_tokens, leaders):
                held.append(self._waiting.pop(sequence))
                continue
            holders = list(match.slots()) if match.n_tokens else []
            fits = True
            if self._pooled:
                need = self._expected_tokens(sequence) - match.n_tokens
                fits = self._evict_for(reserved + need, holders[:1], operations)
                if not fits and self._running:
                    break
                reserved += need
            self._waiting.pop(sequence)
            slot = self._take_slot(match.n_tokens, holders, operations, take_over=not fits)
            self._start(sequence, slot, match.n_tokens)
            if sequence.n_pending > 1:
                leaders.append(sequence)
            budget = self._add_prompt(sequence, chunks, budget)
        self._waiting.put_back(held)

    def _is_computing_elsewhere(
        self, query: AbstractSequence[int], n_matched: int, leaders: list[Sequence]
    ) -> bool:
        """Whether a prompt in work will soon offer a longer beginning than the KV cache does."""
        if self._limits.memory is MemoryKind.RECURRENT:
            return False
        n_wanted = n_matched + MIN_SHARED_TOKENS
        opening = query[:n_wanted]
        return len(query) >= n_wanted and any(
            leader.tokens[:n_wanted] == opening for leader in leaders
        )

    def _evict_for(self, n_tokens: int, keep: list[int], operations: list[MemoryOperation]) -> bool:
        """Give up parked slots until `n_tokens` are free; say whether they are."""
        for slot in list(self._parked):
            if self._n_free_tokens() >= n_tokens:
                return True
            if slot not in keep:
                self._evict(slot, operations)
        return self._n_free_tokens() >= n_tokens

    def _start(self, sequence: Sequence, slot: int, n_matched: int) -> None:
        """Give a sequence a slot that holds its matched prefix already."""
        sequence.slot = slot
        sequence.n_computed = n_matched
        if not sequence.started:
            sequence.started = True
            sequence.n_cached = n_matched
        self._running.append(sequence)

    def _take_slot(
        self,
        n_matched: int,
        holders: list[int],
        operations: list[MemoryOperation],
        *,
        take_over: bool,
    ) -> int:
        """A slot with the matched prefix in it: a fork of one of its holders, or one of them.

        Taking over costs nothing, but what the slot holds beyond the match is lost.
        """
        holders = [s for s in holders if s not in self._free]
        parked = [slot for slot in holders if slot in self._parked]
        if parked and (take_over or not self._free):
            slot = min(parked, key=self._tree.length)
            del self._parked[slot]
            if self._tree.length(slot) > n_matched:
                self._tree.trim(slot, n_matched)
                operations.append(Trim(slot, n_matched))
            return slot
        if not self._free:
            self._evict(next(iter(self._parked)), operations)
        slot = self._free.pop(0)
        if holders:
            parent = holders[0]
            self._tree.fork(parent, slot, n_matched)
            operations.append(Fork(parent, slot, n_matched))
            if parent in self._parked:
                self._parked.move_to_end(parent)
        return slot

    # ── neighbors ───────────────────────────────────────────────────────────────────────

    def _close_gaps(self, operations: list[MemoryOperation]) -> None:
        """Move running sequences together at the low slots when nobody waits for the gaps.

        In a partitioned cache llama.cpp computes neighboring slots in one pass and every gap
        costs another one (`split_equal` in llama-batch.cpp), so a tail of scattered slots is
        slow. A move copies one slot.
        """
        by_slot = {s.slot: s for s in self._running if s.slot is not None and s.n_computed}
        slots = sorted(by_slot)
        n_gaps = sum(after - before > 1 for before, after in zip(slots, slots[1:], strict=False))
        if n_gaps <= len(slots) // 8:
            return
        gaps = [slot for slot in range(len(slots)) if slot in self._free or slot in self._parked]
        for target, source in zip(gaps, reversed(slots), strict=False):
            if source > target:
                self._move(by_slot[source], source, target, operations)

    def _move(
        self, sequence: Sequence, source: int, target: int, operations: list[MemoryOperation]
    ) -> None:
        if target in self._parked:
            self._evict(target, operations)
        self._free.remove(target)
        self._tree.fork(source, target, sequence.n_computed)
        operations.append(Fork(source, target, sequence.n_computed))
        self._clear(source, operations)
        sequence.slot = target


def _chunk(sequence: Sequence, n_tokens: int) -> Chunk:
    assert sequence.slot is not None
    start = sequence.n_computed
    tokens = sequence.tokens[start : start + n_tokens]
    return Chunk(sequence.slot, start, tokens, start + n_tokens == len(sequence.tokens))
