"""`llamaherd info`: this machine, the engines, and a model's facts."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llamaherd import __version__, hardware
from llamaherd.llama import library
from llamaherd.models.memory import estimate_file, format_bytes
from llamaherd.models.model import Model

__all__ = ["hardware_facts", "show_info"]

_N_CTX_SHOWN = 4096


def show_info(source: str | None, *, as_json: bool) -> None:
    """Print the facts as tables, or as JSON."""
    sections: dict[str, dict[str, Any]] = {
        "machine": hardware_facts(),
        "engines": _engine_facts(),
    }
    if source is not None:
        sections["model"] = _model_facts(source)
    if as_json:
        sys.stdout.write(json.dumps(sections, indent=2, default=str) + "\n")
        return
    console = Console()
    for title, facts in sections.items():
        table = Table(
            box=None, show_header=False, pad_edge=False, title=title, title_justify="left"
        )
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in facts.items():
            table.add_row(name.removesuffix("_bytes").replace("_", " "), _show(name, value))
        console.print(table)
        console.print()


def hardware_facts() -> dict[str, Any]:
    """What this machine has, as far as this process may use it."""
    cpu = hardware.cpu_facts()
    nodes = hardware.numa_nodes()
    return {
        "cpu": cpu.model,
        "cores": f"{cpu.n_physical} physical, {cpu.n_logical} logical",
        "usable_cpus": hardware.available_cpus(),
        "instruction_sets": ", ".join(cpu.isa) or "unknown",
        "numa_nodes": len(nodes) or 1,
        "memory_bytes": hardware.total_memory(),
        "free_memory_bytes": hardware.available_memory(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _engine_facts() -> dict[str, Any]:
    devices = [d.description or d.name for d in library.devices()]
    gpu = "yes" if library.supports_gpu_offload() else "no (this build computes on the CPU)"
    return {
        "llamaherd": __version__,
        "llama.cpp": f"llama-cpp-python {library.library_version()}",
        "cpu_features": ", ".join(library.cpu_features()),
        "devices": ", ".join(devices) or "CPU",
        "gpu_offload": gpu,
        "auto": "llama.cpp, the one engine of this version",
    }


def _model_facts(source: str) -> dict[str, Any]:
    with Model.load(source, vocab_only=True) as model:
        info = model.info
    n_ctx = min(info.n_ctx_train, _N_CTX_SHOWN)
    estimate = estimate_file(Path(info.path), n_kv_tokens=n_ctx)
    return {
        **dataclasses.asdict(info),
        f"memory_for_one_row_of_{n_ctx}_tokens_bytes": estimate.total,
    }


def _show(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return format_bytes(int(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
