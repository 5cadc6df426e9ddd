"""Texts per second of embedding engines, on the same model and texts.

    python benchmarks/embeddings.py texts.csv model.gguf MODEL_FOLDER [--rows 1000] [--runs 3]

The GGUF file is made from the folder by tools/convert_bert.py. sentence-transformers runs in
float32 with batches of 32, which it sorts by length; llama-cpp-python's create_embedding takes one
text after the other, from the same GGUF file as ours. Engines take turns, each run in a process of
its own; loading is not timed. The vectors of all engines are compared with those of
sentence-transformers.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

REFERENCE = "sentence-transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path, help="columns title and description")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with arguments.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: arguments.rows]
    texts = [f"{row['title']}. {row['description']}" for row in rows]
    if arguments.one:
        seconds, vectors = ENGINES[arguments.one](texts, arguments)
        np.save(arguments.vectors, vectors)
        print(json.dumps(seconds))
        return
    compare(texts, arguments)


def compare(texts: list[str], arguments: argparse.Namespace) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ENGINES}
    vectors: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.runs):
            for name in ENGINES:
                target = Path(folder) / f"{name}.npy"
                command = [sys.executable, *sys.argv, "--one", name, "--vectors", str(target)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                seconds[name].append(json.loads(done.stdout.splitlines()[-1]))
                vectors[name] = np.load(target)
    ours = statistics.median(seconds["llamaherd"])
    print(f"{len(texts)} texts, {arguments.gguf.name}, medians of {arguments.runs} runs")
    for name, times in seconds.items():
        median = statistics.median(times)
        cosine = (vectors[name] * vectors[REFERENCE]).sum(axis=1).min()
        print(
            f"{name:22}{median:8.2f} s ({min(times):.2f} to {max(times):.2f}) "
            f"{len(texts) / median:7.0f} texts/s  ours is {median / ours:.2f}x  "
            f"least cosine {cosine:.5f}"
        )


def llamaherd(texts: list[str], arguments: argparse.Namespace) -> tuple[float, np.ndarray]:
    from llamaherd import Embedder, Model

    with (
        Model.load(arguments.gguf, threads=arguments.threads) as model,
        Embedder(model) as embedder,
    ):
        embedder.embed(texts[:8])
        began = time.perf_counter()
        vectors = embedder.embed(texts)
        return time.perf_counter() - began, vectors


def sentence_transformers(
    texts: list[str], arguments: argparse.Namespace
) -> tuple[float, np.ndarray]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(arguments.threads)
    model = SentenceTransformer(str(arguments.folder), device="cpu")
    # Some models cut texts before the end of their positions, which nobody else does.
    model.max_seq_length = model[0].auto_model.config.max_position_embeddings
    model.encode(texts[:8])
    began = time.perf_counter()
    vectors = model.encode(texts, batch_size=32, normalize_embeddings=True)
    return time.perf_counter() - began, np.asarray(vectors)


def llama_cpp_python(texts: list[str], arguments: argparse.Namespace) -> tuple[float, np.ndarray]:
    from llama_cpp import Llama

    model = Llama(
        str(arguments.gguf),
        embedding=True,
        n_ctx=512,
        n_batch=512,
        n_ubatch=512,
        n_threads=arguments.threads,
        n_threads_batch=arguments.threads,
        verbose=False,
    )
    model.create_embedding(texts[0])
    began = time.perf_counter()
    found = [model.create_embedding(text)["data"][0]["embedding"] for text in texts]
    seconds = time.perf_counter() - began
    vectors = np.asarray(found, np.float32)
    return seconds, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


ENGINES: dict[str, Callable[[list[str], argparse.Namespace], tuple[float, np.ndarray]]] = {
    "llamaherd": llamaherd,
    "sentence-transformers": sentence_transformers,
    "llama-cpp-python": llama_cpp_python,
}


if __name__ == "__main__":
    main()
