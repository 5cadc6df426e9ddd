"""The native engine: the same bits in any company, and nothing breaks on damaged files."""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arch_models import make_arch_model
from llamaherd import ConfigError, Model, ModelLoadError, ParallelProcessor
from llamaherd.config import GenerationConfig
from llamaherd.engine.plan import Chunk, Fork, Free, MemoryOperation, StepPlan, Trim
from llamaherd.errors import LlamaherdError
from llamaherd.models.engine_choice import choose_engine
from llamaherd.runners.blocks import BlockTables
from llamaherd.runners.native import NativeOptions, NativeRunner
from llamaherd.runners.native_weights import NativeWeights, native_module, why_unavailable

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason="no native engine here")

ROOT = Path(__file__).resolve().parents[1]
N_SLOTS, N_TOKENS = 6, 224
# A step of more tokens than this takes another path, in which threads work on their own rows.
N_BATCH = 2048
QUESTION = [{"role": "user", "content": "What is the capital of Peru?"}]


def open_runner(weights: NativeWeights, n_threads: int, n_tokens: int = 4096) -> NativeRunner:
    options = NativeOptions(N_SLOTS, n_tokens, N_TOKENS, N_BATCH, n_threads, 1 << 20, None, True)
    return NativeRunner(weights, options)


@pytest.fixture(scope="module", params=["llama Q4_0", "gemma3 Q8_0", "qwen2 Q4_K_M", "phi3 F16"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name, kind = request.param.split()
    path = make_arch_model(tmp_path_factory.mktemp("native") / "model.gguf", name, kind)
    return NativeWeights(path, n_threads=2)


@pytest.fixture(scope="module")
def runners(weights: NativeWeights) -> Iterator[list[NativeRunner]]:
    opened = [open_runner(weights, n) for n in (1, 2, 3)]
    yield opened
    for runner in opened:
        runner.close()


# ── invariance ──────────────────────────────────────────────────────────────────────────────


def alone(runner: NativeRunner, tokens: list[int]) -> np.ndarray[Any, Any]:
    """Logits of a row by itself, in one piece."""
    logits = runner.execute(StepPlan((Free(0),), (Chunk(0, 0, tokens, True),))).logits[0].copy()
    runner.execute(StepPlan((Free(0),)))
    return logits


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_bits_do_not_depend_on_company(
    weights: NativeWeights, runners: list[NativeRunner], seed: int
) -> None:
    """Random rows in random chunks beside each other, forked, cut back, on 1 to 3 threads."""
    rng = random.Random(seed)
    rows = random_rows(rng, weights.n_vocab)
    expected = [alone(runners[0], row) for row in rows]
    runner = rng.choice(runners)
    done = [0] * N_SLOTS
    while pending := [i for i in range(N_SLOTS) if done[i] < len(rows[i])]:
        operations = random_operations(rng, rows, done)
        chunks = []
        for slot in rng.sample(pending, rng.randint(1, len(pending))):
            n = rng.choice((1, rng.randint(1, 40), len(rows[slot]) - done[slot]))
            n = min(n, len(rows[slot]) - done[slot])
            end = done[slot] + n
            chunks.append(Chunk(slot, done[slot], rows[slot][done[slot] : end], rng.random() < 0.9))
            done[slot] = end
        chunks[-1] = Chunk(chunks[-1].slot, chunks[-1].start, chunks[-1].tokens, True)
        output = runner.execute(StepPlan(tuple(operations), tuple(chunks)))
        assert not output.no_room
        wanted = [chunk for chunk in chunks if chunk.wants_logits]
        for chunk, logits in zip(wanted, output.logits, strict=True):
            if done[chunk.slot] == len(rows[chunk.slot]):
                assert np.array_equal(logits, expected[chunk.slot])
    runner.execute(StepPlan(tuple(Free(slot) for slot in range(N_SLOTS))))


def random_rows(rng: random.Random, n_vocab: int) -> list[list[int]]:
    """Rows that partly begin alike."""
    common = [rng.randrange(n_vocab) for _ in range(rng.randint(1, 100))]
    rows = []
    for _ in range(N_SLOTS):
        own = [rng.randrange(n_vocab) for _ in range(rng.randint(1, 110))]
        rows.append(common[: rng.choice((0, len(common), rng.randint(0, len(common))))] + own)
    return rows


def random_operations(
    rng: random.Random, rows: list[list[int]], done: list[int]
) -> list[MemoryOperation]:
    """Forks from rows that begin alike, rows that lose their end, rows that lose everything."""
    operations: list[MemoryOperation] = []
    for slot in range(N_SLOTS):
        if 0 < done[slot] < len(rows[slot]) and rng.random() < 0.15:
            done[slot] = rng.randint(0, done[slot])
            operations.append(Trim(slot, done[slot]) if done[slot] else Free(slot))
        parent = rng.randrange(N_SLOTS)
        pairs = zip(rows[slot][:-1], rows[parent][: done[parent]], strict=False)
        n_common = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if n_common is None:
            n_common = min(len(rows[slot]) - 1, done[parent])
        if done[slot] == 0 and n_common and rng.random() < 0.5:
            operations.append(Fork(parent, slot, n_common))
            done[slot] = n_common
    return operations


@pytest.mark.parametrize("max_batch_size", [3, 64])
def test_text_is_the_same_alone_and_in_any_batch(max_batch_size: int) -> None:
    """Through the whole library, with prefix reuse, and with a cache that is far too small."""
    rng = random.Random(5)
    rows = [
        [{"role": "user", "content": f"Name {rng.randint(1, 99)} things about {word}."}]
        for word in ("Peru", "tea", "chess", "rain", "Oslo", "music", "sand", "Mars") * 8
    ]
    sampled = GenerationConfig(max_tokens=24, ignore_eos=True, seed=3)
    greedy = GenerationConfig.greedy(max_tokens=24, ignore_eos=True)
    order = rng.sample(range(len(rows)), len(rows))
    with Model.load("demo", engine="native") as model:
        with ParallelProcessor(model, max_batch_size=1) as single:
            expected = [r.text for r in single.batch_generate(rows, sampled)]
            expected_greedy = [r.text for r in single.batch_generate(rows, greedy)]
        with ParallelProcessor(model, max_batch_size=max_batch_size, kv_memory_bytes=1) as tight:
            answers = tight.batch_generate(rows, sampled)
            shuffled = tight.batch_generate([rows[i] for i in order], greedy)
    assert [r.text for r in answers] == expected
    assert [r.text for r in shuffled] == [expected_greedy[i] for i in order]


# ── instruction sets ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("isa", native_module().isa_names() if why_unavailable() is None else [])
@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q6_K"])
def test_instruction_sets_agree(isa: str, kind: str, tmp_path: Path) -> None:
    """Each adds up in an order of its own, so only nearly."""
    path = make_arch_model(tmp_path / "model.gguf", "llama", kind)
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, 515, 70)]
    expected, found = (
        alone(open_runner(NativeWeights(path, n_threads=1, isa=name), 1), tokens)
        for name in ("reference", isa)
    )
    assert np.abs(expected - found).max() < 0.12
    assert np.corrcoef(expected, found)[0, 1] > 0.9995


