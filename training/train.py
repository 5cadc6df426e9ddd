"""Generates the corpus, trains tokenizer and model, and writes the GGUF file.

``training/README.md`` has the commands. The text is made up on the fly from the seed; nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from corpus.examples import extraction_rows, new_name_rows, training_example
from export import export_gguf
from model import DemoModel, ModelConfig
from optim import Muon
from tokenizer import encode_example, tokenizer_text, train_tokenizer

DEFAULT_OUTPUT = (
    Path(__file__).resolve().parents[1] / "src" / "llamaherd" / "models" / "demo" / "demo.gguf"
)
# Shares of the examples. Extraction is the hardest and copying keeps its circuit alive; the news
# are the widest.
TASK_SHARES = {
    "extraction": 0.36,
    "news": 0.25,
    "capital": 0.13,
    "sentiment": 0.11,
    "copy": 0.10,
    "mixed": 0.025,
    "long": 0.01,
    "chat": 0.015,
}
TOKENIZER_EXAMPLES = 60_000
VOCAB_SIZE = 8192
STEPS = 1800
PROBE_EVERY = 100
N_PROBES = 100
MAX_TOKENS = 800


@dataclass
class Batch:
    """Padded token ids, and where which token is to be predicted with what weight."""

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor


def _make_batch(rows: list[tuple[list[int], list[tuple[int, int]]]]) -> Batch:
    width = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    positions, targets, weights = [], [], []
    for row, (ids, answers) in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        for start, end in answers:
            # Half way between "each token counts the same" and "each answer does".
            weight = (end - start) ** -0.5
            for at in range(start, end):
                positions.append(row * width + at - 1)
                targets.append(ids[at])
                weights.append(weight)
    return Batch(tokens, torch.tensor(positions), torch.tensor(targets), torch.tensor(weights))


def _examples(
    tokenizer: Tokenizer, rng: random.Random
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    names, shares = list(TASK_SHARES), list(TASK_SHARES.values())
    while True:
        task = rng.choices(names, shares)[0]
        turns = rng.randint(3, 12) if task == "mixed" else 1
        ids, answers = encode_example(tokenizer, training_example(task, rng, turns))
        if len(ids) <= MAX_TOKENS:
            yield ids, answers


def batches(tokenizer: Tokenizer, rng: random.Random, batch_tokens: int) -> Iterator[Batch]:
    """Yields batches of chats of similar length, so that little is padding."""
    source = _examples(tokenizer, rng)
    while True:
        pool = sorted((next(source) for _ in range(3000)), key=lambda row: len(row[0]))
        groups: list[list] = [[]]
        for row in pool:
            if len(row[0]) * (len(groups[-1]) + 1) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from (_make_batch(group) for group in groups)


def learning_rate_scale(step: int, steps: int) -> float:
    """Warm-up, plateau, then a long linear decay to nothing."""
    warm, decay_from = 40, int(steps * 0.45)
    if step < warm:
        return (step + 1) / warm
    if step < decay_from:
        return 1.0
    return max(0.0, 1.0 - (step - decay_from) / max(1, steps - decay_from))


def make_optimizers(model: DemoModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    matrices = [p for p in model.blk.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    adamw = torch.optim.AdamW(
        [
            {"params": [model.token_embd.weight], "lr": 3e-3, "weight_decay": 0.01},
            {"params": norms, "lr": 3e-3, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    return [Muon(matrices, lr=0.02, weight_decay=0.02), adamw]


def batch_loss(model: DemoModel, batch: Batch) -> tuple[Tensor, float]:
    """Returns the weighted loss and the share of answer tokens that were right."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch.tokens, batch.positions).float()
    losses = F.cross_entropy(logits, batch.targets, reduction="none")
    loss = (losses * batch.weights).sum() / batch.weights.sum()
    right = (logits.argmax(-1) == batch.targets).float().mean().item()
    return loss, right


def probe(model: DemoModel, tokenizer: Tokenizer) -> tuple[float, float]:
    """Shares of extraction answers that are right in every token, given the ones before.

    Returns:
        With names that training uses, and with names that it never sees.
    """
    shares = []
    for rows in (extraction_rows(N_PROBES, 3), new_name_rows(N_PROBES, 3)):
        batch = _make_batch([encode_example(tokenizer, row) for row in rows])
        with torch.no_grad():
            right = model(batch.tokens, batch.positions).argmax(-1) == batch.targets
        row_of = batch.positions // batch.tokens.shape[1]
        wrong = torch.unique(row_of[~right]).numel()
        shares.append(1 - wrong / len(rows))
    return shares[0], shares[1]


def train(args: argparse.Namespace) -> None:
    """Runs the whole recipe."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = train_tokenizer(tokenizer_text(args.seed, TOKENIZER_EXAMPLES), args.vocab_size)
    model = DemoModel(ModelConfig(vocab_size=tokenizer.get_vocab_size()))
    optimizers = make_optimizers(model)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    source = batches(tokenizer, random.Random(args.seed + 1), args.batch_tokens)
    started, seen, mean_loss, mean_right = time.time(), 0, math.nan, math.nan
    for step in range(args.steps):
        scale = learning_rate_scale(step, args.steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * scale
        batch = next(source)
        loss, right = batch_loss(model, batch)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += batch.tokens.numel()
        mean_loss = loss.item() if step == 0 else 0.98 * mean_loss + 0.02 * loss.item()
        mean_right = right if step == 0 else 0.98 * mean_right + 0.02 * right
        if step % PROBE_EVERY == 0:
            known, new = probe(model, tokenizer)
            speed = seen / (time.time() - started)
            print(
                f"{step:5d} loss {mean_loss:.4f} right {mean_right:.4f} "
                f"extraction {known:.2f} new names {new:.2f} "
                f"{speed:.0f} tokens/s {(time.time() - started) / 60:.1f} min",
                flush=True,
            )
        if args.export_every and step and step % args.export_every == 0:
            export_gguf(model, tokenizer, args.output)
    export_gguf(model, tokenizer, args.output)
    minutes = (time.time() - started) / 60
    print(f"wrote {args.output}: {args.steps} steps, {seen} tokens, {minutes:.1f} minutes")


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch-tokens", type=int, default=6144)
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export-every", type=int, default=0, help="steps between exports")
    return parser.parse_args()


if __name__ == "__main__":
    train(parse_args())
