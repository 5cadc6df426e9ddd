"""Any number of rows through an engine: bounded, in order, nothing lost. No model needed."""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence

import pytest

from llamaherd.config import GenerationConfig
from llamaherd.engine.engine import Engine
from llamaherd.engine.plan import MemoryKind
from llamaherd.errors import ConfigError, InvalidPrompt, LlamaherdError
from llamaherd.processing.progress import watch
from llamaherd.processing.rows import RowStream
from scripted import expected_tokens, limits, make_engine

GREEDY = GenerationConfig.greedy(max_tokens=3)


def encode(prompts: Sequence[list[int]]) -> list[list[int] | LlamaherdError]:
    return [p if p else InvalidPrompt("empty") for p in prompts]


def stream(
    engine: Engine,
    prompts: Iterable[list[int]],
    configs: GenerationConfig | list[GenerationConfig] = GREEDY,
    **options: object,
) -> RowStream:
    return RowStream(engine, prompts, configs, encode, **{"max_in_flight": 64, **options})


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = make_engine(limits(MemoryKind.PARTITIONED, n_slots=16, n_batch=256))
    yield made
    made.close()


def numbered(i: int) -> list[int]:
    return [1 + i % 60, 1 + i // 60 % 60, 1 + i // 3600 % 60]


def test_ordered_results_and_bad_rows(engine: Engine) -> None:
    """Every row has its result at its place, also the bad ones and the duplicates."""
    prompts = [numbered(i % 200) if i % 7 else [] for i in range(500)]
    rows = stream(engine, prompts, ordered=True)
    results = list(rows)
    assert [r.index for r in results] == list(range(500))
    for prompt, result in zip(prompts, results, strict=True):
        assert list(result.tokens) == (expected_tokens(prompt, 3) if prompt else [])
        assert result.success == bool(prompt)
    assert rows.n_deduplicated > 200
    assert engine.stats().items_processed < 250


def test_one_config_per_row(engine: Engine) -> None:
    """Options may differ from row to row; the numbers must match."""
    configs = [GenerationConfig.greedy(max_tokens=1 + i) for i in range(5)]
    results = list(stream(engine, [numbered(i) for i in range(5)], configs, ordered=True))
    assert [r.tokens_generated for r in results] == [1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="5 configs for 4 prompts"):
        stream(engine, [numbered(i) for i in range(4)], configs)


def test_an_endless_iterable_is_pulled_as_results_are_taken(engine: Engine) -> None:
    """Prompts are read lazily and leaving early cancels what is in work."""
    n_pulled = 0

    def endless() -> Iterator[list[int]]:
        nonlocal n_pulled
        for i in itertools.count():
            n_pulled = i
            yield numbered(i)

    rows = iter(stream(engine, endless()))
    for _ in range(300):
        next(rows)
    assert n_pulled < 300 + 2 * 64
    rows.close()
    results = list(stream(engine, [numbered(7)]))
    assert len(results) == 1 and results[0].success


def test_an_iterable_that_raises_delivers_the_rows_before_it(engine: Engine) -> None:
    """Finished rows first, then the exception."""

    def broken() -> Iterator[list[int]]:
        for i in range(40):
            yield numbered(i)
        raise OSError("disk gone")

    taken = []
    with pytest.raises(OSError, match="disk gone"):
        taken.extend(r.index for r in stream(engine, broken()))
    rows = iter(stream(engine, broken()))
    taken = [next(rows).index for _ in range(40)]
    assert sorted(taken) == list(range(40))


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llamaherd-reader"]


def test_results_do_not_wait_for_the_next_prompt(engine: Engine) -> None:
    """What the loop does with one result may even decide about the next prompt."""
    seen: list[int] = []
    has_seen = threading.Semaphore(0)

    def hesitant() -> Iterator[list[int]]:
        yield numbered(0)
        yield numbered(1)
        for i in range(2, 6):
            assert has_seen.acquire(timeout=20)
            yield numbered(i)
        raise OSError("hung up")

    with pytest.raises(OSError, match="hung up"):
        for result in stream(engine, hesitant()):
            assert result.success
            seen.append(result.index)
            has_seen.release()
    assert sorted(seen) == list(range(6))
    assert not reader_threads()


def test_leaving_early_does_not_wait_for_the_next_prompt(engine: Engine) -> None:
    """The iterable goes on on its own thread, and is closed there once it has waited."""
    may_go_on = threading.Event()
    ran_on: list[str] = []

    def blocked() -> Iterator[list[int]]:
        try:
            yield numbered(0)
            may_go_on.wait(20)
            yield numbered(1)
            ran_on.append("read too far")
        finally:
            ran_on.append(threading.current_thread().name)

    rows = iter(stream(engine, blocked()))
    assert next(rows).success
    began_s = time.monotonic()
    rows.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began_s < 5 and not ran_on
    may_go_on.set()
    for thread in reader_threads():
        thread.join(20)
    assert ran_on == ["llamaherd-reader"]


def test_an_iterable_that_does_not_wait_is_closed_before_the_loop_is_left(engine: Engine) -> None:
    closed_by: list[threading.Thread] = []

    def endless() -> Iterator[list[int]]:
        try:
            yield from map(numbered, itertools.count())
        finally:
            time.sleep(0.2)
            closed_by.append(threading.current_thread())

    rows = iter(stream(engine, endless()))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert len(closed_by) == 1 and not closed_by[0].is_alive()


def test_an_iterable_may_use_the_engine_and_the_context(engine: Engine) -> None:
    """It runs on another thread, in a copy of the caller's context."""
    topic: contextvars.ContextVar[int] = contextvars.ContextVar("topic")
    topic.set(5)

    def nested() -> Iterator[list[int]]:
        (result,) = stream(engine, [numbered(topic.get())])
        topic.set(6)
        yield list(result.tokens)

    (result,) = stream(engine, nested())
    assert list(result.tokens) == expected_tokens(expected_tokens(numbered(5), 3), 3)
    assert topic.get() == 5


def test_an_interrupt_in_an_iterable_ends_the_loop(engine: Engine) -> None:
    def interrupted() -> Iterator[list[int]]:
        yield numbered(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stream(engine, interrupted()))
    assert not reader_threads()


def test_memory_does_not_grow_with_the_number_of_rows(engine: Engine) -> None:
    """Four times as many rows take no more memory and no more threads."""

    def peak(n_rows: int) -> int:
        tracemalloc.start()
        for _ in stream(engine, (numbered(i) for i in range(n_rows)), max_in_flight=256):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(6000)
    n_threads = threading.active_count()
    few, many = peak(6000), peak(24000)
    assert many < 1.5 * few
    assert threading.active_count() == n_threads


def test_a_progress_callback_that_raises_costs_no_row(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken display is reported once; all results arrive."""

    def callback(n_done: int, n_total: int, result: object) -> None:
        raise ZeroDivisionError(f"{n_done}/{n_total}")

    results = list(watch(stream(engine, [numbered(i) for i in range(30)]), 30, callback))
    assert len(results) == 30
    assert caplog.text.count("ZeroDivisionError: 1/30") == 1
