"""`llamaherd embed`: a vector for each row of a table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaherd.cli.exits import CommandEnded
from llamaherd.cli.options import (
    AcceptOption,
    DimOption,
    EngineOption,
    GpuOption,
    InputOption,
    ModelOption,
    NormalizeOption,
    OverwriteOption,
    PoolingOption,
    PrefixOption,
    ProgressOption,
    PromptFileOption,
    QuietOption,
    RetryFailedOption,
    RowTextOption,
    ThreadsOption,
    TruncateOption,
    VectorOutputOption,
    VerboseOption,
    load_options,
    table_argument,
)

if TYPE_CHECKING:
    from llamaherd.cli.run import OpenWork
    from llamaherd.jobs.prompts import RowTemplate
    from llamaherd.jobs.vectors import VectorOptions

__all__ = ["embed"]


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts, or one table")
    ] = None,
    input: InputOption = None,
    output: VectorOutputOption = "-",
    overwrite: OverwriteOption = False,
    accept_changes: AcceptOption = False,
    retry_failed: RetryFailedOption = False,
    prompt: RowTextOption = None,
    prompt_file: PromptFileOption = None,
    prefix: PrefixOption = "",
    progress: ProgressOption = None,
    quiet: QuietOption = False,
    pooling: PoolingOption = "auto",
    normalize: NormalizeOption = True,
    dim: DimOption = None,
    truncate: TruncateOption = False,
    model: ModelOption = "demo",
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    gpu_layers: GpuOption = 0,
    verbose: VerboseOption = False,
) -> None:
    """Give each row a vector: in Parquet, as a NumPy array, or as JSON lines.

    An output file is a job: the same command goes on where it was after Ctrl-C or a crash.
    """
    from llamaherd.cli.run import RunOptions, is_stream, run_work
    from llamaherd.jobs.prompts import read_template
    from llamaherd.jobs.vectors import VectorOptions, vector_form

    vectors = VectorOptions(
        pooling=pooling,  # type: ignore[arg-type]
        normalize=normalize,
        dim=dim,
        prefix=prefix,
        truncate=truncate,
    )
    to_stream = is_stream(output)
    names, input = table_argument(texts, input)
    options = RunOptions(
        prompts=names,
        input=input,
        output=output,
        # A terminal gets JSON as well: a vector is no text.
        format="jsonl" if to_stream else None,
        overwrite=overwrite,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
        quiet=quiet,
        progress=progress,
    )
    form = vector_form(None if to_stream else output)
    template = read_template(prompt, prompt_file)
    load = load_options(engine, threads, None, gpu_layers, verbose)
    code = run_work(lambda ordered: _opened(model, load, vectors, template), options, form)
    raise CommandEnded(code)


@contextlib.contextmanager
def _opened(
    source: str, load: dict[str, Any], options: VectorOptions, template: RowTemplate | None
) -> Iterator[OpenWork]:
    from llamaherd.cli.run import OpenWork
    from llamaherd.jobs.vectors import Vectors
    from llamaherd.models.model import Model

    with Model.load(source, **load) as model, options.open(model) as embedder:
        # The rows in work are few, so that Ctrl-C lets them end.
        yield OpenWork(model, Vectors(embedder, options, template), cancel=lambda: None)
