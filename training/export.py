"""Writes the trained model as GGUF: llama architecture, Q8_0 weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer

from model import DemoModel
from tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, SPECIAL_TOKENS


def _add_architecture(writer: gguf.GGUFWriter, model: DemoModel) -> None:
    config = model.config
    writer.add_name("llamaherd demo")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_description(
        "Tiny demonstration model: capitals, news topics, sentiment, JSON extraction."
    )
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_head_kv)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    state = json.loads(tokenizer.to_str())["model"]
    by_id = sorted(state["vocab"], key=state["vocab"].__getitem__)
    types = [
        gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL
        for token in by_id
    ]
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in state["merges"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(by_id)
    writer.add_token_types(types)
    writer.add_token_merges(list(pairs))
    writer.add_eos_token_id(state["vocab"][IM_END])
    writer.add_eot_token_id(state["vocab"][IM_END])
    writer.add_pad_token_id(state["vocab"][END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export_gguf(model: DemoModel, tokenizer: Tokenizer, path: Path) -> None:
    """Writes the model; the file appears under its name only when it is complete.

    The output head is the token embedding: llama.cpp shares it when ``output.weight`` is
    absent.
    """
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), "llama")
    _add_architecture(writer, model)
    _add_tokenizer(writer, tokenizer)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, weight in model.state_dict().items():
        data = weight.detach().to(torch.float32).numpy()
        if data.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, path)
