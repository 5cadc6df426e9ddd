"""Does a row's answer depend on its neighbors on this machine?

Some backends return wrong logits, with success, for rows that share a batch (llama.cpp
issues 7903 and 28537). A few short rows are computed alone and then mixed, prompts beside
decodes, before any real row runs. Rounding differs a little when kernels see another batch
shape; wrong logits differ a lot. A runner that promises the same bits may not differ at all.
"""

from __future__ import annotations

import numpy as np

from llamaherd.engine.plan import Chunk, FloatArray, Free, Runner, StepPlan
from llamaherd.engine.vocabulary import Vocabulary

__all__ = ["MAX_DIFFERENCE", "find_interference"]

# In units of the logits' standard deviation. llama.cpp with 4-bit weights differs by 0.02 to
# 0.04 between batch shapes on a CPU; broken kernels by 1 and more.
MAX_DIFFERENCE = 0.3
_N_ROWS = 4
_N_PROMPT = 6


def find_interference(runner: Runner, vocabulary: Vocabulary) -> str | None:
    """Compare rows alone and mixed.

    Args:
        runner: Empty; it is left empty.
        vocabulary: Tokens of the model.

    Returns:
        What was found, or None when all is well.
    """
    n_rows = min(_N_ROWS, runner.limits.n_slots)
    n_needed = n_rows * (_N_PROMPT + 1)
    if n_rows < 2 or runner.limits.n_tokens < n_needed:
        return None
    allowed = 0.0 if runner.limits.is_invariant else MAX_DIFFERENCE
    prompts = _prompts(vocabulary, n_rows)
    alone = [_run_alone(runner, slot, prompt) for slot, prompt in enumerate(prompts)]
    mixed = _run_mixed(runner, prompts)
    for row, (expected, got) in enumerate(zip(alone, mixed, strict=True)):
        scale = float(expected.std()) or 1.0
        difference = float(np.abs(expected - got).max()) / scale
        # Written so that a NaN counts as a difference.
        if not difference <= allowed:
            return (
                f"self-test: row {row} of {n_rows} gives other logits in a batch than alone "
                f"(difference {difference:.2g} standard deviations, {allowed} allowed)"
            )
    return None


def _prompts(vocabulary: Vocabulary, n_rows: int) -> list[list[int]]:
    """Fixed prompts of ordinary tokens, spread over the vocabulary."""
    control = set(vocabulary.control_tokens)
    step = max(1, vocabulary.n_vocab // 97)
    ordinary = [t for t in range(0, vocabulary.n_vocab, step) if t not in control] or [0]
    picks = [ordinary[(7 * i + 3) % len(ordinary)] for i in range(n_rows * _N_PROMPT)]
    return [picks[row * _N_PROMPT : (row + 1) * _N_PROMPT] for row in range(n_rows)]


def _run_alone(runner: Runner, slot: int, prompt: list[int]) -> FloatArray:
    """Logits after the prompt: all but its last token first, then the last one."""
    _execute(runner, Chunk(slot, 0, prompt[:-1], False))
    logits = _execute(runner, Chunk(slot, len(prompt) - 1, prompt[-1:], True))
    runner.execute(StepPlan(operations=(Free(slot),)))
    first: FloatArray = logits[0].copy()
    return first


def _run_mixed(runner: Runner, prompts: list[list[int]]) -> list[FloatArray]:
    """The same logits with half of the rows one step ahead, so that each step mixes kinds."""
    half = len(prompts) // 2
    last = _N_PROMPT - 1
    _execute(runner, *(Chunk(i, 0, p[:-1], False) for i, p in enumerate(prompts[:half])))
    first = _execute(
        runner,
        *(Chunk(i, last, p[-1:], True) for i, p in enumerate(prompts[:half])),
        *(Chunk(i, 0, p, True) for i, p in enumerate(prompts[half:], half)),
    ).copy()
    runner.execute(StepPlan(operations=tuple(Free(i) for i in range(len(prompts)))))
    return list(first)


def _execute(runner: Runner, *chunks: Chunk) -> FloatArray:
    return runner.execute(StepPlan(chunks=chunks)).logits
