from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

KV_BLOCK: int
PANEL: int

def isa_names() -> list[str]: ...
def default_isa(isa: str = "") -> str: ...
def int8_peak(n_threads: int, seconds: float = 0.2, isa: str = "") -> float: ...
def row_bytes(type: int, n_values: int) -> int: ...
def dequantize(type: int, row: NDArray[np.uint8], n_values: int) -> NDArray[np.float32]: ...

class Shape:
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_rot: int
    rotates_neighbors: bool
    uses_gelu: bool
    norm_eps: float
    embedding_scale: float
    attention_scale: float
    attention_softcap: float
    logit_softcap: float
    windows: Sequence[int]
    rope_kinds: Sequence[int]
    def __init__(self) -> None: ...

class Model:
    def __init__(
        self,
        shape: Shape,
        tensors: Mapping[str, tuple[int, NDArray[np.uint8], int, int]],
        n_threads: int,
        isa: str = "",
    ) -> None: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def kv_block_bytes(self) -> int: ...
    @property
    def isa(self) -> str: ...

class ContextOptions:
    n_blocks: int
    max_rows: int
    max_outputs: int
    max_tokens: int
    n_threads: int
    stack_bytes: int
    cores: Sequence[int]
    work_stealing: bool
    rope_scale: float
    rope_frequencies: Sequence[Sequence[float]]
    def __init__(self) -> None: ...

class Context:
    def __init__(self, model: Model, options: ContextOptions) -> None: ...
    def execute(
        self,
        tokens: NDArray[np.int32],
        sizes: NDArray[np.int32],
        starts: NDArray[np.int32],
        tables: NDArray[np.int32],
        outputs: NDArray[np.int32],
        logits: NDArray[np.float32],
    ) -> None: ...
    def copy_block(self, source: int, target: int) -> None: ...
    def seconds(self) -> dict[str, float]: ...
