"""How exactly an engine computes: its logits against transformers in float32 on the same weights.

    python benchmarks/accuracy.py                                   # llama.cpp, F32
    python benchmarks/accuracy.py --engines llama.cpp native --types F32 Q8_0 Q4_0 Q4_K_M

Models are those of `tests/arch_models.py`, one per architecture, or any GGUF file with `--model`.
Weights are dequantized for the reference, so what is reported is the error of an engine's
arithmetic: KL(reference || engine) per token in nats, how often both prefer the same token, and
the largest difference of a logit. The first part of each text is computed as a prompt, the rest
token by token, with all texts in one batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaherd.engine.plan import Chunk, Runner, StepPlan
from reference import (
    ARCHITECTURES,
    MIXTURES,
    PLAIN_TYPES,
    Reference,
    make_arch_model,
    open_arch_reference,
    open_reference,
    random_tokens,
)

Array = NDArray[np.float32]
Exact = NDArray[np.float64]
SHORTEST, LONGEST = 64, 200
N_CTX = 256


@dataclass(frozen=True)
class Room:
    """What a runner is opened with."""

    n_rows: int
    n_tokens_per_row: int = N_CTX
    n_threads: int = 2


@dataclass(frozen=True)
class Errors:
    """One engine on one model.

    Attributes:
        n_tokens: Positions compared.
        mean_kl: Mean KL divergence from the reference, in nats.
        max_kl: The largest.
        top1: Share of positions where both prefer the same token.
        max_logit_error: Largest absolute difference of a logit.
        logit_std: Standard deviation of the reference's logits.
    """

    model: str
    kind: str
    engine: str
    n_tokens: int
    mean_kl: float
    max_kl: float
    top1: float
    max_logit_error: float
    logit_std: float


# --- engines -------------------------------------------------------------------------------------


def open_llama_cpp(path: Path, room: Room) -> Runner:
    """llama.cpp through llamaherd's runner."""
    from llamaherd.engine.kv_shape import KvShape
    from llamaherd.llama.weights import Weights
    from llamaherd.runners.llama_cpp import LlamaCppRunner, RunnerOptions

    weights = Weights.load(path)
    n_tokens = room.n_rows * room.n_tokens_per_row
    shape = KvShape(room.n_rows, n_tokens, is_unified=False)
    options = RunnerOptions(room.n_threads, 1 << 20, None, n_batch=512)
    runner = LlamaCppRunner(weights.handle, weights.facts().n_vocab, shape, options)
    return _closing(runner, weights.close)


def open_llama_cpp_exact(path: Path, room: Room) -> Runner:
    """The same with keys and values in float32 and without flash attention, whose sums are f16.

    It tells an error in a model from the rounding that llama.cpp's defaults have.
    """
    from llamaherd.runners import llama_cpp

    default = llama_cpp._context_params

    def exact(shape: Any, options: Any) -> Any:
        params = default(shape, options)
        params.type_k = params.type_v = 0  # GGML_TYPE_F32
        params.flash_attn_type = 0
        return params

    llama_cpp._context_params = exact
    try:
        return open_llama_cpp(path, room)
    finally:
        llama_cpp._context_params = default


def open_native(path: Path, room: Room) -> Runner:
    """llamaherd's own engine."""
    from llamaherd.runners.native import NativeOptions, NativeRunner
    from llamaherd.runners.native_weights import NativeWeights

    weights = NativeWeights(path, n_threads=room.n_threads, n_ctx=room.n_tokens_per_row)
    options = NativeOptions(
        n_slots=room.n_rows,
        n_tokens=room.n_rows * room.n_tokens_per_row,
        n_tokens_per_slot=room.n_tokens_per_row,
        n_batch=512,
        n_threads=room.n_threads,
        stack_size=1 << 20,
        cores=None,
        work_stealing=True,
    )
    return NativeRunner(weights, options)


def _closing(runner: Any, then: Callable[[], None]) -> Runner:
    """Let `close` of a runner free the weights too, which a runner does not own."""
    close = runner.close

    def close_all() -> None:
        close()
        then()

    runner.close = close_all
    opened: Runner = runner
    return opened


ENGINES: dict[str, Callable[[Path, Room], Runner]] = {
    "llama.cpp": open_llama_cpp,
    "llama.cpp-f32kv": open_llama_cpp_exact,
    "native": open_native,
}


def open_runner(engine: str, path: Path, room: Room) -> Runner:
    """Open a model on an engine; `SystemExit` where this build has not got it."""
    try:
        return ENGINES[engine](path, room)
    except ImportError as error:
        raise SystemExit(f"the engine {engine} is not here: {error}") from error


