"""Shared fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaherd import Model, ParallelProcessor


@pytest.fixture(scope="session")
def demo() -> Iterator[Model]:
    """The bundled model."""
    with Model.load("demo") as model:
        yield model


@pytest.fixture(scope="session")
def processor(demo: Model) -> Iterator[ParallelProcessor]:
    """A processor on the bundled model that tests share; they must leave it usable."""
    with ParallelProcessor(demo, max_batch_size=16) as shared:
        yield shared


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights."""
    from tiny_models import make_bpe_model

    return make_bpe_model(tmp_path_factory.mktemp("models") / "tiny.gguf")
