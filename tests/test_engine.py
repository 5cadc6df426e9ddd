"""The engine over a scripted runner: one outcome per row, whatever happens."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from llamaherd.config import EngineConfig, GenerationConfig
from llamaherd.engine.plan import Demand, MemoryKind, StepOutput, StepPlan
from llamaherd.engine.request import Request
from llamaherd.errors import DecodeFailed, EngineDead, ForkedProcess, ProcessorStopped
from llamaherd.results import FinishReason
from llamaherd.runners.scripted import ScriptedRunner
from scripted import END, N_VOCAB, Collector, expected_tokens, follow, limits, make_engine

GREEDY = GenerationConfig.greedy(max_tokens=6)


def requests(prompts: Sequence[list[int]], sink: Collector, **options: object) -> list[Request]:
    config = GenerationConfig.greedy(**{"max_tokens": 6, **options})
    return [Request(prompt, config, sink, index=i) for i, prompt in enumerate(prompts)]


def random_prompts(n: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, N_VOCAB) for _ in range(rng.randrange(1, 30))] for _ in range(n)]


class FaultyRunner(ScriptedRunner):
    """Has no room now and then, and never evaluates a row that holds `poison`."""

    poison = 63

    def execute(self, plan: StepPlan) -> StepOutput:
        if plan.chunks and random.random() < 0.2:
            super().execute(StepPlan(plan.operations))
            return StepOutput(np.empty((0, N_VOCAB), np.float32), no_room=True)
        if any(self.poison in chunk.tokens for chunk in plan.chunks):
            super().execute(StepPlan(plan.operations))
            raise DecodeFailed("poisoned")
        return super().execute(plan)


def test_every_row_ends_once_and_only_the_culprits_fail() -> None:
    """Under cancellation, lack of room and failing rows."""
    random.seed(3)
    bound = limits(MemoryKind.UNIFIED, n_slots=6, n_tokens=300)
    engine = make_engine(
        open_runner=lambda demand: FaultyRunner(lambda t: 1 + follow(t) % 61, bound, N_VOCAB),
        config=EngineConfig(max_batch_size=6, self_test=False),
    )
    sink = Collector()
    prompts = [[t % 62 + 1 for t in p] for p in random_prompts(120)]
    poisoned = set(range(0, 120, 10))
    for i in poisoned:
        prompts[i].append(FaultyRunner.poison)
    rows = requests(prompts, sink)
    engine.submit(rows[:60])
    engine.submit(rows[60:])
    engine.cancel(rows[5:120:20])
    results = {r.index: r for r in sink.take(120)}
    engine.close()
    assert sorted(results) == list(range(120))
    for i, result in results.items():
        if i in poisoned:
            assert result.error is not None and result.error.type == "DecodeFailed"
        else:
            assert result.success or result.finish_reason is FinishReason.CANCELLED
    assert engine.stats().failed >= len(poisoned)


def test_rows_equal_the_obvious_implementation() -> None:
    """Results carry the tokens each row gets alone."""
    engine = make_engine()
    sink = Collector()
    prompts = random_prompts(60, seed=5)
    engine.submit(requests(prompts, sink))
    for result in sink.take(60):
        assert list(result.tokens) == expected_tokens(prompts[result.index], 6)
        assert result.finish_reason is FinishReason.LENGTH and result.success
    engine.close()


def test_end_token_stops_and_ignore_eos_goes_on() -> None:
    """The end token is not part of the answer; `ignore_eos` never picks it."""
    engine = make_engine(next_token=lambda tokens: END if len(tokens) >= 4 else 5)
    sink = Collector()
    engine.submit(requests([[1, 2]], sink))
    (stopped,) = sink.take(1)
    assert (stopped.tokens, stopped.finish_reason) == ((5, 5), FinishReason.STOP)
    engine.submit(requests([[1, 2]], sink, ignore_eos=True))
    (went_on,) = sink.take(1)
    assert went_on.tokens_generated == 6 and END not in went_on.tokens
    engine.close()


def test_stop_string_across_tokens() -> None:
    """A stop string that spans tokens ends the row and does not leak."""
    script = [ord(c) - 32 for c in "AB-CDEF"]
    engine = make_engine(next_token=lambda tokens: script[len(tokens) - 1])
    sink = Collector()
    engine.submit(requests([[1]], sink, stop=("CD",)))
    (result,) = sink.take(1)
    assert result.text == "AB-" and result.finish_reason is FinishReason.STOP
    engine.close()


def test_bad_rows_are_values() -> None:
    """Empty, too long and out-of-vocabulary prompts fail alone."""
    engine = make_engine()
    sink = Collector()
    engine.submit(requests([[1, 2], [], [3] * 300, [N_VOCAB], [4]], sink))
    types = {r.index: r.error.type if r.error else None for r in sink.take(5)}
    assert types == {0: None, 1: "InvalidPrompt", 2: "PromptTooLong", 3: "InvalidPrompt", 4: None}
    engine.close()


def test_timeout_and_retry() -> None:
    """A slow row times out with what it has, and is tried again when asked."""

    def slow(tokens: Sequence[int]) -> int:
        time.sleep(0.01)
        return 5

    engine = make_engine(next_token=slow)
    sink = Collector()
    engine.submit(requests([[1]], sink, max_tokens=200, timeout_ms=50, retry_attempts=1))
    (result,) = sink.take(1)
    assert result.finish_reason is FinishReason.TIMEOUT and result.attempts == 2
    assert not result.success and 0 < result.tokens_generated < 50
    assert engine.stats().retried == 1
    engine.close()


def test_a_dead_engine_tells_everybody() -> None:
    """An unexpected failure reaches every row and every later submit."""

    def broken(tokens: Sequence[int]) -> int:
        raise RuntimeError("no such kernel")

    engine = make_engine(next_token=broken)
    sink = Collector()
    engine.submit(requests([[1], [2]], sink))
    errors = [r.error for r in sink.take(2)]
    assert all(
        e is not None and e.type == "EngineDead" and "no such kernel" in e.message for e in errors
    )
    with pytest.raises(EngineDead, match="no such kernel"):
        engine.submit(requests([[1]], sink))
    engine.close()


def test_close_ends_every_row_and_the_thread() -> None:
    """Close drains or cancels; afterwards nothing is left and nothing is accepted."""
    before = set(threading.enumerate())
    for drain in (True, False):
        engine = make_engine(next_token=lambda t: time.sleep(0.001) or 5)
        sink = Collector()
        engine.submit(requests(random_prompts(40), sink, max_tokens=20))
        engine.close(drain=drain)
        results = sink.take(40, timeout_s=1)
        if drain:
            assert all(r.success for r in results)
        else:
            assert any(r.finish_reason is FinishReason.CANCELLED for r in results)
            assert all(r.success or r.error.type == "ProcessorStopped" for r in results if r.error)
        with pytest.raises(ProcessorStopped):
            engine.submit(requests([[1]], sink))
        engine.close()
    assert set(threading.enumerate()) == before


def test_fork_gives_a_clear_error() -> None:
    """A forked child must not hang on the parent's thread."""
    engine = make_engine()
    pid = os.fork()
    if pid == 0:
        try:
            engine.submit([])
        except ForkedProcess:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    engine.close()


