"""The commands and their options. What they do is in a module each, imported when needed."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from llamaherd import __version__
from llamaherd.cli.bench import bench
from llamaherd.cli.embed import embed
from llamaherd.cli.exits import CommandEnded
from llamaherd.cli.options import (
    AcceptOption,
    BatchOption,
    CalibrateOption,
    ChoicesOption,
    CleanOption,
    EngineOption,
    ExamplesOption,
    FormatOption,
    GpuOption,
    GrammarOption,
    IgnoreEosOption,
    InputOption,
    InstructionsOption,
    JsonOption,
    JsonSchemaOption,
    LogprobsOption,
    MaxTokensOption,
    MinPOption,
    ModelOption,
    NCtxOption,
    OrderedOption,
    OutputOption,
    OverwriteOption,
    ProgressOption,
    PromptFileOption,
    QuietOption,
    RawOption,
    RegexOption,
    RetriesOption,
    RetryFailedOption,
    RowTextOption,
    SeedOption,
    StopOption,
    StripOption,
    SystemOption,
    TemperatureOption,
    TemplateOption,
    ThreadsOption,
    TimeoutOption,
    TopKOption,
    TopPOption,
    VerboseOption,
    load_options,
    table_argument,
)

__all__ = ["app"]

app = typer.Typer(
    name="llamaherd",
    help="Many prompts through one local language model (GGUF) at once.",
    epilog="Begin with: llamaherd demo",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llamaherd {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    # Whatever the locale says: JSON and answers are UTF-8.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if debug:
        os.environ["LLAMAHERD_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: llamaherd demo --rows 100")
def demo(
    model: ModelOption = "demo",
    rows: Annotated[
        int, typer.Option(min=8, max=100_000, metavar="N", help="Rows of the comparison")
    ] = 200,
    max_batch_size: BatchOption = 32,
    threads: ThreadsOption = None,
) -> None:
    """Show what the bundled model can do, and rows one by one beside rows in batches."""
    from llamaherd.cli.demo import show_demo

    code = show_demo(model, n_rows=rows, max_batch_size=max_batch_size, threads=threads)
    raise CommandEnded(code)


@app.command(epilog="Example: echo Peru | llamaherd run --prompt 'What is the capital of {text}?'")
def run(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Prompts, or one table")
    ] = None,
    input: InputOption = None,
    output: OutputOption = "-",
    overwrite: OverwriteOption = False,
    accept_changes: AcceptOption = False,
    retry_failed: RetryFailedOption = False,
    format: FormatOption = None,
    ordered: OrderedOption = None,
    prompt: TemplateOption = None,
    prompt_file: PromptFileOption = None,
    system: SystemOption = None,
    raw: RawOption = False,
    progress: ProgressOption = None,
    quiet: QuietOption = False,
    max_tokens: MaxTokensOption = 100,
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = 40,
    top_p: TopPOption = 0.9,
    min_p: MinPOption = 0.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    logprobs: LogprobsOption = None,
    ignore_eos: IgnoreEosOption = False,
    json_schema: JsonSchemaOption = None,
    regex: RegexOption = None,
    choices: ChoicesOption = None,
    grammar: GrammarOption = None,
    clean: CleanOption = False,
    strip_thinking: StripOption = False,
    timeout_ms: TimeoutOption = None,
    retries: RetriesOption = 0,
    model: ModelOption = "demo",
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    max_batch_size: BatchOption = 32,
    n_ctx: NCtxOption = None,
    gpu_layers: GpuOption = 0,
    verbose: VerboseOption = False,
) -> None:
    """Answer prompts from arguments, a file or standard input.

    An output file is a job: each finished row is safe on the disk, and the same command goes on
    where it was after Ctrl-C or a crash.
    """
    from llamaherd.cli.run import RunOptions, read_text, run_prompts, split_names
    from llamaherd.config import GenerationConfig

    config = GenerationConfig(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=tuple(stop or ()),
        logprobs=logprobs,
        timeout_ms=timeout_ms,
        retry_attempts=retries,
        ignore_eos=ignore_eos,
        clean=clean,
        strip_thinking=strip_thinking,
        json_schema=read_text(json_schema),  # type: ignore[arg-type]
        regex=regex,
        choices=split_names(choices) if choices is not None else None,
        grammar=read_text(grammar),
    )
    names, input = table_argument(prompts, input)
    options = RunOptions(
        prompts=names,
        input=input,
        output=output,
        prompt=prompt,
        prompt_file=prompt_file,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
        system=system,
        raw=raw,
        format=format,
        ordered=ordered,
        max_batch_size=max_batch_size,
        overwrite=overwrite,
        quiet=quiet,
        progress=progress,
    )
    load = load_options(engine, threads, n_ctx, gpu_layers, verbose)
    raise CommandEnded(run_prompts(model, load, config, options))


@app.command(
    epilog="Example: echo 'The Rovers won the cup' | llamaherd classify --labels World,Sports"
)
def classify(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts, or one table")
    ] = None,
    labels: Annotated[str, typer.Option(metavar="A,B,...", help="The labels")] = "",
    input: InputOption = None,
    output: OutputOption = "-",
    overwrite: OverwriteOption = False,
    accept_changes: AcceptOption = False,
    retry_failed: RetryFailedOption = False,
    format: FormatOption = None,
    prompt: RowTextOption = None,
    instructions: InstructionsOption = None,
    examples: ExamplesOption = None,
    calibrate: CalibrateOption = False,
    progress: ProgressOption = None,
    quiet: QuietOption = False,
    model: ModelOption = "demo",
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    max_batch_size: BatchOption = 32,
    n_ctx: NCtxOption = None,
    gpu_layers: GpuOption = 0,
    verbose: VerboseOption = False,
) -> None:
    """Give each row the most probable label, with the probability of every one."""
    from llamaherd.cli.classify import LabelOptions, classify_rows, read_examples
    from llamaherd.cli.run import RunOptions, split_names

    names, input = table_argument(texts, input)
    options = RunOptions(
        prompts=names,
        input=input,
        output=output,
        prompt=prompt,
        format=format,
        max_batch_size=max_batch_size,
        overwrite=overwrite,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
        quiet=quiet,
        progress=progress,
    )
    wanted = LabelOptions(split_names(labels), instructions, read_examples(examples), calibrate)
    load = load_options(engine, threads, n_ctx, gpu_layers, verbose)
    raise CommandEnded(classify_rows(model, load, wanted, options))


app.command(epilog="Example: echo 'The Rovers won the cup' | llamaherd embed --dim 8")(embed)


@app.command(epilog="Example: echo 'What is the capital of Peru?' | llamaherd chat --temperature 0")
def chat(
    system: SystemOption = None,
    max_tokens: MaxTokensOption = 500,
    temperature: TemperatureOption = 0.7,
    top_k: TopKOption = 40,
    top_p: TopPOption = 0.9,
    min_p: MinPOption = 0.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    strip_thinking: StripOption = False,
    model: ModelOption = "demo",
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    n_ctx: NCtxOption = None,
    gpu_layers: GpuOption = 0,
    verbose: VerboseOption = False,
) -> None:
    """Talk to a model. /reset forgets the conversation, /exit or the end of input leaves."""
    from llamaherd.cli.chat import talk
    from llamaherd.config import GenerationConfig

    config = GenerationConfig(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=tuple(stop or ()),
        strip_thinking=strip_thinking,
    )
    talk(model, load_options(engine, threads, n_ctx, gpu_layers, verbose), config, system)


@app.command(epilog="Example: echo 'Hello world' | llamaherd tokenize --pieces")
def tokenize(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Default: standard input")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", metavar="FILE", help="A text per line; .jsonl: objects; -: stdin"
        ),
    ] = None,
    model: ModelOption = "demo",
    count: Annotated[bool, typer.Option("--count", help="Only how many")] = False,
    pieces: Annotated[
        bool, typer.Option("--pieces", help="Also what each token stands for")
    ] = False,
    json: Annotated[bool, typer.Option("--json", "--jsonl", help="An object per line")] = False,
    special: Annotated[
        bool, typer.Option("--special", help="Control tokens in the text count")
    ] = False,
    bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Begin as the model wants")] = True,
) -> None:
    """Turn texts into token ids, a line each."""
    from llamaherd.cli.tokenize import TokenizeOptions, tokenize_texts

    if texts == ["-"] and input is None:
        texts, input = None, "-"
    options = TokenizeOptions(count=count, pieces=pieces, json=json, special=special, bos=bos)
    raise CommandEnded(tokenize_texts(model, tuple(texts or ()), input, options))


@app.command(epilog="Example: llamaherd info -m demo")
def info(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Also facts of a model, and its memory"
        ),
    ] = None,
    n_ctx: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens per row for the memory")
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, max=255, help="Rows for the memory")
    ] = 32,
    json: JsonOption = False,
) -> None:
    """Show this machine, the engines, and a model's facts."""
    from llamaherd.cli.info import show_info

    show_info(model, n_ctx=n_ctx, n_rows=max_batch_size, as_json=json)


