"""A job: rows of a table through a model, each durable as soon as it is finished.

source -> rows that are not in the log -> work -> record -> log -> output
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set, Sized
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from llamaherd.config import GenerationConfig
from llamaherd.errors import InputError, OutputError
from llamaherd.jobs.inputs import (
    Source,
    StoppableRows,
    count_rows,
    may_wait,
    read_source,
    table_columns,
)
from llamaherd.jobs.log import JobLog, LineParser, parse_line, read_settings
from llamaherd.jobs.outputs import (
    TABLES,
    TableWriter,
    check_format,
    is_log,
    log_path,
    write_table,
)
from llamaherd.jobs.prompts import PromptMaker, read_template
from llamaherd.jobs.work import Answers, NumberedRow, Outcome, Work
from llamaherd.models.model import Model
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.processing.progress import is_interactive, show_progress

__all__ = [
    "RESULT_COLUMNS",
    "Job",
    "JobSummary",
    "RecordForm",
    "describe",
    "record_of",
    "run_job",
    "run_shown",
]

_MAX_LISTED = 10
# Columns of results. Input columns of these names are written as input_NAME.
RESULT_COLUMNS = frozenset(
    "index success text finish_reason error prompt_tokens cached_tokens tokens_generated seed "
    "logprobs label probability margin probabilities".split()
)


_to_json = json.JSONEncoder(ensure_ascii=False, default=str).encode


@dataclass
class JobSummary:
    """How a run of a job went.

    Attributes:
        output: Where the results are.
        n_before: Rows that an earlier run had finished.
        n_done: Rows that this run finished.
        n_failed: Failed rows of all runs.
        seconds: Duration of this run, loading not counted.
        prompt_tokens: Prompt tokens of this run.
        cached_tokens: Those that were reused.
        generated_tokens: Generated tokens of this run.
        failures: A line for each of the first failed rows of this run.
        is_complete: Whether every row is in the output.
    """

    output: Path
    n_before: int = 0
    n_done: int = 0
    n_failed: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    failures: list[str] = field(default_factory=list)
    is_complete: bool = False


@dataclass(frozen=True)
class RecordForm:
    """How finished rows are written as lines.

    Attributes:
        write: From an outcome to an object.
        parse: From its line to the row's number and whether it succeeded.
        tables: What can be made of these lines in the end, by the output's ending.
    """

    write: Callable[[Outcome], dict[str, Any]]
    parse: LineParser = parse_line
    tables: Mapping[str, TableWriter] = field(default_factory=lambda: TABLES)


class Job:
    """A source, an output, and what is to be done with each row. Run it once.

    Args:
        source: See `read_source`.
        output: A path that ends in ``.jsonl``, or like one of the tables of `form`: ``.csv``,
            ``.tsv``, ``.parquet`` or ``.txt`` if it says nothing else.
        overwrite: Begin anew if the output exists.
        accept_changes: Go on although the model, the prompt or the settings changed.
        retry_failed: Run rows again that failed before.
        form: How a finished row is written, and read again.

    Attributes:
        rows: The rows of the source, which can be stopped.

    Raises:
        InputError: The source cannot be opened, or is empty.
        ConfigError: The output's ending is unknown, or a package is missing.
        OutputError: The output cannot be written, is the input, or is no job's.
    """

    def __init__(
        self,
        source: Source,
        output: str | PathLike[str],
        *,
        overwrite: bool = False,
        accept_changes: bool = False,
        retry_failed: bool = False,
        form: RecordForm | None = None,
    ) -> None:
        self._form = form or RecordForm(record_of)
        self._source = source
        self._output = Path(output)
        self._log_path = log_path(self._output)
        self._overwrite = overwrite
        self._accept_changes = accept_changes
        self._retry_failed = retry_failed
        check_format(self._output, self._form.tables)
        self._known = None if overwrite else read_settings(self._log_path)
        self._check_paths()
        self.rows = StoppableRows(read_source(source), may_wait=may_wait(source))

    def run(
        self, model: Model, work: Work, on_outcome: Callable[[Outcome], object] | None = None
    ) -> JobSummary:
        """Do what is left to do.

        Args:
            model: The model, whose identity belongs to the job.
            work: What to do with each row.
            on_outcome: Called for each finished row.

        Raises:
            JobChanged: The output belongs to a job with other settings.
            InputError: The table lacks a column, or cannot be read to its end; rows before that
                are finished.
            OutputError: The output cannot be written; what is in the log stays.
        """
        self._check_columns(work)
        if self._known is not None:
            work.go_on(self._known)
        settings = {
            "llamaherd": 1,
            "input": _identity(self._source),
            "model": {"name": model.info.name, "fingerprint": model.fingerprint()},
            **work.settings(),
        }
        with JobLog(
            self._log_path,
            settings,
            overwrite=self._overwrite,
            accept_changes=self._accept_changes,
            retry_failed=self._retry_failed,
            parse=self._form.parse,
        ) as log:
            if self._is_finished():
                log.discard()
                return JobSummary(self._output, is_complete=True)
            summary = JobSummary(self._output, n_before=log.n_done)
            began_s = time.perf_counter()
            for outcome in work.outcomes(self._rows(log)):
                if outcome.is_cancelled:
                    continue
                line = _to_json(self._form.write(outcome))
                log.append(outcome.index, line, success=outcome.error is None)
                _count(summary, outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
            summary.seconds = time.perf_counter() - began_s
            summary.n_failed = log.n_failed
            summary.is_complete = not self.rows.is_stopped
            self._finish(log, summary)
        return summary

    def count(self) -> int | None:
        """Rows of the source, if that is quickly known."""
        return count_rows(self._source)

    def _rows(self, log: JobLog) -> Iterator[NumberedRow]:
        return ((index, row) for index, row in self.rows if not log.is_done(index))

    def _check_columns(self, work: Work) -> None:
        """A column that a whole table lacks is better said at once than in every row."""
        columns = table_columns(self._source)
        if columns is None:
            return
        own_text = {"text"} if "prompt" in columns else set()
        missing = sorted(work.columns - {*columns} - own_text)
        if missing:
            raise InputError(
                f"no column {missing[0]!r}; there are: {', '.join(columns) or 'none'}; "
                "name one in the prompt: '{" + (columns or ["title"])[0] + "}'"
            )

    def _is_finished(self) -> bool:
        """Whether a table was written and its log removed, since no row failed."""
        is_table = not is_log(self._output)
        is_written = is_table and self._output.exists() and not self._overwrite
        return is_written and not self._log_has_rows()

    def _log_has_rows(self) -> bool:
        return self._log_path.exists() and self._log_path.stat().st_size > 0

    def _finish(self, log: JobLog, summary: JobSummary) -> None:
        if is_log(self._output) or not summary.is_complete:
            return
        write_table(self._log_path, self._output, self._form.tables)
        if summary.n_failed == 0:
            log.discard()

    def _check_paths(self) -> None:
        is_path = isinstance(self._source, (str, PathLike)) and self._source != "-"
        if is_path and self._output.exists() and Path(self._source).exists():  # type: ignore[arg-type]
            if self._output.samefile(self._source):  # type: ignore[arg-type]
                raise OutputError(f"{self._output} is the input; name another output")
        if not self._overwrite and self._output.exists() and self._known is None:
            raise OutputError(
                f"{self._output} exists and is no job's output; name another, "
                "or begin anew with overwrite (--overwrite)"
            )


def run_job(
    source: Source,
    output: str | PathLike[str],
    *,
    model: Model | ParallelProcessor | str | PathLike[str] = "demo",
    prompt: str | None = None,
    prompt_file: str | None = None,
    system: str | None = None,
    raw: bool = False,
    config: GenerationConfig | None = None,
    ordered: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    retry_failed: bool = False,
    max_batch_size: int = 32,
    progress: bool | None = None,
) -> JobSummary:
    """Answer every row of a table, durably: after a crash the same call goes on where it was.

    Example:
        >>> from llamaherd import GenerationConfig, run_job
        >>> rows = [{"country": "Peru"}, {"country": "Kenya"}]
        >>> summary = run_job(
        ...     rows,
        ...     "capitals.csv",
        ...     prompt="What is the capital of {country}?",
        ...     config=GenerationConfig.greedy(),
        ... )

    Args:
        source: A path (``.csv``, ``.tsv``, ``.parquet``, ``.jsonl``, or a prompt per line), a
            pandas or polars frame, or an iterable of mappings, texts or chat messages.
        output: A path: ``.jsonl`` is written as rows finish, ``.csv``, ``.tsv``, ``.parquet`` and
            ``.txt`` at the end, from a log beside it. Input columns are kept; those that are
            called like a result column become ``input_NAME``.
        model: A model, a processor, or anything that `Model.load` takes.
        prompt: What to ask, with columns in braces: ``"Classify: {title}"``. None takes the row's
            own ``prompt`` or ``messages``.
        prompt_file: A Jinja template instead, in which columns are variables.
        system: System message of rows that bring none.
        raw: Do without the model's chat template.
        config: How to generate; `GenerationConfig()` if None. A seed that is drawn belongs to the
            job, so that it goes on with the same.
        ordered: Write JSON lines in the order of the input instead of as rows finish.
        overwrite: Begin anew if the output exists.
        accept_changes: Go on although the model, the prompt, the input or the settings changed.
        retry_failed: Run rows again that failed before.
        max_batch_size: Rows in work at the same time, if the model is not a processor.
        progress: True shows a bar, False none, None one in an interactive terminal or notebook.

    Returns:
        How it went; `n_failed` rows have their reason in the column ``error``.

    Raises:
        JobChanged: The output belongs to a job with another model, prompt, input or settings.
        ConfigError, InputError, OutputError, ModelError: It cannot run. Rows that are finished
            stay finished, also if you interrupt it.
    """
    job = Job(
        source,
        output,
        overwrite=overwrite,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
    )
    if not isinstance(model, ParallelProcessor):
        with ParallelProcessor(model, max_batch_size=max_batch_size) as processor:
            return _run_answers(
                job, processor, prompt, prompt_file, system, raw, config, ordered, progress
            )
    return _run_answers(job, model, prompt, prompt_file, system, raw, config, ordered, progress)


def _run_answers(
    job: Job,
    processor: ParallelProcessor,
    prompt: str | None,
    prompt_file: str | None,
    system: str | None,
    raw: bool,
    config: GenerationConfig | None,
    ordered: bool,
    progress: bool | None,
) -> JobSummary:
    template = read_template(prompt, prompt_file)
    prompts = PromptMaker(processor.model, template, system=system, raw=raw)
    work = Answers(processor, prompts, config or GenerationConfig(), ordered=ordered)
    return run_shown(job, processor.model, work, progress)


def run_shown(job: Job, model: Model, work: Work, progress: bool | None) -> JobSummary:
    """Run a job, with a bar if `progress` is True, or None and somebody is looking."""
    if not (progress or (progress is None and is_interactive())):
        return job.run(model, work)
    return job.run(model, _Shown(work, job.count()))


class _Shown:
    """Work that shows its progress."""

    def __init__(self, work: Work, n_total: int | None) -> None:
        self._work = work
        self._n_total = n_total
        self.columns = work.columns
        self.settings = work.settings
        self.go_on = work.go_on

    def outcomes(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        """The outcomes of the work."""
        return show_progress(
            self._work.outcomes(rows),
            self._n_total,
            lambda o: (o.prompt_tokens + o.generated_tokens, o.error is None),
        )


def record_of(outcome: Outcome, results: Set[str] = RESULT_COLUMNS) -> dict[str, Any]:
    """A row's record: its number, its columns, its result.

    Args:
        outcome: What became of the row.
        results: Columns of results; input columns of these names are called ``input_NAME``.
    """
    record: dict[str, Any] = {"index": outcome.index, "success": outcome.error is None}
    for name, value in outcome.row.fields.items():
        record[f"input_{name}" if name in results else name] = value
    record.update(outcome.fields)
    return record


def describe(outcome: Outcome) -> str:
    """Why a row failed, in a line."""
    assert outcome.error is not None
    where = outcome.row.where
    at = "" if outcome.error.message.startswith(where) else f"{where}: "
    return f"{at}{outcome.error.message} ({outcome.error.type})"


def _count(summary: JobSummary, outcome: Outcome) -> None:
    summary.n_done += 1
    summary.prompt_tokens += outcome.prompt_tokens
    summary.cached_tokens += outcome.cached_tokens
    summary.generated_tokens += outcome.generated_tokens
    if outcome.error is not None and len(summary.failures) < _MAX_LISTED:
        summary.failures.append(describe(outcome))


def _identity(source: Source) -> dict[str, Any]:
    """What tells a source from others."""
    if isinstance(source, (str, PathLike)):
        if source == "-":
            return {"kind": "standard input"}
        return {"kind": "file", "digest": _digest(Path(source))}
    columns: Iterable[Any] = getattr(source, "columns", ())
    return {
        "kind": type(source).__name__,
        "rows": len(source) if isinstance(source, Sized) else None,
        "columns": [str(name) for name in columns],
    }


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
