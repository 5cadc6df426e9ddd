"""The repository holds itself to its own rules: layers, sizes, docstrings, a light import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "llamaherd"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
HEAVY = ("huggingface_hub", "jinja2", "llama_cpp", "numpy", "psutil", "rich", "tokenizers", "typer")


def module_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body.

    Signature and docstring do not count: the options of a command, and their explanation, may be
    as long as they need.
    """
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_layers_are_kept() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_module_is_small_and_explained(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "the module has no docstring"
    assert source.count("\n") <= MAX_MODULE_LINES
    long = {f.name: n for f in functions(tree) if (n := body_lines(f)) > MAX_FUNCTION_LINES}
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines: {long}"


def test_import_is_light() -> None:
    loaded = run_python("import sys, llamaherd; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_every_exported_name_exists() -> None:
    code = "import llamaherd; [getattr(llamaherd, name) for name in llamaherd.__all__]; print('ok')"
    assert run_python(code) == "ok"
