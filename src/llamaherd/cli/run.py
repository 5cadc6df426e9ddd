"""`llamaherd run`: rows in, answers out; into a file as a job that goes on where it was."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from llamaherd.cli.exits import EXIT_FAILED_ROWS, EXIT_INTERRUPTED, EXIT_OK
from llamaherd.cli.output import RowWriter
from llamaherd.cli.progress import RunProgress, say
from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, InputError
from llamaherd.jobs.inputs import StoppableRows, count_rows, may_wait, read_rows
from llamaherd.jobs.job import Job, RecordForm, describe, record_of
from llamaherd.jobs.prompts import PromptMaker, read_template
from llamaherd.jobs.work import Answers, Outcome, Work
from llamaherd.models.model import Model
from llamaherd.processing.parallel import ParallelProcessor

__all__ = [
    "OpenWork",
    "RunOptions",
    "WorkMaker",
    "is_stream",
    "list_failures",
    "read_text",
    "run_prompts",
    "run_rows",
    "run_work",
    "split_names",
]

_MAX_LISTED = 10
_CANCEL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `llamaherd run` was asked for, beside the model and how to generate."""

    prompts: tuple[str, ...]
    input: str | None
    output: str
    prompt: str | None = None
    prompt_file: str | None = None
    system: str | None = None
    raw: bool = False
    format: str | None = None
    ordered: bool | None = None
    max_batch_size: int = 32
    overwrite: bool = False
    accept_changes: bool = False
    retry_failed: bool = False
    quiet: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.format not in (None, "jsonl", "text"):
            raise ConfigError(f"--format is {self.format!r}; allowed: jsonl or text")
        if self.format is not None and not is_stream(self.output):
            raise ConfigError("--format is for standard output; a file's ending says its format")


