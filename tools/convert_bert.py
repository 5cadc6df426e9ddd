"""Converts a sentence-embedding model or a reranker of the BERT family to GGUF.

    pip install gguf safetensors numpy
    python tools/convert_bert.py MODEL_FOLDER model.gguf [--type F16]

The folder is as the hub has it: config.json, vocab.txt, model.safetensors and, if it has them,
tokenizer_config.json, modules.json and 1_Pooling/config.json. A model with a classifier
(BertForSequenceClassification) becomes a reranker. What would be computed wrongly is refused.
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
    config = read_json(folder / "config.json")
    check(folder, config)
    tensors = {
        name.removeprefix("bert."): values
        for name, values in sorted(load_file(folder / "model.safetensors").items())
    }
    has_classifier = "classifier.weight" in tensors
    writer = gguf.GGUFWriter(output, "bert")
    write_shape(writer, config, folder, has_classifier)
    n_vocab = len(tensors["embeddings.word_embeddings.weight"])
    write_vocabulary(writer, folder, n_vocab)
    for name, values in tensors.items():
        target = tensor_name(name, has_classifier)
        if target is not None:
            add_tensor(writer, target, values.astype(np.float32), TYPES[matrix_type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_json(path: Path) -> Any:
    """The content of a file; nothing if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def check(folder: Path, config: dict[str, Any]) -> None:
    """Refuse what GGUF's "bert" is not.

    Raises:
        SystemExit: It is another kind of model.
    """
    if config.get("hidden_act", "gelu") != "gelu" or config.get("model_type") != "bert":
        raise SystemExit(f"{folder}: only BERT with gelu is converted")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise SystemExit(f"{folder}: only absolute positions are converted")
    if not (folder / "model.safetensors").exists():
        raise SystemExit(f"{folder}: there is no model.safetensors; PyTorch's files are not read")
    for module in read_json(folder / "modules.json"):
        if module["type"].rpartition(".")[2] not in ("Transformer", "Pooling", "Normalize"):
            raise SystemExit(f"{folder}: its part {module['type']} has no place in GGUF")


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
    writer.add_token_type_count(config.get("type_vocab_size", 2))
    if has_classifier:
        writer.add_pooling_type(gguf.PoolingType.RANK)
        return
    settings = read_json(folder / "1_Pooling" / "config.json")
    prefix = "pooling_mode_"
    modes = [
        key.removeprefix(prefix) for key in settings if key.startswith(prefix) and settings[key]
    ]
    modes = modes or ["mean_tokens"]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise SystemExit(f"{folder}: its pooling {' and '.join(modes)} has no place in GGUF")
    writer.add_pooling_type(gguf.PoolingType(POOLINGS[modes[0]]))


def write_vocabulary(writer: gguf.GGUFWriter, folder: Path, n_vocab: int) -> None:
    """WordPiece as llama.cpp has it: a mark where a word begins instead of one where it goes on."""
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    # Embeddings are often padded to a round number of rows.
    tokens += [f"[unused_row{i}]" for i in range(len(tokens), n_vocab)]
    settings = read_json(folder / "tokenizer_config.json")
    is_lower = settings.get("do_lower_case", True)
    strips = settings.get("strip_accents")
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", is_lower)
    writer.add_bool(
        "tokenizer.ggml.normalizer.strip_accents", is_lower if strips is None else strips
    )
    kinds = [gguf.TokenType.CONTROL if is_special(t) else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("bert")
    writer.add_token_list([phantom(token) for token in tokens])
    writer.add_token_types(kinds)
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
