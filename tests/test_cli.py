"""The command line as a user calls it: a process, its output and its exit code."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_process import llamaherd, records
from llamaherd import GenerationConfig, Model, PromptTooLong
from llamaherd.cli import chat
from llamaherd.cli.demo_rows import demo_prompts

COMMANDS = ("demo", "run", "embed", "chat", "tokenize", "info", "models")


def test_help_is_quick_and_wrong_options_could_not_run() -> None:
    """Exit code 2 is for failed rows only."""
    began_s = time.perf_counter()
    done = llamaherd("--help")
    assert done.returncode == 0 and time.perf_counter() - began_s < 5
    assert llamaherd("--version").stdout.startswith("llamaherd 0.")
    assert "Usage" in llamaherd().stdout
    for arguments in (["bogus"], ["run", "--no-such"], ["demo", "--rows", "many"]):
        done = llamaherd(*arguments)
        assert done.returncode == 1 and "Usage" in done.stderr and done.stdout == ""


def test_commands_load_nothing_that_they_do_not_need() -> None:
    """Help must not wait for llama.cpp."""
    code = (
        "import sys, llamaherd.cli.app; print('llama_cpp' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_works(command: str) -> None:
    """Copied from the help, on one line of it, into a shell."""
    done = llamaherd(command, "--help")
    assert done.returncode == 0
    match = re.search(r"Example: (.+)", done.stdout)
    assert match is not None and f"llamaherd {command}" in match[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    example = (
        match[1]
        .replace("--rows 100", "--rows 8")
        .replace("llamaherd", f"{sys.executable} -m llamaherd", 1)
    )
    ran = subprocess.run(
        ["sh", "-c", example],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PATH": path},
        check=False,
    )
    assert ran.returncode == 0 and ran.stdout.strip(), ran.stderr


def test_run_from_arguments_and_stdin() -> None:
    """Answers are JSON lines in a pipe, and plain text when asked for."""
    done = llamaherd("run", "--temperature", "0", "What is the capital of Peru?")
    assert done.returncode == 0, done.stderr
    (record,) = records(done.stdout)
    assert record["text"] == "The capital of Peru is Lima." and record["success"]
    assert record["prompt_tokens"] > 5 and record["error"] is None
    assert re.search(r"1/1 rows in .* rows/s", done.stderr)
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
    for expected in ("line 2: not UTF-8", "line 3: not JSON", "line 4: no column 'country'"):
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


def test_chat_remembers_the_conversation_and_ends_with_its_input() -> None:
    """Answers stream to standard output, a line each."""
    done = llamaherd(
        "chat", "--temperature", "0", stdin="What is the capital of Peru?\n/reset\n/exit\n"
    )
    assert done.returncode == 0 and done.stdout == "The capital of Peru is Lima.\n"


class OneAnswer:
    """Answers once, until Ctrl-C or an error."""

    def __init__(self, end: BaseException) -> None:
        self.end = end
        self.is_left = False

    def stream(self, messages: object, config: object) -> Iterator[str]:
        try:
            yield "The capital"
            raise self.end
        finally:
            self.is_left = True


def test_ctrl_c_ends_an_answer_and_an_error_only_a_turn(capsys: pytest.CaptureFixture) -> None:
    """What was said of a stopped answer stays in the conversation."""
    asked = [{"role": "user", "content": "x"}]
    for end, said in ((KeyboardInterrupt(), "[stopped]"), (PromptTooLong(9, 8), "/reset")):
        model = OneAnswer(end)
        messages = chat._turn(model, asked, GenerationConfig())
        assert messages == [*asked, {"role": "assistant", "content": "The capital"}]
        captured = capsys.readouterr()
        assert captured.out == "The capital\n" and said in captured.err and model.is_left


def test_tokenize() -> None:
    """Ids, counts and pieces; control tokens only when asked for."""
    ids = llamaherd("tokenize", "Hello world").stdout.split()
    assert len(ids) == int(llamaherd("tokenize", "--count", "Hello world").stdout)
    done = llamaherd("tokenize", "--pieces", "--json", stdin="Hello\n")
    (record,) = records(done.stdout)
    assert "".join(record["pieces"]) == "Hello"
    assert llamaherd("tokenize", "--count", "--special", "<|im_end|>").stdout == "1\n"
    assert int(llamaherd("tokenize", "--count", "<|im_end|>").stdout) > 1


def test_tokenize_there_and_back(demo: Model) -> None:
    """A line per text, blank ones included, and the ids give the text again."""
    texts = ["Hello world", "", "größer 北京 🦙", "  spaces  "]
    done = llamaherd("tokenize", "--no-bos", stdin="\n".join(texts) + "\n")
    lines = done.stdout.split("\n")[:-1]
    assert [demo.detokenize([int(t) for t in line.split()]) for line in lines] == texts
    assert done.returncode == 0 and done.stderr == ""


def test_tokenize_names_bad_lines() -> None:
    """They keep their line of output, empty."""
    done = llamaherd("tokenize", "--count", stdin=b"Hello\n\xff\nHello\n")
    first, second, third, _ = done.stdout.split("\n")
    assert done.returncode == 2 and first == third and second == ""
    assert "standard input, line 2: not UTF-8" in done.stderr
    done = llamaherd("tokenize", "--jsonl", stdin='{"prompt": "a \\ud800"}\n{"text": "b"}\n')
    assert done.returncode == 2 and "line 1" in done.stderr
    assert [sorted(r) for r in records(done.stdout)] == [["error"], ["n_tokens", "tokens"]]


def test_info_and_models() -> None:
    """Facts for people and for programs."""
    facts = json.loads(llamaherd("info", "-m", "demo", "--json").stdout)
    assert facts["model"]["architecture"] == "llama" and facts["machine"]["usable_cpus"] >= 1
    assert facts["memory"]["fits"] and facts["memory"]["total_bytes"] > 6_000_000
    assert "llama.cpp" in llamaherd("info").stdout
    names = [m["model"] for m in json.loads(llamaherd("models", "--json").stdout)]
    assert "demo" in names
    assert "demo" in llamaherd("models").stdout


def test_demo_shows_real_numbers() -> None:
    """Both ways run the same rows; the texts are compared."""
    done = llamaherd("demo", "--rows", "24", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris." in done.stdout
    for name in ("rows", "seconds", "rows/s", "tokens/s", "prompt reused"):
        line = re.search(rf"^{name} +([\d.]+)%? +([\d.]+)%?$", done.stdout, re.MULTILINE)
        assert line is not None and all(float(number) > 0 for number in line.groups()), name
    match = re.search(r"(\d+) of 24 answers are the same", done.stdout)
    assert match is not None and int(match[1]) >= 22
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_demo_rows_are_all_different() -> None:
    """Equal greedy rows would be computed once only, and flatter the figures."""
    prompts = list(itertools.islice(demo_prompts(), 5000))
    assert len(set(prompts)) == 5000


@pytest.mark.parametrize(
    "command", [("tokenize",), ("run", "--temperature=0"), ("embed", "--dim=2")]
)
def test_a_dash_is_standard_input(command: tuple[str, ...]) -> None:
    named = llamaherd(*command, "-", stdin="What is the capital of Peru?\n", check=True)
    piped = llamaherd(*command, stdin="What is the capital of Peru?\n", check=True)
    assert named.stdout == piped.stdout


def test_bench_measures_with_one_row_and_many() -> None:
    options = ("--rows=1,8", "--max-tokens=8", "--prompt-tokens=16", "--runs=1")
    done = llamaherd("bench", *options, "--json", check=True)
    facts = json.loads(done.stdout)
    assert [speed["rows"] for speed in facts["speeds"]] == [1, 8]
    assert all(speed["generated_tokens_per_s"] > 0 for speed in facts["speeds"])
    assert "8 at once:" in done.stderr
    shown = llamaherd("bench", *options, check=True).stdout
    assert "rows at once" in shown and "generated tokens/s" in shown
    wrong = llamaherd("bench", "--rows=0,999")
    assert wrong.returncode == 1 and "1 to 255" in wrong.stderr


@pytest.mark.parametrize("command", ["run", "embed"])
def test_a_table_that_does_not_exist_is_no_text(command: str) -> None:
    ended = llamaherd(command, "no-such-table.csv")
    assert ended.returncode == 1 and "there is no file no-such-table.csv" in ended.stderr
