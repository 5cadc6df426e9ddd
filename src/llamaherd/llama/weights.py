"""A model's weights and facts, as llama.cpp holds them.

The handle is read-only once loaded, so any thread may use it. Whoever uses it while another thread
may call `close` holds the model meanwhile; llama.cpp would otherwise read freed memory.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from llamaherd.errors import ConfigError, ModelLoadError
from llamaherd.llama.binding import C
from llamaherd.llama.gguf_file import ModelSizes, check_model_file, read_header
from llamaherd.llama.library import (
    collect_errors,
    ensure_started,
    has_broken_amx,
    supports_gpu_offload,
)

__all__ = ["LoraSource", "ModelFacts", "Weights", "apply_adapters"]

LoraSource = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]


@dataclass(frozen=True, slots=True)
class ModelFacts(ModelSizes):
    """What a model is, on top of its sizes.

    Attributes:
        architecture: Such as ``"llama"`` or ``"qwen2"``.
        name: Its own name for itself; may be empty.
        quantization: How its weights are stored, such as ``"Q4_K_M"``.
        n_params: Parameters.
        size_bytes: Size of all tensors.
        is_recurrent: It keeps a state that cannot be cut back.
        is_hybrid: Some of its layers do.
        has_encoder: It has an encoder.
        has_decoder: It has a decoder.
    """

    architecture: str
    name: str
    quantization: str
    n_params: int
    size_bytes: int
    is_recurrent: bool
    is_hybrid: bool
    has_encoder: bool
    has_decoder: bool


class _Loaded:
    """A llama_model, which is freed with the last that holds it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        # Not when the interpreter ends: threads may be computing still, and the system frees it.
        weakref.finalize(self, C.llama_model_free, handle).atexit = False


class Weights:
    """An owned llama_model, freed by `close` or when it is forgotten. Make it with `load`.

    Attributes:
        path: The file it came from.
        vocab_only: Only the vocabulary was loaded.
        adapters: LoRA adapters as (handle, scale), for the runner to apply to its context.
    """

    def __init__(self, handle: Any, path: Path, *, vocab_only: bool) -> None:
        self._loaded: _Loaded | None = _Loaded(handle)
        self.path = path
        self.vocab_only = vocab_only
        self.adapters: tuple[tuple[Any, float], ...] = ()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        gpu_layers: int = 0,
        vocab_only: bool = False,
        lora: Sequence[LoraSource] = (),
        verbosity: int = 0,
        use_mmap: bool = True,
    ) -> Self:
        """Load a GGUF file; of a split model, its first part.

        Args:
            path: The file.
            gpu_layers: Layers to put on the GPU; -1 takes all.
            vocab_only: Load the vocabulary without the weights.
            lora: LoRA adapters in GGUF form, as paths or (path, scale).
            verbosity: How much of llama.cpp's log to show, 0 to 3.
            use_mmap: Map the file instead of reading it, where that helps.

        Raises:
            ModelNotFound: There is no such file.
            ModelLoadError: It, or an adapter, cannot be loaded.
        """
        path = Path(path)
        check_model_file(path)
        ensure_started(verbosity)
        params = _model_params(gpu_layers, vocab_only, use_mmap)
        with collect_errors() as errors:
            handle = C.llama_model_load_from_file(os.fsencode(path), params)
            if not handle:
                raise ModelLoadError(f"llama.cpp could not load {path}{_reason(errors)}")
        weights = cls(handle, path, vocab_only=vocab_only)
        try:
            weights.adapters = tuple(_load_adapter(handle, source) for source in lora)
        except Exception:
            weights.close()
            raise
        return weights

    @property
    def handle(self) -> Any:
        """The llama_model pointer."""
        return self._held().handle

    def hold(self) -> object:
        """Keep the model in memory for as long as the result is kept, also if it is closed.

        Raises:
            ModelLoadError: It was closed.
        """
        return self._held()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._loaded is None

    def close(self) -> None:
        """Free the weights, and the adapters with them, once nobody holds them. May be repeated."""
        self._loaded, self.adapters = None, ()

    def _held(self) -> _Loaded:
        loaded = self._loaded
        if loaded is None:
            raise ModelLoadError(f"the model {self.path} was closed")
        return loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def metadata(self) -> dict[str, str]:
        """All metadata of the file that is not an array, as text."""
        handle = self.handle
        return {
            _read_text(C.llama_model_meta_key_by_index, handle, i): _read_text(
                C.llama_model_meta_val_str_by_index, handle, i
            )
            for i in range(C.llama_model_meta_count(handle))
        }

    def facts(self) -> ModelFacts:
        """What the model is."""
        handle, header = self.handle, read_header(self.path)
        metadata = header.metadata
        # Asking llama.cpp for sizes of a model without weights ends the process, so they come
        # from the file. What follows from the architecture alone is safe to ask.
        return ModelFacts(
            **asdict(header.sizes()),
            architecture=str(metadata.get("general.architecture", "unknown")),
            name=str(metadata.get("general.name", "")),
            quantization=quantization_name(metadata.get("general.file_type")),
            n_params=self._total(C.llama_model_n_params, header.n_params),
            size_bytes=self._total(C.llama_model_size, header.tensor_bytes),
            is_recurrent=bool(C.llama_model_is_recurrent(handle)),
            is_hybrid=bool(C.llama_model_is_hybrid(handle)),
            has_encoder=bool(C.llama_model_has_encoder(handle)),
            has_decoder=bool(C.llama_model_has_decoder(handle)),
        )

    def _total(self, count: Callable[[Any], int], in_this_file: int) -> int:
        return in_this_file if self.vocab_only else int(count(self.handle))

    def chat_template(self) -> str | None:
        """Jinja source of the model's own chat template."""
        source = C.llama_model_chat_template(self.handle, None)
        return source.decode("utf-8", "replace") if source else None


