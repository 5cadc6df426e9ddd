"""Wrong options are refused at once, with the field and what to do."""

from __future__ import annotations

import pytest

from llamaherd import BatchGenerationConfig, ConfigError, GenerationConfig, ThreadPoolConfig
from llamaherd.config import EngineConfig
from llamaherd.engine.kv_shape import choose_kv_shape
from llamaherd.engine.plan import Demand


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_token": 5}, "no option 'max_token'; did you mean 'max_tokens'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0; allowed: a number above 0 to 1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"stop": ["a", ""]}, "stop"),
        ({"seed": -1}, "seed is -1"),
        ({"timeout_ms": 0}, "timeout_ms is 0"),
        ({"logit_bias": {5: float("nan")}}, "logit_bias"),
        ({"repeat_penalty": 0}, "repeat_penalty is 0"),
        ({"temperature": 0, "n": 3}, "3 equal answers"),
    ],
)
def test_wrong_generation_options(options: dict[str, object], message: str) -> None:
    """NaN, negative, contradictory and unknown settings."""
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**options)


def test_defaults_and_presets() -> None:
    """The documented defaults hold, and presets can be overridden."""
    config = BatchGenerationConfig()
    assert (config.max_tokens, config.temperature, config.top_k, config.top_p) == (
        100,
        1.0,
        40,
        0.9,
    )
    assert (config.timeout_ms, config.retry_attempts) == (None, 0)
    assert GenerationConfig.greedy(max_tokens=3).is_greedy
    assert GenerationConfig(stop="x").stop == ("x",)
    with pytest.raises(AttributeError):
        config.max_tokens = 5


def test_wrong_thread_options() -> None:
    """Thread options are checked without looking at the machine."""
    for options in ({"num_threads": 0}, {"stack_size": 5}, {"cpu_affinity": []}):
        with pytest.raises(ConfigError):
            ThreadPoolConfig(**options)
    with pytest.raises(ConfigError, match="kv_layout"):
        EngineConfig(kv_layout="paged")


@pytest.mark.parametrize(
    ("row", "gpu", "budget_mb", "expected"),
    [
        (500, False, 1000, (32, 512, False)),  # a CPU splits
        (500, True, 1000, (32, 32 * 512, True)),  # a GPU does not
        (8000, False, 1000, (32, 64000, True)),  # too long to split within the budget
        (8000, False, 3000, (23, 8192, False)),  # more than half of the rows fit
        (300, False, 0, (32, 256, True)),  # the least there is
    ],
)
def test_kv_shape(row: int, gpu: bool, budget_mb: int, expected: tuple[int, int, bool]) -> None:
    """How the KV cache is divided."""
    shape = choose_kv_shape(
        Demand(row, 32),
        layout="auto",
        has_gpu=gpu,
        bytes_per_token=16 * 1024,
        budget_bytes=budget_mb << 20,
    )
    assert (shape.n_slots, shape.n_tokens_per_slot, shape.is_unified) == expected
