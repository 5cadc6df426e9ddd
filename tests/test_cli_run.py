"""`llamaherd run` when something goes wrong: bad outputs, Ctrl-C, readers that leave, terminals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_process import llamaherd, records

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and files")
RUN = [sys.executable, "-m", "llamaherd", "run"]
PERU = "What is the capital of Peru?"
FIELDS = set(
    "index text finish_reason success error prompt_tokens cached_tokens tokens_generated "
    "seed".split()
)


@contextlib.contextmanager
def started(
    *arguments: str,
    stdin: int | None = subprocess.DEVNULL,
    command: str = "run",
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen]:
    """A running command, which is ended with the test."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*RUN[:-1], command, *arguments], stdin=stdin, stdout=pipe, stderr=pipe, cwd=cwd
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_lines(path: Path, n: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= n):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A file of many rows."""
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"Tell me about {i}\n" for i in range(3000)))
    return path


def test_records_have_every_field(tmp_path: Path) -> None:
    """Ids keep their type; messages, a system message and seeds are taken."""
    source = tmp_path / "rows.jsonl"
    rows = [
        {"id": 7, "prompt": PERU},
        {"id": "b", "messages": [{"role": "user", "content": PERU}]},
        {"prompt": "größer \u2028 \ud800"},
        {"messages": "no list"},
        {"name": "neither"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "out.jsonl"
    done = llamaherd(
        *["run", "-i", str(source), "-o", str(target)],
        "--temperature=0",
        "--ordered",
        "--logprobs=1",
    )
    assert done.returncode == 2, done.stderr
    got = records(target.read_text(encoding="utf-8"))
    assert [r["index"] for r in got] == [0, 1, 2, 3, 4]
    assert all(list(r)[:2] == ["index", "success"] and set(r) >= FIELDS for r in got)
    assert [r.get("id") for r in got] == [7, "b", None, None, None]
    assert got[0]["prompt"] == PERU and got[1]["messages"] == rows[1]["messages"]
    assert got[0]["text"] == got[1]["text"] == "The capital of Peru is Lima."
    assert len(got[0]["logprobs"]) >= got[0]["tokens_generated"] > 0
    assert got[1]["cached_tokens"] > 0
    assert [r["success"] for r in got] == [True, True, False, False, False]
    for said in ("line 3: ", "line 4: ", 'line 5: the row has neither "prompt" nor "messages"'):
        assert said in done.stderr


def test_sampling_repeats_with_its_seed() -> None:
    """The seed that a record reports is the row's own."""
    arguments = ["run", "-q", "--seed", "5", "--format", "jsonl", PERU, "Hello there"]
    first, second = (records(llamaherd(*arguments).stdout) for _ in range(2))
    by_index = lambda r: r["index"]  # noqa: E731
    assert sorted(first, key=by_index) == sorted(second, key=by_index)
    assert first[0]["seed"] != first[1]["seed"]


