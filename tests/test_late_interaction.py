"""Late interaction: against the obvious computation, and what it promises about bits and memory."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaherd import ConfigError, LateInteractionScorer, RequestError, maxsim


def vectors(rng: np.random.Generator, n_tokens: int, dim: int) -> np.ndarray:
    return rng.standard_normal((n_tokens, dim), dtype=np.float32)


def naive(query: np.ndarray, documents: list[np.ndarray]) -> np.ndarray:
    q = query.astype(np.float64)
    return np.array([(q @ d.astype(np.float64).T).max(axis=1).sum() for d in documents])


@settings(deadline=None)  # a busy machine holds up the BLAS' threads
@given(st.data())
def test_equals_the_obvious_computation(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    dim = data.draw(st.sampled_from([1, 3, 16, 128, 700]), "dim")
    is_even = data.draw(st.booleans(), "one length")
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=40), "lengths")
    dtype = data.draw(st.sampled_from(["float32", "float16"]), "dtype")
    documents = [
        vectors(rng, lengths[0] if is_even else n, dim).astype(dtype).astype(np.float32)
        for n in lengths
    ]
    queries = [vectors(rng, n, dim) for n in data.draw(st.lists(st.integers(1, 70), max_size=4))]
    block_bytes = 4 * dim * data.draw(st.sampled_from([1, 7, 64, 300, 5000]), "block")
    scorer = LateInteractionScorer(
        documents,
        dtype=dtype,
        num_threads=data.draw(st.integers(1, 3), "threads"),
        block_bytes=block_bytes,
    )
    alone = LateInteractionScorer(documents, dtype=dtype, num_threads=1, block_bytes=block_bytes)
    top_k = data.draw(st.integers(1, 50), "k")
    for query, hits in zip(queries, scorer.search_batch(queries, top_k), strict=True):
        scores = scorer.score(query)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, naive(query, documents), rtol=1e-4, atol=1e-3)
        assert maxsim(query, documents[0]) == pytest.approx(scores[0], rel=1e-4, abs=1e-3)
        # From here on to the last bit: batch, order and threads change nothing.
        assert scores.tobytes() == alone.score(query).tobytes()
        order = np.argsort(-scores, kind="stable")[:top_k]
        assert hits.ids.tolist() == order.tolist()
        assert hits.scores.tobytes() == scores[order].tobytes()
        again = scorer.search(query, top_k)
        assert (again.ids.tolist(), again.scores.tobytes()) == (
            hits.ids.tolist(),
            hits.scores.tobytes(),
        )


def test_equal_scores_rank_by_position_across_blocks_and_threads() -> None:
    # 5,000 documents with 7 different scores, one of them zero with either sign.
    values = np.array([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0], np.float32)
    kinds = np.random.default_rng(1).integers(0, len(values), 5000)
    documents = [np.array([[values[kind], 0.0]], np.float32) for kind in kinds]
    scorer = LateInteractionScorer(documents, num_threads=3, block_bytes=400)
    query = np.array([[1.0, 0.0]], np.float32)
    expected = np.argsort(-scorer.score(query), kind="stable")
    for top_k in (1, 700, 1500, 4999, 9999):
        hits = scorer.search(query, top_k)
        assert hits.ids.tolist() == expected[:top_k].tolist()
    assert len(hits.scores) == 5000


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        (None, np.int64),
        ([7, -3, 9], np.int64),
        (["a", "bb", "c"], object),
        ([("a", 1), ("b", 2), 3], object),
        (np.array(["x", "y", "z"]), np.dtype("<U1")),
    ],
)
def test_ids_come_back_as_they_were(ids: Any, dtype: Any) -> None:
    documents = [[[float(i), 1.0]] for i in range(3)]
    hits = LateInteractionScorer(documents, ids).search([[1.0, 0.0]])
    assert hits.ids.dtype == dtype
    assert hits.ids.tolist() == list([0, 1, 2] if ids is None else ids)[::-1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_iterator_is_never_held_twice() -> None:
    """Untouched memory is not counted, so that a process of its own is measured."""
    script = """
