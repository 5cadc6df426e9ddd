"""Which cores each worker process gets. Pure: the machine is described by the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from llamaherd import hardware
from llamaherd.config import ThreadPoolConfig
from llamaherd.errors import ConfigError

__all__ = ["Machine", "Placement", "place"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use.

    Attributes:
        cores: Hardware threads, by number.
        n_cpus: How many of them at the same time; fewer if a container limits it.
        nodes: Hardware threads of each memory node.
        first_siblings: For each hardware thread, the lowest one on the same core.
    """

    cores: tuple[int, ...]
    n_cpus: int
    nodes: Mapping[int, Sequence[int]] = field(default_factory=dict)
    first_siblings: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def this(cls) -> Machine:
        """The machine that this runs on."""
        return cls(
            tuple(hardware.existing_cores()),
            hardware.available_cpus(),
            hardware.numa_nodes(),
            hardware.first_siblings(),
        )

    def by_core(self, cores: Sequence[int]) -> list[int]:
        """The same hardware threads, those of one core next to each other."""
        return sorted(cores, key=lambda c: (self.first_siblings.get(c, c), c))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one worker runs.

    Attributes:
        cores: Cores it is pinned to; None leaves it free.
        n_threads: Compute threads.
    """

    cores: tuple[int, ...] | None
    n_threads: int


def place(n_replicas: int | None, pool: ThreadPoolConfig, machine: Machine) -> list[Placement]:
    """Divide a machine among workers.

    Pinning helps where it keeps a worker's threads near its memory, or away from those of
    other workers; one worker for the whole machine, or more workers than cores, stay free.

    Args:
        n_replicas: Number of workers; None takes one per memory node if `numa_aware`, else one.
        pool: `cpu_affinity` limits the cores, `numa_aware` keeps workers on memory nodes, and
            `num_threads` is for each worker.
        machine: What there is.

    Raises:
        ConfigError: `cpu_affinity` names fewer cores than there are workers.
    """
    cores = machine.cores if pool.cpu_affinity is None else pool.cpu_affinity
    nodes = [tuple(c for c in node if c in cores) for node in machine.nodes.values()]
    nodes = [node for node in nodes if node]
    uses_nodes = pool.numa_aware and len(nodes) > 1
    n = n_replicas or (len(nodes) if uses_nodes else 1)
    n_threads = max(1, min(machine.n_cpus, len(cores)) // n)
    if pool.cpu_affinity is not None and len(cores) < n:
        raise ConfigError(
            f"{n} replicas cannot be pinned to the {len(cores)} cores of cpu_affinity; "
            "name at least one core for each"
        )
    if len(cores) < n or (n == 1 and pool.cpu_affinity is None):
        return [Placement(None, pool.num_threads or n_threads)] * n
    shares = _by_node(n, nodes, machine) if uses_nodes else _split(machine.by_core(cores), n)
    return [
        Placement(tuple(sorted(share)), pool.num_threads or max(1, min(n_threads, len(share))))
        for share in shares
    ]


def _by_node(n: int, nodes: list[tuple[int, ...]], machine: Machine) -> list[list[int]]:
    """No worker spans nodes that another one uses in part."""
    if n < len(nodes):
        groups = _split(nodes, n)
        return [[core for node in group for core in node] for group in groups]
    shares: list[list[int]] = []
    for i, node in enumerate(nodes):
        n_here = n // len(nodes) + (i < n % len(nodes))
        shares.extend(_split(machine.by_core(node), min(n_here, len(node))))
    # Nodes of unequal size may have had fewer cores than workers.
    while len(shares) < n:
        largest = max(shares, key=len)
        shares.remove(largest)
        shares.extend(_split(largest, 2))
    return shares


def _split(items: Sequence[_T], n: int) -> list[list[_T]]:
    """Neighboring pieces of almost equal size."""
    bounds = [len(items) * i // n for i in range(n + 1)]
    return [list(items[low:high]) for low, high in zip(bounds, bounds[1:], strict=False)]
