"""What the engine needs to know about tokens; the model layer provides it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llamaherd.config import GenerationConfig

__all__ = ["Constraint", "RowSampler", "Vocabulary"]


class RowSampler(Protocol):
    """Draws one row's tokens; holds the row's random state and recent tokens."""

    def pick(self, candidate_ids: NDArray[np.int32], logits: NDArray[np.float32]) -> int:
        """Choose one of the candidates.

        Args:
            candidate_ids: int32 ``[n]`` token ids.
            logits: float32 ``[n]`` their logits.
        """
        ...

    def close(self) -> None:
        """Free the native state. May be called twice."""
        ...


class Constraint(Protocol):
    """What one row's grammar allows, followed token by token."""

    is_complete: bool
    """Whether the text so far satisfies the grammar."""
    is_finished: bool
    """Whether nothing can follow."""

    def begin(self) -> Sequence[int]:
        """Tokens that have to come first, before any is sampled; they count as accepted."""
        ...

    def accept(self, token: int) -> Sequence[int]:
        """Go on by a token that was allowed.

        Returns:
            Tokens that have to follow; they count as accepted.

        Raises:
            LlamaherdError: The grammar cannot be followed any further.
        """
        ...

    def allowed(self) -> NDArray[np.bool_]:
        """Bool ``[n_vocab]``: which tokens may follow. Waits if that is still being computed."""
        ...


class Vocabulary(Protocol):
    """Tokens of one model."""

    n_vocab: int
    end_tokens: Collection[int]
    """Tokens that end an answer."""
    control_tokens: Collection[int]
    """Tokens that are markup, never text."""

    def piece(self, token: int) -> bytes:
        """Bytes of one token; control tokens give their written form."""
        ...

    def prepare(self, config: GenerationConfig) -> None:
        """Compile the grammar of a configuration ahead, on the caller's thread.

        Raises:
            ConfigError: The grammar is wrong.
        """
        ...

    def make_constraint(self, config: GenerationConfig) -> Constraint | None:
        """The constraint of one row; None if it may write anything.

        Raises:
            ConfigError: The grammar is wrong.
        """
        ...

    def make_sampler(self, config: GenerationConfig, seed: int, prompt: list[int]) -> RowSampler:
        """Make the sampler of one row that is not greedy.

        Args:
            config: Sampling options.
            seed: Seed of this row.
            prompt: Prompt tokens, which the penalties look at.
        """
        ...
