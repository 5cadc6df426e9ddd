"""Batch tokenization against Hugging Face tokenizers, on the same vocabulary.

Example:
    python benchmarks/batch_tokenize.py news.csv model.gguf
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from llamaherd.llama.gguf_file import read_header
from llamaherd.llama.vocabulary import LlamaVocabulary
from llamaherd.llama.weights import Weights
from llamaherd.models.tokenizing import BatchTokenizer

REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
PATTERNS = {"llama-bpe": WORD + r"\p{N}{1,3}|" + REST, "qwen2": WORD + r"\p{N}|" + REST}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="file with columns title and description")
    parser.add_argument("model", type=Path, help="GGUF file with a byte-level BPE vocabulary")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each, in turn")
    arguments = parser.parse_args()
    with arguments.csv.open(encoding="utf-8") as file:
        texts = [f"{row['title']}. {row['description']}" for row in csv.DictReader(file)]
    report = compare(texts, arguments.model, arguments.runs)
    print(json.dumps(report))
    print(
        f"{len(texts)} texts: llamaherd {report['llamaherd_mb_s']} MB/s "
        f"(first run {report['first_run_mb_s']}), tokenizers {report['tokenizers_mb_s']} MB/s, "
        f"ratio {report['ratio']} (first run {report['first_run_ratio']})"
    )


def compare(texts: list[str], path: Path, n_runs: int) -> dict[str, object]:
    """Medians of alternating runs; the first run of each is reported apart, or left out."""
    with Weights.load(path, vocab_only=True) as weights:
        vocabulary = LlamaVocabulary(weights)
        pre = weights.metadata().get("tokenizer.ggml.pre", "")
        reference = huggingface_tokenizer(path, pre)
        ours = BatchTokenizer(vocabulary, pre)
        sides: dict[str, Callable[[], list[list[int]]]] = {
            "llamaherd": lambda: ours.batch_tokenize(texts, add_bos=False),
            "tokenizers": lambda: [e.ids for e in reference.encode_batch(texts)],
            "tokenizers_fast": lambda: [e.ids for e in reference.encode_batch_fast(texts)],
            "llama_tokenize": lambda: [vocabulary.tokenize(t, add_bos=False) for t in texts],
        }
        ours.tokenize("warm up: the self-test is part of loading")
        first = {name: timed(run) for name, run in sides.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(n_runs):
            for name, run in sides.items():
                times[name].append(timed(run)[0])
    results = {name: ids for name, (_, ids) in first.items()}
    n_bytes = sum(len(text.encode()) for text in texts)
    medians = {name: statistics.median(found) for name, found in times.items()}
    speeds = {f"{name}_mb_s": round(n_bytes / t / 1e6, 2) for name, t in medians.items()}
    return {
        "model": path.name,
        "pre": pre,
        "n_texts": len(texts),
        "n_bytes": n_bytes,
        "n_tokens": sum(map(len, results["llamaherd"])),
        "equals_llama_cpp": results["llamaherd"] == results["llama_tokenize"],
        "n_texts_where_tokenizers_differs": sum(
            a != b for a, b in zip(results["tokenizers"], results["llama_tokenize"], strict=True)
        ),
        **speeds,
        "first_run_mb_s": round(n_bytes / first["llamaherd"][0] / 1e6, 2),
        "ratio": round(medians["tokenizers"] / medians["llamaherd"], 2),
        "first_run_ratio": round(medians["tokenizers"] / first["llamaherd"][0], 2),
    }


def timed(run: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    """Seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def huggingface_tokenizer(path: Path, pre: str) -> Tokenizer:
    """The same vocabulary in Hugging Face's library."""
    keys = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    tokens, merges = (read_header(path, string_arrays=keys).metadata[key] for key in keys)
    assert isinstance(tokens, list) and isinstance(merges, list)
    vocabulary = {str(token): i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (str(m).partition(" ") for m in merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    if pre in PATTERNS:
        words = pre_tokenizers.Split(Regex(PATTERNS[pre]), "isolated")
        in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


if __name__ == "__main__":
    main()
