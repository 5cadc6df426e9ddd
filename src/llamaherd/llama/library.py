"""The one place that starts llama.cpp and listens to what it says.

llama.cpp writes to stderr unless told otherwise. Here its log goes to a short memory, from
which a failed load quotes the reason, and to stderr only as far as `verbosity` asks. The log is
one per process, so the highest verbosity that was asked for counts.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamaherd.llama.binding import C, libggml

__all__ = [
    "Device",
    "collect_errors",
    "cpu_features",
    "devices",
    "ensure_started",
    "has_broken_amx",
    "library_version",
    "supports_gpu_offload",
]

logger = logging.getLogger(__name__)

# Releases of llama-cpp-python that the tests ran against; their structures change often.
TESTED_FROM = (0, 3, 36)
TESTED_BEFORE = (0, 4)

# Minor versions of GCC that store the whole configuration of AMX tiles, by major version.
_AMX_FIXED_IN = {11: 5, 12: 4, 13: 3}

# ggml_log_level.
_DEBUG, _INFORMATION, _WARNING, _ERROR, _CONTINUATION = 1, 2, 3, 4, 5
_start_lock = threading.Lock()
_is_started = False


class _Log:
    """Receives llama.cpp's log lines, on whichever thread they are written."""

    def __init__(self) -> None:
        self.verbosity = 0
        self.errors: deque[str] = deque(maxlen=20)
        self._level = 0
        # Must live as long as the process: llama.cpp keeps the pointer.
        self.callback = C.llama_log_callback(self._receive)

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        if level != _CONTINUATION:
            self._level = level
        line = text.decode("utf-8", "replace")
        if self._level == _ERROR and line.strip():
            self.errors.append(line.strip())
        wanted_from = (_ERROR + 1, _WARNING, _INFORMATION, _DEBUG)[min(self.verbosity, 3)]
        if self._level >= wanted_from and sys.stderr is not None:
            sys.stderr.write(line)


_log = _Log()


def ensure_started(verbosity: int = 0) -> None:
    """Start llama.cpp's backends, once per process.

    Args:
        verbosity: 0 keeps llama.cpp silent, 1 shows its warnings, 2 its information, 3 all.
    """
    global _is_started
    with _start_lock:
        _log.verbosity = max(_log.verbosity, verbosity)
        if _is_started:
            return
        # This also silences the ggml library underneath.
        C.llama_log_set(_log.callback, ctypes.c_void_p(0))
        C.llama_backend_init()
        _warn_if_untested(library_version())
        _is_started = True


@contextmanager
def collect_errors() -> Iterator[deque[str]]:
    """Give the error lines that llama.cpp writes meanwhile."""
    _log.errors.clear()
    yield _log.errors


def library_version() -> str:
    """Version of llama-cpp-python."""
    try:
        return importlib.metadata.version("llama_cpp_python")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def supports_gpu_offload() -> bool:
    """Whether this build of llama.cpp can compute on a GPU."""
    return bool(C.llama_supports_gpu_offload())


@functools.cache
def has_broken_amx() -> bool:
    """Whether this build of llama.cpp ends the process as soon as it uses AMX.

    GCC before 11.5, 12.4 and 13.3 drops most of the tile configuration that llama.cpp stores, and
    the processor refuses what is left (GCC bug 114098). The compiler's name is in the library.
    """
    if "AMX_INT8" not in cpu_features():
        return False
    for path in Path(libggml._name).parent.glob("libggml-cpu*.so"):
        found = re.search(rb"GCC: \([^)]*\) (\d+)\.(\d+)", path.read_bytes())
        if found is not None:
            major, minor = int(found[1]), int(found[2])
            return major < 14 and minor < _AMX_FIXED_IN.get(major, sys.maxsize)
    return False


def cpu_features() -> list[str]:
    """CPU features that this build of llama.cpp uses, such as ``"AVX2"``."""
    ensure_started()
    text = C.llama_print_system_info().decode("utf-8", "replace")
    return re.findall(r"(\w+) = 1\b", text)


@dataclass(frozen=True, slots=True)
class Device:
    """A device that llama.cpp can compute on.

    Attributes:
        name: Its short name, such as ``"CUDA0"``.
        description: Its product name.
        free_bytes: Free memory.
        total_bytes: Memory in all.
    """

    name: str
    description: str
    free_bytes: int
    total_bytes: int


def devices() -> list[Device]:
    """Devices that llama.cpp found; empty where the library does not tell."""
    ensure_started()
    try:
        lib = _DeviceFunctions()
    except (AttributeError, OSError):
        return []
    return [lib.describe(i) for i in range(lib.count())]


class _DeviceFunctions:
    """The few functions of ggml that llama-cpp-python does not declare."""

    def __init__(self) -> None:
        lib = libggml
        self.count = _declare(lib.ggml_backend_dev_count, ctypes.c_size_t)
        self._get = _declare(lib.ggml_backend_dev_get, ctypes.c_void_p, ctypes.c_size_t)
        pointer = ctypes.c_void_p
        self._name = _declare(lib.ggml_backend_dev_name, ctypes.c_char_p, pointer)
        self._description = _declare(lib.ggml_backend_dev_description, ctypes.c_char_p, pointer)
        size_pointer = ctypes.POINTER(ctypes.c_size_t)
        self._memory = _declare(
            lib.ggml_backend_dev_memory, None, pointer, size_pointer, size_pointer
        )

    def describe(self, index: int) -> Device:
        device = self._get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._memory(device, ctypes.byref(free), ctypes.byref(total))
        return Device(
            name=(self._name(device) or b"").decode("utf-8", "replace"),
            description=(self._description(device) or b"").decode("utf-8", "replace").strip(),
            free_bytes=free.value,
            total_bytes=total.value,
        )


def _declare(function: ctypes._NamedFuncPointer, result: type | None, *arguments: type):  # type: ignore[no-untyped-def]
    function.restype = result
    function.argtypes = list(arguments)
    return function


def _warn_if_untested(version: str) -> None:
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if numbers and not TESTED_FROM <= numbers < TESTED_BEFORE:
        tested = ".".join(map(str, TESTED_FROM)), ".".join(map(str, TESTED_BEFORE))
        logger.warning(
            "llama-cpp-python %s is outside the tested range, %s up to (not including) %s; "
            "if something fails, install one of those",
            version,
            *tested,
        )
