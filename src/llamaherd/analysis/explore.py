"""Several models, or several ways to ask, over the same rows."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from llamaherd.analysis.prompt_options import PromptOptions, named_prompts
from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, OutputError
from llamaherd.jobs.inputs import Source
from llamaherd.jobs.job import RESULT_COLUMNS, Job, JobSummary
from llamaherd.jobs.prompts import PromptMaker, TextMaker
from llamaherd.jobs.work import Answers, Labels, NumberedRow, Outcome, Work
from llamaherd.processing.classify import Classifier
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.processing.progress import is_interactive, show_progress

__all__ = ["Exploration", "Variant", "explore"]

_SPEED_POINTS = 200


@dataclass(frozen=True)
class Variant:
    """One model with one way to ask.

    Attributes:
        name: Its name in the tables.
        model: The model.
        prompt: The prompt, or None.
        facts: Facts about the model.
        settings: What decides about the results beside the model, as plain data: with labels,
            ``prompt``, ``instructions`` and ``examples``, else ``prompt``, ``system``, ``examples``
            and ``config``.
        summary: How its job went.
        speed: Rows done after so many seconds, for all runs of the job: (seconds, rows). Loading
            is not counted.
    """

    name: str
    model: str
    prompt: str | None
    facts: Mapping[str, Any]
    settings: Mapping[str, Any]
    summary: JobSummary
    speed: Sequence[tuple[float, int]]


@dataclass(frozen=True)
class Exploration:
    """What `explore` found. The tables are read from the disk when they are asked for.

    Attributes:
        directory: Where each variant's rows are, in files that can be continued.
        variants: What was run.
        labels: The labels, if rows were classified.
    """

    directory: Path
    variants: Sequence[Variant]
    labels: tuple[str, ...] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the variants."""
        return [variant.name for variant in self.variants]

    def long(self) -> list[dict[str, Any]]:
        """A record per row and variant, with the column ``variant``; ordered by row."""
        records = [
            {"variant": variant.name, **record}
            for variant in self.variants
            for record in _records(variant.summary.output)
        ]
        return sorted(records, key=lambda record: record["index"])

    def wide(self) -> list[dict[str, Any]]:
        """A record per row: its columns, and the answer (or label) of each variant.

        A variant's name is its column; rows that failed have None there. With labels,
        ``NAME probability`` is beside it. A column of the input that is called like one of these
        becomes ``input_NAME``.
        """
        rows: dict[int, dict[str, Any]] = {}
        taken = {"index", *self.names, *(f"{name} probability" for name in self.names)}
        for variant in self.variants:
            for record in _records(variant.summary.output):
                row = rows.get(record["index"])
                if row is None:
                    row = rows[record["index"]] = _input_columns(record, taken)
                row[variant.name] = _answer(record)
                if self.labels is not None:
                    row[f"{variant.name} probability"] = record.get("probability")
        return [rows[index] for index in sorted(rows)]


def explore(
    models: Sequence[str | PathLike[str]] | Mapping[str, str | PathLike[str]],
    source: Source,
    directory: str | PathLike[str],
    *,
    prompts: str | PromptOptions | Mapping[str, str | PromptOptions] | None = None,
    labels: Sequence[str] | None = None,
    instructions: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
    config: GenerationConfig | None = None,
    system: str | None = None,
    max_batch_size: int = 32,
    progress: bool | None = None,
    accept_changes: bool = False,
    retry_failed: bool = False,
) -> Exploration:
    """Run every model, with every prompt, over the same rows, one after the other.

    Each variant is a job of its own in the directory: after a crash or an interruption, the same
    call does only what is missing.

    Args:
        models: Sources for `Model.load`, or a mapping from names to them.
        source: A path, a frame, or a list; it is read once for each variant.
        directory: Made if it does not exist.
        prompts: What to ask, with columns in braces; a mapping from names compares several. With
            `labels`, the text that is classified. `PromptOptions` instead of a text gives a variant
            instructions, a system message or examples of its own.
        labels: Classify rows by these labels instead of generating.
        instructions: What the model is asked when it classifies; see `Classifier`.
        examples: (text, answer) pairs, shown to the model as questions and answers before each row.
        config: How to generate; greedy if None.
        system: System message of answers.
        max_batch_size: Rows in work at the same time.
        progress: Show a bar for each; None does in an interactive terminal or notebook.
        accept_changes: Go on although settings changed.
        retry_failed: Run rows again that failed before.

    Raises:
        ConfigError, InputError, OutputError, ModelError: It cannot run; rows that are finished
            stay finished.
        JobChanged: The directory has rows of another model, prompt or input.
    """
    named_models = _named_models(models)
    default = PromptOptions(system=system, instructions=instructions, examples=examples)
    asked = named_prompts(prompts, default, labels)
    files = _files(named_models, asked)
    if isinstance(source, Iterator) or source == "-":
        kind = "standard input" if source == "-" else "an iterator"
        raise ConfigError(f"the source is {kind}, which can be read only once; give a file or list")
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}") from error
    variants: list[Variant] = []
    for model_name, model in named_models.items():
        with ParallelProcessor(model, max_batch_size=max_batch_size) as processor:
            for prompt_name, options in asked.items():
                name = _variant_name(model_name, prompt_name, named_models, asked)
                work: Work
                if labels is not None:
                    work = _labeling(processor, labels, options)
                else:
                    work = _answering(processor, config or GenerationConfig.greedy(), options)
                output = folder / files[name]
                job = Job(source, output, accept_changes=accept_changes, retry_failed=retry_failed)
                speed = _Speed(output)
                watched = _Watched(work, name, job.count(), progress, speed)
                try:
                    summary = job.run(processor.model, watched, speed.add)
                finally:
                    speed.save()
                variants.append(
                    Variant(
                        name,
                        model_name,
                        options.prompt,
                        _facts(processor),
                        work.settings(),
                        summary,
                        speed.points,
                    )
                )
    return Exploration(folder, variants, tuple(labels) if labels is not None else None)


