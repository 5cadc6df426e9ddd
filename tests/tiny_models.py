"""Makes tiny GGUF models with random weights, so that tests need no download.

They have the llama architecture and a real tokenizer, trained in a blink on a few sentences.
Their answers mean nothing, but everything else about them is like a real model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and nobody's surprised.",
    "Stocks rose 3.5% on Tuesday; investors weren't sure why they'd gone up.",
    "World news, sports, business and technology are four categories.",
    "A herd of llamas crossed the mountain pass in the early morning light.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(40, 2))",
)


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a tiny model; the defaults give about 100 thousand parameters."""

    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 96
    n_ctx_train: int = 512


def make_bpe_model(
    path: Path,
    *,
    shape: TinyShape | None = None,
    pre: str = "gpt-2",
    n_vocab: int = 512,
    corpus: Sequence[str] = SENTENCES,
    control: Sequence[str] = CONTROL_TOKENS,
    user_defined: Sequence[str] = (),
    chat_template: str | None = CHATML,
    add_bos: bool = False,
    weights: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model with a byte-level BPE vocabulary; the first control token is BOS, the last EOS.

    Args:
        path: File to write.
        shape: Sizes.
        pre: Name of the pre-tokenizer, such as ``"gpt-2"``, ``"llama-bpe"`` or ``"qwen2"``.
        n_vocab: Most tokens to learn, control tokens excluded.
        corpus: Text to learn them from.
        control: Control tokens, at the end of the vocabulary.
        user_defined: Tokens that always match, after them.
        chat_template: Jinja source; None leaves it out.
        add_bos: Whether the tokenizer puts BOS in front.
        weights: False writes the vocabulary and the sizes only.
        extra: More metadata, by key.
    """
    tokens, merges = train_bpe(corpus, n_vocab)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    types += [gguf.TokenType.CONTROL] * len(control)
    types += [gguf.TokenType.USER_DEFINED] * len(user_defined)
    tokens += [*control, *user_defined]
    writer = _start(path, shape or TinyShape(), len(tokens), chat_template, extra)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([int(t) for t in types])
    writer.add_token_merges(merges)
    if control:
        writer.add_bos_token_id(tokens.index(control[0]))
        writer.add_eos_token_id(tokens.index(control[-1]))
    writer.add_add_bos_token(add_bos)
    return _finish(writer, shape or TinyShape(), len(tokens), weights)


def make_spm_model(
    path: Path,
    *,
    shape: TinyShape | None = None,
    user_defined: Sequence[str] = (),
    chat_template: str | None = CHATML,
) -> Path:
    """Write a model with a SentencePiece vocabulary, which puts a space before every text."""
    specials = ["<unk>", "<s>", "</s>", *CONTROL_TOKENS[1:]]
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * (len(specials) - 1)]
    types += [gguf.TokenType.BYTE] * 256
    words = " ".join(SENTENCES).split()
    pieces = dict.fromkeys("▁" + w[:n] for w in words for n in range(len(w) + 1))
    pieces.update(dict.fromkeys(w[n:] for w in words for n in range(len(w))))
    pieces.update(dict.fromkeys(c for w in words for c in w))
    tokens += [piece for piece in pieces if piece not in specials]
    types += [gguf.TokenType.NORMAL] * (len(tokens) - len(types))
    tokens += user_defined
    types += [gguf.TokenType.USER_DEFINED] * len(user_defined)
    writer = _start(path, shape or TinyShape(), len(tokens), chat_template, None)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(t)) for t in tokens])
    writer.add_token_types([int(t) for t in types])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    return _finish(writer, shape or TinyShape(), len(tokens), True)


def train_bpe(corpus: Sequence[str], n_vocab: int) -> tuple[list[str], list[str]]:
    """Tokens in id order, and merges as GGUF writes them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return tokens, list(_merges(tokenizer))


def _merges(tokenizer: Tokenizer) -> Iterator[str]:
    import json

    for merge in json.loads(tokenizer.to_str())["model"]["merges"]:
        yield merge if isinstance(merge, str) else " ".join(merge)


def _start(
    path: Path,
    shape: TinyShape,
    n_vocab: int,
    chat_template: str | None,
    extra: Mapping[str, Any] | None,
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny test model")
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(n_vocab)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, value in (extra or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, int(value))
    return writer


def _finish(writer: gguf.GGUFWriter, shape: TinyShape, n_vocab: int, weights: bool) -> Path:
    path = Path(str(writer.path))
    if weights:
        for name, array in _tensors(shape, n_vocab):
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(shape: TinyShape, n_vocab: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(7)
    n_kv = shape.n_embd // shape.n_head * shape.n_head_kv

    def matrix(n_out: int, n_in: int) -> np.ndarray[Any, Any]:
        return rng.normal(0.0, n_in**-0.5, (n_out, n_in)).astype(np.float32)

    ones = np.ones(shape.n_embd, np.float32)
    yield "token_embd.weight", matrix(n_vocab, shape.n_embd) * np.float32(shape.n_embd**0.5)
    for i in range(shape.n_layer):
        yield f"blk.{i}.attn_norm.weight", ones
        yield f"blk.{i}.attn_q.weight", matrix(shape.n_embd, shape.n_embd)
        yield f"blk.{i}.attn_k.weight", matrix(n_kv, shape.n_embd)
        yield f"blk.{i}.attn_v.weight", matrix(n_kv, shape.n_embd)
        yield f"blk.{i}.attn_output.weight", matrix(shape.n_embd, shape.n_embd)
        yield f"blk.{i}.ffn_norm.weight", ones
        yield f"blk.{i}.ffn_gate.weight", matrix(shape.n_ff, shape.n_embd)
        yield f"blk.{i}.ffn_up.weight", matrix(shape.n_ff, shape.n_embd)
        yield f"blk.{i}.ffn_down.weight", matrix(shape.n_embd, shape.n_ff)
    yield "output_norm.weight", ones
    yield "output.weight", matrix(n_vocab, shape.n_embd)
