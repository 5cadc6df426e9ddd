"""`llamaherd run`: prompts in, answers out, a row at a time."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llamaherd.cli.exits import EXIT_FAILED_ROWS, EXIT_INTERRUPTED, EXIT_OK
from llamaherd.cli.inputs import InputRow, count_rows, read_rows
from llamaherd.cli.output import RowWriter
from llamaherd.cli.progress import RunProgress, say
from llamaherd.cli.template import Template
from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, InputError, LlamaherdError
from llamaherd.models.model import Model, Prompt
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.results import GenerationResult

__all__ = ["RunOptions", "list_failures", "run_prompts"]

_MAX_LISTED = 10
_CANCEL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `llamaherd run` was asked for, beside the model and how to generate."""

    prompts: tuple[str, ...]
    input: str | None
    output: str
    template: Template | None
    system: str | None
    raw: bool
    format: str | None
    ordered: bool | None
    max_batch_size: int
    overwrite: bool
    quiet: bool
    progress: bool | None

    def __post_init__(self) -> None:
        if self.format not in (None, "jsonl", "text"):
            raise ConfigError(f"--format is {self.format!r}; allowed: jsonl or text")
        if self.raw and self.system:
            raise ConfigError("--system needs the chat template; leave out --raw")


class _StopReading(Exception):
    """Leaves a read that waits for input."""


class _Feed:
    """Gives the processor its prompts and remembers the rows in work, for their results.

    A row that cannot become a prompt goes in as an empty one, which fails, and its own error
    replaces that failure in the output.
    """

    def __init__(self, rows: Iterator[InputRow], model: Model, options: RunOptions) -> None:
        self._rows = rows
        self._uses_chat = model.info.chat_template and not options.raw
        self._options = options
        self._in_work: dict[int, InputRow] = {}
        self._is_reading = False
        self.n_pulled = 0
        self.is_stopped = False
        if options.system and not self._uses_chat:
            raise ConfigError("--system needs a chat template, and this model brings none")

    def prompts(self) -> Iterator[Prompt]:
        """Prompts until the input ends or `stop` is called."""
        with contextlib.suppress(_StopReading):
            while (row := self._next()) is not None:
                prompt: Prompt = ""
                if row.error is None:
                    try:
                        prompt = self._prompt(row)
                    except LlamaherdError as error:
                        row = replace(row, error=error)
                self._in_work[self.n_pulled] = row
                self.n_pulled += 1
                yield prompt

    def stop(self) -> None:
        """Let the input end. For a signal handler on the thread that reads, which may wait."""
        self.is_stopped = True
        if self._is_reading:
            raise _StopReading

    def take(self, index: int) -> InputRow:
        """The row of a result."""
        return self._in_work.pop(index)

    def _next(self) -> InputRow | None:
        try:
            self._is_reading = True
            return None if self.is_stopped else next(self._rows, None)
        finally:
            self._is_reading = False

    def _prompt(self, row: InputRow) -> Prompt:
        template = self._options.template
        if template is not None:
            text = template.fill(row)
        elif row.messages is not None:
            return self._messages(row, row.messages)
        elif row.text is None:
            raise InputError(f'{row.where}: the row has neither "prompt" nor "messages"')
        else:
            text = row.text
        if not self._uses_chat or not text:
            return text
        return self._with_system([{"role": "user", "content": text}])

    def _messages(self, row: InputRow, messages: list[dict[str, Any]]) -> Prompt:
        if self._options.raw:
            raise InputError(f"{row.where}: messages need the chat template; leave out --raw")
        return self._with_system(messages)

    def _with_system(self, messages: list[dict[str, Any]]) -> Prompt:
        system = self._options.system
        if not system or messages[0].get("role") == "system":
            return messages
        return [{"role": "system", "content": system}, *messages]


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
    rows = read_rows(options.prompts, options.input)
    with (
        RowWriter(options.output, source=options.input, overwrite=options.overwrite) as writer,
        Model.load(source, **load) as model,
        ParallelProcessor(
            model, max_batch_size=options.max_batch_size, n_ctx=load["n_ctx"]
        ) as processor,
    ):
        feed = _Feed(rows, model, options)
        n_total = len(options.prompts) or count_rows(options.input)
        as_json = _is_json(options, writer)
        is_ordered = not as_json if options.ordered is None else options.ordered
        results = processor.generate_iter(feed.prompts(), config, ordered=is_ordered)
        progress = RunProgress(n_total, shown=_shows_progress(options, writer))
        with progress, _interruptible(feed, processor):
            failures = _write_all(results, feed, writer, as_json, progress)
    return _summarize(progress, failures, feed, n_total, options)


