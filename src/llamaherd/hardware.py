"""What this machine has, and how much of it this process may use.

Containers limit both below what the machine reports, so cgroup limits count everywhere. The
functions take the roots of /proc and /sys, so that recorded trees can be tested.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from llamaherd.errors import ConfigError

__all__ = [
    "CpuFacts",
    "available_cpus",
    "available_memory",
    "cpu_facts",
    "existing_cores",
    "first_siblings",
    "numa_nodes",
    "total_memory",
    "validate_affinity",
]

logger = logging.getLogger(__name__)

_ROOT = Path("/")
# What the compute kernels choose by.
_ISA_FLAGS = (
    "avx",
    "avx2",
    "f16c",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "neon",
    "asimddp",
    "i8mm",
    "sve",
)


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """The processor.

    Attributes:
        model: Product name.
        n_physical: Cores.
        n_logical: Hardware threads.
        isa: Instruction set extensions that matter for speed.
    """

    model: str
    n_physical: int
    n_logical: int
    isa: tuple[str, ...]


def available_cpus(root: Path = _ROOT) -> int:
    """CPUs that this process may use: by affinity, and by the cgroup's quota rounded up."""
    n = len(existing_cores())
    quotas = [quota for folder in _cgroups(root, "cpu") if (quota := _cpu_quota(folder))]
    return max(1, min([n, *map(math.ceil, quotas)]))


def existing_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def total_memory(root: Path = _ROOT) -> int:
    """Bytes of memory that this process could use if it were alone."""
    limits = [limit for folder in _cgroups(root, "memory") if (limit := _memory(folder, "limit"))]
    return min([int(psutil.virtual_memory().total), *limits])


def available_memory(root: Path = _ROOT) -> int:
    """Bytes of memory that can be taken now without swapping or being killed."""
    free = [int(psutil.virtual_memory().available)]
    for folder in _cgroups(root, "memory"):
        limit = _memory(folder, "limit")
        if limit:
            # File pages count as used but give way when memory is wanted.
            used = (_memory(folder, "usage") or 0) - _reclaimable(folder)
            free.append(max(0, limit - used))
    return min(free)


def cpu_facts(root: Path = _ROOT) -> CpuFacts:
    """The processor's name, cores and instruction sets."""
    info = _read(root / "proc/cpuinfo")
    names = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    found = set(flags[1].split()) if flags else set()
    # Linux writes AVX-512 flags with an underscore or without one, by their age.
    found |= {flag.replace("avx512", "avx512_", 1) for flag in found if "avx512" in flag}
    return CpuFacts(
        model=names[1].strip() if names else platform.processor() or platform.machine(),
        n_physical=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        n_logical=os.cpu_count() or 1,
        isa=tuple(flag for flag in _ISA_FLAGS if flag in found),
    )


def numa_nodes(root: Path = _ROOT) -> dict[int, tuple[int, ...]]:
    """Cores of each memory node; empty where the system does not tell."""
    folders = (root / "sys/devices/system/node").glob("node[0-9]*")
    nodes = {
        int(folder.name.removeprefix("node")): tuple(_parse_ranges(_read(folder / "cpulist")))
        for folder in folders
    }
    return dict(sorted(nodes.items()))


def first_siblings(root: Path = _ROOT) -> dict[int, int]:
    """For each hardware thread, the lowest one on the same core; empty if the system is silent."""
    pattern = "sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list"
    siblings = {}
    for path in root.glob(pattern):
        threads = tuple(_parse_ranges(_read(path)))
        if threads:
            siblings[int(path.parts[-3].removeprefix("cpu"))] = min(threads)
    return siblings


def validate_affinity(
    cores: Sequence[int] | None,
    num_threads: int | None = None,
    existing: Iterable[int] | None = None,
) -> None:
    """Check a wish for cores and threads against the machine.

    Args:
        cores: Cores to pin threads to; None pins none.
        num_threads: Threads wanted. More than there are CPUs is logged as a warning.
        existing: Cores that exist; None asks the machine.

    Raises:
        ConfigError: A core does not exist, or this process may not use it.
    """
    known = existing_cores() if existing is None else sorted(existing)
    missing = sorted(set(cores or ()) - set(known))
    if missing:
        raise ConfigError(
            f"ThreadPoolConfig.cpu_affinity has {_as_list(missing)}, but this process may run on "
            f"{_as_list(known)} only"
        )
    n_cpus = len(set(cores)) if cores else (available_cpus() if existing is None else len(known))
    if num_threads is not None and num_threads > n_cpus:
        logger.warning(
            "%d threads on %d CPUs: they will wait for each other; %d is the most that helps",
            num_threads,
            n_cpus,
            n_cpus,
        )


def _as_list(cores: Sequence[int]) -> str:
    word = "core" if len(cores) == 1 else "cores"
    return f"{word} {', '.join(map(str, cores))}"


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and its parents; limits hold on every level.

    In version 2 all controllers share one tree; in version 1 each has its own.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controller if names else "")
        if names and not base.is_dir():
            base = root / "sys/fs/cgroup" / names
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # Inside a container the path is often the host's, and only the root is visible.
        yield from (base.joinpath(*parts[:n]) for n in range(len(parts), -1, -1))


def _cpu_quota(folder: Path) -> float | None:
    """CPUs that a cgroup may use."""
    both = _read(folder / "cpu.max").split()
    if len(both) != 2:
        both = [_read(folder / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period")]
    if not all(number.isdigit() for number in both) or int(both[1]) == 0:
        return None
    return int(both[0]) / int(both[1])


def _memory(folder: Path, what: str) -> int | None:
    """Limit or usage of a cgroup's memory; None if it has none."""
    names = {"limit": ("memory.max", "memory.limit_in_bytes")}
    for name in names.get(what, ("memory.current", "memory.usage_in_bytes")):
        text = _read(folder / name).strip()
        # Version 1 writes "no limit" as a number near 2**63.
        if text.isdigit() and int(text) < 2**60:
            return int(text)
    return None


def _reclaimable(folder: Path) -> int:
    stat = _read(folder / "memory.stat")
    found = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
    return int(found[1]) if found else 0


def _parse_ranges(text: str) -> Iterator[int]:
    """Numbers of a list such as ``0-3,8``."""
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
