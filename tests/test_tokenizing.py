"""Tokens and text: always llama.cpp's, whatever way they are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaherd import Model
from llamaherd.config import ThreadPoolConfig
from llamaherd.errors import InvalidPrompt, ModelError
from llamaherd.llama.vocabulary import LlamaVocabulary
from llamaherd.llama.weights import Weights
from llamaherd.models.tokenizing import BatchTokenizer, SpecialTokens, difficult_texts
from tiny_models import make_bpe_model, make_spm_model

KNOWN = ("gpt-2", "llama-bpe", "qwen2", "smollm", "command-r", "chatglm-bpe")
UNKNOWN = ("default", "falcon", "deepseek-llm", "gpt-4o")


def open_tokenizer(path: Path) -> BatchTokenizer:
    weights = Weights.load(path, vocab_only=True)
    pre = weights.metadata().get("tokenizer.ggml.pre", "")
    return BatchTokenizer(LlamaVocabulary(weights), pre)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@pytest.fixture(scope="module", params=[*KNOWN, *UNKNOWN, "spm"])
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Iterator[BatchTokenizer]:
    path = folder / f"{request.param}.gguf"
    if request.param == "spm":
        made = open_tokenizer(make_spm_model(path))
    else:
        made = open_tokenizer(make_bpe_model(path, pre=request.param, add_bos=True, weights=False))
    assert made.knows_words == (request.param in KNOWN)
    yield made


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_batches_have_the_ids_of_llama_cpp(
    tokenizer: BatchTokenizer, add_bos: bool, special: bool
) -> None:
    texts = ["", "<|im_start|>user\n<|endoftext|>", *difficult_texts()]
    expected = [tokenizer.vocabulary.tokenize(text, add_bos, special) for text in texts]
    for stealing in (True, False):
        pool = ThreadPoolConfig(num_threads=3, work_stealing=stealing)
        found = tokenizer.batch_tokenize(texts, add_bos, special, thread_pool=pool)
        assert found == expected


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=30) | st.text(" \n\t'sSlLtT09aé.½中<|>", max_size=30))
def test_any_text_has_the_ids_of_llama_cpp(tokenizer: BatchTokenizer, text: str) -> None:
    assert tokenizer.tokenize(text) == tokenizer.vocabulary.tokenize(text)


def test_tokens_that_always_match_are_matched_in_batches(folder: Path) -> None:
    path = make_bpe_model(folder / "user.gguf", user_defined=["<think>", "  \n"], weights=False)
    tokenizer = open_tokenizer(path)
    texts = ["a <think>b", "a  \nb", "plain text"]
    assert tokenizer.batch_tokenize(texts) == [tokenizer.vocabulary.tokenize(t) for t in texts]
    assert tokenizer.vocabulary.tokenize("<think>") == [tokenizer.vocabulary.n_vocab - 2]


def test_text_comes_back_as_it_was(tokenizer: BatchTokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    for text in [
        "Hello , world !",
        "a\x00b",
        "🦙 é 中",
        " " * 1000,
        "<|im_end|>",
        "x" * 100_000,
        "中" * 50_000,
    ]:
        assert vocabulary.detokenize(vocabulary.tokenize(text)) == text


def test_control_tokens_count_only_when_asked_for(tokenizer: BatchTokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    ids = vocabulary.tokenize("<|im_end|>", add_bos=False, special=True)
    assert vocabulary.control_tokens.__contains__(ids[0])
    assert vocabulary.piece(ids[0]) == b"<|im_end|>"
    assert vocabulary.detokenize(ids) == ""
    assert vocabulary.detokenize(ids, special=True) == "<|im_end|>"
    assert ids[0] in vocabulary.end_tokens
    assert ids[0] not in vocabulary.tokenize("<|im_end|>")


def test_a_raw_prompt_gets_bos_once(tokenizer: BatchTokenizer) -> None:
    bos = tokenizer.vocabulary.bos
    assert bos is not None
    written = tokenizer.vocabulary.token_text(bos)
    assert tokenizer.prompt_tokens(written + "Hello").count(bos) == 1
    assert tokenizer.prompt_tokens("Hello")[0] == bos


def test_wrong_texts_are_named(tokenizer: BatchTokenizer) -> None:
    with pytest.raises(InvalidPrompt, match=r"text 1: .*surrogate pair at character 2"):
        tokenizer.batch_tokenize(["fine", "no\ud800"])
    with pytest.raises(InvalidPrompt, match=r"text 0: .* not int"):
        tokenizer.batch_tokenize([3])  # type: ignore[list-item]
    with pytest.raises(InvalidPrompt, match="list of texts"):
        tokenizer.batch_tokenize("one text")


@pytest.mark.parametrize("tokens", [[-1], [10**6], [10**30], [True], ["a"], [[1]], [1.5]])
def test_wrong_ids_never_reach_llama_cpp(tokenizer: BatchTokenizer, tokens: list[int]) -> None:
    with pytest.raises(InvalidPrompt, match="token 0"):
        tokenizer.vocabulary.detokenize(tokens)


def test_special_tokens_are_found_from_the_left_and_longest_first() -> None:
    special = SpecialTokens({"<a>": 1, "<a>b": 2, "[x]": 3, "b<": 4})
    text = "<a><a>b<a>[x] <a [x"
    assert [text[b:e] for b, e in special.find(text)] == ["<a>", "<a>b", "<a>", "[x]"]
    assert not SpecialTokens({}).is_in("anything")


def test_a_closed_model_does_not_end_the_process() -> None:
    """llama.cpp would read freed memory."""
    model = Model.load("demo")
    ids = model.tokenize("Hello")
    model.close()
    for call in (
        lambda: model.tokenize("Hello there"),
        lambda: model.detokenize([ids[0] + 7]),
        lambda: model.encode("Hello, my friend"),
    ):
        try:
            call()
        except ModelError as error:
            assert "closed" in str(error)
