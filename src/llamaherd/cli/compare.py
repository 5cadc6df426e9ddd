"""`llamaherd compare`: models or prompts over the same table, and a report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaherd.analysis.explore import Exploration, explore
from llamaherd.analysis.report import report
from llamaherd.analysis.tables import require_columns
from llamaherd.analysis.validate import check_gold, require_sklearn
from llamaherd.cli.exits import EXIT_FAILED_ROWS, EXIT_OK
from llamaherd.cli.progress import say
from llamaherd.cli.run import list_failures
from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, OutputError
from llamaherd.jobs.inputs import read_source

__all__ = ["CompareOptions", "compare_variants"]


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What `llamaherd compare` was asked for."""

    input: str
    directory: str
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    annotators: tuple[str, ...]
    labels: tuple[str, ...]
    instructions: str | None
    gold: str | None
    system: str | None
    max_tokens: int
    title: str
    max_batch_size: int
    accept_changes: bool
    retry_failed: bool
    progress: bool | None


def compare_variants(options: CompareOptions) -> int:
    """Run every model with every prompt, write tables and the report; return the exit code."""
    # What would spoil the report is said before hours of work, not after.
    require_sklearn()
    if options.annotators:
        return _report_columns(options)
    if max(1, len(options.models)) * max(1, len(options.prompts)) < 2 and options.gold is None:
        raise ConfigError(
            "give two models or two prompts to compare, or a --gold column, or --annotators for "
            "columns that hold answers already"
        )
    if options.gold is not None:
        _check_gold(options.input, options.gold, options.labels)
    prompts: str | Mapping[str, str] | None = None
    if len(options.prompts) == 1:
        prompts = options.prompts[0]
    elif options.prompts:
        prompts = {f"prompt {i}": text for i, text in enumerate(options.prompts, 1)}
    exploration = explore(
        options.models or ("demo",),
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
        retry_failed=options.retry_failed,
    )
    folder = Path(options.directory)
    _write_csv(folder / "long.csv", exploration.long())
    _write_csv(folder / "wide.csv", exploration.wide())
    validation = report(exploration, folder / "report.html", gold=options.gold, title=options.title)
    say(str(validation))
    say(f"written: {folder / 'wide.csv'}, {folder / 'long.csv'}, {folder / 'report.html'}")
    return _exit_code(exploration)


def _report_columns(options: CompareOptions) -> int:
    """Write the report of a table that holds all answers."""
    if options.models or options.prompts:
        raise ConfigError("--annotators runs no model; leave out --model and --prompt")
    rows = _read(options.input)
    folder = Path(options.directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}") from error
    target = folder / "report.html"
    validation = report(
        rows,
        target,
        gold=options.gold,
        annotators=options.annotators,
        labels=options.labels or None,
        title=options.title,
    )
    say(str(validation))
    say(f"written: {target}")
    return EXIT_OK


def _check_gold(path: str, column: str, labels: Sequence[str]) -> None:
    rows = _read(path)
    require_columns(rows[0], [column])
    check_gold([row.get(column) for row in rows], column, labels or None)


def _read(path: str) -> list[dict[str, Any]]:
    """All rows of a table; without one that cannot be read, the figures would be of others."""
    rows = []
    for row in read_source(path):
        if row.error is not None:
            raise row.error
        rows.append(row.fields)
    return rows


def _exit_code(exploration: Exploration) -> int:
    failed = [variant for variant in exploration.variants if variant.summary.n_failed]
    for variant in failed:
        say(f"{variant.name}: {variant.summary.n_failed} rows failed")
        list_failures(variant.summary.failures, len(variant.summary.failures))
    if failed:
        say("run them again with --retry-failed")
    return EXIT_FAILED_ROWS if failed else EXIT_OK


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
