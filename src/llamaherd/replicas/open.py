"""Opens worker processes for a model on this machine."""

from __future__ import annotations

from dataclasses import replace

from llamaherd import hardware
from llamaherd.config import EngineConfig
from llamaherd.models.model import Model
from llamaherd.replicas.engine import ReplicatedEngine
from llamaherd.replicas.placement import Machine, place

__all__ = ["open_replicas"]

# Share of the free memory that all KV caches together take unless told otherwise.
_KV_SHARE = 0.25


def open_replicas(model: Model, config: EngineConfig, n_replicas: int | None) -> ReplicatedEngine:
    """Start workers on a model; the caller closes them.

    Args:
        model: Which weights; its vocabulary alone need be loaded here.
        config: Batching options of each worker, but the memory of all of them.
        n_replicas: Number of workers; None takes one per memory node if the thread pool is
            `numa_aware`, else one.

    Raises:
        ConfigError: The cores that were asked for do not exist, or are fewer than the workers.
    """
    hardware.validate_affinity(config.thread_pool.cpu_affinity)
    placements = place(n_replicas, config.thread_pool, Machine.this())
    kv_memory_bytes = config.kv_memory_bytes or int(_KV_SHARE * hardware.available_memory())
    config = replace(config, kv_memory_bytes=max(1, kv_memory_bytes // len(placements)))
    return ReplicatedEngine(model.load_options(), config, placements)
