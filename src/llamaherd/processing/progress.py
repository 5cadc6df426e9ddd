"""Progress of a batch: a bar on standard error, or a function of the caller's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from llamaherd.results import GenerationResult

__all__ = ["ProgressCallback", "is_interactive", "show_progress", "watch"]

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
ProgressCallback = Callable[[int, int, GenerationResult], object]


def watch(
    results: Iterable[GenerationResult], n_total: int, progress: bool | ProgressCallback | None
) -> Iterator[GenerationResult]:
    """Pass results through and show how far they are.

    A callback that raises is logged and not called again: a broken display must not cost
    finished rows.
    """
    if callable(progress):
        return _call(results, n_total, progress)
    if progress or (progress is None and is_interactive()):
        return show_progress(
            results, n_total, lambda r: (r.prompt_tokens + r.tokens_generated, r.success)
        )
    return iter(results)


def is_interactive() -> bool:
    """Whether somebody is looking at standard error, or this is a notebook."""
    # IPython is only asked if the program already uses it.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
        return True
    return sys.stderr is not None and sys.stderr.isatty()


def _call(
    results: Iterable[GenerationResult], n_total: int, callback: ProgressCallback
) -> Iterator[GenerationResult]:
    is_working = True
    for n_done, result in enumerate(results, 1):
        if is_working:
            try:
                callback(n_done, n_total, result)
            except Exception:
                _log.exception("the progress callback raised and is not called again")
                is_working = False
        yield result


def show_progress(
    results: Iterable[Result],
    n_total: int | None,
    measure: Callable[[Result], tuple[int, bool]],
    *,
    title: str = "rows",
) -> Iterator[Result]:
    """Pass results through and show a bar.

    Args:
        results: Results of any kind.
        n_total: How many there will be, if that is known.
        measure: The tokens behind a result, and whether it succeeded.
        title: What stands before the bar.
    """
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:3],
        TimeRemainingColumn(),
        TextColumn("{task.fields[rates]}"),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=n_total, rates="")
        n_tokens = n_failed = 0
        for result in results:
            n_new, success = measure(result)
            n_tokens += n_new
            n_failed += not success
            elapsed_s = bar.tasks[0].elapsed or 0.0
            rates = f"{n_tokens / elapsed_s:.0f} tokens/s" if elapsed_s else ""
            rates += f", {n_failed} failed" if n_failed else ""
            bar.update(task, advance=1, rates=rates)
            yield result
