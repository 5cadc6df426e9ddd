"""The commands and their options. What they do is in a module each, imported when needed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llamaherd import __version__

__all__ = ["app"]

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="demo, a GGUF file, hf:org/repo[:quant], ollama:name[:tag] or an https address",
    ),
]
SystemOption = Annotated[str | None, typer.Option(help="System message")]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="Most tokens per answer")]
TemperatureOption = Annotated[float, typer.Option(help="0 always takes the most probable token")]
SeedOption = Annotated[int | None, typer.Option(help="Makes sampling reproducible")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Compute threads")]
NCtxOption = Annotated[int | None, typer.Option(help="Tokens that one row may hold")]
GpuOption = Annotated[int, typer.Option(help="Layers on the GPU, -1 for all")]
EngineOption = Annotated[str, typer.Option(help="auto or llama.cpp")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show llama.cpp's own log")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON")]

app = typer.Typer(
    name="llamaherd",
    help="Many prompts through one local language model (GGUF) at once.",
    no_args_is_help=True,
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
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it")
    ] = False,
) -> None:
    # Whatever the locale says: JSON and answers are UTF-8.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@app.command(epilog="Example: llamaherd demo --rows 200")
def demo(
    model: ModelOption = "demo",
    rows: Annotated[int, typer.Option(min=8, max=100_000, help="Rows of the comparison")] = 200,
    max_batch_size: Annotated[int, typer.Option(min=2, max=255)] = 32,
    threads: ThreadsOption = None,
) -> None:
    """Show what the bundled model can do, and rows one by one beside rows in batches."""
    from llamaherd.cli.demo import show_demo

    show_demo(model, n_rows=rows, max_batch_size=max_batch_size, threads=threads)


@app.command(
    epilog="Example: llamaherd run -i reviews.txt -o out.jsonl --prompt "
    "'Classify the sentiment of this tweet as positive, negative or neutral: {text}'"
)
def run(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts")] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", help="File with one prompt per line, .jsonl, or - for stdin"),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="File to write, or - for standard output")
    ] = "-",
    model: ModelOption = "demo",
    prompt: Annotated[
        str | None,
        typer.Option(help="Template; {text} is the row, other names are fields of a JSONL row"),
    ] = None,
    system: SystemOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template: plain text")] = False,
    format: Annotated[
        str | None,
        typer.Option(help="jsonl or text; default: by the output's name, text on a terminal"),
    ] = None,
    max_tokens: MaxTokensOption = 100,
    temperature: TemperatureOption = 1.0,
    top_k: Annotated[int, typer.Option(min=0)] = 40,
    top_p: Annotated[float, typer.Option()] = 0.9,
    min_p: Annotated[float, typer.Option()] = 0.0,
    seed: SeedOption = None,
    stop: Annotated[list[str] | None, typer.Option(help="May be repeated")] = None,
    logprobs: Annotated[int | None, typer.Option(help="Report this many")] = None,
    timeout_ms: Annotated[float | None, typer.Option(help="Per row")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Attempts after a passing error")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Strip control tokens")] = False,
    strip_thinking: Annotated[bool, typer.Option("--strip-thinking")] = False,
    ordered: Annotated[
        bool | None,
        typer.Option("--ordered/--as-completed", help="Default: ordered for text"),
    ] = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    max_batch_size: Annotated[int, typer.Option(min=1, max=255)] = 32,
    n_ctx: NCtxOption = None,
    gpu_layers: GpuOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Answer prompts from arguments, a file or standard input; write answers as rows complete."""
    from llamaherd.cli.run import RunOptions, run_prompts
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
    )
    options = RunOptions(
        prompts=tuple(prompts or ()),
        input=input,
        output=output,
        template=prompt,
        system=system,
        raw=raw,
        format=format,
        ordered=ordered,
        max_batch_size=max_batch_size,
        overwrite=overwrite,
        quiet=quiet,
    )
    load = {
        "engine": engine,
        "threads": threads,
        "n_ctx": n_ctx,
        "gpu_layers": gpu_layers,
        "verbosity": 2 if verbose else 0,
    }
    raise typer.Exit(run_prompts(model, load, config, options))


@app.command(epilog="Example: llamaherd chat --system 'Answer in one sentence.'")
def chat(
    model: ModelOption = "demo",
    system: SystemOption = None,
    max_tokens: MaxTokensOption = 500,
    temperature: TemperatureOption = 0.7,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    n_ctx: NCtxOption = None,
    gpu_layers: GpuOption = 0,
    verbose: VerboseOption = False,
) -> None:
    """Talk to a model. /reset forgets the conversation, /exit or end of file leaves."""
    from llamaherd.cli.chat import talk
    from llamaherd.config import GenerationConfig
    from llamaherd.models.model import Model

    config = GenerationConfig(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with Model.load(
        model,
        threads=threads,
        n_ctx=n_ctx,
        gpu_layers=gpu_layers,
        verbosity=2 if verbose else 0,
    ) as loaded:
        talk(loaded, config, system)


@app.command(epilog="Example: echo 'Hello world' | llamaherd tokenize --pieces")
def tokenize(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; default: stdin")] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", help="File with one text per line, or -"),
    ] = None,
    model: ModelOption = "demo",
    count: Annotated[bool, typer.Option("--count", help="Only how many")] = False,
    pieces: Annotated[
        bool, typer.Option("--pieces", help="Also what each token stands for")
    ] = False,
    json: JsonOption = False,
    special: Annotated[
        bool, typer.Option("--special", help="Control tokens in the text count")
    ] = False,
    bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Begin as the model wants")] = True,
) -> None:
    """Turn texts into token ids, a line each."""
    from llamaherd.cli.tokenize import TokenizeOptions, tokenize_texts

    options = TokenizeOptions(count=count, pieces=pieces, json=json, special=special, bos=bos)
    tokenize_texts(model, tuple(texts or ()), input, options)


@app.command(epilog="Example: llamaherd info -m model.gguf")
def info(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also facts of a model")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show this machine, the engines, and a model's facts."""
    from llamaherd.cli.info import show_info

    show_info(model, as_json=json)


@app.command(epilog="Example: llamaherd models")
def models(json: JsonOption = False) -> None:
    """List the models that are on this machine, and how to name them."""
    from llamaherd.cli.models import show_models

    show_models(as_json=json)