def test_a_longer_row_enlarges_the_cache_and_loses_nothing() -> None:
    """Rows in work when the KV cache grows are computed again and end as if nothing happened."""
    opened: list[int] = []

    def open_runner(demand: Demand) -> ScriptedRunner:
        opened.append(demand.n_tokens_per_row)
        return ScriptedRunner(follow, limits(n_tokens_per_slot=demand.n_tokens_per_row), N_VOCAB)

    engine = make_engine(open_runner=open_runner, n_ctx=2000)
    sink = Collector()
    prompts = [[3, 4, 5], [7] * 700]
    engine.submit(requests(prompts[:1], sink, max_tokens=200))
    engine.submit(requests([[], prompts[1]], sink, max_tokens=200)[1:])
    for result in sink.take(2):
        assert list(result.tokens) == expected_tokens(prompts[result.index], 200)
    assert opened == [256, 1024] or opened == [1024]
    engine.close()


def test_the_self_test_steps_down_when_rows_disturb_each_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A runner that gives wrong logits in batches ends up running rows one at a time."""

    class Disturbed(ScriptedRunner):
        def execute(self, plan: StepPlan) -> StepOutput:
            output = super().execute(plan)
            if len(output.logits) > 1:
                output.logits[:] = output.logits[::-1].copy()
            return output

    demands: list[Demand] = []

    def open_runner(demand: Demand) -> ScriptedRunner:
        demands.append(demand)
        return Disturbed(follow, limits(n_slots=demand.max_batch_size), N_VOCAB)

    engine = make_engine(open_runner=open_runner, config=EngineConfig(max_batch_size=8))
    sink = Collector()
    prompts = random_prompts(10)
    engine.submit(requests(prompts, sink))
    for result in sink.take(10):
        assert list(result.tokens) == expected_tokens(prompts[result.index], 6)
    assert [(d.max_batch_size, d.is_cautious) for d in demands] == [
        (8, False),
        (8, True),
        (1, True),
    ]
    assert "one at a time" in caplog.text
    engine.close()
