"""Starts the model off with the ability to copy.

Taking names over from a sentence needs an induction circuit (Olsson et al. 2022, "In-context
Learning and Induction Heads"): a head that remembers at each token which token came before it,
and in the next layer heads that look for the place where the current token stood earlier and copy
what followed. A small model finds it only after very many tokens, so the first weights already
hold a rough one, and training goes on from there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from model import DemoModel

EMBEDDING_STD = 0.05
# Layout of the residual stream: a constant, the token's identity, and room for the identity of
# the token before it.
_CONSTANT = 0
_CONSTANT_VALUE = 0.5
_IDENTITY = 1
# Nats by which the previous token outweighs its neighbors.
_PREVIOUS_MARGIN = 8.0
_PREVIOUS_PAIRS = 8
# Strength of a match between two tokens, and of what is copied.
_MATCH_GAIN = 2.6
_COPY_GAIN = 0.3
# Cosine of the largest turn, over 100 tokens, of the slowest pairs that compare tokens.
_SLOWEST = 0.8


@torch.no_grad()
def install_copying(model: DemoModel) -> None:
    """Writes the circuit into the first two layers of a model that was just initialized."""
    config = model.config
    n_heads = config.n_head_kv - 1
    previous = config.n_embd - n_heads * config.head_dim
    embedding = model.token_embd.weight
    embedding[:, _CONSTANT] = _CONSTANT_VALUE
    embedding[:, previous:] = 0.0
    for head in range(n_heads):
        _look_at_previous_token(model, head, previous + head * config.head_dim)
    for head in range(config.n_head_kv):
        _copy_what_followed(model, head, previous)


def _look_at_previous_token(model: DemoModel, head: int, target: int) -> None:
    """Writes 32 numbers of the previous token's identity to `target`, with queries and keys that
    know nothing but their position."""
    config, block = model.config, model.blk[0]
    dim, query_head = config.head_dim, head * (config.n_head // config.n_head_kv)
    q, k = block.attn_q.weight, block.attn_k.weight
    v, out = block.attn_v.weight, block.attn_output.weight
    frequencies = config.rope_theta ** (-torch.arange(0, dim, 2) / dim)
    gap = (1 - torch.cos(frequencies[:_PREVIOUS_PAIRS])).sum().item()
    constant = _normed(model, _CONSTANT_VALUE)
    gain = math.sqrt(_PREVIOUS_MARGIN * math.sqrt(dim) / gap) / constant
    q[query_head * dim : (query_head + 1) * dim] = 0.0
    k[head * dim : (head + 1) * dim] = 0.0
    for pair in range(_PREVIOUS_PAIRS):
        q[query_head * dim + 2 * pair, _CONSTANT] = gain
        k[head * dim + 2 * pair, _CONSTANT] = gain * torch.cos(frequencies[pair])
        k[head * dim + 2 * pair + 1, _CONSTANT] = gain * torch.sin(frequencies[pair])
    v[head * dim : (head + 1) * dim] = 0.0
    for i in range(dim):
        v[head * dim + i, _IDENTITY + head * dim + i] = 1.0
        out[target + i, query_head * dim + i] = EMBEDDING_STD


def _copy_what_followed(model: DemoModel, head: int, previous: int) -> None:
    """Attends to where the current token is the one before, and writes what stands there."""
    config, block = model.config, model.blk[1]
    dim, query_head = config.head_dim, head * (config.n_head // config.n_head_kv)
    frequencies = config.rope_theta ** (-torch.arange(0, dim, 2) / dim)
    first = 2 * int((torch.cos(100 * frequencies.clamp(max=0.03)) < _SLOWEST).sum())
    n_compared = dim - first
    q, k = block.attn_q.weight, block.attn_k.weight
    v, out = block.attn_v.weight, block.attn_output.weight
    q[query_head * dim : (query_head + 1) * dim] = 0.0
    k[head * dim : (head + 1) * dim] = 0.0
    v[head * dim : (head + 1) * dim] = 0.0
    for i in range(n_compared):
        q[query_head * dim + first + i, _IDENTITY + head * n_compared + i] = _MATCH_GAIN
        k[head * dim + first + i, previous + head * n_compared + i] = _MATCH_GAIN
    for i in range(dim):
        v[head * dim + i, _IDENTITY + head * dim + i] = 1.0
        out[_IDENTITY + head * dim + i, query_head * dim + i] = _COPY_GAIN


def _normed(model: DemoModel, value: float) -> float:
    """What the first norm makes of a number in a token's embedding."""
    mean_square = model.token_embd.weight.square().sum(-1).mean().item() / model.config.n_embd
    return value / math.sqrt(mean_square)
