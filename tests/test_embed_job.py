"""Jobs that embed: every table in, vectors out, exactly those of `Embedder`, none lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pytest

from cli_process import llamaherd, records
from llamaherd import ConfigError, Embedder, InputError, JobChanged, Model, embed_job

TITLES = ["The Rovers won the cup.", "Shares of Orbex rose.", "Größe: naïve 日本語", "hello"]
ROWS = [{"title": title, "n": i} for i, title in enumerate(TITLES)]


def embedded(texts: list[str], **options: Any) -> np.ndarray:
    with Embedder("demo", **options) as embedder:
        return embedder.embed(texts)


def vectors(path: Path) -> np.ndarray:
    """Float32 vectors of any output, in the order of the input, NaN where there is none."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".parquet":
        rows = polars.read_parquet(path).to_dicts()
    else:
        rows = records(path.read_text(encoding="utf-8"))
    width = max(len(row["embedding"] or ()) for row in rows)
    found = [row["embedding"] or [np.nan] * width for row in rows]
    return np.array(found, np.float32)


def test_every_input_and_every_output(tmp_path: Path, demo: Model) -> None:
    frame = polars.DataFrame(ROWS)
    frame.write_csv(tmp_path / "in.csv")
    frame.write_csv(tmp_path / "in.tsv", separator="\t")
    frame.write_parquet(tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = [tmp_path / f"in.{kind}" for kind in ("csv", "tsv", "parquet", "jsonl")]
    expected = embedded(TITLES)
    kinds = ("npy", "parquet", "jsonl")
    for i, source in enumerate([*files, frame, pandas.DataFrame(ROWS), ROWS, iter(ROWS)]):
        output = tmp_path / f"out{i}.{kinds[i % 3]}"
        summary = embed_job(source, output, model=demo, prompt="{title}")
        assert summary.is_complete and (summary.n_done, summary.n_failed) == (4, 0)
        found = vectors(output)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert not output.with_name(output.name + ".log.jsonl").exists()
    again = embed_job(files[0], tmp_path / "out0.npy", model=demo, prompt="{title}")
    assert again.is_complete and again.n_done == 0


def test_every_output_has_the_same_bits(tmp_path: Path, demo: Model) -> None:
    """Numbers in JSON and base64 in the log lose nothing."""
    outputs = [tmp_path / f"out.{kind}" for kind in ("npy", "parquet", "jsonl")]
    rows = [*ROWS, {"title": ""}]
    for output in outputs:
        embed_job(rows, output, model=demo, prompt="{title}", normalize=False)
    first, *others = [vectors(output) for output in outputs]
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert np.isnan(first[4]).all() and not np.isnan(first[:4]).any()


def test_columns_of_parquet(tmp_path: Path, demo: Model) -> None:
    from pyarrow import float32, parquet

    output = tmp_path / "out.parquet"
    source = [{"text": "hello", "n": 1, "error": "mine"}, {"text": " ", "n": 2, "error": None}]
    summary = embed_job(source, output, model=demo, dim=8)
    assert summary.n_failed == 1 and "the text is empty" in summary.failures[0]
    table = parquet.read_table(output)
    kind = table.schema.field("embedding").type
    assert kind.list_size == 8 and kind.value_type == float32()
    good, bad = table.to_pylist()
    assert list(good) == "index success text n input_error embedding n_tokens error".split()
    assert (good["text"], good["n"], good["input_error"]) == ("hello", 1, "mine")
    assert good["success"] and good["n_tokens"] > 0 and good["error"] is None
    assert not bad["success"] and bad["embedding"] is None and "empty" in bad["error"]


def test_options_are_those_of_the_embedder(tmp_path: Path, demo: Model) -> None:
    for i, options in enumerate(
        ({"pooling": "mean"}, {"pooling": "cls", "normalize": False}, {"dim": 32})
    ):
        output = tmp_path / f"{i}.npy"
        embed_job(TITLES, output, model=demo, **options)
        np.testing.assert_allclose(vectors(output), embedded(TITLES, **options), atol=1e-4)
    embed_job(TITLES, tmp_path / "prefix.npy", model=demo, prefix="passage: ")
    expected = embedded([f"passage: {title}" for title in TITLES])
    np.testing.assert_allclose(vectors(tmp_path / "prefix.npy"), expected, atol=1e-5)


def test_a_text_that_is_too_long(tmp_path: Path, demo: Model) -> None:
    long = "word " * demo.info.n_ctx_train
    failed = embed_job(["fine", long], tmp_path / "out.npy", model=demo)
    assert failed.n_failed == 1 and "PromptTooLong" in failed.failures[0]
    assert np.isnan(vectors(tmp_path / "out.npy")[1]).all()
    cut = embed_job(["fine", long], tmp_path / "cut.npy", model=demo, truncate=True)
    assert cut.n_failed == 0
    again = embed_job(["fine", "fine"], tmp_path / "out.npy", model=demo, retry_failed=True)
    assert (again.n_before, again.n_done, again.n_failed) == (1, 1, 0)
    np.testing.assert_allclose(*vectors(tmp_path / "out.npy"), atol=1e-4)


def test_a_job_that_changed_is_refused(tmp_path: Path, demo: Model) -> None:
    output = tmp_path / "out.npy"
    embed_job([*TITLES, ""], output, model=demo)
    # What the model does anyway may be written out.
    assert embed_job([*TITLES, ""], output, model=demo, pooling="last", dim=256).n_done == 0
    for options, said in (
        ({"pooling": "mean"}, 'pooling: "last" -> "mean"'),
        ({"normalize": False}, "normalize: true -> false"),
        ({"prefix": "query: "}, 'prefix: "" -> "query: "'),
        ({"truncate": True}, "truncate: false -> true"),
        ({"prompt": "{prompt}!"}, "prompt: null -> "),
        ({"dim": 8}, "dim: 256 -> 8"),
        ({"dim": 8, "accept_changes": True}, "dim: 256 -> 8"),
    ):
        with pytest.raises(JobChanged, match=said):
            embed_job([*TITLES, ""], output, model=demo, **options)
    assert vectors(output).shape == (5, 256)
    assert embed_job(TITLES, output, model=demo, dim=8, overwrite=True).n_done == 4
    assert vectors(output).shape == (4, 8)


def test_what_cannot_be(tmp_path: Path, demo: Model) -> None:
    table = tmp_path / "in.csv"
    table.write_text("title\nPeru\n")
    for source, output, options, error, said in (
        (TITLES, "out.csv", {}, ConfigError, r"\.parquet, \.npy or \.jsonl"),
        (TITLES, "out.xlsx", {}, ConfigError, r"allowed endings: .*\.npy"),
        (TITLES, "out.npy", {"pooling": "none"}, ConfigError, "one vector per row"),
        (TITLES, "out.npy", {"pooling": "rank"}, ConfigError, "reranker"),
        (TITLES, "out.npy", {"pooling": "max"}, ConfigError, '"mean"'),
        (TITLES, "out.npy", {"dim": 0}, ConfigError, "dim is 0"),
        (TITLES, "out.npy", {"dim": 1000}, ConfigError, "have 256"),
        (table, "out.npy", {}, InputError, "no column 'text'; there are: title"),
    ):
        with pytest.raises(error, match=said):
            embed_job(source, tmp_path / output, model=demo, **options)
    assert list(tmp_path.iterdir()) == [table]


def test_the_command(tmp_path: Path) -> None:
    """Files, standard input, arguments, exit codes, and what is said where."""
    output = tmp_path / "out.npy"
    (tmp_path / "in.csv").write_text("title,body\nCup,won\n,\nShares,rose\n")
    command = ["embed", str(tmp_path / "in.csv"), "-o", str(output), "--prompt={title}"]
    done = llamaherd(*command)
    assert done.returncode == 2 and not done.stdout
    assert "in.csv, line 3: the text is empty" in done.stderr and "3/3 rows" in done.stderr
    expected = embedded(["Cup", "Shares"])
    np.testing.assert_allclose(vectors(output)[[0, 2]], expected, atol=1e-4)
    assert np.isnan(vectors(output)[1]).all()
    changed = llamaherd(*command, "--pooling=mean")
    assert changed.returncode == 1 and "JobChanged" in changed.stderr

    text = tmp_path / "in.txt"
    text.write_text("Cup\nShares\n")
    for arguments, stdin in ((["Cup", "Shares"], ""), (["-i", str(text)], ""), ([], "Cup\nShares")):
        done = llamaherd("embed", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        found = records(done.stdout)
        assert [row["prompt"] for row in found] == ["Cup", "Shares"]
        np.testing.assert_allclose([row["embedding"] for row in found], expected, atol=1e-4)
    refused = llamaherd("embed", "Cup", "-o", str(tmp_path / "out.csv"))
    assert refused.returncode == 1 and ".npy" in refused.stderr


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_going_on_gives_the_same_file(tmp_path: Path, demo: Model, kind: str) -> None:
    whole, output = tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    # The row that fails keeps the log.
    source = ["", *(f"Story {i} " * (i % 7 + 1) for i in range(600))]
    embed_job(source, whole, model=demo)
    lines = (tmp_path / f"whole.{kind}.log.jsonl").read_bytes().splitlines(keepends=True)
    # As a crash leaves it: some rows, and half of a line.
    (tmp_path / f"out.{kind}.log.jsonl").write_bytes(b"".join(lines[:256]) + lines[256][:900])
    settings = (tmp_path / f"whole.{kind}.log.jsonl.job.json").read_bytes()
    (tmp_path / f"out.{kind}.log.jsonl.job.json").write_bytes(settings)
    summary = embed_job(source, output, model=demo)
    assert (summary.n_before, summary.n_done, summary.n_failed) == (256, 345, 1)
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes and SIGKILL")
def test_interrupted_and_killed(tmp_path: Path) -> None:
    """Rows come through a pipe, so that the command is in the middle when it is ended."""
    pipe, output = tmp_path / "in.jsonl", tmp_path / "out.npy"
    log = tmp_path / "out.npy.log.jsonl"
    os.mkfifo(pipe)
    texts = [f"Story {i}" for i in range(700)]
    command = ["embed", "-i", str(pipe), "-o", str(output), "--prompt={title}"]
    n_safe = 0
    for end, n_rows in ((signal.SIGINT, 300), (signal.SIGKILL, 600), (None, 700)):
        process = subprocess.Popen(
            [sys.executable, "-m", "llamaherd", *command], stderr=subprocess.PIPE, text=True
        )
        with pipe.open("w") as file:
            file.writelines(json.dumps({"title": text}) + "\n" for text in texts[:n_rows])
            file.flush()
            if end is not None:
                deadline = time.monotonic() + 60
                while not (log.exists() and log.read_bytes().count(b"\n") > n_safe):
                    assert time.monotonic() < deadline and process.poll() is None
                    time.sleep(0.02)
                process.send_signal(end)
                _, said = process.communicate(timeout=60)
                n_before, n_safe = n_safe, log.read_bytes().count(b"\n")
        if end == signal.SIGINT:
            assert process.returncode == 130 and "rows are safe" in said
            assert 256 <= n_safe <= 300
        elif end == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL and n_before < n_safe < 600
            assert not output.exists()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "rows were done before" in said, said
    # Interrupted, it had computed other rows together, which tells in llama.cpp's last bits.
    assert (vectors(output) * embedded(texts)).sum(axis=1).min() > 0.999
    assert not log.exists()
