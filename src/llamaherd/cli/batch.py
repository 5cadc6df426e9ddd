"""`llamaherd batch`: a file in OpenAI's Batch format."""

from __future__ import annotations

from typing import Any

from llamaherd.cli.run import RunOptions, run_rows
from llamaherd.errors import ConfigError
from llamaherd.jobs.openai_batch import BATCH_FORM, BatchAnswers
from llamaherd.jobs.work import Work
from llamaherd.processing.parallel import ParallelProcessor

__all__ = ["answer_batch"]


def answer_batch(source: str, load: dict[str, Any], max_tokens: int, options: RunOptions) -> int:
    """Answer all requests of a file; return the exit code."""
    if not options.output.lower().endswith((".jsonl", ".ndjson")):
        raise ConfigError(f"the output is {options.output!r}; it must end in .jsonl")
    return run_rows(source, load, _Answering(max_tokens), options, BATCH_FORM)


class _Answering:
    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens

    def make(self, processor: ParallelProcessor, *, ordered: bool) -> Work:
        return BatchAnswers(processor, max_tokens=self._max_tokens)
