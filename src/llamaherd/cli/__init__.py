"""The `llamaherd` command. Data goes to standard output, everything else to standard error.

Exit codes: 0 every row succeeded, 2 some rows failed, 1 it could not run, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the command; ends the process."""
    from llamaherd.cli.app import app
    from llamaherd.errors import LlamaherdError

    try:
        app()
    except LlamaherdError as error:
        if os.environ.get("LLAMAHERD_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error}")
    except BrokenPipeError:
        # Somebody like `head` has read enough. Python would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(f"error: {message}", style="red"))
    sys.exit(1)
