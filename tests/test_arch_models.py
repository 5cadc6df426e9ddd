"""Every architecture on every engine, against logits that transformers computed in float32."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arch_models import (
    ARCHITECTURES,
    N_VOCAB,
    REFERENCE_FILE,
    REFERENCE_POSITIONS,
    REFERENCE_TYPES,
    make_arch_model,
    reference_prompt,
    tensors,
)
from llamaherd.engine.kv_shape import KvShape
from llamaherd.engine.plan import Chunk, Runner, StepPlan
from llamaherd.llama.weights import Weights
from llamaherd.runners.llama_cpp import LlamaCppRunner, RunnerOptions

# Mean KL divergence from the reference, in nats: a few times what rounding costs (float16 keys
# and values; activations in 8 bits), and far below what a wrong step in the graph costs.
TOLERANCE = {"F32": 3e-5, "Q8_0": 2e-3}

# Of names and values of all tensors. If one changes, `REFERENCE_FILE` must be made anew.
DIGESTS = {"llama": "b4499c331c911486", "gemma3": "b69721044ef5c8da"}

Open = Callable[[Path], Runner]


@pytest.fixture
def open_llama_cpp() -> Iterator[Open]:
    opened: list[Any] = []

    def open_it(path: Path) -> Runner:
        weights = Weights.load(path)
        options = RunnerOptions(1, 1 << 20, None, n_batch=128)
        runner = LlamaCppRunner(weights.handle, N_VOCAB, KvShape(1, 256, True), options)
        opened.extend((weights, runner))
        return runner

    yield open_it
    for thing in reversed(opened):
        thing.close()


@pytest.mark.parametrize("kind", REFERENCE_TYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_llama_cpp_agrees_with_transformers(
    name: str, kind: str, tmp_path: Path, open_llama_cpp: Open
) -> None:
    runner = open_llama_cpp(make_arch_model(tmp_path / "model.gguf", name, kind))
    check_reference(logits_at_positions(runner), name, kind)


@pytest.fixture
def open_native() -> Iterator[Open]:
    native = pytest.importorskip("llamaherd.runners.native")
    weights = pytest.importorskip("llamaherd.runners.native_weights")
    if reason := weights.why_unavailable():
        pytest.skip(reason)
    opened: list[Runner] = []

    def open_it(path: Path) -> Runner:
        options = native.NativeOptions(
            n_slots=1,
            n_tokens=256,
            n_tokens_per_slot=256,
            n_batch=128,
            n_threads=1,
            stack_size=1 << 20,
            cores=None,
            work_stealing=False,
        )
        loaded = weights.NativeWeights(path, n_threads=1, n_ctx=256)
        opened.append(native.NativeRunner(loaded, options))
        return opened[0]

    yield open_it
    for runner in opened:
        runner.close()


@pytest.mark.parametrize("kind", REFERENCE_TYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_native_agrees_with_transformers(
    name: str, kind: str, tmp_path: Path, open_native: Open
) -> None:
    runner = open_native(make_arch_model(tmp_path / "model.gguf", name, kind))
    check_reference(logits_at_positions(runner), name, kind)


def logits_at_positions(runner: Runner) -> np.ndarray[Any, Any]:
    """Logits after `REFERENCE_POSITIONS`; what lies between is computed as a prompt."""
    prompt, rows, start = reference_prompt(), [], 0
    for position in REFERENCE_POSITIONS:
        chunk = Chunk(0, start, prompt[start : position + 1], True)
        rows.append(runner.execute(StepPlan(chunks=(chunk,))).logits[0].copy())
        start = position + 1
    return np.stack(rows)


def check_reference(found: np.ndarray[Any, Any], name: str, kind: str) -> None:
    """Compare with the stored logits."""
    with np.load(REFERENCE_FILE) as stored:
        expected = stored[f"{name} {kind}"]
    p, q = log_softmax(expected), log_softmax(found)
    assert (np.exp(p) * (p - q)).sum(-1).mean() < TOLERANCE[kind]
    assert np.abs(expected - found).max() < 0.4


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In float64."""
    x = logits.astype(np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_weights_are_the_same_on_every_machine(name: str) -> None:
    digest = hashlib.sha256()
    for tensor, values in tensors(ARCHITECTURES[name]):
        digest.update(tensor.encode() + values.astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[name]
