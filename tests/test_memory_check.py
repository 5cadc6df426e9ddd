"""The memory check: llama.cpp's own numbers, and a refusal that helps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from llamaherd.errors import InsufficientMemory
from llamaherd.llama.gguf_file import ModelSizes, read_header
from llamaherd.models.memory import (
    check_memory,
    estimate_file,
    estimate_memory,
    format_bytes,
    kv_bytes_per_token,
)
from tiny_models import TinyShape, make_bpe_model

# Llama 3 8B.
LLAMA_8B = ModelSizes(
    n_layer=32,
    n_embd=4096,
    n_ff=14336,
    n_vocab=128256,
    n_ctx_train=8192,
    n_head=32,
    n_head_kv=8,
    kv_heads=(8,) * 32,
    head_dim_k=128,
    head_dim_v=128,
    n_swa=0,
    state_bytes=0,
)


def test_the_kv_cache_has_its_published_size() -> None:
    assert kv_bytes_per_token(LLAMA_8B) == 128 * 1024
    assert kv_bytes_per_token(replace(LLAMA_8B, kv_heads=(8, 0) * 16)) == 64 * 1024
    recurrent = replace(LLAMA_8B, kv_heads=(), state_bytes=1_000_000)
    estimate = estimate_memory(recurrent, weights_bytes=0, n_kv_tokens=10**6, n_rows=3)
    assert estimate.kv_cache == 3_000_000


def test_sizes_are_read_from_the_file(tmp_path: Path) -> None:
    shape = TinyShape(n_embd=64, n_head=4, n_head_kv=2, n_layer=3)
    path = make_bpe_model(tmp_path / "m.gguf", shape=shape, extra={"llama.attention.key_length": 8})
    sizes = read_header(path).sizes()
    assert (sizes.n_layer, sizes.kv_heads, sizes.head_dim_k, sizes.head_dim_v) == (
        3,
        (2, 2, 2),
        8,
        16,
    )
    assert kv_bytes_per_token(sizes) == 3 * 2 * (8 + 16) * 2
    estimate = estimate_file(path, n_kv_tokens=100, n_rows=4)
    assert estimate.weights == path.stat().st_size
    assert estimate.logits == 4 * sizes.n_vocab * 4


def test_a_refusal_names_the_parts_and_what_to_lower() -> None:
    estimate = estimate_memory(
        LLAMA_8B, weights_bytes=5_000_000_000, n_kv_tokens=32 * 8192, n_rows=32
    )
    check_memory(estimate, estimate.total)
    with pytest.raises(InsufficientMemory) as caught:
        check_memory(estimate, 16_000_000_000, "llama.gguf")
    message = str(caught.value)
    assert "16.0 GB are available" in message
    assert "weights 5.0 GB, KV cache 34.4 GB, logits 16 MB" in message
    assert "lower n_ctx or max_batch_size" in message
    with pytest.raises(InsufficientMemory, match="smaller quantization"):
        check_memory(estimate, 1_000_000_000)


def test_sizes_are_written_as_people_do() -> None:
    assert [format_bytes(n) for n in (500, 2_000, 3_400_000, 1_550_000_000)] == [
        "0 kB",
        "2 kB",
        "3 MB",
        "1.6 GB",
    ]
    assert re.fullmatch(r"\d+ MB", format_bytes(999_000_000))