def split_names(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def read_text(path: str | None) -> str | None:
    """A small file's text.

    Raises:
        InputError: It cannot be read.
    """
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def is_stream(output: str) -> bool:
    """Whether answers go to standard output or a device, which cannot be continued."""
    path = Path(output)
    return output == "-" or (path.exists() and not path.is_file())


class WorkMaker(Protocol):
    """Makes the work of a command once its model is loaded. Wrong options are known before."""

    def make(self, processor: ParallelProcessor, *, ordered: bool) -> Work:
        """The work."""
        ...


@dataclass(frozen=True, slots=True)
class OpenWork:
    """Work that may begin.

    Attributes:
        model: The model.
        work: The work.
        cancel: Ends the rows in work, called again and again after Ctrl-C.
    """

    model: Model
    work: Work
    cancel: Callable[[], object]


Opening = Callable[[bool], AbstractContextManager[OpenWork]]
"""Loads a model and makes the work; the argument says whether rows shall come in order."""


class _Answering:
    def __init__(self, options: RunOptions, config: GenerationConfig) -> None:
        self._options = options
        self._config = config
        self._template = read_template(options.prompt, options.prompt_file)

    def make(self, processor: ParallelProcessor, *, ordered: bool) -> Work:
        options = self._options
        prompts = PromptMaker(
            processor.model, self._template, system=options.system, raw=options.raw
        )
        return Answers(processor, prompts, self._config, ordered=ordered)


def run_prompts(
    source: str, load: dict[str, Any], config: GenerationConfig, options: RunOptions
) -> int:
    """Answer all rows and write the answers; return the exit code.

    Args:
        source: The model.
        load: Further arguments of `Model.load`.
        config: How to generate.
        options: Everything else.
    """
    return run_rows(source, load, _Answering(options, config), options)


def run_rows(
    source: str,
    load: dict[str, Any],
    maker: WorkMaker,
    options: RunOptions,
    form: RecordForm | None = None,
) -> int:
    """Do some work with all rows; return the exit code.

    Args:
        source: The model.
        load: Further arguments of `Model.load`.
        maker: Makes the work.
        options: Everything else.
        form: How finished rows are written.
    """
    return run_work(partial(_processing, source, load, maker, options), options, form)


def run_work(opening: Opening, options: RunOptions, form: RecordForm | None = None) -> int:
    """Do some work with all rows; return the exit code.

    Args:
        opening: Loads the model and makes the work, once the input and the output are known to
            be good.
        options: Everything else.
        form: How finished rows are written.
    """
    if is_stream(options.output):
        return _run_stream(opening, options, form)
    return _run_job(opening, options, form)


# ── into a file ─────────────────────────────────────────────────────────────────────────────


def _run_job(opening: Opening, options: RunOptions, form: RecordForm | None) -> int:
    if options.prompts and options.input is not None:
        raise InputError("give prompts as arguments or with --input, not both")
    if not options.prompts and options.input is None and sys.stdin.isatty():
        raise InputError("nothing to do: give arguments, or --input FILE, or pipe lines in")
    job = Job(
        list(options.prompts) or options.input or "-",
        options.output,
        overwrite=options.overwrite,
        accept_changes=options.accept_changes,
        retry_failed=options.retry_failed,
        form=form,
    )
    with opening(bool(options.ordered)) as opened:
        progress = RunProgress(job.count(), shown=_shows_progress(options, False))
        with progress, _interruptible(job.rows, opened.cancel):
            summary = job.run(opened.model, opened.work, progress.add)
    if not options.quiet:
        if summary.n_before:
            say(f"{summary.n_before} rows were done before")
        is_over = summary.is_complete and not summary.n_done
        say("nothing is left to do" if is_over else progress.summary())
    list_failures(summary.failures, progress.n_failed)
    if job.rows.is_stopped:
        n_written = summary.n_before + summary.n_done
        n_total = job.count()
        missing = f", {n_total - n_written} are missing" if n_total is not None else ""
        say(f"interrupted: {n_written} rows are safe{missing}; the same command goes on from there")
        return EXIT_INTERRUPTED
    if summary.n_failed:
        say(f"{summary.n_failed} rows failed; run them again with --retry-failed")
    return EXIT_FAILED_ROWS if summary.n_failed else EXIT_OK


# ── to standard output ──────────────────────────────────────────────────────────────────────


def _run_stream(opening: Opening, options: RunOptions, form: RecordForm | None) -> int:
    rows = StoppableRows(
        read_rows(options.prompts, options.input),
        may_wait=not options.prompts and may_wait(options.input),
    )
    with RowWriter(options.output, source=options.input, overwrite=options.overwrite) as writer:
        n_total = len(options.prompts) or count_rows(options.input)
        as_json = not writer.is_terminal if options.format is None else options.format == "jsonl"
        to_record = (form.write if form is not None else record_of) if as_json else None
        is_ordered = not as_json if options.ordered is None else options.ordered
        with opening(is_ordered) as opened:
            outcomes = opened.work.outcomes(iter(rows))
            progress = RunProgress(n_total, shown=_shows_progress(options, writer.is_terminal))
            with progress, _interruptible(rows, opened.cancel):
                failures = _write_all(outcomes, rows, writer, to_record, progress)
    if not options.quiet:
        say(progress.summary())
    list_failures(failures, progress.n_failed)
    if not rows.is_stopped:
        return EXIT_FAILED_ROWS if progress.n_failed else EXIT_OK
    n_missing = (n_total if n_total is not None else rows.n_read) - progress.n_done
    more = "" if n_total is not None else " of those read so far"
    say(f"interrupted: {progress.n_done} rows are written, {n_missing} are missing{more}")
    return EXIT_INTERRUPTED


def _write_all(
    outcomes: Iterator[Outcome],
    rows: StoppableRows,
    writer: RowWriter,
    to_record: Callable[[Outcome], dict[str, Any]] | None,
    progress: RunProgress,
) -> list[str]:
    """Write every result, without `to_record` as text; return a line for the first failed rows."""
    failures: list[str] = []
    for outcome in outcomes:
        if rows.is_stopped and outcome.is_cancelled:
            continue
        if to_record is not None:
            writer.write_json(to_record(outcome))
        else:
            # A line per row, whatever happens, so that lines of input and output correspond.
            text = outcome.fields.get("text", outcome.fields.get("label"))
            writer.write(" ".join(str(text).split()) if outcome.error is None else "")
        progress.add(outcome)
        if outcome.error is not None and len(failures) < _MAX_LISTED:
            failures.append(describe(outcome))
    return failures


# ── both ────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _processing(
    source: str, load: dict[str, Any], maker: WorkMaker, options: RunOptions, ordered: bool
) -> Iterator[OpenWork]:
    with (
        Model.load(source, **load) as model,
        ParallelProcessor(
            model, max_batch_size=options.max_batch_size, n_ctx=load["n_ctx"]
        ) as processor,
    ):
        work = maker.make(processor, ordered=ordered)
        yield OpenWork(processor.model, work, processor.cancel)


def list_failures(failures: list[str], n_failed: int) -> None:
    """Name the first rows that failed."""
    if failures:
        say("\n  ".join(["failed:", *failures]))
    if n_failed > len(failures):
        say(f"  and {n_failed - len(failures)} more")


@contextlib.contextmanager
def _interruptible(rows: StoppableRows, cancel_rows: Callable[[], object]) -> Iterator[None]:
    """The first Ctrl-C starts nothing new and cancels rows in work; the second one quits."""
    is_stopping, is_over = threading.Event(), threading.Event()

    def cancel() -> None:
        # Again and again: rows that are just being read are submitted after the first time.
        is_stopping.wait()
        while not is_over.wait(_CANCEL_SECONDS):
            cancel_rows()

    def stop(signum: int, frame: object) -> None:
        if rows.is_stopped:
            raise KeyboardInterrupt
        is_stopping.set()
        rows.stop()

    canceller = threading.Thread(target=cancel, name="llamaherd-interrupt", daemon=True)
    canceller.start()
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        is_over.set()
        is_stopping.set()
        canceller.join()


def _shows_progress(options: RunOptions, is_terminal: bool) -> bool:
    if options.quiet or options.progress is not None:
        return bool(options.progress) and not options.quiet
    # Where the answers appear, they are the progress.
    return sys.stderr.isatty() and not is_terminal