def test_isa_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAHERD_ISA", "reference")
    with Model.load("demo", engine="native") as model:
        assert "Lima" in model.generate(QUESTION, temperature=0).text
    monkeypatch.setenv("LLAMAHERD_ISA", "mmx")
    with pytest.raises(ConfigError, match="LLAMAHERD_ISA is 'mmx'; this machine has"):
        Model.load("demo", engine="native")


# ── choice of the engine ────────────────────────────────────────────────────────────────────


def test_auto_takes_native_where_it_can(tmp_path: Path) -> None:
    covered = make_arch_model(tmp_path / "llama.gguf", "llama", "Q4_0")
    assert choose_engine(covered).name == "native"
    for options in ({"gpu_layers": -1}, {"has_lora": True}):
        choice = choose_engine(covered, **options)
        assert choice.name == "llama.cpp" and choice.reason.startswith("not native: it does not")
    with pytest.raises(ConfigError, match='"auto", "native" and "llama.cpp"'):
        choose_engine(covered, "cuda")
    data = covered.read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(
        data.replace(
            b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00bloom", 1
        )
    )
    assert "this model is 'bloom'" in choose_engine(other).reason
    with pytest.raises(ModelLoadError, match="native engine does not run other.gguf.*llama.cpp"):
        choose_engine(other, "native")


