"""`ParallelProcessor`: many prompts through one model with one call."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Generic, Literal, TypeVar, cast

from llamaherd.config import (
    BatchGenerationConfig,
    EmbeddingConfig,
    EngineConfig,
    GenerationConfig,
    KvLayout,
    ThreadPoolConfig,
)
from llamaherd.engine.plan import FloatArray
from llamaherd.engine.request import RowEngine
from llamaherd.errors import ConfigError, InvalidPrompt, LlamaherdError, ProcessorStopped
from llamaherd.models.model import Model, Prompt
from llamaherd.processing.choices import ChoiceTree
from llamaherd.processing.progress import ProgressCallback, watch
from llamaherd.processing.rows import AnyPrompt, NumberedPrompt, RowStream, ScoredPrompt
from llamaherd.replicas.open import open_replicas
from llamaherd.results import GenerationResult, ProcessorStats, RowError

__all__ = ["ChoiceScores", "ItemResult", "ParallelProcessor"]

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ItemResult(Generic[Value]):
    """What `ParallelProcessor.parallel_process` made of one item.

    Attributes:
        index: Position of the item in the input.
        value: What the function returned; None if it raised.
        error: What it raised, as a value; None if it returned.
        exception: The exception itself, for a traceback.
    """

    index: int
    value: Value | None = None
    error: RowError | None = None
    exception: Exception | None = None

    @property
    def success(self) -> bool:
        """Whether the function returned."""
        return self.exception is None


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """What `ParallelProcessor.batch_score` found for one prompt.

    Attributes:
        index: Position of the prompt in the input.
        logprobs: Natural-log probability of each choice as the text that follows; empty if the row
            failed.
        error: What went wrong, or None.
    """

    index: int
    logprobs: tuple[float, ...] = ()
    error: RowError | None = None

    @property
    def success(self) -> bool:
        """Whether there are scores."""
        return self.error is None

    @property
    def best(self) -> int | None:
        """Which choice is the most probable; None if the row failed."""
        if not self.logprobs:
            return None
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)


class ParallelProcessor:
    """Runs many prompts through one model at once, with a result or an error for every row.

    Example:
        >>> from llamaherd import BatchGenerationConfig, ParallelProcessor
        >>> with ParallelProcessor("demo") as processor:
        ...     results = processor.batch_generate(
        ...         [[{"role": "user", "content": "What is the capital of France?"}]],
        ...         BatchGenerationConfig(max_tokens=20, temperature=0),
        ...     )
        >>> print(results[0].text)
        The capital of France is Paris.

    Args:
        model: A `Model`, or anything that `Model.load` takes. A model that is loaded here is
            closed with the processor.
        num_threads: Compute threads; None takes the CPUs this process may use.
        max_batch_size: Rows in work at the same time. More rows share each pass through the
            weights, which is faster until the machine is busy, and take more memory.
        enable_metrics: Log a line of statistics (logger ``llamaherd``, level INFO) after each
            batch.
        thread_pool: Threads in more detail: stack size, cores, NUMA.
        n_ctx: Tokens that one row may hold; None takes the model's own limit.
        kv_layout: ``"auto"``, ``"split"`` or ``"unified"``; see `EngineConfig`.
        kv_memory_bytes: Most memory for the KV cache.
        token_budget: Tokens in one forward pass.
        self_test: Compare rows alone and in a batch at the start.
        replicas: Run this many engines in processes of their own, each with `max_batch_size`
            rows and an equal share of the cores (by memory node, if the thread pool is
            `numa_aware`) and of the KV memory; ``"auto"`` takes one per memory node. They pull
            rows from one queue, or have fixed shares if `work_stealing` is off. Rows of a
            process that is killed run again on another. None runs one engine in this process.

    Raises:
        ConfigError: An option is wrong.
        ModelError: The model cannot be found or loaded.
    """

    def __init__(
        self,
        model: Model | str | PathLike[str],
        *,
        num_threads: int | None = None,
        max_batch_size: int = 32,
        enable_metrics: bool = False,
        thread_pool: ThreadPoolConfig | None = None,
        n_ctx: int | None = None,
        kv_layout: KvLayout = "auto",
        kv_memory_bytes: int | None = None,
        token_budget: int = 2048,
        self_test: bool = True,
        replicas: int | Literal["auto"] | None = None,
    ) -> None:
        self._config = EngineConfig(
            max_batch_size=max_batch_size,
            token_budget=max(token_budget, max_batch_size),
            n_ctx=n_ctx,
            kv_layout=kv_layout,
            kv_memory_bytes=kv_memory_bytes,
            self_test=self_test,
            thread_pool=_merge_threads(num_threads, thread_pool),
        )
        self._enable_metrics = enable_metrics
        owns_model = not isinstance(model, Model)
        if isinstance(model, Model):
            self._model = model
        else:
            # Worker processes load the weights; here the vocabulary is enough.
            self._model = Model.load(model, vocab_only=replicas is not None)
        self._engine = _open_engine(self._model, self._config, replicas)
        self._n_deduplicated = 0
        # Also runs when the processor is forgotten, or the interpreter ends, without a close.
        owned = [self._model] if owns_model else []
        self._embedding_model = None if owns_model and replicas is not None else self._model
        self._embedding_lock = threading.Lock()
        self._owned = owned
        self._finalizer = weakref.finalize(self, _close, self._engine, owned)

    @property
    def n_ctx(self) -> int:
        """Tokens that one row may hold."""
        return self._config.n_ctx or self._model.n_ctx

    @property
    def model(self) -> Model:
        """The model. Its `generate` joins this processor's running batch."""
        return self._model.with_engine(self._engine)

    def batch_generate(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig | Sequence[GenerationConfig] | None = None,
        *,
        progress: bool | ProgressCallback | None = None,
    ) -> list[GenerationResult]:
        """Generate an answer to every prompt.

        Args:
            prompts: Strings (raw text: control tokens written in them count), lists of chat
                messages (safe: text in them can never become a control token), or token ids.
            config: Options for all prompts, or a list with one per prompt. Default:
                `BatchGenerationConfig()`.
            progress: True shows a bar, False none, None one in an interactive terminal or
                notebook; or a function ``(n_done, n_total, result)``, called after each row on
                the calling thread.

        Returns:
            One result per prompt in input order (`n` per prompt if `config.n` > 1). A row that
            failed has `success=False` and its reason in `error`; the others are unharmed.

        Raises:
            ProcessorStopped: The processor is closed.
        """
        prompts = list(_check_prompts(prompts))
        configs = BatchGenerationConfig() if config is None else config
        stream = self._stream(prompts, configs, ordered=True, max_in_flight=None)
        n_total = (
            len(prompts) * configs.n
            if isinstance(configs, GenerationConfig)
            else sum(c.n for c in configs)
        )
        results = list(watch(stream, n_total, progress))
        self._n_deduplicated += stream.n_deduplicated
        if self._enable_metrics:
            _log.info("%s", self.stats())
        return results

    def generate_iter(
        self,
        prompts: Iterable[Prompt | NumberedPrompt],
        config: GenerationConfig | None = None,
        *,
        ordered: bool = False,
        max_in_flight: int | None = None,
    ) -> Iterator[GenerationResult]:
        """Generate answers to the prompts of any iterable, even an endless one.

        Memory stays bounded: prompts are pulled as results are taken. Results never wait for the
        next prompt: unless the prompts are a sequence, they are pulled on a thread of their own,
        in a copy of the caller's context. Leaving the loop early cancels the rows in work, and
        closes a generator on that thread; if it is waiting, once it has waited. If the iterable
        raises, the rows before it are finished and delivered first, then the exception is raised.

        Args:
            prompts: As in `batch_generate`.
            config: Options for all prompts.
            ordered: Results in input order; default is as they end. `result.index` tells the
                position either way.
            max_in_flight: Most rows pulled and not yet taken, at least 1. Default: 1024, or
                eight batches if that is more. A larger window finds more shared prefixes.

        Raises:
            ProcessorStopped: The processor is closed.
        """
        stream = self._stream(
            prompts, config or BatchGenerationConfig(), ordered=ordered, max_in_flight=max_in_flight
        )
        yield from stream
        self._n_deduplicated += stream.n_deduplicated

    def batch_score(
        self, prompts: Sequence[Prompt], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[ChoiceScores]:
        """How probable each choice is as the text that follows a prompt. Nothing is generated.

        Choices that begin alike share the computation of their beginning.

        Args:
            prompts: As in `batch_generate`.
            choices: Texts, for all prompts; or a list of texts for each prompt. For plain-text
                prompts they usually begin with a space.

        Returns:
            One `ChoiceScores` per prompt, in input order.

        Raises:
            ConfigError: A choice is empty, or there are not as many lists as prompts.
        """
        prompts = list(_check_prompts(prompts))
        trees = self._choice_trees(prompts, choices)
        results = self.score_iter(
            ScoredPrompt(prompt, node.path, node.children)
            for prompt, tree in zip(prompts, trees, strict=True)
            for node in tree.nodes
        )
        return [
            _choice_scores(index, tree, [next(results) for _ in tree.nodes])
            for index, tree in enumerate(trees)
        ]

    def score_iter(
        self, prompts: Iterable[ScoredPrompt], *, max_in_flight: int | None = None
    ) -> Iterator[GenerationResult]:
        """Score tokens after prompts: what `batch_score` and classification are made of.

        Args:
            prompts: Any iterable.
            max_in_flight: As in `generate_iter`.

        Returns:
            Results in input order, with `scores` and without text.
        """
        config = GenerationConfig.greedy()
        yield from self._stream(prompts, config, ordered=True, max_in_flight=max_in_flight)

    def batch_tokenize(
        self, texts: Sequence[str], *, add_bos: bool = True, special: bool = False
    ) -> list[list[int]]:
        """Tokenize many texts on all threads. See `Model.tokenize` for the options."""
        return self._model.tokenize_batch(
            texts, add_bos=add_bos, special=special, thread_pool=self._config.thread_pool
        )

    def batch_detokenize(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of many token lists. Bytes that are no complete character become U+FFFD."""
        return [self._model.detokenize(tokens) for tokens in ids]

    def batch_embed(
        self, texts: Sequence[str], config: EmbeddingConfig | None = None, **options: Any
    ) -> FloatArray:
        """Vectors ``[n, dim]`` of many texts; see `Model.embed`.

        They are computed beside the answers of this processor, on the same weights; neither waits
        for the other. With `replicas` the weights are in worker processes, so that the first call
        loads them here once more, unless the processor was made from a loaded model.
        """
        if isinstance(texts, str):
            raise InvalidPrompt("batch_embed takes a list of texts; for one, call model.embed")
        with self._embedding_lock:
            if self._embedding_model is None:
                if not self._finalizer.alive:
                    raise ProcessorStopped("the processor was closed; open a new one")
                self._embedding_model = Model.load(**self._model.load_options())
                self._owned.append(self._embedding_model)
        return self._embedding_model.embed(texts, config, **options)

    def parallel_process(
        self, items: Iterable[Item], fn: Callable[[Item, Model], Value]
    ) -> list[ItemResult[Value]]:
        """Call ``fn(item, model)`` for every item, `max_batch_size` at a time.

        Calls of ``model.generate`` inside `fn` join one running batch, so a function that asks
        the model several questions in turn is batched across items.

        Args:
            items: Any iterable.
            fn: Runs on threads of a pool; its exceptions become the item's error.

        Returns:
            One `ItemResult` per item in input order.
        """
        n_workers = self._config.max_batch_size
        model = self.model
        results: list[ItemResult[Value]] = []
        waiting: list[Future[ItemResult[Value]]] = []
        with ThreadPoolExecutor(n_workers, thread_name_prefix="llamaherd-item") as pool:
            for index, item in enumerate(items):
                if len(waiting) >= 2 * n_workers:
                    results.append(waiting.pop(0).result())
                waiting.append(pool.submit(_process_item, fn, index, item, model))
            results.extend(future.result() for future in waiting)
        return results

    def stats(self) -> ProcessorStats:
        """Counters since the processor was opened."""
        return replace(self._engine.stats(), deduplicated=self._n_deduplicated)

    def cancel(self) -> None:
        """Cancel every row in work, on whichever thread; their results arrive as cancelled."""
        self._engine.cancel_all()

    def close(self, *, drain: bool = False) -> None:
        """Stop the engine and free its memory. May be called twice.

        Args:
            drain: Finish rows that other threads have in work; otherwise they end as cancelled.
        """
        self._engine.close(drain=drain)
        self._finalizer()

    def __enter__(self) -> ParallelProcessor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _choice_trees(
        self, prompts: Sequence[Prompt], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[ChoiceTree]:
        if all(isinstance(choice, str) for choice in choices):
            return [self._choice_tree(cast("Sequence[str]", choices))] * len(prompts)
        if len(choices) != len(prompts):
            raise ConfigError(f"{len(choices)} lists of choices for {len(prompts)} prompts")
        return [self._choice_tree(texts) for texts in choices]

    def _choice_tree(self, choices: Sequence[str]) -> ChoiceTree:
        tokens = [self._model.tokenize(text, add_bos=False) for text in choices]
        if not tokens or not all(tokens):
            raise ConfigError("choices has an empty text, or there are none")
        return ChoiceTree(tokens, decisions_only=False)

    def _stream(
        self,
        prompts: Iterable[AnyPrompt],
        configs: GenerationConfig | Sequence[GenerationConfig],
        *,
        ordered: bool,
        max_in_flight: int | None,
    ) -> RowStream:
        if max_in_flight is None:
            max_in_flight = max(1024, 8 * self._config.max_batch_size)
        if max_in_flight < 1:
            raise ConfigError(f"max_in_flight is {max_in_flight}; allowed: 1 or more")
        return RowStream(
            self._engine,
            prompts,
            configs,
            self._model.encode_batch,
            max_in_flight=max_in_flight,
            ordered=ordered,
        )


def _choice_scores(
    index: int, tree: ChoiceTree, results: Sequence[GenerationResult]
) -> ChoiceScores:
    error = next((result.error for result in results if result.error is not None), None)
    if error is not None:
        return ChoiceScores(index, error=error)
    logprobs = tree.log_probabilities([result.scores or () for result in results])
    return ChoiceScores(index, tuple(logprobs))


def _open_engine(
    model: Model, config: EngineConfig, replicas: int | Literal["auto"] | None
) -> RowEngine:
    if replicas is None:
        return model.open_engine(config)
    is_number = isinstance(replicas, int) and not isinstance(replicas, bool)
    if replicas != "auto" and not (is_number and replicas >= 1):
        raise ConfigError(f'replicas is {replicas!r}; allowed: None, "auto", or 1 or more')
    return open_replicas(model, config, None if replicas == "auto" else replicas)


def _close(engine: Any, models: list[Model]) -> None:
    engine.close()
    for model in models:
        model.close()


def _merge_threads(
    num_threads: int | None, thread_pool: ThreadPoolConfig | None
) -> ThreadPoolConfig:
    if thread_pool is None:
        return ThreadPoolConfig(num_threads=num_threads)
    if num_threads is None:
        return thread_pool
    if thread_pool.num_threads not in (None, num_threads):
        raise ConfigError(
            f"num_threads is {num_threads} but thread_pool.num_threads is "
            f"{thread_pool.num_threads}; give one of them"
        )
    return replace(thread_pool, num_threads=num_threads)


def _check_prompts(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    if isinstance(prompts, str):
        raise ConfigError("prompts is one string; give a list of prompts: batch_generate([text])")
    return prompts


def _process_item(
    fn: Callable[[Item, Model], Value], index: int, item: Item, model: Model
) -> ItemResult[Value]:
    try:
        return ItemResult(index, fn(item, model))
    except LlamaherdError as error:
        return ItemResult(index, None, RowError.from_exception(error), error)
    except Exception as error:
        # The function is the caller's; whatever it raises belongs to its item alone.
        return ItemResult(index, None, RowError(type(error).__name__, str(error)), error)
