"""A small world without a model: a vocabulary of letters and a scripted runner."""

from __future__ import annotations

import queue
import threading
import zlib
from collections.abc import Callable, Sequence

from llamaherd import Model
from llamaherd.config import EngineConfig, GenerationConfig
from llamaherd.engine.engine import Engine
from llamaherd.engine.plan import Demand, MemoryKind, RunnerLimits
from llamaherd.engine.request import Request
from llamaherd.results import GenerationResult
from llamaherd.runners.scripted import ScriptedRunner

N_VOCAB = 64
END = 0


class LetterVocabulary:
    """Token t is the character at 32 + t; token 0 ends the answer."""

    n_vocab = N_VOCAB
    end_tokens = frozenset({END})
    control_tokens = frozenset({END})

    def piece(self, token: int) -> bytes:
        return b"<end>" if token == END else bytes([32 + token])

    def prepare(self, config: GenerationConfig) -> None:
        pass

    def make_constraint(self, config: GenerationConfig) -> None:
        return None

    def make_sampler(self, config: GenerationConfig, seed: int, prompt: list[int]) -> None:
        raise AssertionError("scripted rows are greedy")


def follow(tokens: Sequence[int]) -> int:
    """A next token that depends on every token before it; never the end token."""
    return 1 + zlib.crc32(bytes(tokens)) % (N_VOCAB - 1)


def expected_tokens(prompt: Sequence[int], n: int) -> list[int]:
    """What a row generates when it is alone: the obvious implementation."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(follow(tokens))
    return tokens[len(prompt) :]


def limits(
    memory: MemoryKind = MemoryKind.PARTITIONED,
    *,
    n_slots: int = 8,
    n_tokens: int | None = None,
    n_tokens_per_slot: int = 256,
    n_batch: int = 64,
) -> RunnerLimits:
    """Limits of a small runner."""
    total = n_tokens if n_tokens is not None else n_slots * n_tokens_per_slot
    return RunnerLimits(n_slots, total, n_tokens_per_slot, n_batch, memory)


class Collector:
    """A sink that queues results; raises if a row ends twice."""

    streaming = False

    def __init__(self) -> None:
        self.results: queue.SimpleQueue[GenerationResult] = queue.SimpleQueue()
        self.seen: set[Request] = set()

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        raise AssertionError("not a stream")

    def finish(self, request: Request, result: GenerationResult) -> None:
        assert request not in self.seen, "a row ended twice"
        self.seen.add(request)
        self.results.put(result)

    def take(self, n: int, timeout_s: float = 20.0) -> list[GenerationResult]:
        return [self.results.get(timeout=timeout_s) for _ in range(n)]


def make_engine(
    runner_limits: RunnerLimits | None = None,
    *,
    open_runner: Callable[[Demand], ScriptedRunner] | None = None,
    next_token: Callable[[Sequence[int]], int] = follow,
    config: EngineConfig | None = None,
    n_ctx: int = 256,
) -> Engine:
    """An engine over a scripted runner."""
    chosen = runner_limits or limits()
    return Engine(
        open_runner or (lambda demand: ScriptedRunner(next_token, chosen, N_VOCAB)),
        LetterVocabulary(),
        config or EngineConfig(max_batch_size=chosen.n_slots, self_test=False),
        n_ctx=n_ctx,
    )


class Gate:
    """A next token that is only given while the gate is open: the test decides when a step ends.

    A step that is under way holds the engine's thread inside the runner, exactly as a long
    forward pass would.
    """

    def __init__(self, next_token: Callable[[Sequence[int]], int] = follow) -> None:
        self._next_token = next_token
        self._is_open = threading.Event()
        self.entered = threading.Event()
        """Set once a step is under way."""

    def __call__(self, tokens: Sequence[int]) -> int:
        self.entered.set()
        assert self._is_open.wait(60), "the test forgot to open the gate"
        return self._next_token(tokens)

    def open(self) -> None:
        self._is_open.set()


class ScriptedModel(Model):
    """A model without weights: prompts are letters, or token ids."""

    def __init__(
        self,
        next_token: Callable[[Sequence[int]], int] = follow,
        *,
        make_runner: type[ScriptedRunner] = ScriptedRunner,
    ) -> None:
        self._next_token = next_token
        self._make_runner = make_runner
        self.engines: list[Engine] = []

    def encode(self, prompt: object) -> list[int]:
        if isinstance(prompt, str):
            return [ord(letter) - 32 for letter in prompt]
        assert isinstance(prompt, list)
        return prompt

    def open_engine(self, config: EngineConfig) -> Engine:
        bound = limits(n_slots=config.max_batch_size, n_batch=config.token_budget)
        engine = make_engine(
            open_runner=lambda demand: self._make_runner(self._next_token, bound, N_VOCAB),
            config=config,
        )
        self.engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