def list_failures(failures: list[str], n_failed: int) -> None:
    """Name the first rows that failed."""
    if failures:
        say("\n  ".join(["failed:", *failures]))
    if n_failed > len(failures):
        say(f"  and {n_failed - len(failures)} more")


def _write_all(
    results: Iterator[GenerationResult],
    feed: _Feed,
    writer: RowWriter,
    as_json: bool,
    progress: RunProgress,
) -> list[str]:
    """Write every result; return a line for each of the first failed rows."""
    failures: list[str] = []
    for result in results:
        row = feed.take(result.index)
        error = _error_of(row, result)
        if feed.is_stopped and error is not None and error["type"] == "RequestCancelled":
            continue
        if as_json:
            writer.write_json(_record(row, result, error))
        else:
            # A line per row, whatever happens, so that lines of input and output correspond.
            writer.write(" ".join(result.text.split()) if error is None else "")
        progress.add(result, failed=error is not None)
        if error is not None and len(failures) < _MAX_LISTED:
            at = "" if error["message"].startswith(row.where) else f"{row.where}: "
            failures.append(f"{at}{error['message']} ({error['type']})")
    return failures


def _error_of(row: InputRow, result: GenerationResult) -> dict[str, str] | None:
    if row.error is not None:
        return {"type": type(row.error).__name__, "message": str(row.error)}
    if result.error is not None:
        return {"type": result.error.type, "message": result.error.message}
    return None


def _record(
    row: InputRow, result: GenerationResult, error: dict[str, str] | None
) -> dict[str, object]:
    record: dict[str, object] = {
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
def _interruptible(feed: _Feed, processor: ParallelProcessor) -> Iterator[None]:
    """The first Ctrl-C starts nothing new and cancels rows in work; the second one quits."""
    is_stopping, is_over = threading.Event(), threading.Event()

    def cancel() -> None:
        # Again and again: rows that are just being read are submitted after the first time.
        is_stopping.wait()
        while not is_over.wait(_CANCEL_SECONDS):
            processor.cancel()

    def stop(signum: int, frame: object) -> None:
        if feed.is_stopped:
            raise KeyboardInterrupt
        is_stopping.set()
        feed.stop()

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


def _is_json(options: RunOptions, writer: RowWriter) -> bool:
    if options.format is not None:
        return options.format == "jsonl"
    return not (writer.is_terminal or options.output.endswith(".txt"))


def _shows_progress(options: RunOptions, writer: RowWriter) -> bool:
    if options.quiet or options.progress is not None:
        return bool(options.progress) and not options.quiet
    # Where the answers appear, they are the progress.
    return sys.stderr.isatty() and not writer.is_terminal


def _summarize(
    progress: RunProgress,
    failures: list[str],
    feed: _Feed,
    n_total: int | None,
    options: RunOptions,
) -> int:
    """Say how it went on standard error; return the exit code."""
    if not options.quiet:
        say(progress.summary())
    list_failures(failures, progress.n_failed)
    if not feed.is_stopped:
        return EXIT_FAILED_ROWS if progress.n_failed else EXIT_OK
    n_missing = (n_total if n_total is not None else feed.n_pulled) - progress.n_done
    more = "" if n_total is not None else " of those read so far"
    say(f"interrupted: {progress.n_done} rows are written, {n_missing} are missing{more}")
    return EXIT_INTERRUPTED