app.command(epilog="Example: llamaherd bench -m model.gguf --rows 1,16,64")(bench)


@app.command(epilog="Example: llamaherd models")
def models(json: JsonOption = False) -> None:
    """List the models that are on this machine, and how to name them."""
    from llamaherd.cli.models import show_models

    show_models(as_json=json)


@app.command(epilog="Example: llamaherd batch requests.jsonl -o responses.jsonl")
def batch(
    input: Annotated[str, typer.Argument(metavar="FILE", help="Requests, a line each")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Responses; .jsonl")
    ],
    overwrite: OverwriteOption = False,
    accept_changes: AcceptOption = False,
    retry_failed: RetryFailedOption = False,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="Of chat answers whose request does not say")
    ] = 1024,
    progress: ProgressOption = None,
    quiet: QuietOption = False,
    model: ModelOption = "demo",
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    max_batch_size: BatchOption = 32,
    n_ctx: NCtxOption = None,
    gpu_layers: GpuOption = 0,
    verbose: VerboseOption = False,
) -> None:
    """Answer a file of requests in OpenAI's Batch format."""
    from llamaherd.cli.batch import answer_batch
    from llamaherd.cli.run import RunOptions

    options = RunOptions(
        prompts=(),
        input=input,
        output=output,
        max_batch_size=max_batch_size,
        overwrite=overwrite,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
        quiet=quiet,
        progress=progress,
    )
    load = load_options(engine, threads, n_ctx, gpu_layers, verbose)
    raise CommandEnded(answer_batch(model, load, max_tokens, options))


