"""Runs the command line as a user does: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys


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
    """The objects of JSON lines."""
    return [json.loads(line) for line in text.split("\n")[:-1]]
