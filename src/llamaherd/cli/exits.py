"""How a command ends."""

from __future__ import annotations

__all__ = ["EXIT_FAILED", "EXIT_FAILED_ROWS", "EXIT_INTERRUPTED", "EXIT_OK", "CommandEnded"]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_FAILED_ROWS = 2
EXIT_INTERRUPTED = 130


class CommandEnded(Exception):
    """Carries a command's exit code, apart from those that typer gives to wrong options."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"exit code {code}")
