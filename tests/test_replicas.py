"""Worker processes: where they run, and one result per row even if they are killed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from llamaherd import (
    BatchGenerationConfig,
    ConfigError,
    EngineDead,
    ForkedProcess,
    Model,
    ModelError,
    ParallelProcessor,
    ProcessorStopped,
    Reranker,
    ThreadPoolConfig,
    WorkerCrashed,
    hardware,
)
from llamaherd.replicas import process
from llamaherd.replicas.placement import Machine, Placement, place

GREEDY = BatchGenerationConfig.greedy(max_tokens=12)
NUMA = ThreadPoolConfig(numa_aware=True)
POISON = 77


def rows(n: int) -> list[list[int]]:
    return [[1, 300 + i, 400 + i, 500 + i] for i in range(n)]


# ── placement, from recorded machines ───────────────────────────────────────────────────


def machine(
    tmp_path: Path, nodes: dict[int, str], siblings: dict[int, str], n_cpus: int | None = None
) -> Machine:
    """What Linux says about a machine in /sys."""
    files = {f"node/node{n}/cpulist": text for n, text in nodes.items()}
    files |= {f"cpu/cpu{c}/topology/thread_siblings_list": s for c, s in siblings.items()}
    for name, text in files.items():
        path = tmp_path / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "sys/devices/system/node/possible").write_text("0\n")
    found = hardware.numa_nodes(tmp_path)
    cores = tuple(sorted(core for node in found.values() for core in node))
    return Machine(cores, n_cpus or len(cores), found, hardware.first_siblings(tmp_path))


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    """One node, 4 cores with two hardware threads each."""
    return machine(tmp_path / "laptop", {0: "0-7"}, {c: f"{c % 4},{c % 4 + 4}" for c in range(8)})


@pytest.fixture
def xeon(tmp_path: Path) -> Machine:
    """Two sockets of 18 cores, hyper-threads numbered after all cores."""
    nodes = {0: "0-17,36-53", 1: "18-35,54-71"}
    return machine(tmp_path / "xeon", nodes, {c: f"{c % 36},{c % 36 + 36}" for c in range(72)})


@pytest.fixture
def epyc(tmp_path: Path) -> Machine:
    """Two sockets in NPS4 mode: 8 nodes of 16 cores, no hyper-threads."""
    nodes = {n: f"{16 * n}-{16 * n + 15}" for n in range(8)}
    return machine(tmp_path / "epyc", nodes, {c: f"{c}" for c in range(128)})


def test_one_worker_for_a_whole_machine_is_not_pinned(laptop: Machine, xeon: Machine) -> None:
    assert place(None, ThreadPoolConfig(), laptop) == [Placement(None, 8)]
    assert place(None, NUMA, laptop) == [Placement(None, 8)]
    assert place(None, ThreadPoolConfig(), xeon) == [Placement(None, 72)]


def test_a_core_is_never_divided_between_workers(laptop: Machine) -> None:
    assert place(2, ThreadPoolConfig(), laptop) == [
        Placement((0, 1, 4, 5), 4),
        Placement((2, 3, 6, 7), 4),
    ]


def test_workers_stay_on_their_nodes(xeon: Machine, epyc: Machine) -> None:
    first, second = place(None, NUMA, xeon)
    assert (first.cores, second.cores) == (tuple(xeon.nodes[0]), tuple(xeon.nodes[1]))
    assert first.n_threads == 36
    halves = place(4, NUMA, xeon)
    assert halves[0].cores == (*range(9), *range(36, 45))
    assert [p.cores for p in place(None, NUMA, epyc)] == [tuple(n) for n in epyc.nodes.values()]
    assert place(2, NUMA, epyc)[1] == Placement(tuple(range(64, 128)), 64)
    for n in (3, 8, 12, 16, 100):
        placements = place(n, NUMA, epyc)
        used = [core for p in placements if p.cores is not None for core in p.cores]
        assert len(placements) == n and sorted(used) == list(range(128))
        if n >= 8:
            nodes = [{core // 16 for core in p.cores} for p in placements]
            assert all(len(node) == 1 for node in nodes)


def test_limits_of_containers_and_wishes_count(laptop: Machine, tmp_path: Path) -> None:
    limited = machine(tmp_path, {0: "0-7"}, {}, n_cpus=4)
    assert [p.n_threads for p in place(2, ThreadPoolConfig(), limited)] == [2, 2]
    assert place(9, ThreadPoolConfig(), laptop) == [Placement(None, 1)] * 9
    pinned = ThreadPoolConfig(cpu_affinity=(1, 2, 5), num_threads=2)
    assert place(1, pinned, laptop) == [Placement((1, 2, 5), 2)]
    with pytest.raises(ConfigError, match="4 replicas cannot be pinned to the 3 cores"):
        place(4, pinned, laptop)
    for wrong in (0, True, "all"):
        with pytest.raises(ConfigError, match="replicas"):
            ParallelProcessor("demo", replicas=wrong)


# ── processes ───────────────────────────────────────────────────────────────────────────


def open_processor(**options: object) -> ParallelProcessor:
    return ParallelProcessor(
        "demo", **{"replicas": 2, "max_batch_size": 4, "self_test": False, **options}
    )


@pytest.mark.parametrize("steals", [True, False])
def test_replicas_give_the_results_of_one_engine(demo: Model, steals: bool) -> None:
    with ParallelProcessor(demo, self_test=False) as one:
        expected = [r.tokens for r in one.batch_generate(rows(40), GREEDY)]
    pool = ThreadPoolConfig(work_stealing=steals)
    with open_processor(thread_pool=pool) as processor:
        results = processor.batch_generate([*rows(40), []], GREEDY)
        assert [r.index for r in results] == list(range(41))
        assert sum(r.tokens == e for r, e in zip(results, expected, strict=False)) >= 38
        assert results[40].error is not None and results[40].error.type == "InvalidPrompt"
        config = BatchGenerationConfig(max_tokens=3, logprobs=2, seed=1, temperature=0.8)
        (detailed,) = processor.batch_generate([[1, 5, 9]], config)
        assert detailed.logprobs is not None and len(detailed.logprobs) == 3
        assert detailed.seed is not None
        stats = processor.stats()
        assert stats.items_processed == 41 and stats.generated_tokens >= sum(
            len(e) for e in expected
        )
        text = "".join(processor.model.stream("Once upon a time", max_tokens=8, temperature=0))
        assert text == demo.generate("Once upon a time", max_tokens=8, temperature=0).text


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_workers_are_pinned_where_they_should_be() -> None:
    core = hardware.existing_cores()[0]
    pool = ThreadPoolConfig(cpu_affinity=(core,))
    with open_processor(replicas=1, thread_pool=pool) as processor:
        assert processor.batch_generate(rows(1), GREEDY)[0].success
        (pid,) = processor._engine.worker_pids
        assert os.sched_getaffinity(pid) == {core}


def test_a_killed_workers_rows_run_again_and_end_once() -> None:
    before = set(threading.enumerate())
    with open_processor() as processor:
        results = processor.generate_iter(iter(rows(120)), GREEDY)
        seen = []
        for n_done, result in enumerate(results):
            seen.append(result.index)
            assert result.success
            if n_done in (10, 50):
                os.kill(processor._engine.worker_pids[n_done % 2], signal.SIGKILL)
        pids = processor._engine.worker_pids
    assert sorted(seen) == list(range(120))
    assert set(threading.enumerate()) == before
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


POISONED = """
import json, os, signal, sys
sys.path[:] = json.loads(sys.argv[1])
from llamaherd.replicas import worker
def unpack(row, sink, original=worker.unpack_request):
    if 77 in row[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(row, sink)
worker.unpack_request = unpack
worker.main(int(sys.argv[2]))
"""


def test_a_row_that_ends_workers_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_PROGRAM", POISONED)
    prompts = rows(12)
    prompts[5] = [1, POISON]
    with open_processor() as processor:
        results = processor.batch_generate(prompts, GREEDY)
    failed = [r for r in results if not r.success]
    assert [r.index for r in failed] == [5]
    assert failed[0].error is not None and failed[0].error.type == WorkerCrashed.__name__


def test_workers_that_never_get_ready_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.gguf"
    moved.write_bytes(tiny_model.read_bytes())
    with Model.load(moved, vocab_only=True) as model:
        moved.unlink()
        with ParallelProcessor(model, replicas=1) as processor:
            (result,) = processor.batch_generate([[1, 2]], GREEDY)
            assert result.error is not None and "could not load the model" in result.error.message
            with pytest.raises(EngineDead):
                processor.batch_generate([[1, 2]], GREEDY)
    monkeypatch.setattr(process, "_PROGRAM", "import sys; sys.exit(3)")
    with open_processor() as processor:
        (result,) = processor.batch_generate([[1, 2]], GREEDY)
        assert result.error is not None and "exit status" in result.error.message


def test_cancel_close_and_fork() -> None:
    processor = open_processor()
    long = BatchGenerationConfig.greedy(max_tokens=100, ignore_eos=True)
    results = processor.generate_iter(rows(30), long)
    next(results)
    results.close()
    assert processor.batch_generate(rows(2), GREEDY)[1].success
    pid = os.fork()
    if pid == 0:
        try:
            processor.batch_generate(rows(1), GREEDY)
        except ForkedProcess:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    waiting = processor.generate_iter(rows(30), long)
    next(waiting)
    processor.close()
    assert {r.error.type for r in waiting if r.error is not None} == {"ProcessorStopped"}
    with pytest.raises(ProcessorStopped):
        processor.batch_generate(rows(1), GREEDY)
    processor.close()


def test_embeddings_need_no_model_of_their_own() -> None:
    """Weights are in the workers, and are loaded here when vectors are first asked for."""
    with ParallelProcessor("demo", replicas=2) as processor, Reranker(processor) as reranker:
        assert processor.batch_embed(["hello", "who won?"]).shape == (2, 256)
        assert reranker.score("Who won?", ["The Rovers won the cup."]).shape == (1,)
    with pytest.raises(ModelError, match="closed"):
        processor.batch_embed(["hello"])
    with (
        ParallelProcessor("demo", replicas=2) as processor,
        pytest.raises(ModelError, match="vocab_only"),
    ):
        processor.model.embed("hello")
