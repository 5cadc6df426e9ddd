"""Carries out plans on llamaherd's own CPU engine.

Each row's logits are bitwise the same alone and in any batch, for any chunk boundaries, with and
without prefix reuse, and for any number of threads: every sum of the engine has a fixed order
that depends on the row only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamaherd.engine.plan import (
    Fork,
    Free,
    MemoryKind,
    RunnerLimits,
    StepOutput,
    StepPlan,
    Trim,
)
from llamaherd.errors import DecodeFailed, InsufficientMemory, ModelLoadError
from llamaherd.runners.blocks import BlockTables
from llamaherd.runners.native_weights import NativeWeights, native_module

__all__ = ["NativeOptions", "NativeRunner"]


@dataclass(frozen=True, slots=True)
class NativeOptions:
    """How a runner is opened.

    Attributes:
        n_slots: Sequences at the same time, running or parked.
        n_tokens: Tokens in the KV cache.
        n_tokens_per_slot: Tokens in one sequence.
        n_batch: Tokens in one step.
        n_threads: Compute threads.
        stack_size: Bytes of stack of each.
        cores: Cores to pin them to, if any.
        work_stealing: Whether a thread that is done helps the others.
    """

    n_slots: int
    n_tokens: int
    n_tokens_per_slot: int
    n_batch: int
    n_threads: int
    stack_size: int
    cores: tuple[int, ...] | None
    work_stealing: bool


class NativeRunner:
    """Runs on packed weights.

    Args:
        weights: The model.
        options: Sizes and threads.

    Raises:
        InsufficientMemory: The KV cache cannot be allocated.
        ModelLoadError: The threads cannot be started.
    """

    def __init__(self, weights: NativeWeights, options: NativeOptions) -> None:
        native = native_module()
        self._block_size = native.KV_BLOCK
        n_blocks = max(1, options.n_tokens // self._block_size)
        settings = native.ContextOptions()
        settings.n_blocks = n_blocks
        settings.max_rows = options.n_batch
        settings.max_outputs = options.n_slots
        settings.max_tokens = options.n_tokens_per_slot
        settings.n_threads = options.n_threads
        settings.stack_bytes = options.stack_size
        settings.cores = list(options.cores or ())
        settings.work_stealing = options.work_stealing
        settings.rope_scale = weights.rope_scale
        settings.rope_frequencies = weights.rope_frequencies
        try:
            self._context = native.Context(weights.model, settings)
        except MemoryError as error:
            raise InsufficientMemory(
                "the KV cache does not fit in memory; lower n_ctx or max_batch_size"
            ) from error
        except RuntimeError as error:
            raise ModelLoadError(f"the native engine cannot start: {error}") from error
        self._execute = self._context.execute
        self._copy_block = self._context.copy_block
        self._tables = BlockTables(n_blocks, options.n_slots, self._block_size)
        self.n_vocab = weights.n_vocab
        stride = -(-weights.n_vocab // native.PANEL) * native.PANEL
        self._logits = np.empty((options.n_slots, stride), np.float32)
        self.limits = RunnerLimits(
            n_slots=options.n_slots,
            n_tokens=n_blocks * self._block_size,
            n_tokens_per_slot=min(options.n_tokens_per_slot, n_blocks * self._block_size),
            n_batch=options.n_batch,
            memory=MemoryKind.PAGED,
            block_size=self._block_size,
            is_invariant=True,
        )

    def execute(self, plan: StepPlan) -> StepOutput:
        """Carry out one step; see `Runner.execute`."""
        for operation in plan.operations:
            if isinstance(operation, Free):
                self._tables.trim(operation.slot, 0)
            elif isinstance(operation, Trim):
                self._tables.trim(operation.slot, operation.n_tokens)
            elif isinstance(operation, Fork):
                self._tables.fork(operation.parent, operation.child, operation.n_tokens)
        n_wanted = sum(chunk.wants_logits for chunk in plan.chunks)
        logits = self._logits[:n_wanted, : self.n_vocab]
        if not plan.chunks:
            return StepOutput(logits)
        if not self._make_room(plan):
            return StepOutput(logits[:0], no_room=True)
        self._compute(plan)
        return StepOutput(logits)

    def seconds(self) -> dict[str, float]:
        """Where the time went since the runner was opened, by operation; for benchmarks."""
        return dict(self._context.seconds())

    def close(self) -> None:
        """Free the KV cache and the compute threads. May be called twice."""
        self._context = self._execute = self._copy_block = None

    def _make_room(self, plan: StepPlan) -> bool:
        """Give every chunk its blocks; False, and nothing done, if there are not enough."""
        tables = self._tables
        needed = sum(tables.n_missing(c.slot, c.start, len(c.tokens)) for c in plan.chunks)
        if needed > tables.n_free:
            return False
        for chunk in plan.chunks:
            copy = tables.extend(chunk.slot, chunk.start, len(chunk.tokens))
            if copy is not None:
                self._copy_block(*copy)
        return True

    def _compute(self, plan: StepPlan) -> None:
        chunks = plan.chunks
        sizes = np.array([len(chunk.tokens) for chunk in chunks], np.int32)
        ends = np.cumsum(sizes, dtype=np.int32)
        wanted = np.array([chunk.wants_logits for chunk in chunks], bool)
        tables = [self._tables.table(chunk.slot) for chunk in chunks]
        blocks = np.zeros((len(chunks), max(map(len, tables))), np.int32)
        for row, table in zip(blocks, tables, strict=True):
            row[: len(table)] = table
        try:
            self._execute(
                np.concatenate([np.asarray(chunk.tokens, np.int32) for chunk in chunks]),
                sizes,
                np.array([chunk.start for chunk in chunks], np.int32),
                blocks,
                ends[wanted] - 1,
                self._logits,
            )
        except (ValueError, TypeError) as error:
            raise DecodeFailed(f"the native engine refused the step: {error}") from error
