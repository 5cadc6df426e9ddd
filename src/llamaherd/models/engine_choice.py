"""Which engine runs a model, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from llamaherd.errors import ConfigError, ModelLoadError
from llamaherd.runners.native_weights import NotCovered, check_covered, chosen_isa

__all__ = ["EngineChoice", "EngineName", "choose_engine"]

EngineName = Literal["auto", "native", "llama.cpp"]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine for a model.

    Attributes:
        name: ``"native"`` or ``"llama.cpp"``.
        reason: Why, in a few words.
    """

    name: Literal["native", "llama.cpp"]
    reason: str


def choose_engine(
    path: Path, wanted: str = "auto", *, gpu_layers: int = 0, has_lora: bool = False
) -> EngineChoice:
    """Choose the engine: the native one wherever it runs the model, else llama.cpp.

    Args:
        path: The model file.
        wanted: The user's wish.
        gpu_layers: Layers to put on a GPU, which only llama.cpp can.
        has_lora: Whether LoRA adapters are applied, which only llama.cpp can.

    Raises:
        ConfigError: There is no such engine.
        ModelLoadError: The native engine was asked for and does not run the model, or the file
            is damaged.
    """
    if wanted not in get_args(EngineName):
        raise ConfigError(f'engine is {wanted!r}; allowed: "auto", "native" and "llama.cpp"')
    if wanted == "llama.cpp":
        return EngineChoice("llama.cpp", "it was asked for")
    try:
        if gpu_layers:
            raise NotCovered("it does not use a GPU")
        if has_lora:
            raise NotCovered("it does not apply LoRA adapters")
        check_covered(path)
    except NotCovered as reason:
        if wanted == "native":
            raise ModelLoadError(
                f"the native engine does not run {path.name}: {reason}; take engine='llama.cpp'"
            ) from reason
        return EngineChoice("llama.cpp", f"not native: {reason}")
    return EngineChoice("native", f"kernels for {chosen_isa()}")
