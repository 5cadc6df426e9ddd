"""Makes the model of the benchmarks: 213 M parameters of the llama architecture, random weights.

Speed does not depend on the values of weights, so nothing needs to be downloaded, and every
machine measures the same model. The vocabulary is real: byte-level BPE learned from the
documentation inside Python's standard library, so that texts have realistic lengths in tokens.

    python benchmarks/make_model.py                 # Q4_0
    python benchmarks/make_model.py F16 Q8_0 Q4_0 Q4_K_M

Files lie in `$LLAMAHERD_CACHE/bench`, by default `~/.cache/llamaherd/bench`. In F16, Q8_0 and
Q4_0 all matrices have that one type, the tied token embedding included; Q4_K_M is the mixture
that llama.cpp's own quantization makes (token embedding Q6_K).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import sysconfig
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# Part of the file name: raise it when the content changes.
VERSION = 1
QUANTS = ("F16", "Q8_0", "Q4_0", "Q4_K_M")

N_EMBD = 1024
N_LAYER = 16
N_HEAD = 16
N_HEAD_KV = 4
N_FF = 2816
N_VOCAB = 32_000
N_CTX = 4096
HEAD_DIM = N_EMBD // N_HEAD
# Standard deviation of the logits: that of an embedding row times the root of N_EMBD.
LOGIT_STD = 2.6

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def cache_dir() -> Path:
    """Where generated models and tokenized jobs are kept."""
    base = os.environ.get("LLAMAHERD_CACHE") or Path.home() / ".cache" / "llamaherd"
    path = Path(base) / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def model_path(quant: str) -> Path:
    """Path of the model in one quantization, made first if it does not exist."""
    if quant not in QUANTS:
        raise SystemExit(f"no quantization {quant!r}; there are {', '.join(QUANTS)}")
    path = cache_dir() / f"bench-213m-v{VERSION}-{quant.lower()}.gguf"
    if path.exists():
        return path
    print(f"Making {path} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        if quant == "Q4_K_M":
            quantize_with_llama_cpp(model_path("F16"), partial)
        else:
            write_model(partial, quant)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    took = time.monotonic() - started
    print(f"  {path.stat().st_size / 1e6:.0f} MB in {took:.0f} s", file=sys.stderr)
    return path


def write_model(path: Path, quant: str) -> None:
    """Write the model with every matrix in one type, tensor by tensor to keep memory small."""
    kind = GGMLQuantizationType[quant]
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, quant)
    shapes = tensor_shapes()
    for name, shape in shapes.items():
        stored = GGMLQuantizationType.F32 if len(shape) == 1 else kind
        n_bytes = int(np.prod(gguf.quant_shape_to_byte_shape(shape, stored)))
        dtype = np.dtype({"F32": np.float32, "F16": np.float16}.get(stored.name, np.uint8))
        # For quantized data the writer derives the shape in elements from the one in bytes.
        as_bytes = gguf.quant_shape_to_byte_shape(shape, stored) if dtype == np.uint8 else shape
        writer.add_tensor_info(name, as_bytes, dtype, n_bytes, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape in shapes.items():
        values = weights(name, shape)
        stored = GGMLQuantizationType.F32 if len(shape) == 1 else kind
        writer.write_tensor_data(np.ascontiguousarray(gguf.quants.quantize(values, stored)))
    writer.close()


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, rows first. The output projection is the embedding."""
    n_kv = N_HEAD_KV * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (N_VOCAB, N_EMBD)}
    for i in range(N_LAYER):
        layer = {
            "attn_norm": (N_EMBD,),
            "attn_q": (N_EMBD, N_EMBD),
            "attn_k": (n_kv, N_EMBD),
            "attn_v": (n_kv, N_EMBD),
            "attn_output": (N_EMBD, N_EMBD),
            "ffn_norm": (N_EMBD,),
            "ffn_gate": (N_FF, N_EMBD),
            "ffn_up": (N_FF, N_EMBD),
            "ffn_down": (N_EMBD, N_FF),
        }
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"output_norm.weight": (N_EMBD,)}


def weights(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values of one tensor, the same on every machine.

    Matrices keep the scale of what they multiply, so that the layers outweigh the embedding in
    the residual stream: otherwise, with tied embeddings, every token would predict itself.
    Attention is damped, since it averages over the context: at full strength, all positions
    would agree and the greedy output would repeat one token.
    """
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    rng = np.random.default_rng([VERSION, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, np.float32)
    values /= np.sqrt(shape[1])
    if name == "token_embd.weight":
        values *= LOGIT_STD
    elif name.endswith("attn_output.weight"):
        values *= 0.25
    return values


def add_metadata(writer: Any, quant: str) -> None:
    """Hyperparameters and vocabulary."""
    writer.add_name("llamaherd benchmark 213M")
    writer.add_file_type(LlamaFileType[f"MOSTLY_{quant}"])
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(N_VOCAB)

    tokens, merges = train_vocabulary()
    special = {token: i for i, token in enumerate(tokens) if token in SPECIAL_TOKENS}
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(special[END_OF_TEXT])
    writer.add_eos_token_id(special[IM_END])
    writer.add_pad_token_id(special[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def train_vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE with GPT-2's splitting, from `text_of_python`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text_of_python(), trainer)
    if tokenizer.get_vocab_size() != N_VOCAB:
        raise SystemExit(
            f"the standard library of this Python gave {tokenizer.get_vocab_size()} tokens "
            f"instead of {N_VOCAB}; its sources seem to be incomplete"
        )
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(pair) for pair in model["merges"]]


def text_of_python() -> Iterator[str]:
    """Docstrings and comments of the standard library: English that is on every machine."""
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"}
    quoted = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
    comment = re.compile(r"^\s*#+ ?(.*)$", re.MULTILINE)
    counts: Counter[str] = Counter()
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if skipped & set(path.parts):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        for text in [match[2] for match in quoted.finditer(source)] + comment.findall(source):
            counts.update(re.findall(r"[A-Za-z][a-z]{2,}", text))
            yield text
    # Headlines start most words with a capital, which documentation does not.
    for word, n in counts.items():
        if n >= 3:
            yield f" {word} {word.capitalize()}"


def quantize_with_llama_cpp(source: Path, target: Path) -> None:
    """Quantize with llama.cpp's own mixture of types."""
    from llama_cpp import llama_cpp as C

    # llama.cpp keeps the address, so the callback must live on.
    global _silent
    _silent = C.llama_log_callback(lambda level, text, user_data: None)
    C.llama_log_set(_silent, None)
    params = C.llama_model_quantize_default_params()
    params.ftype = C.LLAMA_FTYPE_MOSTLY_Q4_K_M
    params.nthread = os.cpu_count() or 1
    code = C.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if code != 0:
        raise SystemExit(f"llama_model_quantize failed with code {code}")


def main() -> None:
    """Make the models named on the command line and print their paths."""
    parser = argparse.ArgumentParser(description="Make the model of the benchmarks.")
    parser.add_argument("quants", nargs="*", metavar="QUANT", help=f"of {', '.join(QUANTS)}")
    for quant in parser.parse_args().quants or ["Q4_0"]:
        print(model_path(quant))


if __name__ == "__main__":
    main()
