"""One worker process: an engine at the other end of a connection.

The main thread reads; the engine's thread writes. The process that started it ends it, or is
gone itself, which ends the connection and then this process.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from llamaherd.engine.engine import Engine
from llamaherd.engine.request import Request
from llamaherd.errors import EngineDead, LlamaherdError
from llamaherd.models.model import Model
from llamaherd.replicas.messages import (
    pack_result,
    pack_stats,
    unpack_engine_config,
    unpack_request,
)
from llamaherd.results import GenerationResult

__all__ = ["main"]


class _Sender:
    """Sink of all rows: sends what the engine delivers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.engine: Engine
        self.in_work: dict[int, Request] = {}
        self.streamed = _Streamed(self)
        self.streaming = False

    def send(self, *message: Any) -> None:
        """Send one message; without effect once nobody listens."""
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            # The main thread finds the end of the connection and ends the process.
            return

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        self.send("text", request.index, piece, tokens)

    def finish(self, request: Request, result: GenerationResult) -> None:
        self.in_work.pop(request.index, None)
        self.send("done", request.index, pack_result(result), pack_stats(self.engine.stats()))


class _Streamed:
    """The same for rows whose text is wanted while it is written."""

    streaming = True

    def __init__(self, sender: _Sender) -> None:
        self.text = sender.text
        self.finish = sender.finish


def main(fd: int) -> None:
    """Run a worker over the connection with this file descriptor."""
    # Ctrl-C goes to the whole process group; the process that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(fd)
    try:
        _, load_options, engine_config, cores = connection.recv()
        if cores is not None and hasattr(os, "sched_setaffinity"):
            # Before anything is loaded: threads inherit it, and memory is taken near them.
            os.sched_setaffinity(0, cores)
        _serve(connection, load_options, engine_config)
    except (EOFError, OSError, EngineDead):
        # Nobody is left to work for, or nothing to work with: no row in work is of any use.
        os._exit(1)


def _serve(
    connection: Connection, load_options: dict[str, Any], engine_config: dict[str, Any]
) -> None:
    sender = _Sender(connection)
    try:
        model = Model.load(**load_options, progress=False)
        engine = model.open_engine(unpack_engine_config(engine_config))
    except LlamaherdError as error:
        sender.send("failed", f"{type(error).__name__}: {error}")
        return
    sender.engine = engine
    sender.send("ready")
    while True:
        kind, content = connection.recv()
        if kind == "rows":
            requests = [unpack_request(r, sender.streamed if r[5] else sender) for r in content]
            sender.in_work.update((request.index, request) for request in requests)
            engine.submit(requests)
        else:
            engine.cancel([r for key in content if (r := sender.in_work.get(key)) is not None])
