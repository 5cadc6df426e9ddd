"""The batch queue: how batches are formed, and one outcome per request whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from llamaherd import (
    BatchConfig,
    BatchingStrategy,
    BatchProcessor,
    BatchRequest,
    CallbackError,
    ConfigError,
    EngineConfig,
    EngineDead,
    FinishReason,
    GenerationConfig,
    InvalidPrompt,
    Model,
    ProcessorStopped,
    QueueFull,
    RequestTimeout,
    UnknownRequest,
)
from llamaherd.queueing.strategies import make_former
from scripted import Gate, ScriptedModel, expected_tokens

FAST = EngineConfig(self_test=False)


def config(strategy: str = "continuous", size: int = 4, **options: object) -> BatchConfig:
    return BatchConfig(strategy=strategy, max_batch_size=size, engine=FAST, **options)


def ask(prompt: object = "HELLO", n_tokens: int = 5, **options: object) -> BatchRequest:
    return BatchRequest(
        prompt=prompt, config=GenerationConfig.greedy(max_tokens=n_tokens), **options
    )


# ── strategies ──────────────────────────────────────────────────────────────────────────


def test_fixed_size_waits_for_a_full_batch_or_the_end() -> None:
    processor = BatchProcessor(ScriptedModel(), config("fixed_size"))
    ids = [processor.submit_async(ask(f"ROW {i}")) for i in range(9)]
    for id in ids[:8]:
        assert processor.result(id, timeout=20).result.success
    assert processor.poll(ids[8]) is None and processor.stats().queue_depth == 1
    processor.close(drain=True)
    assert processor.result(ids[8]).result.success
    assert processor.stats().batch_sizes == {1: 1, 4: 2}


def test_dynamic_timeout_releases_what_there_is() -> None:
    with BatchProcessor(ScriptedModel(), config("dynamic_timeout", timeout_ms=30)) as processor:
        result = processor.submit(ask())
        assert result.result.success and result.queue_time_ms >= 30
        full = [processor.submit_async(ask(f"ROW {i}")) for i in range(4)]
        assert all(processor.result(id).result.success for id in full)
        assert processor.stats().batch_sizes == {1: 1, 4: 1}


def test_adaptive_size_follows_pressure_and_target() -> None:
    former = make_former(config("adaptive", 64, target_latency_ms=1000))
    assert former is not None
    assert former.decide(3, 0.0).n_requests == 3, "under a light load nobody waits"
    sizes = []
    for _ in range(12):
        sizes.append(former.decide(500, 0.0).n_requests)
        former.batch_ended(sizes[-1], 0.5, 500)
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (16, 64)
    for _ in range(20):
        former.batch_ended(former.decide(500, 0.0).n_requests, 3.0, 500)
    assert former.decide(500, 0.0).n_requests == 1


def test_a_formed_batch_ends_before_the_next_and_continuous_joins_the_running_one() -> None:
    """While a long row is in work: a short one waits for its batch, or joins and overtakes."""
    for strategy, overtakes in [("adaptive", False), ("continuous", True)]:
        gate = Gate()
        with BatchProcessor(ScriptedModel(gate), config(strategy)) as processor:
            processor.submit_async(ask("LONG", 100, id="long"))
            assert gate.entered.wait(20)
            processor.submit_async(ask("SHORT", 2, id="short"))
            gate.open()
            order = [result.id for result in processor.as_completed()]
        assert order == (["short", "long"] if overtakes else ["long", "short"])


def test_several_workers_have_several_batches_in_work() -> None:
    gate = Gate()
    with BatchProcessor(ScriptedModel(gate), config("fixed_size", 2, num_workers=2)) as processor:
        for i in range(4):
            processor.submit_async(ask(f"ROW {i}", 3))
        assert gate.entered.wait(20)
        gate.open()
        assert sum(r.result.success for r in processor.as_completed()) == 4
        assert 4 in processor.stats().pass_sizes


@pytest.mark.parametrize("strategy", BatchingStrategy)
def test_every_strategy_gives_each_row_its_own_answer(
    strategy: BatchingStrategy, demo: Model
) -> None:
    capitals = {"Peru": "Lima", "Kenya": "Nairobi", "France": "Paris", "Japan": "Tokyo"}
    with BatchProcessor(demo, config(strategy, 3, timeout_ms=5)) as processor:
        for country in capitals:
            question = {"role": "user", "content": f"What is the capital of {country}?"}
            processor.submit_async(ask([question], 20, id=country))
        processor.close()
        answers = {r.id: r.result.text for r in processor.as_completed()}
    expected = {c: f"The capital of {c} is {city}." for c, city in capitals.items()}
    assert answers == expected


# ── order ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("strategy", ["continuous", "dynamic_timeout", "adaptive"])
def test_priorities_decide_who_waits(strategy: str) -> None:
    gate = Gate()
    with BatchProcessor(ScriptedModel(gate), config(strategy, 1, timeout_ms=0)) as processor:
        processor.submit_async(ask("FIRST", 1, id="first"))
        assert gate.entered.wait(20)
        for priority in (0, 9, 3):
            processor.submit_async(ask(f"P {priority}", 1, id=priority, priority=priority))
        gate.open()
        order = [result.id for result in processor.as_completed()]
    assert order == ["first", 9, 3, 0]


def test_an_urgent_request_overtakes_a_queue_of_500() -> None:
    """It starts at the next step even though all slots are taken."""
    gate = Gate()
    with BatchProcessor(ScriptedModel(gate), config(size=8)) as processor:
        for i in range(500):
            processor.submit_async(ask(f"ROW {i}", 20))
        assert gate.entered.wait(20)
        processor.submit_async(ask("URGENT", 1, id="urgent", priority=255))
        gate.open()
        results = list(processor.as_completed())
        assert [r.id for r in results].index("urgent") <= 8
        assert len(results) == 501 and all(r.result.success for r in results)


# ── bounds ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("strategy", ["continuous", "fixed_size"])
def test_a_full_queue_refuses_at_once_or_lets_wait(strategy: str) -> None:
    gate = Gate()
    with BatchProcessor(ScriptedModel(gate), config(strategy, 2, max_queue_size=4)) as processor:
        for i in range(6):
            processor.submit_async(ask(f"ROW {i}"), wait=True)
        assert gate.entered.wait(20)
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            with pytest.raises(QueueFull, match="4 requests wait already"):
                processor.submit_async(ask("X" * 100))
            seconds.append(time.perf_counter() - began)
        assert sorted(seconds)[10] < 0.001
        with ThreadPoolExecutor(2) as pool:
            late = [pool.submit(processor.submit_async, ask("LATE"), wait=True) for _ in range(2)]
            gate.open()
            ids = [future.result(timeout=20) for future in late]
        assert all(processor.result(id, timeout=20).result.success for id in ids)
        stats = processor.stats()
        assert stats.rejected == 20 and stats.queue_depth == 0


def test_wrong_requests_and_ids_are_named() -> None:
    with BatchProcessor(ScriptedModel(), config()) as processor:
        id = processor.submit_async(ask(id="mine"))
        with pytest.raises(ConfigError, match="'mine' belongs to a request"):
            processor.submit_async(ask(id="mine"))
        assert processor.result(id, timeout=20).id == "mine"
        for collect in (processor.result, processor.poll, processor.cancel):
            with pytest.raises(UnknownRequest, match="no request has id 'mine'"):
                collect("mine")
        with pytest.raises(ConfigError, match="-1"):
            processor.result(id, timeout=-1)
        with pytest.raises(ConfigError, match="n is 2"):
            processor.submit(BatchRequest(prompt="A", config=GenerationConfig(n=2)))
        assert processor.stats().queue_depth == 0
    for wrong in ({"priority": 256}, {"priority": True}, {"callback": 3}, {"config": None}):
        with pytest.raises(ConfigError, match=f"BatchRequest.{next(iter(wrong))}"):
            BatchRequest(prompt="A", **wrong)
    for wrong in ({"timeout_ms": -1}, {"strategy": "best"}, {"max_queue_size": 0}):
        with pytest.raises(ConfigError, match=f"BatchConfig.{next(iter(wrong))}"):
            BatchConfig(**wrong)
    with pytest.raises(ConfigError, match="FIXED_SIZE"):
        BatchConfig(strategy="fixed_size", max_queue_size=8)
    with pytest.raises(ConfigError, match="at most 255"):
        BatchConfig(max_batch_size=128, num_workers=2)


def test_a_bad_prompt_is_the_callers_error(demo: Model) -> None:
    with BatchProcessor(demo, config()) as processor:
        with pytest.raises(InvalidPrompt):
            processor.submit(ask([]))
        assert processor.submit(ask("Hello", 2)).result.success


# ── callbacks ───────────────────────────────────────────────────────────────────────────


def test_callbacks_get_the_text_and_fail_alone(demo: Model) -> None:
    pieces: list[str] = []
    threads: set[str] = set()

    def listen(piece: str) -> None:
        pieces.append(piece)
        threads.add(threading.current_thread().name)

    def fail(piece: str) -> None:
        raise ValueError("no display")

    with BatchProcessor(demo, config()) as processor:
        good = processor.submit_async(ask("Once upon a time", 12, callback=listen))
        bad = processor.submit_async(ask("Once upon a time", 200, callback=fail))
        assert processor.result(good).result.text == "".join(pieces)
        failed = processor.result(bad).result
    assert failed.error is not None and failed.error.type == "CallbackError"
    assert "no display" in failed.error.message
    assert threads == {"llamaherd-callbacks"}


def test_a_slow_callback_gets_merged_text_and_holds_up_nobody() -> None:
    busy, free = threading.Event(), threading.Event()
    pieces: list[str] = []

    def slow(piece: str) -> None:
        pieces.append(piece)
        busy.set()
        assert free.wait(20)

    with BatchProcessor(ScriptedModel(), config()) as processor:
        slow_id = processor.submit_async(ask("SLOW", 50, callback=slow))
        assert busy.wait(20)
        assert processor.submit(ask("QUICK", 100)).result.success
        free.set()
        result = processor.result(slow_id, timeout=20).result
    assert "".join(pieces) == result.text and len(pieces) <= 3


def test_close_from_a_callback_is_refused() -> None:
    processor = BatchProcessor(ScriptedModel(), config())
    result = processor.submit(ask(callback=lambda piece: processor.close())).result
    processor.close()
    assert result.error is not None and "called from a callback" in result.error.message
    assert issubclass(CallbackError, Exception)


# ── ends ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("strategy", ["continuous", "adaptive"])
def test_cancel_frees_the_place_and_disturbs_nobody(strategy: str) -> None:
    gate = Gate()
    with BatchProcessor(ScriptedModel(gate), config(strategy, 1)) as processor:
        running = processor.submit_async(ask("RUN", 200))
        assert gate.entered.wait(20)
        waiting, other = (processor.submit_async(ask(text, 6)) for text in ("WAIT", "OTHER"))
        assert processor.cancel(waiting) and processor.cancel(running)
        gate.open()
        assert list(processor.result(other).result.tokens) == expected_tokens(
            [ord(c) - 32 for c in "OTHER"], 6
        )
        for id in (waiting, running):
            result = processor.result(id).result
            assert result.finish_reason is FinishReason.CANCELLED
            # The step that was under way, and no other.
            assert result.tokens_generated <= 1
        done = processor.submit_async(ask("DONE"))
        while processor.stats().total_requests < 4:
            time.sleep(0.001)
        assert not processor.cancel(done)


def test_a_blocking_submit_that_gives_up_leaves_nothing_behind() -> None:
    gate = Gate()
    with BatchProcessor(ScriptedModel(gate), config()) as processor:
        with pytest.raises(RequestTimeout, match="was cancelled"):
            processor.submit(ask(n_tokens=200), timeout=0.01)
        gate.open()
        assert list(processor.as_completed()) == []


@pytest.mark.parametrize("strategy", BatchingStrategy)
@pytest.mark.parametrize("drain", [True, False])
def test_close_gives_every_request_its_outcome(strategy: BatchingStrategy, drain: bool) -> None:
    before = set(threading.enumerate())
    gate = Gate()
    processor = BatchProcessor(ScriptedModel(gate), config(strategy, 2, timeout_ms=0))
    ids = [processor.submit_async(ask(f"ROW {i}", 20)) for i in range(9)]
    assert gate.entered.wait(20)
    with ThreadPoolExecutor(2) as pool:
        closing = [pool.submit(processor.close, drain=drain) for _ in range(2)]
        gate.open()
        for future in closing:
            future.result(timeout=20)
    results = [processor.result(id) for id in ids]
    assert all(r.result.success for r in results) or not drain
    for r in results:
        assert r.result.success or r.result.error.type == "ProcessorStopped"
    with pytest.raises(ProcessorStopped):
        processor.submit_async(ask())
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("strategy", ["continuous", "fixed_size"])
def test_a_dead_engine_ends_everything(strategy: str) -> None:
    def broken(tokens: Sequence[int]) -> int:
        raise RuntimeError("no such kernel")

    with BatchProcessor(ScriptedModel(broken), config(strategy, 2)) as processor:
        ids = [processor.submit_async(ask(f"ROW {i}")) for i in range(2)]
        for id in ids:
            error = processor.result(id, timeout=20).result.error
            assert error is not None and error.type == "EngineDead"
        with pytest.raises(EngineDead, match="no such kernel"):
            processor.submit(ask())


def test_statistics_describe_what_happened() -> None:
    with BatchProcessor(ScriptedModel(), config(size=8)) as processor:
        for i in range(100):
            processor.submit_async(ask(f"ROW {i}", 3))
        latencies = sorted(r.latency_ms for r in processor.as_completed())
        stats = processor.stats()
    assert (stats.total_requests, stats.total_tokens, stats.failed) == (100, 300, 0)
    assert stats.p50_latency_ms == latencies[49] and stats.p99_latency_ms == latencies[98]
    assert stats.avg_latency_ms == pytest.approx(sum(latencies) / 100)
    assert stats.avg_throughput_tps > 0
    assert max(stats.pass_sizes) == 8
