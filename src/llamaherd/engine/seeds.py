"""Every row's own seed, so that its output depends on no other row, order or slot."""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["draw_seed", "row_seed"]


def draw_seed() -> int:
    """A random 32-bit seed for a job that was given none."""
    return secrets.randbits(32)


def row_seed(job_seed: int, index: int, choice: int = 0) -> int:
    """Seed of one answer of one row.

    The first answer of row 0 uses the job's seed as it is, so that a single prompt with the
    seed that a result reports gives the same answer again.
    """
    if index == 0 and choice == 0:
        return job_seed
    text = f"{job_seed}/{index}/{choice}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")