def test_input_from_a_pipe_file(tmp_path: Path) -> None:
    """As in `-i <(command)`: it can be read only once, and has no size."""
    command = f"exec 9<<'END'\n{PERU}\nEND\n" + " ".join(RUN)
    done = subprocess.run(
        ["sh", "-c", f"{command} -q --temperature 0 --format text -i /dev/fd/9"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "The capital of Peru is Lima.\n", done.stderr
    fifo = tmp_path / "fifo.txt"
    os.mkfifo(fifo)
    with started("-q", "--temperature=0", "--format=text", "-i", str(fifo)) as process:
        fifo.write_text(PERU + "\n")
        assert process.communicate(timeout=60)[0] == b"The capital of Peru is Lima.\n"


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    """They are refused before the model is loaded, and nothing is lost."""
    kept = tmp_path / "kept.jsonl"
    kept.write_text("precious\n")
    for arguments, message in (
        (["-o", str(kept), "x"], "--overwrite"),
        (["-o", str(kept), "-i", str(kept), "--overwrite"], "is the input"),
        (["-o", str(tmp_path), "x"], "Is a directory"),
        (["-o", str(kept), "--overwrite", "-m", "missing.gguf", "x"], "no file missing.gguf"),
        (["-o", str(tmp_path / "new.jsonl"), "-m", "missing.gguf", "x"], "no file missing.gguf"),
    ):
        done = llamaherd("run", *arguments)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert kept.read_text() == "precious\n"
    assert list(tmp_path.iterdir()) == [kept]
    assert llamaherd("run", "-q", "-o", str(kept), "--overwrite", "x").returncode == 0
    assert len(records(kept.read_text())) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_in_a_sentence() -> None:
    """Not with a traceback."""
    done = llamaherd("run", "-o", "/dev/full", "x")
    assert done.returncode == 1 and "No space left on device; 0 rows are written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("order", ["--ordered", "--as-completed"])
def test_ctrl_c_writes_what_is_done(many: Path, tmp_path: Path, order: str) -> None:
    """Finished rows are complete lines; the rest is counted."""
    target = tmp_path / "out.jsonl"
    arguments = [
        "-i",
        str(many),
        "-o",
        str(target),
        order,
        "--ignore-eos",
        "--max-tokens=60",
        "--threads=1",
    ]
    with started(*arguments) as process:
        wait_for_lines(target, 20, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    rows = records(target.read_text())
    assert 20 <= len(rows) < 3000 and all(r["success"] for r in rows)
    said = f"{len(rows)} rows are safe, {3000 - len(rows)} are missing"
    assert said in stderr.decode()


def write(process: subprocess.Popen, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())
    process.stdin.flush()


@pytest.mark.parametrize("to_file", [False, True])
def test_answers_do_not_wait_for_the_next_line(tmp_path: Path, to_file: bool) -> None:
    """Whoever writes into a pipe gets an answer before it says the next thing."""
    target = tmp_path / "out.jsonl"
    output = ["-o", str(target)] if to_file else []
    with started("--temperature=0", "-q", *output, stdin=subprocess.PIPE) as process:
        for n, country in enumerate(("Peru", "Kenya"), 1):
            write(process, f"What is the capital of {country}?")
            if to_file:
                wait_for_lines(target, n, process)
                line = target.read_bytes().splitlines()[-1]
            else:
                line = process.stdout.readline()  # type: ignore[union-attr]
            assert country in json.loads(line)["text"]
        assert process.poll() is None
        process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["run", "--max-tokens=20"], "0 are missing of those read so far"),
        (["batch", "-", "-o", "out.jsonl"], "1 rows are safe"),
        (["embed"], "0 are missing of those read so far"),
    ],
)
def test_ctrl_c_while_it_waits_for_input(tmp_path: Path, command: list[str], said: str) -> None:
    """A pipe that says nothing more does not hold the command, whichever thread reads it."""
    with started(*command[1:], stdin=subprocess.PIPE, command=command[0], cwd=tmp_path) as process:
        write(process, json.dumps({"prompt": PERU}))
        if command[0] == "run":
            assert process.stdout is not None and process.stdout.readline()
        elif command[0] == "batch":
            wait_for_lines(tmp_path / "out.jsonl", 1, process)
        else:
            # It waits for more rows to embed together.
            time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        stderr = process.stderr.read().decode()  # type: ignore[union-attr]
        assert said in stderr and "Traceback" not in stderr


def test_a_reader_that_leaves_early_sees_no_traceback(many: Path) -> None:
    """As in `llamaherd run ... | head -1`."""
    run = " ".join(RUN)
    command = f"{{ {run} -q --threads 1 --max-tokens 5 -i {many}; echo exit $? >&2; }} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout) and done.stderr == b"exit 1\n"


def test_utf8_whatever_the_locale(tmp_path: Path) -> None:
    """JSON lines on standard output, and text in a file."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*RUN, "-q", "--max-tokens=1"],
        input="größer 北京\n".encode(),
        capture_output=True,
        env=environment,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout.decode("utf-8"))["prompt"] == "größer 北京"
    assert "größer".encode() in done.stdout


def test_a_terminal_gets_text_and_a_bar(tmp_path: Path, many: Path) -> None:
    """Answers as lines of text when they appear on a terminal; else a bar there."""
    pty = pytest.importorskip("pty")
    shown = on_terminal(pty, ["--threads=1", "--temperature=0", PERU])
    assert shown.startswith("The capital of Peru is Lima.\r\n1/1 rows in ")
    few, target = tmp_path / "few.txt", str(tmp_path / "out.jsonl")
    few.write_text("".join(many.read_text().splitlines(keepends=True)[:400]))
    shown = on_terminal(pty, ["-i", str(few), "-o", target, "--threads=1", "--max-tokens=2"])
    assert "/400 rows, " in shown and "400/400 rows in" in shown


def on_terminal(pty, arguments: list[str]) -> str:
    """What a terminal receives."""
    parts: list[bytes] = []
    process, terminal = pty.fork()
    if process == 0:
        os.environ["COLUMNS"] = "80"
        os.execv(RUN[0], [*RUN, *arguments])
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65536):
            parts.append(part)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(terminal)
    return b"".join(parts).decode()
