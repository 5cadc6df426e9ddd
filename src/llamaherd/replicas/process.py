"""Starts and ends a worker process, and holds this end of its connection."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["WorkerProcess"]

# A fresh interpreter that finds the same modules. (multiprocessing would import the caller's
# main module again, and demand that it is written for that.)
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from llamaherd.replicas.worker import main
main(int(sys.argv[2]))
"""


class WorkerProcess:
    """A worker process.

    Args:
        load_options: Arguments of `Model.load`.
        engine_config: Batching options as plain data.
        cores: Cores to pin it to, if any.
    """

    def __init__(
        self,
        load_options: dict[str, Any],
        engine_config: dict[str, Any],
        cores: tuple[int, ...] | None,
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _PROGRAM),
                    *(json.dumps([str(p) for p in sys.path]), str(theirs.fileno())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.connection = Connection(ours.detach())
        self.send("start", load_options, engine_config, cores)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, *message: Any) -> None:
        """Send a message; without effect if the process has ended, which `receive` tells."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self) -> tuple[Any, ...] | None:
        """The next message; None when the process has ended and all it sent was received."""
        try:
            message: tuple[Any, ...] = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def end(self) -> int:
        """End the process if it still runs; its exit status."""
        self.connection.close()
        # It keeps nothing that would have to be saved.
        self._process.kill()
        return self._process.wait()
