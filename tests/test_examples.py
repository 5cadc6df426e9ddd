"""Every example runs and says what it should."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = {
    "label_reviews": ["r1  positive", "r2  negative", "5 now", "answers by label: ['positive'"],
    "search": ["one vector per text", "one vector per token", "reading both together"],
    "compare_prompts": ["title and text: accuracy", "kappa", "report.html"],
}


def test_no_example_is_forgotten() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    for expected in SCRIPTS[name]:
        assert expected in said


@pytest.mark.slow
def test_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel is another process, which has to find the same package.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    # Jupyter's own modules still ask for a loop the old way.
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(EXAMPLES / "labelling.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "demo: accuracy" in text and "kappa" in text and "bytes" in text
