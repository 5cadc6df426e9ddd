"""What this machine offers, and what to make of it."""

from __future__ import annotations

from dataclasses import dataclass

from llamaherd import hardware
from llamaherd.llama import library
from llamaherd.models.memory import format_bytes
from llamaherd.runners.native_weights import chosen_isa, why_unavailable

__all__ = ["HardwareProfile", "hardware_profile"]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """What this process may use.

    Attributes:
        cpu: The processor's name.
        n_cpus: CPUs that this process may use, container limits included.
        n_physical_cores: Physical cores of the machine.
        memory_bytes: Memory of the machine or container.
        free_memory_bytes: Memory that is available now.
        n_numa_nodes: Memory nodes.
        native_isa: Instruction set of the native engine's kernels; None if it does not run here.
        gpus: GPUs that llama.cpp sees.
        recommended_threads: Compute threads.
        recommended_batch_size: Rows at the same time.
    """

    cpu: str
    n_cpus: int
    n_physical_cores: int
    memory_bytes: int
    free_memory_bytes: int
    n_numa_nodes: int
    native_isa: str | None
    gpus: tuple[str, ...]
    recommended_threads: int
    recommended_batch_size: int

    def __str__(self) -> str:
        native = f"yes, {self.native_isa} kernels" if self.native_isa else "no"
        return "\n".join(
            (
                f"{self.cpu}: {self.n_cpus} CPUs to use, {self.n_physical_cores} physical cores",
                f"memory: {format_bytes(self.free_memory_bytes)} free of "
                f"{format_bytes(self.memory_bytes)}, {self.n_numa_nodes} node(s)",
                f"native engine: {native}",
                f"GPUs: {', '.join(self.gpus) or 'none'}",
                f"recommended: num_threads={self.recommended_threads}, "
                f"max_batch_size={self.recommended_batch_size}",
            )
        )


def hardware_profile() -> HardwareProfile:
    """Look at this machine.

    Example:
        >>> from llamaherd import hardware_profile
        >>> hardware_profile().recommended_batch_size > 0
        True
    """
    cpu = hardware.cpu_facts()
    n_cpus = hardware.available_cpus()
    free = hardware.available_memory()
    isa = chosen_isa() if why_unavailable() is None else None
    return HardwareProfile(
        cpu=cpu.model,
        n_cpus=n_cpus,
        n_physical_cores=cpu.n_physical,
        memory_bytes=hardware.total_memory(),
        free_memory_bytes=free,
        n_numa_nodes=len(hardware.numa_nodes()) or 1,
        native_isa=isa,
        gpus=tuple(
            device.description or device.name
            for device in library.devices()
            if not device.name.startswith("CPU")
        ),
        # Hyperthreads share the multipliers that matter here.
        recommended_threads=max(1, min(n_cpus, cpu.n_physical or n_cpus)),
        recommended_batch_size=64 if free >= 8 * _GIB else 32 if free >= 3 * _GIB else 16,
    )
