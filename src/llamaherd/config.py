"""All options, as frozen keyword-only dataclasses that are checked when they are built.

A wrong value, an unknown name or a contradiction raises `ConfigError` at once, naming the
field, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, TypeVar, get_args

from typing_extensions import dataclass_transform

from llamaherd.errors import ConfigError

__all__ = [
    "AsyncConfig",
    "BatchConfig",
    "BatchGenerationConfig",
    "BatchingStrategy",
    "EmbeddingConfig",
    "EngineConfig",
    "GenerationConfig",
    "KvLayout",
    "Pooling",
    "StreamConfig",
    "ThreadPoolConfig",
]

T = TypeVar("T")
KvLayout = Literal["auto", "unified", "split"]
Pooling = Literal["auto", "mean", "cls", "last", "none", "rank"]
MAX_LOGPROBS = 100
CONSTRAINTS = ("json_schema", "regex", "choices", "grammar")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config_dataclass(cls: type[T]) -> type[T]:
    """Make a frozen keyword-only dataclass that names unknown options and suggests others."""
    made = dataclass(frozen=True, kw_only=True, slots=True)(cls)
    names = [f.name for f in fields(made)]  # type: ignore[arg-type]
    original = made.__init__

    @functools.wraps(original)
    def checked_init(self: Any, *args: Any, **options: Any) -> None:
        if args:
            raise ConfigError(f"{made.__name__} takes keyword arguments only, got {args[0]!r}")
        for name in options:
            if name not in names:
                raise ConfigError(unknown_option(made.__name__, name, names))
        original(self, **options)

    made.__init__ = checked_init  # type: ignore[method-assign]
    return made


def unknown_option(owner: str, name: str, known: list[str]) -> str:
    """Message for an option that does not exist."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known)}"
    return f"{owner} has no option {name!r}; {hint}"


