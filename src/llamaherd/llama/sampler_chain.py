"""A row's sampler, made of llama.cpp's own samplers.

They work on any array of candidates, so rows of every runner are sampled by the same code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llamaherd.config import GenerationConfig
from llamaherd.llama.binding import C

__all__ = ["SamplerChain"]

# Layout of llama_token_data.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
# llama.cpp takes this seed to mean "draw one".
_RANDOM_SEED = 0xFFFFFFFF


class SamplerChain:
    """Penalties, cut-offs, temperature and the random draw of one row.

    Args:
        config: Sampling options.
        seed: Seed of the row; the lowest 32 bits count.
        n_vocab: Tokens in the vocabulary.
        prompt: Prompt tokens, which the penalties look at.
    """

    def __init__(
        self, config: GenerationConfig, seed: int, n_vocab: int, prompt: Sequence[int]
    ) -> None:
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for sampler in _samplers(config, seed & 0xFFFFFFFF, n_vocab):
            C.llama_sampler_chain_add(self._chain, sampler)
        self._accepts = config.has_penalties
        if self._accepts:
            for token in prompt[-config.penalty_last_n :]:
                C.llama_sampler_accept(self._chain, token)

    def pick(self, candidate_ids: NDArray[np.int32], logits: NDArray[np.float32]) -> int:
        """Choose one of the candidates and remember it for the penalties.

        Args:
            candidate_ids: int32 ``[n]`` token ids.
            logits: float32 ``[n]`` their logits.
        """
        data = np.empty(len(candidate_ids), dtype=_CANDIDATE)
        data["id"] = candidate_ids
        data["logit"] = logits
        data["p"] = 0.0
        pointer = data.ctypes.data_as(ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(pointer, len(data), -1, False)
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        if self._accepts:
            C.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the native samplers."""
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = None

    def __del__(self) -> None:
        self.close()


def _samplers(config: GenerationConfig, seed: int, n_vocab: int) -> list[object]:
    """The samplers that `config` asks for, in llama.cpp's default order."""
    chain: list[object] = []
    if config.has_penalties:
        chain.append(
            C.llama_sampler_init_penalties(
                n_vocab,
                config.penalty_last_n,
                config.repeat_penalty,
                config.frequency_penalty,
                config.presence_penalty,
            )
        )
    if config.is_greedy:
        return [*chain, C.llama_sampler_init_greedy()]
    if config.top_k:
        chain.append(C.llama_sampler_init_top_k(config.top_k))
    if config.typical_p < 1.0:
        chain.append(C.llama_sampler_init_typical(config.typical_p, 1))
    if config.top_p < 1.0:
        chain.append(C.llama_sampler_init_top_p(config.top_p, 1))
    if config.min_p > 0.0:
        chain.append(C.llama_sampler_init_min_p(config.min_p, 1))
    chain.append(C.llama_sampler_init_temp(config.temperature))
    # The reserved seed would make the row irreproducible; its neighbor does as well.
    chain.append(C.llama_sampler_init_dist(seed if seed != _RANDOM_SEED else seed - 1))
    return chain
