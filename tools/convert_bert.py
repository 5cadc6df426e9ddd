"""Converts a sentence-embedding model or a reranker of the BERT family to GGUF.

    pip install gguf safetensors numpy
    python tools/convert_bert.py MODEL_FOLDER model.gguf [--type F16]

The folder is as the hub has it: config.json, vocab.txt, model.safetensors and, for its pooling,
1_Pooling/config.json. A model with a classifier (BertForSequenceClassification) becomes a reranker.
Names of keys and tensors are those that llama.cpp reads for the architecture "bert".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
}
# From the hub's name of a tensor to GGUF's.
EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
}
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# What follows the first token's state in a classifier.
CLASSIFIER = {"pooler.dense": "cls", "classifier": "cls.output"}
POOLINGS = {"mean_tokens": 1, "cls_token": 2, "lasttoken": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--type", choices=TYPES, default="F16", help="of the matrices")
    arguments = parser.parse_args()
    convert(arguments.folder, arguments.output, arguments.type)


def convert(folder: Path, output: Path, matrix_type: str) -> None:
    """Write a model as GGUF.

    Args:
        folder: The model as the hub has it.
        output: The file to write.
        matrix_type: One of `TYPES`; vectors and norms are always float32.
    """
    config = json.loads((folder / "config.json").read_text())
    if config.get("hidden_act", "gelu") != "gelu" or config.get("model_type") != "bert":
        raise SystemExit(f"{folder}: only BERT with gelu is converted")
    tensors = {
        name.removeprefix("bert."): values
        for name, values in sorted(load_file(folder / "model.safetensors").items())
    }
    has_classifier = "classifier.weight" in tensors
    writer = gguf.GGUFWriter(output, "bert")
    write_shape(writer, config, folder, has_classifier)
    write_vocabulary(writer, (folder / "vocab.txt").read_text(encoding="utf-8").split("\n"))
    for name, values in tensors.items():
        target = tensor_name(name, has_classifier)
        if target is not None:
            add_tensor(writer, target, values.astype(np.float32), TYPES[matrix_type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_shape(
    writer: gguf.GGUFWriter, config: dict[str, Any], folder: Path, has_classifier: bool
) -> None:
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    if has_classifier:
        writer.add_pooling_type(gguf.PoolingType.RANK)
        return
    pooling = folder / "1_Pooling" / "config.json"
    modes = json.loads(pooling.read_text()) if pooling.exists() else {}
    kind = next((k for name, k in POOLINGS.items() if modes.get(f"pooling_mode_{name}")), 1)
    writer.add_pooling_type(gguf.PoolingType(kind))


def write_vocabulary(writer: gguf.GGUFWriter, lines: list[str]) -> None:
    """WordPiece as llama.cpp has it: a mark where a word begins instead of one where it goes on."""
    tokens = [line for line in lines if line]
    kinds = [gguf.TokenType.CONTROL if is_special(t) else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("bert")
    writer.add_token_list([phantom(token) for token in tokens])
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    places = {token: i for i, token in enumerate(tokens)}
    writer.add_bos_token_id(places["[CLS]"])
    writer.add_eos_token_id(places["[SEP]"])
    writer.add_sep_token_id(places["[SEP]"])
    writer.add_unk_token_id(places["[UNK]"])
    writer.add_pad_token_id(places["[PAD]"])
    writer.add_mask_token_id(places["[MASK]"])


def is_special(token: str) -> bool:
    return token in ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]") or token.startswith("[unused")


def phantom(token: str) -> str:
    if is_special(token):
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


def tensor_name(name: str, has_classifier: bool) -> str | None:
    """GGUF's name of a tensor; None if it has no place there, such as an unused pooler's."""
    stem, _, part = name.rpartition(".")
    if part not in ("weight", "bias"):
        return None
    if stem in EMBEDDINGS:
        return f"{EMBEDDINGS[stem]}.{part}"
    if stem in CLASSIFIER and has_classifier:
        return f"{CLASSIFIER[stem]}.{part}"
    if not stem.startswith("encoder.layer."):
        return None
    number, _, inner = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{number}.{LAYER[inner]}.{part}" if inner in LAYER else None


def add_tensor(
    writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: gguf.GGMLQuantizationType
) -> None:
    stem = name.removesuffix(".weight")
    is_matrix = values.ndim == 2 and stem not in ("token_types", "position_embd", "cls.output")
    used = kind if is_matrix else gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quants.quantize(values, used), raw_dtype=used)


if __name__ == "__main__":
    main()