@config_dataclass
class GenerationConfig:
    """How one row is generated.

    `BatchGenerationConfig` and `StreamConfig` are the same class. Sampling steps are applied in
    llama.cpp's order: logit bias, penalties, top-k, typical, top-p, min-p, temperature.

    Attributes:
        max_tokens: Most tokens to generate, at least 1.
        temperature: 0 picks the most probable token always (greedy).
        top_k: Keep the k most probable tokens; 0 keeps all.
        top_p: Keep the most probable tokens that together reach this probability; 1 keeps all.
        min_p: Drop tokens less probable than this share of the most probable one.
        typical_p: Locally typical sampling; 1 turns it off.
        repeat_penalty: Divides the logits of recent tokens; 1 turns it off.
        frequency_penalty: Subtracted per occurrence among recent tokens.
        presence_penalty: Subtracted once from recent tokens.
        penalty_last_n: How many recent tokens the penalties look at.
        seed: Seed of the row (or of the job: every row derives its own from it and its index).
            None draws one, which the result reports.
        stop: Strings that end the answer; they are not part of the text.
        logit_bias: Added to the logits of these token ids; ``-inf`` forbids a token.
        logprobs: Report log probabilities, with this many alternatives (0: the chosen only).
        n: Answers per prompt; the prompt is computed once.
        ignore_eos: Go on to `max_tokens` even if the model would end its answer.
        timeout_ms: Longest time from the row's first step to its end.
        retry_attempts: How often a row is tried again after a retryable error.
        clean: Strip control tokens and surrounding white space from the text.
        strip_thinking: Remove ``<think>...</think>`` passages from the text.
        json_schema: The answer is JSON under this schema: a mapping, JSON text, a pydantic model
            or a dataclass. It is kept as a mapping. Like the three below, this is about the whole
            answer, and only one of them can be given.
        regex: The answer matches this regular expression (the syntax of Rust's regex, which has
            no look-around and no back references).
        choices: The answer is one of these texts.
        grammar: The answer follows this grammar, in Lark's or GBNF's notation.
    """

    max_tokens: int = 100
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    n: int = 1
    ignore_eos: bool = False
    timeout_ms: float | None = None
    retry_attempts: int = 0
    clean: bool = False
    strip_thinking: bool = False
    json_schema: Mapping[str, Any] | None = None
    regex: str | None = None
    choices: tuple[str, ...] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        stop: object = self.stop
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else tuple(self.stop))
        for name in ("max_tokens", "n"):
            _check_int(self, name, low=1)
        for name in ("top_k", "penalty_last_n", "retry_attempts"):
            _check_int(self, name, low=0)
        _check_number(self, "temperature", low=0.0)
        _check_number(self, "top_p", low=0.0, high=1.0, above=True)
        _check_number(self, "min_p", low=0.0, high=1.0)
        _check_number(self, "typical_p", low=0.0, high=1.0, above=True)
        _check_number(self, "repeat_penalty", low=0.0, above=True)
        _check_number(self, "frequency_penalty", low=-100.0, high=100.0)
        _check_number(self, "presence_penalty", low=-100.0, high=100.0)
        if self.timeout_ms is not None:
            _check_number(self, "timeout_ms", low=0.0, above=True)
        if self.seed is not None:
            _check_int(self, "seed", low=0, high=2**64 - 1)
        if self.logprobs is not None:
            _check_int(self, "logprobs", low=0, high=MAX_LOGPROBS)
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise _wrong(self, "stop", "non-empty strings")
        self._check_logit_bias()
        self._check_constraint()
        if self.is_greedy and self.n > 1:
            raise ConfigError(
                f"n={self.n} with temperature=0 would give {self.n} equal answers; "
                "set a temperature above 0, or n=1"
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0.0

    @property
    def constraint_kind(self) -> str | None:
        """Which field limits what the answer can be, if any."""
        return next((name for name in CONSTRAINTS if getattr(self, name) is not None), None)

    @property
    def has_penalties(self) -> bool:
        """Whether recent tokens change the logits."""
        return self.penalty_last_n > 0 and (
            self.repeat_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )

    @classmethod
    def greedy(cls, **options: Any) -> GenerationConfig:
        """Always the most probable token; `options` override anything else."""
        return cls(**{"temperature": 0.0, **options})

    @classmethod
    def balanced(cls, **options: Any) -> GenerationConfig:
        """Varied but coherent text: temperature 0.7, top-p 0.9, top-k 40."""
        return cls(**{"temperature": 0.7, "top_p": 0.9, "top_k": 40, **options})

    @classmethod
    def creative(cls, **options: Any) -> GenerationConfig:
        """Surprising text: temperature 1.1, top-p 0.95, top-k 200."""
        return cls(**{"temperature": 1.1, "top_p": 0.95, "top_k": 200, **options})

    def _check_logit_bias(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise _wrong(self, "logit_bias", "a mapping from token id to number")
        for token, bias in self.logit_bias.items():
            is_token = isinstance(token, int) and not isinstance(token, bool) and token >= 0
            is_number = isinstance(bias, (int, float)) and not math.isnan(bias)
            if not is_token or not is_number or bias == math.inf:
                raise _wrong(self, "logit_bias", "token ids with finite numbers or -inf")

    def _check_constraint(self) -> None:
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if not given:
            return
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are given; give one of them")
        for name, value in (("ignore_eos", self.ignore_eos), ("stop", self.stop)):
            if value:
                raise ConfigError(
                    f"{name} cannot be combined with {given[0]}, which says where an answer ends"
                )
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", json_schema_of(self.json_schema))
        if self.choices is not None:
            is_text = isinstance(self.choices, str)
            choices = () if is_text else tuple(dict.fromkeys(self.choices))
            if not choices or not all(isinstance(text, str) and text for text in choices):
                raise _wrong(self, "choices", "a list of non-empty strings")
            object.__setattr__(self, "choices", choices)
        for name in ("regex", "grammar"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text):
                raise _wrong(self, name, "a non-empty string")


BatchGenerationConfig = GenerationConfig
StreamConfig = GenerationConfig


@config_dataclass
class ThreadPoolConfig:
    """Where and on how many threads the work runs.

    Attributes:
        num_threads: Compute threads; None takes the CPUs this process may use, cgroup limits
            included.
        stack_size: Stack of each compute thread in bytes.
        numa_aware: Keep all compute threads on one NUMA node when the machine has several and
            the threads fit on one; without effect elsewhere.
        work_stealing: Threads of batch tokenization take small pieces from a shared queue;
            False gives each thread one fixed share.
        cpu_affinity: Cores to pin the compute threads to, one thread per core in turn.
    """

    num_threads: int | None = None
    stack_size: int = 2 * 1024 * 1024
    numa_aware: bool = False
    work_stealing: bool = True
    cpu_affinity: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_threads is not None:
            _check_int(self, "num_threads", low=1)
        _check_int(self, "stack_size", low=64 * 1024)
        if self.cpu_affinity is None:
            return
        cores = tuple(self.cpu_affinity)
        object.__setattr__(self, "cpu_affinity", cores)
        if not cores or any(isinstance(c, bool) or not isinstance(c, int) or c < 0 for c in cores):
            raise _wrong(self, "cpu_affinity", "a non-empty list of core numbers")


@config_dataclass
class EngineConfig:
    """How rows are batched.

    Attributes:
        max_batch_size: Rows in work at the same time, at most 255.
        token_budget: Tokens in one forward pass.
        interactive_chunk: Prompt tokens per forward pass while a streaming row is in work, so
            that its next token does not wait behind a long prompt. Streaming rows that all begin
            at the same time are not cut.
        n_ctx: Tokens that one row may hold (prompt and answer); None takes what the model was
            trained for.
        kv_layout: On llama.cpp, ``"split"`` gives every row its own part of the KV cache (fast on
            CPUs), ``"unified"`` one pool for all (least memory, best on GPUs), ``"auto"`` chooses
            by device and by the lengths of the rows. The native engine's cache is paged.
        kv_memory_bytes: Most memory for the KV cache; None takes a quarter of what is free.
        self_test: Compare a few tokens alone and in a batch when the engine starts, and step
            down to a safer setting when they differ.
        thread_pool: Compute threads.
    """

    max_batch_size: int = 32
    token_budget: int = 2048
    interactive_chunk: int = 256
    n_ctx: int | None = None
    kv_layout: KvLayout = "auto"
    kv_memory_bytes: int | None = None
    self_test: bool = True
    thread_pool: ThreadPoolConfig = field(default_factory=ThreadPoolConfig)

    def __post_init__(self) -> None:
        # llama.cpp keeps at most 256 sequences in one context, and one is needed for moves.
        _check_int(self, "max_batch_size", low=1, high=255)
        _check_int(self, "token_budget", low=self.max_batch_size)
        _check_int(self, "interactive_chunk", low=1)
        if self.n_ctx is not None:
            _check_int(self, "n_ctx", low=8)
        if self.kv_memory_bytes is not None:
            _check_int(self, "kv_memory_bytes", low=1)
        if self.kv_layout not in ("auto", "unified", "split"):
            raise _wrong(self, "kv_layout", '"auto", "unified" or "split"')


@config_dataclass
class EmbeddingConfig:
    """How texts become vectors.

    Attributes:
        pooling: How the vectors of a text's tokens become one: ``"mean"``, ``"cls"`` (the first),
            ``"last"``, ``"none"`` (they stay as they are), ``"rank"`` (a reranker's scores), or
            ``"auto"``, what the model was made for.
        normalize: Give vectors the length 1, so that their product is the cosine. Scores of
            ``"rank"`` stay as they are.
        dim: Keep only the first values, for models that were trained for it (Matryoshka); None
            keeps all.
        truncate: Cut texts that are too long for the model, instead of failing them.
    """

    pooling: Pooling = "auto"
    normalize: bool = True
    dim: int | None = None
    truncate: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise _wrong(self, "pooling", ", ".join(f'"{name}"' for name in get_args(Pooling)))
        if self.dim is not None:
            _check_int(self, "dim", low=1)


class BatchingStrategy(str, Enum):
    """When waiting requests become a batch."""

    FIXED_SIZE = "fixed_size"
    """Exactly `max_batch_size` requests, or the rest when the processor is closed. Every batch is
    full; under a light load requests wait long."""
    DYNAMIC_TIMEOUT = "dynamic_timeout"
    """A full batch, or what there is once the oldest request has waited `timeout_ms`."""
    ADAPTIVE = "adaptive"
    """What there is, at once, up to a size that grows while requests queue up and shrinks when a
    batch takes longer than `target_latency_ms`."""
    CONTINUOUS = "continuous"
    """No batches are formed: a request joins the running batch at the next step. The best choice
    unless batches must be kept apart."""

    def __str__(self) -> str:
        return self.value


@config_dataclass
class BatchConfig:
    """How `BatchProcessor` forms batches.

    Attributes:
        max_batch_size: Requests in one batch.
        strategy: When waiting requests become a batch.
        timeout_ms: Longest wait for a batch to fill up; DYNAMIC_TIMEOUT only.
        num_workers: Batches in work at the same time, on one engine. The engine computes up to
            `max_batch_size * num_workers` rows together, at most 255.
        max_queue_size: Requests that may wait; more are refused with `QueueFull`.
        target_latency_ms: Longest time that a batch should take; ADAPTIVE only.
        engine: Everything else about the engine. Its `max_batch_size` is set from the two above.
    """

    max_batch_size: int = 32
    strategy: BatchingStrategy = BatchingStrategy.DYNAMIC_TIMEOUT
    timeout_ms: float = 100
    num_workers: int = 1
    max_queue_size: int = 1024
    target_latency_ms: float = 2000
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        _check_int(self, "max_batch_size", low=1, high=255)
        _check_int(self, "num_workers", low=1)
        _check_int(self, "max_queue_size", low=1)
        _check_number(self, "timeout_ms", low=0.0)
        _check_number(self, "target_latency_ms", low=0.0, above=True)
        try:
            object.__setattr__(self, "strategy", BatchingStrategy(self.strategy))
        except ValueError:
            names = ", ".join(f'"{s}"' for s in BatchingStrategy)
            raise _wrong(self, "strategy", names) from None
        if self.strategy is BatchingStrategy.FIXED_SIZE and (
            self.max_queue_size < self.max_batch_size
        ):
            raise ConfigError(
                f"BatchConfig.max_queue_size is {self.max_queue_size}, but FIXED_SIZE waits for "
                f"max_batch_size={self.max_batch_size} requests; allowed: at least as many"
            )
        if self.max_batch_size * self.num_workers > 255:
            raise ConfigError(
                f"BatchConfig.num_workers is {self.num_workers} with max_batch_size "
                f"{self.max_batch_size}; allowed: a product of at most 255"
            )


@config_dataclass
class AsyncConfig:
    """What `AsyncModel.load_with_config` loads, and how it runs.

    Attributes:
        model_path: Anything that `Model.load` takes.
        gpu_layers: Layers to put on the GPU; -1 for all.
        context_size: Tokens that one row may hold.
        threads: Compute threads; None takes the CPUs this process may use.
        flash_attention: Insist on it; otherwise llama.cpp decides.
        max_concurrent: Rows in work at the same time; further calls wait for their turn.
        timeout_ms: Longest time from a row's first step to its end, unless its own configuration
            says otherwise; None sets no limit. For a limit on the whole call use
            `asyncio.timeout`.
    """

    model_path: str = ""
    gpu_layers: int = 0
    context_size: int = 2048
    threads: int | None = None
    flash_attention: bool = False
    max_concurrent: int = 4
    timeout_ms: float | None = 30_000

    def __post_init__(self) -> None:
        _check_int(self, "gpu_layers", low=-1)
        _check_int(self, "context_size", low=8)
        _check_int(self, "max_concurrent", low=1, high=255)
        if self.threads is not None:
            _check_int(self, "threads", low=1)
        if self.timeout_ms is not None:
            _check_number(self, "timeout_ms", low=0.0, above=True)


def json_schema_of(source: object) -> dict[str, Any]:
    """A JSON schema as a mapping.

    Args:
        source: A mapping, JSON text, a pydantic model, or a dataclass (which pydantic reads).

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except ValueError as error:
            raise ConfigError(f"json_schema is no valid JSON: {error}") from error
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, type) and hasattr(source, "model_json_schema"):
        return dict(source.model_json_schema())
    if isinstance(source, type) and is_dataclass(source):
        try:
            from pydantic import TypeAdapter
        except ImportError as error:
            raise ConfigError(
                "the schema of a dataclass is made by pydantic: pip install 'llamaherd[pydantic]'"
            ) from error
        return dict(TypeAdapter(source).json_schema())
    raise ConfigError(
        f"json_schema is {source!r}; allowed: a mapping, JSON text, a pydantic model or a dataclass"
    )


def _wrong(config: object, name: str, allowed: str) -> ConfigError:
    value = getattr(config, name)
    return ConfigError(f"{type(config).__name__}.{name} is {value!r}; allowed: {allowed}")


def _check_int(config: object, name: str, *, low: int, high: int | None = None) -> None:
    value = getattr(config, name)
    allowed = f"a whole number from {low}" + (f" to {high}" if high is not None else " up")
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(config, name, allowed)
    if value < low or (high is not None and value > high):
        raise _wrong(config, name, allowed)


def _check_number(
    config: object, name: str, *, low: float, high: float | None = None, above: bool = False
) -> None:
    value = getattr(config, name)
    allowed = f"a number {'above' if above else 'from'} {low:g}"
    allowed += f" to {high:g}" if high is not None else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(config, name, allowed)
    if value < low or (above and value == low) or (high is not None and value > high):
        raise _wrong(config, name, allowed)