def test_without_the_compiled_part_llama_cpp_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a platform for which it cannot be built."""
    monkeypatch.setitem(sys.modules, "llamaherd._native", None)
    with Model.load("demo") as model:
        assert model.info.engine == "llama.cpp"
        assert "Lima" in model.generate(QUESTION, temperature=0).text
    with pytest.raises(ModelLoadError, match="not built for this platform; take engine='llama"):
        Model.load("demo", engine="native")


def test_engines_agree_on_the_demo_model() -> None:
    """Greedy answers to the held-out rows of all its tasks; near-ties may fall either way."""
    lines = (ROOT / "training" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    texts = []
    for engine in ("native", "llama.cpp"):
        with Model.load("demo", engine=engine) as model, ParallelProcessor(model) as processor:
            assert model.info.engine == engine
            results = processor.batch_generate(rows, GenerationConfig.greedy(max_tokens=60))
            texts.append([result.text for result in results])
    n_equal = sum(a == b for a, b in zip(*texts, strict=True))
    assert n_equal >= 0.99 * len(rows)


# ── damaged files ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    return make_arch_model(path, "qwen3", "Q4_0").read_bytes()


def load_damaged(path: Path, data: bytes) -> None:
    """Load and run it; a clear error is as good as an answer, a crash is not."""
    path.write_bytes(data)
    try:
        weights = NativeWeights(path, n_threads=1)
        runner = open_runner(weights, 1, 256)
        runner.execute(StepPlan((), (Chunk(0, 0, [1, 2, 3], True),)))
    except LlamaherdError:
        pass
    except Exception as error:
        assert type(error).__name__ == "NotCovered", error


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.9, 0.9999])
def test_truncated_files_are_refused(small_file: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(small_file[: int(len(small_file) * share)])
    with pytest.raises(ModelLoadError):
        NativeWeights(path, n_threads=1)


@pytest.mark.parametrize("seed", range(8))
def test_fuzzed_headers_never_crash(small_file: bytes, seed: int, tmp_path: Path) -> None:
    """Bytes, counts and offsets of the header replaced by others, huge ones too."""
    rng = random.Random(seed)
    n_header = small_file.index(b"output_norm.weight") + 200
    for _ in range(25):
        fuzzed = bytearray(small_file)
        for _ in range(rng.randint(1, 4)):
            size, form = rng.choice([(1, "<B"), (4, "<I"), (8, "<Q")])
            limit = 2 ** (8 * size) - 1
            value = min(
                limit, rng.choice([0, 1, limit, limit // 2, 31, 4096, rng.randint(0, limit)])
            )
            at = rng.randrange(4, n_header)
            fuzzed[at : at + size] = struct.pack(form, value)
        load_damaged(tmp_path / "fuzzed.gguf", bytes(fuzzed))


# ── memory and threads ──────────────────────────────────────────────────────────────────────


def test_a_cache_that_is_full_says_so(weights: NativeWeights) -> None:
    """And computes nothing; after something was given up, the step works."""
    runner = open_runner(weights, 1, n_tokens=128)
    tokens = list(range(1, 101))
    expected = alone(runner, tokens)
    runner.execute(StepPlan((), (Chunk(0, 0, tokens, False),)))
    assert runner.execute(StepPlan((), (Chunk(1, 0, tokens, True),))).no_room
    output = runner.execute(StepPlan((Free(0),), (Chunk(1, 0, tokens, True),)))
    assert np.array_equal(output.logits[0], expected)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_block_tables_keep_every_token(data: st.DataObject) -> None:
    """Against a model that writes the tokens into the blocks."""
    size, n_blocks, n_slots = 4, 12, 5
    tables = BlockTables(n_blocks, n_slots, size)
    cache = [[-1] * size for _ in range(n_blocks)]
    tokens: list[list[int]] = [[] for _ in range(n_slots)]
    counter = 0
    for _ in range(data.draw(st.integers(1, 40))):
        slot, other = (data.draw(st.integers(0, n_slots - 1)) for _ in range(2))
        action = data.draw(st.sampled_from(["extend", "trim", "fork"]))
        if action == "extend":
            n = data.draw(st.integers(1, 6))
            start = len(tokens[slot])
            if tables.n_missing(slot, start, n) > tables.n_free:
                continue
            if (copy := tables.extend(slot, start, n)) is not None:
                cache[copy[1]] = list(cache[copy[0]])
            for i in range(start, start + n):
                cache[tables.table(slot)[i // size]][i % size] = counter
                tokens[slot].append(counter)
                counter += 1
        elif action == "trim":
            n = data.draw(st.integers(0, len(tokens[slot])))
            tables.trim(slot, n)
            del tokens[slot][n:]
        elif not tokens[slot] and slot != other:
            n = data.draw(st.integers(0, len(tokens[other])))
            tables.fork(other, slot, n)
            tokens[slot] = tokens[other][:n]
        for s in range(n_slots):
            held = [cache[b][i] for b in tables.table(s) for i in range(size)]
            assert held[: len(tokens[s])] == tokens[s]
        used = {block for s in range(n_slots) for block in tables.table(s)}
        assert tables.n_free == n_blocks - len(used)
