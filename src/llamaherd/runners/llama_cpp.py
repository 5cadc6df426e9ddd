"""Carries out plans on a llama.cpp context.

The batch is one set of numpy arrays made once; llama.cpp reads them in place. Several calls
of llama.cpp end the whole process on wrong arguments, so this module is the only one that
makes them, and the scheduler's plans keep to what each kind of KV cache can do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamaherd.engine.kv_shape import KvShape
from llamaherd.engine.plan import (
    Chunk,
    FloatArray,
    Fork,
    Free,
    MemoryKind,
    MemoryOperation,
    RunnerLimits,
    StepOutput,
    StepPlan,
)
from llamaherd.errors import DecodeFailed, ModelLoadError
from llamaherd.llama.binding import C
from llamaherd.llama.weights import apply_adapters
from llamaherd.runners.compute_threads import start_compute_threads

__all__ = ["LlamaCppRunner", "RunnerOptions"]

# Tokens that llama.cpp computes in one piece; sets the size of its compute buffer.
N_UBATCH = 512
_FLASH_ATTENTION_AUTO, _FLASH_ATTENTION_OFF, _FLASH_ATTENTION_ON = -1, 0, 1


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """How a context is made.

    Attributes:
        n_threads: Compute threads.
        stack_size: Stack of each of them, in bytes.
        cores: Cores to pin them to; None leaves them free.
        n_batch: Most tokens per step.
        flash_attention: Insist on flash attention; otherwise llama.cpp decides.
        is_cautious: No flash attention at all.
        is_recurrent: The model keeps a state that cannot be cut back.
        adapters: LoRA adapters as (handle, scale).
    """

    n_threads: int
    stack_size: int
    cores: tuple[int, ...] | None
    n_batch: int
    flash_attention: bool = False
    is_cautious: bool = False
    is_recurrent: bool = False
    adapters: Sequence[tuple[Any, float]] = ()


class LlamaCppRunner:
    """A llama.cpp context. Used from the thread that made it.

    Args:
        model: llama_model handle; must outlive the runner.
        n_vocab: Tokens in its vocabulary.
        shape: Size and kind of the KV cache.
        options: Threads and features.

    Raises:
        ModelLoadError: llama.cpp could not make the context, usually for lack of memory.
    """

    def __init__(self, model: Any, n_vocab: int, shape: KvShape, options: RunnerOptions) -> None:
        self.n_vocab = n_vocab
        self._context = C.llama_init_from_model(model, _context_params(shape, options))
        if not self._context:
            raise ModelLoadError(
                f"llama.cpp could not make a context of {shape.n_tokens} tokens for "
                f"{shape.n_slots} rows; lower n_ctx or max_batch_size"
            )
        self._memory = C.llama_get_memory(self._context)
        if not self._memory:
            self.close()
            raise ModelLoadError("this model has no KV cache: it makes embeddings, not text")
        apply_adapters(self._context, options.adapters)
        self.limits = self._read_limits(shape, options)
        self._batch = _Batch(self.limits.n_batch)
        self.thread_ids = start_compute_threads(
            self._compute_once, stack_size=options.stack_size, cores=options.cores
        )

    def execute(self, plan: StepPlan) -> StepOutput:
        """Carry out one step.

        Raises:
            DecodeFailed: llama.cpp refused the batch; the KV cache is as before its chunks.
        """
        for operation in plan.operations:
            self._operate(operation)
        if not plan.chunks:
            return StepOutput(np.empty((0, self.n_vocab), np.float32))
        if self.limits.memory is MemoryKind.PARTITIONED:
            wanted = self._batch.fill_partitioned(plan.chunks)
        else:
            wanted = self._batch.fill(plan.chunks)
        code = C.llama_decode(self._context, self._batch.struct)
        if code == 0:
            return StepOutput(self._logits(wanted))
        # Positive codes 2 and negative ones below -1 leave computed pieces behind; a trim of
        # what was never computed is harmless.
        for chunk in plan.chunks:
            self._trim(chunk.slot, chunk.start)
        if code == 1:
            return StepOutput(np.empty((0, self.n_vocab), np.float32), no_room=True)
        raise DecodeFailed(f"llama.cpp could not evaluate the row (llama_decode returned {code})")

    def close(self) -> None:
        """Free the context."""
        if self._context:
            C.llama_free(self._context)
            self._context = None

    def _operate(self, operation: MemoryOperation) -> None:
        if isinstance(operation, Free):
            C.llama_memory_seq_rm(self._memory, operation.slot, -1, -1)
        elif isinstance(operation, Fork):
            self._fork(operation)
        else:
            self._trim(operation.slot, operation.n_tokens)

    def _fork(self, fork: Fork) -> None:
        """Copy a prefix.

        Between parts of a split cache llama.cpp copies only whole sequences (anything else
        ends the process), so the rest is cut off afterwards.
        """
        if self.limits.memory is MemoryKind.UNIFIED:
            C.llama_memory_seq_cp(self._memory, fork.parent, fork.child, 0, fork.n_tokens)
            return
        C.llama_memory_seq_cp(self._memory, fork.parent, fork.child, -1, -1)
        if C.llama_memory_seq_pos_max(self._memory, fork.child) >= fork.n_tokens:
            self._trim(fork.child, fork.n_tokens)

    def _trim(self, slot: int, n_tokens: int) -> None:
        if C.llama_memory_seq_pos_max(self._memory, slot) < n_tokens:
            return
        if not C.llama_memory_seq_rm(self._memory, slot, n_tokens, -1):
            raise RuntimeError(f"llama.cpp could not cut slot {slot} back to {n_tokens} tokens")

    def _logits(self, wanted: list[int]) -> FloatArray:
        """The wanted rows as one view into llama.cpp's output, in the order asked for."""
        if not wanted:
            return np.empty((0, self.n_vocab), np.float32)
        addresses = [
            ctypes.cast(C.llama_get_logits_ith(self._context, i), ctypes.c_void_p).value or 0
            for i in wanted
        ]
        row_bytes = 4 * self.n_vocab
        base = min(addresses)
        if not base:
            raise DecodeFailed("llama.cpp gave no logits for a row that asked for them")
        n_rows = (max(addresses) - base) // row_bytes + 1
        view = _float_view(base, n_rows * self.n_vocab).reshape(n_rows, self.n_vocab)
        order = [(address - base) // row_bytes for address in addresses]
        return view if order == list(range(len(wanted))) else view[order]

    def _read_limits(self, shape: KvShape, options: RunnerOptions) -> RunnerLimits:
        """What llama.cpp really made of the request; it rounds and clamps."""
        if options.is_recurrent:
            kind = MemoryKind.RECURRENT
        else:
            kind = MemoryKind.UNIFIED if shape.is_unified else MemoryKind.PARTITIONED
        return RunnerLimits(
            n_slots=int(C.llama_n_seq_max(self._context)),
            n_tokens=int(C.llama_n_ctx(self._context)),
            n_tokens_per_slot=int(C.llama_n_ctx_seq(self._context)),
            n_batch=int(C.llama_n_batch(self._context)),
            memory=kind,
        )

    def _compute_once(self) -> None:
        """Make llama.cpp start its threads."""
        self.execute(StepPlan(chunks=(Chunk(0, 0, [0], True),)))
        self._operate(Free(0))


class _Batch:
    """A llama_batch over numpy arrays, so that filling it costs no Python per token."""

    def __init__(self, n_tokens: int) -> None:
        self._token = np.zeros(n_tokens, np.int32)
        self._position = np.zeros(n_tokens, np.int32)
        self._n_slots = np.ones(n_tokens, np.int32)
        self._slot = np.zeros(n_tokens, np.int32)
        self._wanted = np.zeros(n_tokens, np.int8)
        self._slot_pointers = self._slot.ctypes.data + 4 * np.arange(n_tokens, dtype=np.uintp)
        self.struct = C.llama_batch()
        self.struct.token = _pointer(self._token, C.llama_token)
        self.struct.pos = _pointer(self._position, C.llama_pos)
        self.struct.n_seq_id = _pointer(self._n_slots, ctypes.c_int32)
        self.struct.seq_id = _pointer(self._slot_pointers, ctypes.POINTER(C.llama_seq_id))
        self.struct.logits = _pointer(self._wanted, ctypes.c_int8)

    def fill(self, chunks: Sequence[Chunk]) -> list[int]:
        """Put chunks in; return the batch positions of the wanted logits, by chunk."""
        self._begin()
        ends = [self._put(c.slot, c.start, c.tokens) for c in chunks]
        return self._mark(chunks, ends)

    def fill_partitioned(self, chunks: Sequence[Chunk]) -> list[int]:
        """Put chunks in so that llama.cpp cuts them into few, full pieces.

        It takes one token from each of a run of ascending neighboring slots at a time
        (`split_equal` with sequential slots, llama-batch.cpp). So: first one token of every
        chunk in ascending order, which is one piece for all decoding rows; then the rest of
        each prompt in descending order, which makes every prompt a piece of its own.
        """
        self._begin()
        ends = [0] * len(chunks)
        order = sorted(range(len(chunks)), key=lambda i: chunks[i].slot)
        for i in order:
            ends[i] = self._put(chunks[i].slot, chunks[i].start, chunks[i].tokens[:1])
        for i in reversed(order):
            if len(chunks[i].tokens) > 1:
                chunk = chunks[i]
                ends[i] = self._put(chunk.slot, chunk.start + 1, chunk.tokens[1:])
        return self._mark(chunks, ends)

    def _begin(self) -> None:
        self._n = 0
        self._wanted[:] = 0

    def _put(self, slot: int, start: int, tokens: Sequence[int]) -> int:
        """Append tokens of one slot; return the batch position of the last one."""
        begin, end = self._n, self._n + len(tokens)
        self._token[begin:end] = tokens
        self._position[begin:end] = range(start, start + len(tokens))
        self._slot[begin:end] = slot
        self._n = end
        return end - 1

    def _mark(self, chunks: Sequence[Chunk], ends: list[int]) -> list[int]:
        self.struct.n_tokens = self._n
        wanted = [end for chunk, end in zip(chunks, ends, strict=True) if chunk.wants_logits]
        self._wanted[wanted] = 1
        return wanted


def _context_params(shape: KvShape, options: RunnerOptions) -> Any:
    params = C.llama_context_default_params()
    params.n_ctx = shape.n_tokens
    params.n_batch = max(options.n_batch, shape.n_slots)
    params.n_ubatch = min(N_UBATCH, options.n_batch)
    params.n_seq_max = shape.n_slots
    params.n_threads = params.n_threads_batch = options.n_threads
    params.kv_unified = shape.is_unified
    # A window cache drops the cells that prefix reuse needs.
    params.swa_full = True
    params.no_perf = True
    params.flash_attn_type = _FLASH_ATTENTION_AUTO
    if options.flash_attention:
        params.flash_attn_type = _FLASH_ATTENTION_ON
    if options.is_cautious:
        params.flash_attn_type = _FLASH_ATTENTION_OFF
    return params


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


def _float_view(address: int, n: int) -> FloatArray:
    buffer: Any = (ctypes.c_float * n).from_address(address)
    view: FloatArray = np.frombuffer(buffer, dtype=np.float32)
    return view
