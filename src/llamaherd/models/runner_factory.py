"""Opens runners for an engine: how much KV cache, on which threads, with which features."""

from __future__ import annotations

import logging

from llamaherd import hardware
from llamaherd.config import EngineConfig, ThreadPoolConfig
from llamaherd.engine.kv_shape import KvShape, choose_kv_shape
from llamaherd.engine.plan import Demand, Runner
from llamaherd.llama.gguf_file import ModelSizes
from llamaherd.llama.weights import ModelFacts, Weights
from llamaherd.models.memory import check_context, kv_bytes_per_token
from llamaherd.runners.llama_cpp import LlamaCppRunner, RunnerOptions

__all__ = ["RunnerFactory"]

_log = logging.getLogger(__name__)
# Share of the free memory that the KV cache takes unless told otherwise.
_KV_SHARE = 0.25


class RunnerFactory:
    """Opens runners on one model with one configuration.

    Args:
        weights: The model.
        facts: What it is.
        sizes: What its context takes.
        config: Batching options.
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
        has_gpu: bool,
        flash_attention: bool,
    ) -> None:
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

    def _shape(self, demand: Demand) -> KvShape:
        budget = self._config.kv_memory_bytes
        if budget is None:
            budget = int(_KV_SHARE * hardware.available_memory())
        return choose_kv_shape(
            demand,
            layout=self._config.kv_layout,
            has_gpu=self._has_gpu,
            bytes_per_token=kv_bytes_per_token(self._sizes),
            budget_bytes=budget,
        )


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
