"""`llamaherd models`: what is on this machine already."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.table import Table

from llamaherd.models.memory import format_bytes
from llamaherd.models.source import list_local

__all__ = ["show_models"]


def show_models(*, as_json: bool) -> None:
    """List local models by the name that `--model` takes."""
    found = list_local()
    if as_json:
        records = [
            {"model": m.source, "path": str(m.path), "size_bytes": m.size_bytes} for m in found
        ]
        sys.stdout.write(json.dumps(records, indent=2) + "\n")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("name it", overflow="fold")
    for model in found:
        table.add_row(format_bytes(model.size_bytes), f"-m {model.source}")
    Console(highlight=False).print(table)
