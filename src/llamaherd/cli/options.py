"""The options that commands take, with their explanations."""

from __future__ import annotations

from typing import Annotated

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
]

_INPUT, _SAMPLING, _ENGINE = "Input and output", "Generation", "Model and engine"

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
