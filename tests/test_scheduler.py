"""The scheduler against the obvious implementation, over random workloads."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaherd.engine.plan import Fork, MemoryKind
from llamaherd.engine.scheduler import Scheduler
from llamaherd.engine.waiting import Sequence, order_window
from llamaherd.runners.scripted import ScriptedRunner
from scripted import N_VOCAB, expected_tokens, follow, limits

MEMORIES = [MemoryKind.UNIFIED, MemoryKind.PARTITIONED, MemoryKind.RECURRENT]


def make_sequences(rng: random.Random, n_rows: int) -> list[Sequence]:
    """Rows of which many begin alike."""
    stems = [[rng.randrange(1, N_VOCAB) for _ in range(rng.randrange(1, 40))] for _ in range(3)]
    rows = []
    for _ in range(n_rows):
        tail = [rng.randrange(1, N_VOCAB) for _ in range(rng.randrange(0, 12))]
        prompt = rng.choice(stems) + tail
        rows.append(
            Sequence(
                list(prompt), len(prompt), rng.randrange(1, 12), priority=rng.choice([0, 0, 9, 200])
            )
        )
    return rows


def run_all(
    scheduler: Scheduler,
    runner: ScriptedRunner,
    rows: list[Sequence],
    rng: random.Random,
    *,
    p_cancel: float = 0.0,
) -> set[int]:
    """Drive the scheduler as the engine does; return the rows that were cancelled."""
    pending = list(rows)
    unfinished = set(rows)
    cancelled: set[int] = set()
    for _ in range(20_000):
        if pending and rng.random() < 0.5:
            n_now = rng.randrange(1, len(pending) + 1)
            scheduler.add(pending[:n_now])
            del pending[:n_now]
        if not scheduler.has_work:
            if not pending:
                return cancelled
            continue
        if rng.random() < p_cancel and unfinished:
            victim = rng.choice(sorted(unfinished - set(pending), key=id) or [None])
            if victim is not None:
                scheduler.remove(victim)
                unfinished.discard(victim)
                cancelled.add(id(victim))
                scheduler.check_invariants()
                continue
        step = scheduler.schedule()
        scheduler.check_invariants()
        output = runner.execute(step.plan)
        if output.no_room:
            assert scheduler.make_room() is None, "rows that fit alone must never fail"
            scheduler.check_invariants()
            continue
        assert not step.plan.is_empty, "a step without work while rows are unfinished"
        scheduler.commit(step)
        scheduler.check_invariants()
        pairs = zip(step.sequences, step.plan.chunks, strict=True)
        wanting = [s for s, chunk in pairs if chunk.wants_logits]
        for sequence, logits in zip(wanting, output.logits, strict=True):
            sequence.tokens.append(int(logits.argmax()))
            if sequence.n_left == 0:
                scheduler.remove(sequence)
                unfinished.discard(sequence)
                scheduler.check_invariants()
    raise AssertionError("the scheduler does not come to an end")


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    memory=st.sampled_from(MEMORIES),
    n_slots=st.integers(1, 9),
    n_batch=st.integers(9, 80),
    n_tokens=st.integers(70, 400),
    p_cancel=st.sampled_from([0.0, 0.05]),
)
def test_every_row_gets_the_tokens_it_gets_alone(
    seed: int, memory: MemoryKind, n_slots: int, n_batch: int, n_tokens: int, p_cancel: float
) -> None:
    """Batching, chunking, prefix reuse, preemption and cancellation never change a row."""
    rng = random.Random(seed)
    bound = limits(
        memory,
        n_slots=n_slots,
        n_batch=n_batch,
        n_tokens=n_tokens if memory is MemoryKind.UNIFIED else n_slots * 70,
        n_tokens_per_slot=70,
    )
    runner = ScriptedRunner(follow, bound, N_VOCAB)
    rows = make_sequences(rng, rng.randrange(1, 30))
    scheduler = Scheduler(bound, max_running=n_slots, interactive_chunk=7)
    cancelled = run_all(scheduler, runner, rows, rng, p_cancel=p_cancel)
    for row in rows:
        if id(row) not in cancelled:
            prompt = row.tokens[: row.n_prompt]
            assert row.tokens[row.n_prompt :] == expected_tokens(prompt, row.max_new_tokens)


@pytest.mark.parametrize("memory", [MemoryKind.UNIFIED, MemoryKind.PARTITIONED])
def test_a_shared_prefix_is_computed_once(memory: MemoryKind) -> None:
    """Also with fewer slots than rows, and in a cache where a fork copies."""
    rng = random.Random(0)
    stem = [rng.randrange(1, N_VOCAB) for _ in range(50)]
    # The first token of each tail differs, so that nothing else is shared.
    rows = [
        Sequence([*stem, 1 + i, *(rng.randrange(1, N_VOCAB) for _ in range(9))], 60, 3)
        for i in range(40)
    ]
    bound = limits(memory, n_slots=8, n_batch=512)
    runner = ScriptedRunner(follow, bound, N_VOCAB)
    scheduler = Scheduler(bound, max_running=8)
    run_all(scheduler, runner, rows, random.Random(1))
    n_decoded = sum(row.max_new_tokens - 1 for row in rows)
    assert runner.n_computed_tokens - n_decoded == len(stem) + 10 * len(rows)


def test_decodes_come_before_prompts() -> None:
    """A long prompt never takes the whole budget from running rows."""
    bound = limits(n_slots=4, n_batch=16)
    scheduler = Scheduler(bound, max_running=4)
    short = [Sequence([i + 1, i + 2], 2, 50) for i in range(3)]
    scheduler.add(short)
    scheduler.commit(scheduler.schedule())
    for row in short:
        row.tokens.append(1)
    scheduler.add([Sequence([9] * 100, 100, 1)])
    step = scheduler.schedule()
    assert [len(chunk.tokens) for chunk in step.plan.chunks] == [1, 1, 1, 13]


def test_interactive_rows_cap_prompt_chunks() -> None:
    """While somebody is watching, a long prompt is computed in small pieces."""
    scheduler = Scheduler(limits(n_slots=4, n_batch=64), max_running=4, interactive_chunk=8)
    scheduler.add([Sequence([1, 2], 2, 5, interactive=True), Sequence([9] * 60, 60, 5)])
    assert scheduler.schedule().plan.n_tokens <= 8


def test_interactive_prompts_run_together_until_one_is_answered() -> None:
    """Small steps help nobody while all rows wait for their first token."""
    scheduler = Scheduler(limits(n_slots=4, n_batch=64), max_running=4, interactive_chunk=8)
    first = [Sequence([t] * 15, 15, 5, interactive=True) for t in (1, 2)]
    scheduler.add(first)
    step = scheduler.schedule()
    assert step.plan.n_tokens == 30
    scheduler.commit(step)
    for sequence in first:
        sequence.tokens.append(7)
    scheduler.add([Sequence([3] * 40, 40, 5, interactive=True)])
    assert scheduler.schedule().plan.n_tokens == 2 + 8


def test_a_high_priority_row_starts_at_once_and_a_low_one_does_not_starve() -> None:
    """Priorities decide, ageing limits them."""
    scheduler = Scheduler(limits(n_slots=1), max_running=1)
    scheduler.add(Sequence([1, i + 1], 2, 1) for i in range(50))
    urgent = Sequence([7, 7], 2, 1, priority=255)
    scheduler.add([urgent])
    first = scheduler.schedule()
    assert first.sequences == (urgent,)
    scheduler.commit(first)
    scheduler.remove(urgent)
    low = Sequence([5, 5], 2, 1)
    crowded = Scheduler(limits(n_slots=1), max_running=1)
    crowded.add([low])
    crowded.add([Sequence([6, 6], 2, 1, priority=3)])
    for _ in range(300):
        step = crowded.schedule()
        crowded.commit(step)
        (row,) = step.sequences
        crowded.remove(row)
        if row is low:
            return
        crowded.add([Sequence([6, 6], 2, 1, priority=3)])
    raise AssertionError("a row of low priority starves")


@pytest.mark.parametrize("memory", [MemoryKind.UNIFIED, MemoryKind.PARTITIONED])
def test_an_urgent_row_takes_the_place_of_a_running_one(memory: MemoryKind) -> None:
    """Into a full batch and a queue of 500: it starts in the next step, and nobody loses tokens."""
    bound = limits(memory, n_slots=8)
    runner = ScriptedRunner(follow, bound, N_VOCAB)
    scheduler = Scheduler(bound, max_running=8)
    rows = [Sequence([1 + i % 60, 1 + i // 60], 2, 6) for i in range(500)]
    scheduler.add(rows)
    for row in scheduler.schedule().sequences:
        assert row.slot is not None
    scheduler.add([urgent := Sequence([7] * 5, 5, 6, priority=255)])
    scheduler.add([mild := Sequence([8] * 5, 5, 6, priority=100)])
    next_step = scheduler.schedule()
    assert urgent in next_step.sequences and mild not in next_step.sequences
    everybody = [*scheduler.drain()]
    again = Scheduler(bound, max_running=8)
    run_all(again, runner, everybody, random.Random(0))
    for row in [*rows, urgent, mild]:
        assert row.tokens[row.n_prompt :] == expected_tokens(row.tokens[: row.n_prompt], 6)


def test_a_tail_of_scattered_slots_is_moved_together() -> None:
    """A partitioned cache is slow when running slots are no neighbors."""
    scheduler = Scheduler(limits(n_slots=16, n_batch=256), max_running=16)
    rows = [Sequence([i + 1] * 10, 10, 50) for i in range(16)]
    scheduler.add(rows)
    scheduler.commit(scheduler.schedule())
    for row in rows:
        row.tokens.append(1)
    for row in rows[::2]:
        scheduler.remove(row)
    plan = scheduler.schedule().plan
    assert sorted(chunk.slot for chunk in plan.chunks) == list(range(8))
    assert any(isinstance(operation, Fork) for operation in plan.operations)


def test_order_window_groups_shared_prefixes_and_runs_long_rows_first() -> None:
    """Rows with nothing in common are ordered longest first."""
    stem = list(range(1, 30))
    alike = [Sequence([*stem, i], 30, 5) for i in range(3)]
    lone = [Sequence([40 + i] * 20, 20, 10 * i + 1) for i in range(3)]
    ordered = order_window([lone[0], alike[0], lone[2], alike[1], lone[1], alike[2]])
    assert [row for row in ordered if row in lone] == lone[::-1]
    positions = [ordered.index(row) for row in alike]
    assert max(positions) - min(positions) == 2
