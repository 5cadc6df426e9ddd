"""Opens runners for an engine: how much KV cache, on which threads, with which features."""

from __future__ import annotations

import logging

from llamaherd import hardware
from llamaherd.config import EngineConfig, ThreadPoolConfig
from llamaherd.engine.kv_shape import KvShape, choose_kv_shape
from llamaherd.engine.plan import Demand, Runner
from llamaherd.errors import ModelLoadError
from llamaherd.llama.gguf_file import ModelSizes
from llamaherd.llama.weights import ModelFacts, Weights
from llamaherd.models.memory import check_context, kv_bytes_per_token
from llamaherd.runners.llama_cpp import LlamaCppRunner, RunnerOptions
from llamaherd.runners.native import NativeOptions, NativeRunner
from llamaherd.runners.native_weights import NativeWeights

__all__ = ["RunnerFactory"]

_log = logging.getLogger(__name__)
# Share of the free memory that the KV cache takes unless told otherwise.
_KV_SHARE = 0.25
# Tokens of the smallest KV cache of the native engine.
_SMALLEST_KV = 256


class RunnerFactory:
    """Opens runners on one model with one configuration.

    Args:
        weights: The model.
        facts: What it is.
        sizes: What its context takes.
        config: Batching options.
        native: The model as the native engine has it, which then runs it.
        has_gpu: Whether layers run on a GPU.
        flash_attention: Insist on flash attention.

    Raises:
        ConfigError: A core does not exist.
    """

    def __init__(
        self,
        weights: Weights,
        facts: ModelFacts,
        sizes: ModelSizes,
        config: EngineConfig,
        *,
        native: NativeWeights | None,
        has_gpu: bool,
        flash_attention: bool,
    ) -> None:
        self._native = native
        self._weights = weights
        self._facts = facts
        self._sizes = sizes
        self._config = config
        self._has_gpu = has_gpu
        self._flash_attention = flash_attention
        self._n_threads, self._cores = place_threads(config.thread_pool)

    def open(self, demand: Demand) -> Runner:
        """Open a runner; called on the engine's thread.

        Raises:
            InsufficientMemory: The KV cache and buffers would not fit.
            ModelLoadError: llama.cpp refused.
        """
        if self._native is not None:
            return self._open_native(self._native, demand)
        shape = self._shape(demand)
        if not self._has_gpu:
            check_context(self._sizes, shape, self._config)
        _log.debug("opening a KV cache: %s for %s", shape, demand)
        options = RunnerOptions(
            n_threads=self._n_threads,
            stack_size=self._config.thread_pool.stack_size,
            cores=self._cores,
            n_batch=self._config.token_budget,
            flash_attention=self._flash_attention,
            is_cautious=demand.is_cautious,
            is_recurrent=self._facts.is_recurrent or self._facts.is_hybrid,
            adapters=self._weights.adapters,
        )
        return LlamaCppRunner(self._weights.handle, self._facts.n_vocab, shape, options)

    def _open_native(self, weights: NativeWeights, demand: Demand) -> Runner:
        """The cache is paged and takes memory only as it is used, so finished rows may stay."""
        if weights.is_encoder:
            raise ModelLoadError("this model has no KV cache: it makes embeddings, not text")
        n_slots = 2 * demand.max_batch_size
        n_tokens = min(
            n_slots * demand.n_tokens_per_row,
            max(_SMALLEST_KV, self._kv_budget() // weights.kv_bytes_per_token),
        )
        shape = KvShape(demand.max_batch_size, n_tokens, is_unified=True)
        check_context(self._sizes, shape, self._config)
        options = NativeOptions(
            n_slots=n_slots,
            n_tokens=n_tokens,
            n_tokens_per_slot=demand.n_tokens_per_row,
            n_batch=self._config.token_budget,
            n_threads=self._n_threads,
            stack_size=self._config.thread_pool.stack_size,
            cores=self._cores,
            work_stealing=self._config.thread_pool.work_stealing,
        )
        _log.debug("opening the native engine: %s for %s", options, demand)
        return NativeRunner(weights, options)

    def _shape(self, demand: Demand) -> KvShape:
        return choose_kv_shape(
            demand,
            layout=self._config.kv_layout,
            has_gpu=self._has_gpu,
            bytes_per_token=kv_bytes_per_token(self._sizes),
            budget_bytes=self._kv_budget(),
        )

    def _kv_budget(self) -> int:
        """Bytes that the KV cache may take."""
        if self._config.kv_memory_bytes is not None:
            return self._config.kv_memory_bytes
        return int(_KV_SHARE * hardware.available_memory())


def place_threads(pool: ThreadPoolConfig) -> tuple[int, tuple[int, ...] | None]:
    """Number of compute threads and the cores to pin them to, if any.

    Raises:
        ConfigError: A core does not exist.
    """
    hardware.validate_affinity(pool.cpu_affinity, pool.num_threads)
    n_threads = pool.num_threads or hardware.available_cpus()
    if pool.cpu_affinity is not None:
        return n_threads, pool.cpu_affinity
    nodes = hardware.numa_nodes() if pool.numa_aware else {}
    largest = max(nodes.values(), key=len, default=())
    if len(nodes) > 1 and n_threads <= len(largest):
        return n_threads, largest
    return n_threads, None