def _answering(
    processor: ParallelProcessor, config: GenerationConfig, options: PromptOptions
) -> Answers:
    maker = PromptMaker(
        processor.model,
        options.template,
        system=options.system,
        raw=False,
        examples=options.examples or (),
    )
    return Answers(processor, maker, config)


def _labeling(
    processor: ParallelProcessor, labels: Sequence[str], options: PromptOptions
) -> Labels:
    classifier = Classifier(
        processor, labels, instructions=options.instructions, examples=options.examples
    )
    settings: dict[str, Any] = {
        "labels": list(labels),
        "instructions": options.instructions or None,
        "prompt": options.prompt,
    }
    # Without examples there is no entry, as in jobs that were begun before there were any.
    if options.examples:
        settings["examples"] = [list(example) for example in options.examples]
    return Labels(classifier, TextMaker(options.template), settings)


class _Speed:
    """Rows over time, kept beside the rows, so that a job that goes on goes on here too.

    Attributes:
        points: (seconds, rows).
    """

    def __init__(self, output: Path) -> None:
        self._path = output.with_name(output.name + ".speed.json")
        self.points = _read_points(self._path) if output.exists() else []
        self._before_s, self._n_before = self.points[-1] if self.points else (0.0, 0)
        self._began_s = 0.0
        self._n_done = 0

    def begin(self) -> None:
        """Start the clock: the rows are about to be computed."""
        self._began_s = time.perf_counter()
        if not self.points:
            self.points.append((0.0, 0))

    def add(self, outcome: Outcome) -> None:
        """Count a row."""
        self._n_done += 1
        seconds = self._before_s + time.perf_counter() - self._began_s
        self.points.append((seconds, self._n_before + self._n_done))
        if len(self.points) > 2 * _SPEED_POINTS:
            del self.points[1:-1:2]

    def save(self) -> None:
        """Keep the points for the next run.

        Raises:
            OutputError: They cannot be written.
        """
        try:
            self._path.write_text(json.dumps(self.points), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error


def _read_points(path: Path) -> list[tuple[float, int]]:
    """The points of earlier runs; none if they were lost, which costs no row."""
    try:
        return [(float(s), int(n)) for s, n in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


class _Watched:
    """Work that is timed, and shows its name and progress."""

    def __init__(
        self, work: Work, name: str, n_total: int | None, progress: bool | None, speed: _Speed
    ) -> None:
        self._work = work
        self._name = name
        self._n_total = n_total
        self._is_shown = progress or (progress is None and is_interactive())
        self._speed = speed
        self.columns = work.columns
        self.settings = work.settings
        self.go_on = work.go_on

    def outcomes(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        """The outcomes of the work."""
        outcomes = self._work.outcomes(rows)
        self._speed.begin()
        if not self._is_shown:
            return outcomes
        return show_progress(
            outcomes,
            self._n_total,
            lambda o: (o.prompt_tokens + o.generated_tokens, o.error is None),
            title=self._name,
        )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _input_columns(record: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """The row's own columns, called as in the input unless the name is taken."""
    columns = {"index": record["index"]}
    for name, value in record.items():
        if name in RESULT_COLUMNS:
            continue
        own = name.removeprefix("input_")
        own = own if own in RESULT_COLUMNS else name
        columns[f"input_{own}" if own in taken else own] = value
    return columns


def _answer(record: Mapping[str, Any]) -> str | None:
    if not record["success"]:
        return None
    answer = record["label"] if "label" in record else record["text"]
    return str(answer).strip()


def _named_models(
    models: Sequence[str | PathLike[str]] | Mapping[str, str | PathLike[str]],
) -> dict[str, str]:
    if isinstance(models, (str, PathLike)):
        raise ConfigError(f"models is {models!r}; give a list of models")
    if not models:
        raise ConfigError("models is empty; give at least one")
    if isinstance(models, Mapping):
        return {str(name): fspath(model) for name, model in models.items()}
    named: dict[str, str] = {}
    for model in models:
        source = fspath(model)
        name = _short_name(source)
        if name in named:
            raise ConfigError(
                f"models has {named[name]!r} and {source!r}, which would both be called "
                f"{name!r}; give a mapping from names to models"
            )
        named[name] = source
    return named


def _short_name(source: str) -> str:
    return Path(source).stem if source.lower().endswith(".gguf") else source


def _variant_name(
    model: str, prompt: str, models: Mapping[str, Any], prompts: Mapping[str, Any]
) -> str:
    """What tells a variant from the others."""
    if len(prompts) == 1:
        return model
    return prompt if len(models) == 1 else f"{model}, {prompt}"


def _files(models: Mapping[str, Any], prompts: Mapping[str, Any]) -> dict[str, str]:
    """The file of every variant; each needs one of its own, also where case does not count."""
    files: dict[str, str] = {}
    seen: dict[str, str] = {}
    for model, prompt in itertools.product(models, prompts):
        name = _variant_name(model, prompt, models, prompts)
        file = (re.sub(r"[^\w.-]+", "_", name).strip("_.") or "variant") + ".jsonl"
        other = seen.setdefault(file.casefold(), name)
        if other != name:
            raise ConfigError(f"{other!r} and {name!r} would share the file {file}; rename one")
        files[name] = file
    return files


def _facts(processor: ParallelProcessor) -> dict[str, Any]:
    info = processor.model.info
    return {
        "architecture": info.architecture,
        "parameters": info.n_params,
        "quantization": info.quantisation,
        "engine": info.engine,
        "size_bytes": info.size_bytes,
    }
