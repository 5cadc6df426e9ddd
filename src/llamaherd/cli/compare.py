"""`llamaherd compare`: models or prompts over the same table, and a report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaherd.analysis.explore import Exploration, explore
from llamaherd.analysis.report import report
from llamaherd.cli.exits import EXIT_FAILED_ROWS, EXIT_OK
from llamaherd.cli.progress import say
from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, OutputError

__all__ = ["CompareOptions", "compare_variants"]


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What `llamaherd compare` was asked for."""

    input: str
    directory: str
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    instructions: str | None
    gold: str | None
    system: str | None
    max_tokens: int
    title: str
    max_batch_size: int
    accept_changes: bool
    progress: bool | None


def compare_variants(options: CompareOptions) -> int:
    """Run every model with every prompt, write tables and the report; return the exit code."""
    if len(options.models) * max(1, len(options.prompts)) < 2 and options.gold is None:
        raise ConfigError("give two models or two prompts to compare, or a --gold column")
    prompts: str | Mapping[str, str] | None = None
    if len(options.prompts) == 1:
        prompts = options.prompts[0]
    elif options.prompts:
        prompts = {f"prompt {i}": text for i, text in enumerate(options.prompts, 1)}
    exploration = explore(
        options.models,
        options.input,
        options.directory,
        prompts=prompts,
        labels=options.labels or None,
        instructions=options.instructions,
        config=GenerationConfig.greedy(max_tokens=options.max_tokens),
        system=options.system,
        max_batch_size=options.max_batch_size,
        progress=options.progress,
        accept_changes=options.accept_changes,
    )
    folder = Path(options.directory)
    _write_csv(folder / "long.csv", exploration.long())
    _write_csv(folder / "wide.csv", exploration.wide())
    validation = report(exploration, folder / "report.html", gold=options.gold, title=options.title)
    say(str(validation))
    say(f"written: {folder / 'wide.csv'}, {folder / 'long.csv'}, {folder / 'report.html'}")
    return _exit_code(exploration)


def _exit_code(exploration: Exploration) -> int:
    n_failed = 0
    for variant in exploration.variants:
        if variant.summary.n_failed:
            n_failed += variant.summary.n_failed
            say(f"{variant.name}: {variant.summary.n_failed} rows failed")
    return EXIT_FAILED_ROWS if n_failed else EXIT_OK


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
