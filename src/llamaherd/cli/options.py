"""The options that commands take, with their explanations."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

__all__ = [
    "AcceptOption",
    "ChoicesOption",
    "GrammarOption",
    "JsonSchemaOption",
    "RegexOption",
    "BatchOption",
    "CleanOption",
    "EngineOption",
    "FormatOption",
    "GpuOption",
    "IgnoreEosOption",
    "InputOption",
    "JsonOption",
    "LogprobsOption",
    "MaxTokensOption",
    "MinPOption",
    "ModelOption",
    "NCtxOption",
    "OrderedOption",
    "OutputOption",
    "OverwriteOption",
    "ProgressOption",
    "PromptFileOption",
    "QuietOption",
    "RawOption",
    "RetriesOption",
    "RetryFailedOption",
    "SeedOption",
    "StopOption",
    "StripOption",
    "SystemOption",
    "TemperatureOption",
    "TemplateOption",
    "ThreadsOption",
    "TimeoutOption",
    "TopKOption",
    "TopPOption",
    "VerboseOption",
    "CalibrateOption",
    "DimOption",
    "ExamplesOption",
    "InstructionsOption",
    "NormalizeOption",
    "PoolingOption",
    "PrefixOption",
    "RowTextOption",
    "TruncateOption",
    "VectorOutputOption",
    "load_options",
    "table_argument",
]

_INPUT, _SAMPLING, _ENGINE = "Input and output", "Generation", "Model and engine"
_VECTORS = "Vectors"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        rich_help_panel=_ENGINE,
        help="demo, a GGUF file, hf:org/repo[:quant], ollama:name[:tag], https://...",
    ),
]
SystemOption = Annotated[
    str | None, typer.Option(metavar="TEXT", rich_help_panel=_INPUT, help="System message")
]
MaxTokensOption = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=_SAMPLING, help="Most tokens per answer")
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        metavar="X", rich_help_panel=_SAMPLING, help="0 always takes the most probable token"
    ),
]
TopKOption = Annotated[
    int,
    typer.Option(metavar="N", rich_help_panel=_SAMPLING, help="Keep the N most probable; 0: all"),
]
TopPOption = Annotated[
    float,
    typer.Option(metavar="X", rich_help_panel=_SAMPLING, help="Keep the most probable, X in sum"),
]
MinPOption = Annotated[
    float,
    typer.Option(
        metavar="X", rich_help_panel=_SAMPLING, help="Drop those below X times the most probable"
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=_SAMPLING, help="Makes sampling reproducible"),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", rich_help_panel=_SAMPLING, help="Ends the answer; may be repeated"
    ),
]
StripOption = Annotated[
    bool,
    typer.Option("--strip-thinking", rich_help_panel=_SAMPLING, help="Remove <think>...</think>"),
]
EngineOption = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=_ENGINE, help="auto, native or llama.cpp")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=_ENGINE, help="Compute threads; default: all CPUs"),
]
NCtxOption = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=_ENGINE, help="Tokens that one row may hold"),
]
GpuOption = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=_ENGINE, help="Layers on the GPU; -1: all")
]
BatchOption = Annotated[
    int,
    typer.Option(metavar="N", rich_help_panel=_ENGINE, help="Rows in work together, up to 255"),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", rich_help_panel=_ENGINE, help="Show llama.cpp's own log")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON")]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE",
        rich_help_panel=_INPUT,
        help="A prompt per line; tables: .csv, .tsv, .parquet, .jsonl; -: stdin",
    ),
]
OutputOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=_INPUT,
        help=".jsonl, .csv, .tsv, .parquet, .txt; -: stdout. A file goes on where it was",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=_INPUT, help="Begin an output file anew")
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_INPUT,
        help="Of standard output: jsonl or text. Default: text on a terminal",
    ),
]
OrderedOption = Annotated[
    bool | None,
    typer.Option(
        "--ordered/--as-completed",
        rich_help_panel=_INPUT,
        help="As in the input, or as rows end. Default: ordered for text",
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEMPLATE",
        rich_help_panel=_INPUT,
        help="What to ask: {title} is a column, {text} a line of text",
    ),
]
PromptFileOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", rich_help_panel=_INPUT, help="A Jinja template instead"),
]
JsonSchemaOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=_SAMPLING, help="Answers are JSON under this schema"
    ),
]
RegexOption = Annotated[
    str | None,
    typer.Option(metavar="REGEX", rich_help_panel=_SAMPLING, help="Answers match this"),
]
ChoicesOption = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", rich_help_panel=_SAMPLING, help="Answers are one of these"),
]
GrammarOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=_SAMPLING, help="Answers follow this grammar: Lark or GBNF"
    ),
]
AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-changes", rich_help_panel=_INPUT, help="Go on although settings have changed"
    ),
]
RetryFailedOption = Annotated[
    bool,
    typer.Option(
        "--retry-failed", rich_help_panel=_INPUT, help="Run rows of the output again that failed"
    ),
]
RawOption = Annotated[
    bool,
    typer.Option("--raw", rich_help_panel=_INPUT, help="Plain text without the chat template"),
]
ProgressOption = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", rich_help_panel=_INPUT, help="Default: on a terminal"),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=_INPUT, help="No progress, no summary")
]
LogprobsOption = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=_SAMPLING, help="Report them, with N alternatives"),
]
IgnoreEosOption = Annotated[
    bool, typer.Option("--ignore-eos", rich_help_panel=_SAMPLING, help="Go on to --max-tokens")
]
CleanOption = Annotated[
    bool, typer.Option("--clean", rich_help_panel=_SAMPLING, help="Strip control tokens")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(metavar="X", rich_help_panel=_SAMPLING, help="Longest time of a row"),
]
RetriesOption = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=_SAMPLING, help="After an error that may pass")
]
RowTextOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEMPLATE",
        rich_help_panel=_INPUT,
        help="The text of a row: '{title}. {body}'. Default: the column text",
    ),
]
InstructionsOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What to ask, with {labels} and {text}")
]
ExamplesOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="CSV with the columns text and label")
]
CalibrateOption = Annotated[
    bool, typer.Option("--calibrate", help="Correct for labels that the model prefers anyway")
]
VectorOutputOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=_INPUT,
        help=".parquet, .npy, .jsonl; -: stdout, as JSON lines. A file goes on where it was",
    ),
]
PrefixOption = Annotated[
    str,
    typer.Option(
        metavar="TEXT", rich_help_panel=_INPUT, help="Put before every text, as 'passage: '"
    ),
]
PoolingOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_VECTORS,
        help="auto (what the model was made for), mean, cls or last",
    ),
]
NormalizeOption = Annotated[
    bool,
    typer.Option("--normalize/--no-normalize", rich_help_panel=_VECTORS, help="To length 1"),
]
DimOption = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=_VECTORS, help="Keep only the first N values"),
]
TruncateOption = Annotated[
    bool,
    typer.Option(
        "--truncate", rich_help_panel=_VECTORS, help="Cut long texts instead of failing them"
    ),
]


def table_argument(
    prompts: list[str] | None, input: str | None
) -> tuple[tuple[str, ...], str | None]:
    """Prompts and the input, which is also a single argument that is a table's name or "-".

    Raises:
        InputError: It is the name of a table that does not exist.
    """
    if prompts and len(prompts) == 1 and input is None:
        if prompts[0] == "-":
            return (), "-"
        is_table = prompts[0].lower().endswith((".csv", ".tsv", ".parquet", ".jsonl", ".ndjson"))
        if is_table and os.path.isfile(prompts[0]):
            return (), prompts[0]
        if is_table and len(prompts[0].split()) == 1:
            from llamaherd.errors import InputError

            raise InputError(f"there is no file {prompts[0]}; check the name")
    return tuple(prompts or ()), input


def load_options(
    engine: str, threads: int | None, n_ctx: int | None, gpu_layers: int, verbose: bool
) -> dict[str, Any]:
    """Arguments of `Model.load`."""
    return {
        "engine": engine,
        "threads": threads,
        "n_ctx": n_ctx,
        "gpu_layers": gpu_layers,
        "verbosity": 2 if verbose else 0,
    }
