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
from llamaherd.models.engine_choice import choose_engine
from llamaherd.models.memory import estimate_file, format_bytes
from llamaherd.models.model import Model
from llamaherd.runners.native_weights import chosen_isa, why_unavailable

__all__ = ["hardware_facts", "show_info"]

_N_CTX_SHOWN = 4096


def show_info(source: str | None, *, n_ctx: int | None, n_rows: int, as_json: bool) -> None:
    """Print the facts as tables, or as JSON.

    Args:
        source: A model, if its facts are wanted too.
        n_ctx: Tokens per row for the memory estimate.
        n_rows: Rows for the memory estimate.
        as_json: Print JSON.
    """
    sections: dict[str, dict[str, Any]] = {
        "machine": hardware_facts(),
        "engines": _engine_facts(),
    }
    if source is not None:
        with Model.load(source, vocab_only=True) as model:
            info = model.info
        choice = choose_engine(Path(info.path))
        engine = f"{choice.name} ({choice.reason})"
        sections["model"] = {**dataclasses.asdict(info), "engine": engine}
        n_ctx = min(n_ctx or _N_CTX_SHOWN, info.n_ctx_train)
        sections["memory"] = _memory_facts(Path(info.path), n_ctx, n_rows)
    if as_json:
        sys.stdout.write(json.dumps(sections, indent=2, default=str) + "\n")
        return
    console = Console(highlight=False)
    for title, facts in sections.items():
        _show_section(console, title, facts)


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
        "native": _native_facts(),
        "auto": "native for models it covers, else llama.cpp",
    }


def _native_facts() -> str:
    """Whether the native engine runs here, with which kernels."""
    reason = why_unavailable()
    if reason is not None:
        return f"no: {reason}"
    return f"kernels for {chosen_isa()}"


def _memory_facts(path: Path, n_ctx: int, n_rows: int) -> dict[str, Any]:
    """What the model takes with this many rows of this many tokens."""
    estimate = estimate_file(path, n_kv_tokens=n_ctx * n_rows, n_rows=n_rows)
    return {
        "rows": n_rows,
        "tokens_per_row": n_ctx,
        "weights_bytes": estimate.weights,
        "kv_cache_bytes": estimate.kv_cache,
        "working_memory_bytes": estimate.logits + estimate.compute,
        "total_bytes": estimate.total,
        "fits": estimate.total <= hardware.available_memory(),
    }


def _show_section(console: Console, title: str, facts: dict[str, Any]) -> None:
    console.print(title, style="bold")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row("  " + name.removesuffix("_bytes").replace("_", " "), _show(name, value))
    console.print(table)
    console.print()


def _show(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return format_bytes(int(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