# --- comparing -----------------------------------------------------------------------------------


def engine_logits(runner: Runner, texts: list[list[int]]) -> list[Array]:
    """Logits of every text from the end of its first third on, as a list in the texts' order."""
    done = [0] * len(texts)
    found: list[list[Array]] = [[] for _ in texts]
    while any(n < len(text) for n, text in zip(done, texts, strict=True)):
        chunks, room = [], runner.limits.n_batch
        for slot, text in enumerate(texts):
            n = min(len(text) // 3 - done[slot] if done[slot] < len(text) // 3 else 1, room)
            if done[slot] == len(text) or n == 0:
                continue
            end = done[slot] + n
            chunks.append(Chunk(slot, done[slot], text[done[slot] : end], end >= len(text) // 3))
            done[slot], room = end, room - n
        output = runner.execute(StepPlan(chunks=tuple(chunks)))
        if output.no_room:
            raise RuntimeError("the KV cache is too small")
        wanted = [chunk.slot for chunk in chunks if chunk.wants_logits]
        for slot, row in zip(wanted, output.logits, strict=True):
            found[slot].append(row.copy())
    return [np.stack(rows) for rows in found]


def compare(reference: list[Array], engine: list[Array]) -> dict[str, Any]:
    """Figures of `Errors` for all positions of all texts."""
    expected = np.concatenate([r[-len(e) :] for r, e in zip(reference, engine, strict=True)])
    found = np.concatenate(engine)
    kl = divergence(expected, found)
    return {
        "n_tokens": len(kl),
        "mean_kl": float(kl.mean()),
        "max_kl": float(kl.max()),
        "top1": float((expected.argmax(-1) == found.argmax(-1)).mean()),
        "max_logit_error": float(np.abs(expected - found).max()),
        "logit_std": float(expected.std()),
    }


def divergence(expected: Array, found: Array) -> Exact:
    """KL(expected || found) of each row, in float64."""
    p, q = _log_softmax(expected), _log_softmax(found)
    kl: Exact = (np.exp(p) * (p - q)).sum(-1)
    return kl


def _log_softmax(logits: Array) -> Exact:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    shifted: Exact = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return shifted


def random_texts(n: int, n_vocab: int) -> list[list[int]]:
    """Texts of 64 to 200 tokens."""
    rng = np.random.Generator(np.random.PCG64(n_vocab))
    lengths = SHORTEST + (rng.random(n) * (LONGEST - SHORTEST)).astype(int)
    return [random_tokens(i, int(length)) for i, length in enumerate(lengths)]


def measure(
    path: Path, name: str, kind: str, reference: Reference, arguments: argparse.Namespace
) -> Iterator[Errors]:
    """Compare every engine on one model."""
    texts = random_texts(arguments.texts, reference.n_vocab)
    expected = [reference.logits(text) for text in texts]
    for engine in arguments.engines:
        runner = open_runner(engine, path, Room(len(texts), n_threads=arguments.threads))
        try:
            found = engine_logits(runner, texts)
        finally:
            runner.close()
        yield Errors(name, kind, engine, **compare(expected, found))


def models(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, str, str]]:
    """File, name and type of each model asked for."""
    for path in arguments.model or []:
        yield path, path.name, ""
    for name in [] if arguments.model else arguments.archs:
        for kind in arguments.types:
            yield make_arch_model(folder / f"{name}-{kind}.gguf", name, kind), name, kind


def main() -> None:
    """Run the comparison and report."""
    arguments = parse_arguments()
    print(f"{'model':<12}{'type':<8}{'engine':<18}{'tokens':>7}", end="")
    print(f"{'mean KL':>11}{'max KL':>11}{'top-1':>9}{'max error':>11}{'std':>7}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for path, name, kind in models(arguments, Path(folder)):
            made = name in ARCHITECTURES
            reference = open_arch_reference(path, name) if made else open_reference(path)
            for e in measure(path, name, kind, reference, arguments):
                results.append(asdict(e))
                print(f"{e.model:<12}{e.kind:<8}{e.engine:<18}{e.n_tokens:>7}", end="")
                print(f"{e.mean_kl:>11.2e}{e.max_kl:>11.2e}{e.top1:>9.2%}", end="")
                print(f"{e.max_logit_error:>11.2e}{e.logit_std:>7.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Errors of engines against transformers.")
    parser.add_argument("--archs", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--types", nargs="+", choices=PLAIN_TYPES + MIXTURES, default=["F32"])
    parser.add_argument("--model", type=Path, nargs="+", help="GGUF files instead of those")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["llama.cpp"])
    parser.add_argument("--texts", type=int, default=20, help="random texts per model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all results here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
