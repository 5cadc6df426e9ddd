"""Facts about a loaded model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelInfo"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model.

    Attributes:
        name: Its own name, or the file's.
        architecture: Such as ``"llama"`` or ``"qwen2"``.
        n_params: Parameters.
        n_vocab: Tokens in the vocabulary.
        n_embd: Width of the hidden state.
        n_layer: Layers.
        n_head: Attention heads.
        n_ctx_train: Tokens of context it was trained for.
        size_bytes: Size of its tensors.
        quantisation: Such as ``"Q4_K_M"``.
        engine: The engine that runs it.
        chat_template: Whether it brings one.
        path: The file.
    """

    name: str
    architecture: str
    n_params: int
    n_vocab: int
    n_embd: int
    n_layer: int
    n_head: int
    n_ctx_train: int
    size_bytes: int
    quantisation: str
    engine: str
    chat_template: bool
    path: str