import re
import numpy as np
from llamaherd import LateInteractionScorer
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
LateInteractionScorer([np.ones((2, 2))])
before = peak()
scorer = LateInteractionScorer(np.full((1000, 64), i, np.float32) for i in range(1200))
assert scorer.score(np.ones((1, 64)))[7] == 7 * 64 and scorer.n_tokens == 1_200_000
print((peak() - before) / scorer.nbytes)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0.9 < float(run.stdout) < 1.3


def test_scoring_takes_little_memory() -> None:
    rng = np.random.default_rng(0)
    documents = [vectors(rng, 64, 64) for _ in range(4000)]
    tracemalloc.start()
    try:
        scorer = LateInteractionScorer(documents, dtype="float16", num_threads=2)
        assert (len(scorer), scorer.n_tokens, scorer.nbytes) == (4000, 256_000, 4000 * 64 * 64 * 2)
        size, _ = tracemalloc.get_traced_memory()
        assert size < 1.05 * scorer.nbytes
        tracemalloc.reset_peak()
        scorer.search_batch([vectors(rng, 32, 64) for _ in range(100)])
        # The products of one query with all tokens would take 31 MiB.
        assert tracemalloc.get_traced_memory()[1] - size < 12 << 20
    finally:
        tracemalloc.stop()


def test_bad_documents_are_named() -> None:
    good = np.ones((2, 3), np.float32)
    bad = np.ones((2, 3))
    bad[1, 2] = np.inf
    cases: list[tuple[Any, str]] = [
        (bad, "document 'b' (position 1), token 1, value 2: inf is not finite"),
        (bad * np.nan, "document 'b' (position 1), token 0, value 0: nan is not finite"),
        (np.full((1, 3), 1e5), "document 'b' (position 1), token 0, value 0: 100000.0 is too larg"),
        (np.ones((0, 3)), "document 'b' (position 1) has no tokens"),
        (np.ones((2, 4)), "document 'b' (position 1) has vectors of 4 values; the others have 3"),
        (np.ones(3), "document 'b' (position 1) has shape (3,)"),
        ([[1.0, 2.0, 3.0], [1.0]], "document 'b' (position 1) is no array of numbers"),
        (None, "document 'b' (position 1) is None, as the vector of a text that failed"),
        ([["x", "y", "z"]], "document 'b' (position 1) has dtype <U1"),
    ]
    for document, message in cases:
        with pytest.raises(RequestError, match=re.escape(message)):
            LateInteractionScorer([good, document], ids=["a", "b"], dtype="float16")


def test_bad_queries_are_named() -> None:
    scorer = LateInteractionScorer([np.full((2, 3), 1e38)] * 500, block_bytes=64, num_threads=2)
    for query, message in (
        (np.ones((1, 2)), "has vectors of 2 values; the others have 3"),
        (np.ones((0, 3)), "has no tokens"),
        ([[1.0, np.nan, 0.0]], "token 0, value 1: nan is not finite"),
        (np.full((1, 3), 1e38), "the score is too large"),
    ):
        with pytest.raises(RequestError, match=f"the query.*{message}"):
            scorer.score(query)
        with pytest.raises(RequestError, match=f"query 1.*{message}"):
            scorer.search_batch([np.zeros((1, 3)), query])
    with pytest.raises(RequestError, match="too large"):
        maxsim(np.full((1, 3), 1e38), np.full((1, 3), 1e38))
    assert scorer.search_batch([]) == []


def test_wrong_options() -> None:
    one = [np.ones((2, 3))]
    for options, message in (
        ({"documents": []}, "no documents"),
        ({"documents": one * 2, "ids": ["a"]}, "there are more documents"),
        ({"documents": one, "ids": ["a", "b"]}, "ids has 2 entries, but there are 1 documents"),
        ({"documents": one * 3, "ids": [5, 6, 5]}, "ids: 5 stands at positions 0 and 2"),
        ({"documents": one, "ids": [[1]]}, "position 0 is a list"),
        ({"documents": one, "dtype": "int8"}, "dtype"),
        ({"documents": one, "num_threads": 0}, "num_threads is 0"),
        ({"documents": one, "block_bytes": 1.5}, "block_bytes is 1.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            LateInteractionScorer(**options)  # type: ignore[arg-type]
    for top_k in (0, True, "3"):
        with pytest.raises(ConfigError, match="top_k"):
            LateInteractionScorer(one).search(np.ones((1, 3)), top_k)  # type: ignore[arg-type]
