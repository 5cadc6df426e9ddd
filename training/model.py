"""The demo model: a small decoder with the llama architecture, in plain torch.

Rotary embeddings use the interleaved formulation (pairs ``2i, 2i + 1``), which is what
llama.cpp computes for the llama architecture, so weights need no permutation on export.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copying import EMBEDDING_STD, install_copying


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the model; the same numbers go into the GGUF metadata."""

    vocab_size: int = 8192
    n_embd: int = 256
    n_layer: int = 5
    n_head: int = 8
    n_head_kv: int = 4
    n_ff: int = 640
    n_ctx: int = 1024
    # Large, so that most rotary pairs turn slowly: what they compare hardly depends on distance.
    rope_theta: float = 100000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head


def rope_table(config: ModelConfig) -> Tensor:
    """Returns cosines and sines, shape ``(2, n_ctx, head_dim / 2)``."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    freqs = config.rope_theta ** (-half / config.head_dim)
    angles = torch.outer(torch.arange(config.n_ctx, dtype=torch.float32), freqs)
    return torch.stack([angles.cos(), angles.sin()])


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotates neighbouring pairs of ``x`` (batch, heads, time, head_dim)."""
    cos, sin = table.to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2)


class Block(nn.Module):
    """One decoder layer: grouped-query attention and a SwiGLU feed-forward net."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.n_embd, config.n_head_kv * config.head_dim
        self.attn_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, kv_width, bias=False)
        self.attn_v = nn.Linear(width, kv_width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.ffn_gate = nn.Linear(width, config.n_ff, bias=False)
        self.ffn_up = nn.Linear(width, config.n_ff, bias=False)
        self.ffn_down = nn.Linear(config.n_ff, width, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Runs the layer on ``x`` (batch, time, width) with causal attention."""
        x = x + self._attend(self.attn_norm(x), table)
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))

    def _attend(self, x: Tensor, table: Tensor) -> Tensor:
        batch, time, width = x.shape
        config = self.config
        q = self.attn_q(x).view(batch, time, config.n_head, -1).transpose(1, 2)
        k = self.attn_k(x).view(batch, time, config.n_head_kv, -1).transpose(1, 2)
        v = self.attn_v(x).view(batch, time, config.n_head_kv, -1).transpose(1, 2)
        groups = config.n_head // config.n_head_kv
        q, k = apply_rope(q, table), apply_rope(k, table)
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_output(y.transpose(1, 2).reshape(batch, time, width))


class DemoModel(nn.Module):
    """Token embedding, decoder blocks, final norm; the output head is the embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.n_embd)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.output_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.register_buffer("rope", rope_table(config), persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.normal_(self.token_embd.weight, std=EMBEDDING_STD)
        for name, weight in self.blk.named_parameters():
            if weight.dim() == 2:
                # Blocks add nothing at first but what `install_copying` gives them.
                residual = "attn_output" in name or "ffn_down" in name
                nn.init.normal_(weight, std=0.0 if residual else weight.shape[1] ** -0.5)
        install_copying(self)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Returns logits at the chosen positions only.

        Args:
            tokens: Token ids, shape (batch, time).
            positions: Indices into the flattened (batch * time) axis whose next token is
                wanted. The head is most of the cost of a short answer, so prompt
                positions, which carry no loss, skip it.
        """
        x = self.token_embd(tokens)
        table = self.rope[:, : tokens.shape[1]]
        for block in self.blk:
            x = block(x, table)
        x = x.reshape(-1, self.config.n_embd)[positions]
        return F.linear(self.output_norm(x), self.token_embd.weight)
