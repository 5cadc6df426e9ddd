"""The command line as a user calls it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = ("demo", "run", "chat", "tokenize", "info", "models")


def llamaherd(
    *arguments: str, stdin: str | bytes = "", check: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the command and wait."""
    done = subprocess.run(
        [sys.executable, "-m", "llamaherd", *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=100,
        check=check,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    """Every command explains itself."""
    done = llamaherd(command, "--help")
    assert done.returncode == 0 and f"llamaherd {command}" in done.stdout


def test_run_from_arguments_and_stdin() -> None:
    """Answers are JSON lines in a pipe, and plain text when asked for."""
    done = llamaherd("run", "--temperature", "0", "What is the capital of Peru?")
    assert done.returncode == 0, done.stderr
    (record,) = records(done.stdout)
    assert record["text"] == "The capital of Peru is Lima." and record["success"]
    assert record["prompt_tokens"] > 5 and record["error"] is None
    assert re.search(r"1/1 rows, .* rows/s", done.stderr)
    stdin = "France\nJapan\n"
    done = llamaherd(
        *"run --temperature 0 --format text --quiet --prompt".split(),
        "What is the capital of {text}?",
        stdin=stdin,
    )
    assert done.stdout == "The capital of France is Paris.\nThe capital of Japan is Tokyo.\n"
    assert done.stderr == ""


def test_bad_rows_are_named_and_the_others_run(tmp_path: Path) -> None:
    """Invalid UTF-8, invalid JSON and a missing field: named by line, exit code 2."""
    source = tmp_path / "rows.jsonl"
    good = json.dumps({"id": "a", "country": "Peru"}).encode()
    source.write_bytes(b"\n".join([good, b'{"country": "\xff"}', b"{oops", b'{"x": 1}']) + b"\n")
    target = tmp_path / "out.jsonl"
    prompt = "What is the capital of {country}?"
    done = llamaherd(
        "run", "-i", str(source), "-o", str(target), "--temperature", "0", "--prompt", prompt
    )
    assert done.returncode == 2
    rows = sorted(records(target.read_text()), key=lambda r: r["index"])
    assert [r["success"] for r in rows] == [True, False, False, False]
    assert rows[0]["id"] == "a" and rows[0]["text"] == "The capital of Peru is Lima."
    assert all(r["error"]["type"] == "InputError" for r in rows[1:])
    for expected in ("line 2: not UTF-8", "line 3: not JSON", "line 4: no field 'country'"):
        assert expected in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-i", "missing.txt"], "cannot read missing.txt"),
        (["run", "-i", "."], "is a directory"),
        (["run", "-o", "/no/such/place/out.jsonl", "x"], "cannot write"),
        (["run", "-m", "missing.gguf", "x"], "missing.gguf"),
        (["run", "-m", __file__, "x"], "GGUF"),
        (["run", "--temperature", "-1", "x"], "temperature is -1"),
        (["run", "--engine", "warp", "x"], "engine is 'warp'"),
        (["run", "--format", "xml", "x"], "--format is 'xml'"),
        (["info", "-m", "."], "is a folder"),
    ],
)
def test_what_cannot_run_says_so_in_a_sentence(arguments: list[str], message: str) -> None:
    """Exit code 1, no traceback."""
    done = llamaherd(*arguments)
    assert done.returncode == 1
    assert message in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    """Nothing is overwritten unasked."""
    target = tmp_path / "out.jsonl"
    target.write_text("precious")
    assert llamaherd("run", "-o", str(target), "x").returncode == 1
    assert target.read_text() == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_writes_what_is_done(tmp_path: Path) -> None:
    """Finished rows are complete lines; the rest is counted."""
    source, target = tmp_path / "rows.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"Tell me about {i}\n" for i in range(3000)))
    command = [sys.executable, "-m", "llamaherd", "run", "-i", str(source), "-o", str(target)]
    process = subprocess.Popen(
        [*command, "--ignore-eos", "--max-tokens", "60"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (target.exists() and target.read_text().count("\n") > 20):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    rows = records(target.read_text())
    assert 20 < len(rows) < 3000 and all(r["success"] for r in rows)
    assert f"{len(rows)} rows are written, {3000 - len(rows)} are missing" in stderr


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    """As in `llamaherd run ... | head -1`."""
    source = tmp_path / "rows.txt"
    source.write_text("".join(f"What is {i}?\n" for i in range(500)))
    process = subprocess.Popen(
        [sys.executable, "-m", "llamaherd", "run", "-i", str(source), "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)


def test_chat_remembers_the_conversation_and_ends_with_its_input() -> None:
    """Answers stream to standard output, a line each."""
    done = llamaherd(
        "chat", "--temperature", "0", stdin="What is the capital of Peru?\n/reset\n/exit\n"
    )
    assert done.returncode == 0 and done.stdout == "The capital of Peru is Lima.\n"


def test_tokenize() -> None:
    """Ids, counts and pieces; control tokens only when asked for."""
    ids = llamaherd("tokenize", "Hello world").stdout.split()
    assert len(ids) == int(llamaherd("tokenize", "--count", "Hello world").stdout)
    done = llamaherd("tokenize", "--pieces", "--json", stdin="Hello\n")
    (record,) = records(done.stdout)
    assert "".join(record["pieces"]) == "Hello"
    assert llamaherd("tokenize", "--count", "--special", "<|im_end|>").stdout == "1\n"
    assert int(llamaherd("tokenize", "--count", "<|im_end|>").stdout) > 1


def test_info_and_models() -> None:
    """Facts for people and for programs."""
    facts = json.loads(llamaherd("info", "-m", "demo", "--json").stdout)
    assert facts["model"]["architecture"] == "llama" and facts["machine"]["usable_cpus"] >= 1
    assert "llama.cpp" in llamaherd("info").stdout
    names = [m["model"] for m in json.loads(llamaherd("models", "--json").stdout)]
    assert "demo" in names
    assert "demo" in llamaherd("models").stdout


def test_demo_shows_real_numbers() -> None:
    """Both ways run the same rows; the texts are compared."""
    done = llamaherd("demo", "--rows", "24")
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris." in done.stdout
    assert re.search(r"one by one +\d", done.stdout) and re.search(r"batched +\d", done.stdout)
    match = re.search(r"(\d+) of 24 texts are the same", done.stdout)
    assert match is not None and int(match[1]) >= 22
