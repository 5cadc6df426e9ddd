"""Threads and tasks that get in each other's way, under Python's own checks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TROUBLE = ("Exception ignored", "never retrieved", "was destroyed", "never awaited", "Traceback")


@pytest.mark.parametrize("seed", range(1, 5))
def test_32_threads_and_200_tasks_leave_nothing_behind(seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", Path(__file__).with_name("stress.py"), str(seed)],
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout == "clean\n", done.stderr[-4000:]
    assert not [word for word in TROUBLE if word in done.stderr], done.stderr[-4000:]
