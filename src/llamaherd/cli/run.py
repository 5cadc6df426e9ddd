"""`llamaherd run`: prompts in, answers out, a row at a time."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from llamaherd.cli.inputs import InputRow, count_lines, fill_template, read_rows
from llamaherd.cli.progress import RunProgress, say
from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, LlamaherdError, OutputError
from llamaherd.models.model import Model, Prompt
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.results import GenerationResult

__all__ = ["RunOptions", "run_prompts"]

_EXIT_OK, _EXIT_FAILED_ROWS, _EXIT_INTERRUPTED = 0, 2, 130
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `llamaherd run` was asked for, beside the model and how to generate."""

    prompts: tuple[str, ...]
    input: str | None
    output: str
    template: str | None
    system: str | None
    raw: bool
    format: str | None
    ordered: bool | None
    max_batch_size: int
    overwrite: bool
    quiet: bool


class _Rows:
    """Feeds the processor and remembers the rows in flight, so that results find them.

    A row that cannot become a prompt goes in as an empty one, which fails, and its own error
    replaces that failure in the output.
    """

    def __init__(self, rows: Iterator[InputRow], model: Model, options: RunOptions) -> None:
        self._rows = rows
        self._uses_chat = model.info.chat_template and not options.raw
        self._options = options
        self._in_flight: dict[int, tuple[InputRow, Prompt]] = {}
        self.stopped = threading.Event()
        self.n_pulled = 0
        if options.raw and options.system:
            raise ConfigError("--system needs the chat template; leave out --raw")

    def prompts(self) -> Iterator[Prompt]:
        """Prompts until the input ends or somebody sets `stopped`."""
        for row in self._rows:
            if self.stopped.is_set():
                return
            prompt: Prompt = ""
            if row.error is None:
                try:
                    prompt = self._prompt(row)
                except LlamaherdError as error:
                    row = InputRow(row.where, row.id, row.text, fields=row.fields, error=error)
            self._in_flight[self.n_pulled] = (row, prompt)
            self.n_pulled += 1
            yield prompt

    def take(self, index: int) -> tuple[InputRow, Prompt]:
        """The row of a result."""
        return self._in_flight.pop(index)

    def _prompt(self, row: InputRow) -> Prompt:
        template, system = self._options.template, self._options.system
        if row.messages is not None and template is None:
            return row.messages
        text = row.text if template is None else fill_template(template, row)
        if not self._uses_chat or not text:
            return text
        before = [{"role": "system", "content": system}] if system else []
        return [*before, {"role": "user", "content": text}]


def run_prompts(
    source: str, load: dict[str, Any], config: GenerationConfig, options: RunOptions
) -> int:
    """Answer all rows and write the answers; return the exit code."""
    rows = read_rows(options.prompts, options.input)
    as_json = _is_json(options)
    with _open_output(options) as output, Model.load(source, **load) as model:
        feed = _Rows(rows, model, options)
        n_total = len(options.prompts) or count_lines(options.input)
        with ParallelProcessor(
            model, max_batch_size=options.max_batch_size, n_ctx=load["n_ctx"]
        ) as processor:
            stream = processor.generate_iter(
                feed.prompts(), config, ordered=_is_ordered(options, as_json)
            )
            with (
                RunProgress(n_total, quiet=options.quiet) as progress,
                _interruptible(feed, processor),
            ):
                failures = _write_all(stream, feed, output, as_json, progress)
        return _summarize(progress, failures, feed, n_total, options)


def _write_all(
    stream: Iterator[GenerationResult],
    feed: _Rows,
    output: TextIO,
    as_json: bool,
    progress: RunProgress,
) -> list[str]:
    """Write every result; return a line for each of the first failed rows."""
    failures: list[str] = []
    for result in stream:
        row, prompt = feed.take(result.index)
        error = _error_of(row, result)
        if error is not None and error["type"] == "RequestCancelled":
            continue
        if as_json:
            output.write(json.dumps(_record(row, prompt, result, error), ensure_ascii=False) + "\n")
        else:
            output.write((result.text if error is None else "").replace("\n", " ").strip() + "\n")
        output.flush()
        progress.add(result, failed=error is not None)
        if error is not None and len(failures) < _MAX_LISTED:
            failures.append(f"{row.where}: {error['type']}: {error['message']}")
    return failures


def _error_of(row: InputRow, result: GenerationResult) -> dict[str, str] | None:
    if row.error is not None:
        return {"type": type(row.error).__name__, "message": str(row.error)}
    if result.error is not None:
        return {"type": result.error.type, "message": result.error.message}
    return None


def _record(
    row: InputRow, prompt: Prompt, result: GenerationResult, error: dict[str, str] | None
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "index": result.index,
        "id": row.id,
        "prompt": row.text if row.messages is None else row.messages,
        "text": result.text,
        "finish_reason": result.finish_reason.value,
        "success": error is None,
        "error": error,
        "prompt_tokens": result.prompt_tokens,
        "cached_tokens": result.cached_tokens,
        "tokens_generated": result.tokens_generated,
        "seed": result.seed,
    }
    if result.logprobs is not None:
        record["logprobs"] = [
            {"token": entry.text, "logprob": entry.logprob, "top": [list(t) for t in entry.top]}
            for entry in result.logprobs
        ]
    return record


@contextlib.contextmanager
def _interruptible(feed: _Rows, processor: ParallelProcessor) -> Iterator[None]:
    """The first Ctrl-C starts nothing new and cancels rows in work; the second one quits."""

    def stop(signum: int, frame: object) -> None:
        if feed.stopped.is_set():
            raise KeyboardInterrupt
        feed.stopped.set()
        processor.cancel()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _open_output(options: RunOptions) -> Iterator[TextIO]:
    """Where answers go. Checked before a model is loaded, which may take long."""
    if options.output == "-":
        yield sys.stdout
        return
    path = Path(options.output)
    if options.input not in (None, "-") and path.exists():
        if path.samefile(str(options.input)):
            raise OutputError(f"{path} is the input; name another output")
    if path.exists() and not path.is_dir() and not options.overwrite:
        raise OutputError(f"{path} exists; name another output, or add --overwrite")
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    with file:
        yield file


def _is_json(options: RunOptions) -> bool:
    if options.format not in (None, "jsonl", "text"):
        raise ConfigError(f"--format is {options.format!r}; allowed: jsonl or text")
    if options.format is not None:
        return options.format == "jsonl"
    if options.output == "-":
        return not sys.stdout.isatty()
    return not options.output.endswith(".txt")


def _is_ordered(options: RunOptions, as_json: bool) -> bool:
    return options.ordered if options.ordered is not None else not as_json


def _summarize(
    progress: RunProgress,
    failures: list[str],
    feed: _Rows,
    n_total: int | None,
    options: RunOptions,
) -> int:
    """Say how it went on standard error; return the exit code."""
    if not options.quiet:
        say(progress.summary())
    if failures:
        say("failed:")
        for line in failures:
            say(f"  {line}")
        if progress.n_failed > len(failures):
            say(f"  and {progress.n_failed - len(failures)} more")
    if feed.stopped.is_set():
        n_missing = (n_total if n_total is not None else feed.n_pulled) - progress.n_done
        more = "" if n_total is not None else " of those read so far"
        say(f"interrupted: {progress.n_done} rows are written, {n_missing} are missing{more}")
        return _EXIT_INTERRUPTED
    return _EXIT_FAILED_ROWS if progress.n_failed else _EXIT_OK
