"""A runner without a model: for tests of everything above it, and for timing its overhead.

It keeps the tokens of every slot, refuses plans that a real KV cache would refuse, and
takes the next token from a function of *all* tokens in the slot, so that a mistake in
batching, prefix reuse or preemption changes the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llamaherd.engine.plan import (
    Chunk,
    FloatArray,
    Fork,
    Free,
    MemoryKind,
    RunnerLimits,
    StepOutput,
    StepPlan,
    Trim,
)

__all__ = ["ScriptedRunner"]


class ScriptedRunner:
    """Runs a function instead of a model.

    Args:
        next_token: From all tokens in a slot to the token that follows.
        limits: What it can hold.
        n_vocab: Size of the vocabulary.
    """

    def __init__(
        self,
        next_token: Callable[[Sequence[int]], int],
        limits: RunnerLimits,
        n_vocab: int,
    ) -> None:
        self.limits = limits
        self.n_vocab = n_vocab
        self.n_computed_tokens = 0
        self._next_token = next_token
        self._slots: dict[int, list[int]] = {}
        # Cells of a unified or paged cache: (token, position) cells shared between slots.
        self._cells: dict[int, list[object]] = {}

    def execute(self, plan: StepPlan) -> StepOutput:
        """Carry out one step."""
        for operation in plan.operations:
            self._operate(operation)
        if plan.n_tokens > self.limits.n_batch:
            raise AssertionError(f"{plan.n_tokens} tokens in a step of {self.limits.n_batch}")
        if self._n_used() + plan.n_tokens > self.limits.n_tokens:
            return StepOutput(np.empty((0, self.n_vocab), np.float32), no_room=True)
        wanted = [chunk for chunk in plan.chunks if self._compute(chunk)]
        return StepOutput(self._logits(wanted))

    def close(self) -> None:
        """Forget everything."""
        self._slots.clear()
        self._cells.clear()

    def _operate(self, operation: Free | Trim | Fork) -> None:
        if isinstance(operation, Free):
            self._slots.pop(operation.slot, None)
            self._cells.pop(operation.slot, None)
        elif isinstance(operation, Trim):
            if self.limits.memory is MemoryKind.RECURRENT:
                raise AssertionError("a recurrent state cannot be trimmed")
            del self._slots[operation.slot][operation.n_tokens :]
            del self._cells[operation.slot][operation.n_tokens :]
        else:
            self._fork(operation)

    def _fork(self, fork: Fork) -> None:
        parent = self._slots[fork.parent]
        if self._slots.get(fork.child):
            raise AssertionError(f"slot {fork.child} is not empty")
        if fork.n_tokens > len(parent):
            raise AssertionError("a fork of tokens that are not computed")
        if self.limits.memory is MemoryKind.RECURRENT and fork.n_tokens != len(parent):
            raise AssertionError("a recurrent state forks whole")
        self._slots[fork.child] = parent[: fork.n_tokens]
        self._cells[fork.child] = self._cells[fork.parent][: fork.n_tokens]

    def _compute(self, chunk: Chunk) -> bool:
        tokens = self._slots.setdefault(chunk.slot, [])
        if not 0 <= chunk.slot < self.limits.n_slots or chunk.start != len(tokens):
            raise AssertionError(f"chunk at {chunk.start}, slot {chunk.slot} has {len(tokens)}")
        tokens.extend(chunk.tokens)
        self._cells.setdefault(chunk.slot, []).extend(object() for _ in chunk.tokens)
        if len(tokens) > self.limits.n_tokens_per_slot:
            raise AssertionError(f"slot {chunk.slot} holds {len(tokens)} tokens")
        self.n_computed_tokens += len(chunk.tokens)
        return chunk.wants_logits

    def _logits(self, wanted: Sequence[Chunk]) -> FloatArray:
        logits = np.zeros((len(wanted), self.n_vocab), dtype=np.float32)
        for i, chunk in enumerate(wanted):
            logits[i, self._next_token(self._slots[chunk.slot])] = 1.0
        return logits

    def _n_used(self) -> int:
        if self.limits.memory in (MemoryKind.PARTITIONED, MemoryKind.RECURRENT):
            return 0
        return len({id(cell) for cells in self._cells.values() for cell in cells})