@app.command(
    epilog="Example: llamaherd compare news.csv -m a.gguf -m b.gguf --prompt '{title}' "
    "--labels World,Sports --gold class -o comparison"
)
def compare(
    input: Annotated[str, typer.Argument(metavar="FILE", help="A table")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="Tables and report.html")
    ],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", metavar="MODEL", help="May be repeated")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEMPLATE", help="What to ask; may be repeated")
    ] = None,
    annotators: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Columns that hold answers already; runs no model"),
    ] = "",
    labels: Annotated[str, typer.Option(metavar="A,B,...", help="Classify by these labels")] = "",
    instructions: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to ask when classifying")
    ] = None,
    gold: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The right labels, if known")
    ] = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = 20,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Of the report")] = "Comparison",
    max_batch_size: BatchOption = 32,
    accept_changes: AcceptOption = False,
    retry_failed: RetryFailedOption = False,
    progress: ProgressOption = None,
) -> None:
    """Run models, or prompts, over the same rows, and write tables and a report.

    Each model's part is a job: the same command goes on where it was.
    """
    from llamaherd.cli.compare import CompareOptions, compare_variants
    from llamaherd.cli.run import split_names

    options = CompareOptions(
        input=input,
        directory=output,
        models=tuple(model or ()),
        prompts=tuple(prompt or ()),
        annotators=split_names(annotators),
        labels=split_names(labels),
        instructions=instructions,
        gold=gold,
        system=system,
        max_tokens=max_tokens,
        title=title,
        max_batch_size=max_batch_size,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
        progress=progress,
    )
    raise CommandEnded(compare_variants(options))