def apply_adapters(context: Any, adapters: Sequence[tuple[Any, float]]) -> None:
    """Make a context compute with LoRA adapters.

    Args:
        context: A llama_context.
        adapters: The adapters as (handle, scale).

    Raises:
        ModelLoadError: llama.cpp refused.
    """
    if not adapters:
        return
    handles = (C.llama_adapter_lora_p_ctypes * len(adapters))(*(a for a, _ in adapters))
    scales = (ctypes.c_float * len(adapters))(*(s for _, s in adapters))
    code = C.llama_set_adapters_lora(context, handles, len(adapters), scales)
    if code != 0:
        raise ModelLoadError(f"llama.cpp could not apply the LoRA adapters (code {code})")


def quantization_name(file_type: object) -> str:
    """Name of a GGUF file type, such as ``"Q4_K_M"``."""
    for name, value in vars(C).items():
        if name.startswith("LLAMA_FTYPE_") and value == file_type:
            return name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_")
    return "unknown"


def _model_params(gpu_layers: int, vocab_only: bool, use_mmap: bool) -> Any:
    if isinstance(gpu_layers, bool) or not isinstance(gpu_layers, int) or gpu_layers < -1:
        raise ConfigError(f"gpu_layers is {gpu_layers!r}; allowed: -1 (all), 0 (none) or a number")
    if gpu_layers and not supports_gpu_offload():
        raise ConfigError(
            f"gpu_layers is {gpu_layers}, but this build of llama-cpp-python has no GPU support; "
            "install one that has, or leave gpu_layers at 0"
        )
    params = C.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.vocab_only = vocab_only
    if has_broken_amx():
        # AMX is one of the "extra" buffer types, which can be left out only together.
        params.use_extra_bufts = False
    if not use_mmap:
        # Recent releases have one setting for all ways of loading, older ones a flag.
        if hasattr(params, "load_mode"):
            params.load_mode = C.LLAMA_LOAD_MODE_NONE
        else:
            params.use_mmap = False
    return params


def _load_adapter(model: Any, source: LoraSource) -> tuple[Any, float]:
    location, scale = source if isinstance(source, tuple) else (source, 1.0)
    path = Path(location).expanduser()
    check_model_file(path)
    with collect_errors() as errors:
        adapter = C.llama_adapter_lora_init(model, os.fsencode(path))
        if not adapter:
            raise ModelLoadError(
                f"llama.cpp could not load the LoRA adapter {path}{_reason(errors)}; "
                "it must be made for this model"
            )
    return adapter, float(scale)


def _reason(errors: Sequence[str]) -> str:
    """llama.cpp's own words; the first error is the cause, the rest follow from it."""
    if not errors:
        return ""
    reason = errors[0].removeprefix("llama_model_load: ").removeprefix("error loading model: ")
    hint = "; the file is cut short, download it again" if "file bounds" in reason else ""
    return f": {reason}{hint}"


def _read_text(read: Callable[..., int], handle: Any, index: int) -> str:
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = read(handle, index, buffer, size)
        if n < size:
            return buffer.value.decode("utf-8", "replace") if n >= 0 else ""
        size = n + 1
