"""Jobs that embed: a vector for every row of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from llamaherd.embeddings.embedder import Embedder
from llamaherd.errors import ConfigError, JobChanged, LlamaherdError
from llamaherd.jobs.inputs import InputRow, Source
from llamaherd.jobs.job import Job, JobSummary, RecordForm, record_of, run_shown
from llamaherd.jobs.outputs import VECTOR_TABLES, encode_vector, is_log
from llamaherd.jobs.prompts import RowTemplate, TextMaker, read_template
from llamaherd.jobs.work import NumberedRow, Outcome
from llamaherd.models.model import Model
from llamaherd.results import Embedding, RowError

__all__ = ["RowPooling", "VectorOptions", "Vectors", "embed_job", "vector_form"]

RowPooling = Literal["auto", "mean", "cls", "last"]

_RESULTS = frozenset({"index", "success", "embedding", "n_tokens", "error"})
# Rows that are computed, and become durable, together: few enough that little is lost and Ctrl-C
# is soon obeyed, and enough to find texts of like length.
_ROWS_TOGETHER = 256


@dataclass(frozen=True, kw_only=True)
class VectorOptions:
    """How a job embeds.

    Attributes:
        pooling: How a text's token vectors become one; ``"auto"`` is what the model was made for.
        normalize: Scale vectors to length 1.
        dim: Keep only the first values of each vector (Matryoshka); None keeps all.
        prefix: Put before every text, such as ``"passage: "``.
        truncate: Cut texts that are too long for the model, instead of failing them.

    Raises:
        ConfigError: An option is wrong.
    """

    pooling: RowPooling = "auto"
    normalize: bool = True
    dim: int | None = None
    prefix: str = ""
    truncate: bool = False

    def __post_init__(self) -> None:
        _check_pooling(self.pooling, get_args(RowPooling))
        if self.dim is not None and self.dim < 1:
            raise ConfigError(f"dim is {self.dim}; allowed: 1 or more")

    def open(self, model: Model | str | PathLike[str]) -> Embedder:
        """An embedder of this kind; the caller closes it.

        Args:
            model: As for `Embedder`.

        Raises:
            ConfigError: The model's vectors have fewer values than `dim`.
            ModelError: The model cannot be loaded, or cannot do this pooling.
        """
        return Embedder(
            model,
            self.pooling,
            self.normalize,
            dim=self.dim,
            document_prefix=self.prefix,
            truncate=self.truncate,
        )


class Vectors:
    """Embeds every row.

    Args:
        embedder: What `options` opened.
        options: How to embed.
        template: How a row becomes a text; None takes its column ``text``, or a line of text.

    Raises:
        ConfigError: The model was made for something else than one vector per text.
    """

    def __init__(
        self, embedder: Embedder, options: VectorOptions, template: RowTemplate | None = None
    ) -> None:
        _check_pooling(embedder.pooling, get_args(RowPooling))
        self._embedder = embedder
        self._texts = TextMaker(template)
        self.columns = self._texts.columns
        self._settings = {
            "task": "embed",
            "prompt": template.source if template is not None else None,
            # What came of the options, so that a default may also be written out.
            "pooling": embedder.pooling,
            "dim": embedder.n_dimensions,
            "normalize": options.normalize,
            "prefix": options.prefix,
            "truncate": options.truncate,
        }

    def settings(self) -> dict[str, Any]:
        """How texts are made, and how they are embedded."""
        return self._settings

    def go_on(self, settings: Mapping[str, Any]) -> None:
        """Refuse to mix vectors of different lengths, also if changes are accepted.

        Raises:
            JobChanged: The vectors of the rows that are done have another length.
        """
        known, wanted = settings.get("dim"), self._embedder.n_dimensions
        if known not in (None, wanted):
            raise JobChanged(
                f"dim: {known} -> {wanted}: vectors of one job have one length; take the old "
                "model and dim, name another output, or begin anew with overwrite (--overwrite)"
            )

    def outcomes(self, rows: Iterator[NumberedRow]) -> Iterator[Outcome]:
        """Embed the rows, in their order."""
        for together in _together(rows):
            texts: list[str] = []
            errors: list[LlamaherdError | None] = []
            for _, row in together:
                try:
                    text, error = self._texts.of(row), None
                except LlamaherdError as problem:
                    # An empty text fails, and this error takes the place of that one.
                    text, error = "", problem
                texts.append(text)
                errors.append(error)
            found = self._embedder.embed_iter(texts, "document")
            for (index, row), embedding, error in zip(together, found, errors, strict=True):
                yield _outcome(index, row, embedding, error)


def vector_form(output: str | PathLike[str] | None = None) -> RecordForm:
    """How rows with vectors are written.

    In JSON lines that are the output a vector is a list of numbers, with the digits that give the
    same float32 back. In the log of another output it is shorter; see `encode_vector`.

    Args:
        output: The output of a job; None if lines go to a stream.

    Raises:
        ConfigError: The output is a table whose cells cannot hold vectors.
    """
    if output is None or is_log(Path(output)):
        return RecordForm(_with_numbers, tables=VECTOR_TABLES)
    ending = Path(output).suffix.lower()
    if ending in (".csv", ".tsv", ".txt"):
        raise ConfigError(
            f"the output is {Path(output).name!r}, but a {ending} file has no place for vectors; "
            "name one that ends in .parquet, .npy or .jsonl"
        )
    return RecordForm(_with_bytes, tables=VECTOR_TABLES)


def embed_job(
    source: Source,
    output: str | PathLike[str],
    *,
    model: Model | str | PathLike[str] = "demo",
    prompt: str | None = None,
    prompt_file: str | None = None,
    pooling: RowPooling = "auto",
    normalize: bool = True,
    dim: int | None = None,
    prefix: str = "",
    truncate: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    retry_failed: bool = False,
    progress: bool | None = None,
) -> JobSummary:
    """Embed every row of a table, durably: after a crash the same call goes on where it was.

    Example:
        >>> from llamaherd import embed_job
        >>> rows = [{"title": "The cup is ours."}, {"title": "Shares rose."}]
        >>> summary = embed_job(rows, "news.parquet", prompt="{title}", prefix="passage: ")

    Args:
        source: As for `run_job`.
        output: A path. ``.parquet`` has the columns of the input, ``embedding`` (float32, `dim`
            values, null if the row failed), ``n_tokens`` and ``error``; ``.npy`` is float32
            ``[n_rows, dim]`` in the order of the input, NaN where a row failed; ``.jsonl`` is
            written as rows finish, with vectors as lists of numbers.
        model: A model, or anything that `Model.load` takes.
        prompt: The text of a row, with columns in braces: ``"{title}. {body}"``. None takes the
            row's own ``text``.
        prompt_file: A Jinja template instead, in which columns are variables.
        pooling: How a text's token vectors become one: ``"mean"``, ``"cls"``, ``"last"``, or
            ``"auto"``, what the model was made for.
        normalize: Scale vectors to length 1.
        dim: Keep only the first values of each vector (Matryoshka), before they are normalized.
        prefix: Put before every text.
        truncate: Cut texts that are too long for the model, instead of failing them.
        overwrite: Begin anew if the output exists.
        accept_changes: Go on although the model, the prompt, the input or the settings changed.
        retry_failed: Run rows again that failed before.
        progress: True shows a bar, False none, None one in an interactive terminal or notebook.

    Returns:
        How it went; `failures` names the first of the `n_failed` rows.

    Raises:
        JobChanged: The output belongs to a job with another model, prompt, input or settings.
        ConfigError, InputError, OutputError, ModelError: It cannot run. Rows that are finished
            stay finished, also if you interrupt it.
    """
    options = VectorOptions(
        pooling=pooling, normalize=normalize, dim=dim, prefix=prefix, truncate=truncate
    )
    template = read_template(prompt, prompt_file)
    job = Job(
        source,
        output,
        overwrite=overwrite,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
        form=vector_form(output),
    )
    with options.open(model) as embedder:
        return run_shown(job, embedder.model, Vectors(embedder, options, template), progress)


def _check_pooling(pooling: str, allowed: tuple[str, ...]) -> None:
    if pooling in allowed:
        return
    why = {
        "none": "a job gives one vector per row, and without pooling there is one per token; "
        "Embedder.embed_iter gives those",
        "rank": "a job gives one vector per row, and a reranker gives a score",
    }
    names = ", ".join(f'"{name}"' for name in allowed)
    raise ConfigError(f"pooling is {pooling!r}; {why.get(pooling, f'allowed: {names}')}")


def _together(rows: Iterator[NumberedRow]) -> Iterator[list[NumberedRow]]:
    """Neighbors that are computed together, the same ones when a job goes on.

    What shares a batch tells in llama.cpp's last bits.
    """
    group: list[NumberedRow] = []
    for row in rows:
        if group and row[0] // _ROWS_TOGETHER != group[0][0] // _ROWS_TOGETHER:
            yield group
            group = []
        group.append(row)
        # A row that is read ahead would be computed alone if the job is stopped here.
        if (row[0] + 1) % _ROWS_TOGETHER == 0:
            yield group
            group = []
    if group:
        yield group


def _outcome(
    index: int, row: InputRow, embedding: Embedding, error: LlamaherdError | None
) -> Outcome:
    problem = RowError.from_exception(error) if error is not None else embedding.error
    return Outcome(
        index,
        row,
        {
            "embedding": embedding.vector if problem is None else None,
            "n_tokens": embedding.n_tokens,
            "error": {"type": problem.type, "message": problem.message} if problem else None,
        },
        problem,
        prompt_tokens=embedding.n_tokens,
    )


def _with_numbers(outcome: Outcome) -> dict[str, Any]:
    record = record_of(outcome, _RESULTS)
    if (vector := record["embedding"]) is not None:
        record["embedding"] = [float(f"{value:.9g}") for value in vector.tolist()]
    return record


def _with_bytes(outcome: Outcome) -> dict[str, Any]:
    record = record_of(outcome, _RESULTS)
    if (vector := record["embedding"]) is not None:
        record["embedding"] = encode_vector(vector)
    return record
