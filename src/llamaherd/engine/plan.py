"""The contract between the scheduler and whatever runs the model.

A `StepPlan` is plain data: what to do with the KV cache, then which tokens to evaluate.
`Runner.execute` is the only way to the hardware. A *slot* is one sequence's place in the
KV cache, numbered from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Chunk",
    "Demand",
    "FloatArray",
    "Fork",
    "Free",
    "MemoryKind",
    "MemoryOperation",
    "Runner",
    "RunnerLimits",
    "StepOutput",
    "StepPlan",
    "Trim",
]

FloatArray: TypeAlias = NDArray[np.float32]


class MemoryKind(Enum):
    """How a runner keeps its KV cache."""

    UNIFIED = "unified"
    """One pool of cells; a fork shares them at no cost."""
    PARTITIONED = "partitioned"
    """Every slot owns its cells; a fork copies them. Neighboring slots run fastest together."""
    PAGED = "paged"
    """One pool of blocks; a fork shares whole blocks and copies the last one."""
    RECURRENT = "recurrent"
    """A state that cannot be cut back: a fork must take the parent's whole state."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a runner is opened for.

    Attributes:
        n_tokens_per_row: Prompt and answer of the longest row.
        max_batch_size: Rows at the same time.
        is_cautious: Avoid optional fast paths, since the self-test found wrong logits.
    """

    n_tokens_per_row: int
    max_batch_size: int
    is_cautious: bool = False


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What a runner can hold.

    Attributes:
        n_slots: Sequences at the same time.
        n_tokens: Tokens in the KV cache, all slots together.
        n_tokens_per_slot: Tokens in one slot.
        n_batch: Tokens in one step.
        memory: Kind of KV cache.
        block_size: Tokens per block (1 unless paged).
        is_invariant: Whether a row's logits are bitwise the same in any company.
    """

    n_slots: int
    n_tokens: int
    n_tokens_per_slot: int
    n_batch: int
    memory: MemoryKind
    block_size: int = 1
    is_invariant: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """Forget everything in `slot`."""

    slot: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Keep only the first `n_tokens` of `slot`."""

    slot: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Let `child` (empty until now) begin with the first `n_tokens` of `parent`."""

    parent: int
    child: int
    n_tokens: int


MemoryOperation: TypeAlias = Free | Trim | Fork


@dataclass(frozen=True, slots=True)
class Chunk:
    """Evaluate `tokens` in `slot` at positions `start`, `start + 1`, ...

    Attributes:
        slot: Where.
        start: Position of the first token; everything before it is already computed.
        tokens: At least one token id.
        wants_logits: Whether the logits after the last token are needed.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wants_logits: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: memory operations in this order, then all chunks together."""

    operations: tuple[MemoryOperation, ...] = ()
    chunks: tuple[Chunk, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.operations and not self.chunks

    @property
    def n_tokens(self) -> int:
        """Tokens to evaluate."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step gave.

    Attributes:
        logits: Float32 ``[n_wanted, n_vocab]``, one row per chunk with `wants_logits`, in the
            plan's order. It may be a view that the next step overwrites.
        no_room: True when the KV cache had no place for the chunks. The memory operations
            were done, none of the chunks was.
    """

    logits: FloatArray
    no_room: bool = False


class Runner(Protocol):
    """Weights, KV cache and compute threads. Used from one thread only."""

    limits: RunnerLimits
    n_vocab: int

    def execute(self, plan: StepPlan) -> StepOutput:
        """Carry out one step.

        Raises:
            DecodeFailed: The chunks could not be evaluated. The KV cache is as it was after
                the memory operations.
        """
        ...

    def close(self) -> None:
        """Free the KV cache and the compute threads. May be called twice."""
        ...
