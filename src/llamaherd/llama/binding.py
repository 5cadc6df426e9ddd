"""llama-cpp-python's low-level API, under the name `C`. Nothing else imports it.

llama.cpp's compute threads meet at a barrier hundreds of times per token. GNU's OpenMP lets
them spin there for milliseconds before they sleep, so that one busy neighbor on the machine,
which holds up one thread, makes all others burn their time slices: measured on 2 cores with one
of them busy, a job took 40 times as long as with one thread. With a short spin it took 2 times
as long, and on a quiet machine nothing changed. The library reads the setting when it is loaded.
"""

from __future__ import annotations

import os

__all__ = ["C", "libggml"]

_SPIN_COUNT = "2000"
_USERS_OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

_sets_spin = not any(name in os.environ for name in _USERS_OWN)
if _sets_spin:
    os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT

from llama_cpp import llama_cpp as C  # noqa: E402
from llama_cpp._ggml import libggml  # noqa: E402

if _sets_spin:
    # Child processes decide for themselves.
    del os.environ["GOMP_SPINCOUNT"]
