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
    from llamaherd.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, CommandEnded
    from llamaherd.errors import LlamaherdError

    try:
        app(prog_name="llamaherd")
    except CommandEnded as ended:
        sys.exit(ended.code)
    except LlamaherdError as error:
        if os.environ.get("LLAMAHERD_DEBUG"):
            raise
        _complain(f"{type(error).__name__}: {error}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as exit_:
        # typer gives wrong options a code that means "some rows failed" here.
        sys.exit(EXIT_FAILED if exit_.code == 2 else exit_.code)


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    # The terminal breaks the line: a path in it stays in one piece.
    Console(stderr=True).print(Text(f"error: {message}", style="red"), soft_wrap=True)
