"""Reads the header of a GGUF file, and says what a file is when it is not one.

The header holds what must be known before the weights are loaded: sizes, for the memory check,
and the merges of the tokenizer, which llama.cpp keeps to itself. Arrays of strings are skipped
unless asked for: a vocabulary has hundreds of thousands of them.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from llamaherd.errors import ModelLoadError, ModelNotFound

__all__ = [
    "GgufHeader",
    "MetadataValue",
    "ModelSizes",
    "TensorInfo",
    "check_model_file",
    "model_files",
    "read_header",
]

MetadataValue = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]

_MAGIC = b"GGUF"
# Type numbers of GGUF values, with their struct format.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 8
# Larger hyper-parameters are nonsense, and would ask for absurd amounts of memory.
_MAX_NUMBER = 1 << 31
_MAX_LAYERS = 1 << 16
_ALIGNMENT = 32
_F32_BYTES = 4
_SPLIT_NAME = re.compile(r"^(.+)-(\d{5})-of-(\d{5})\.gguf$")
# What people load by mistake, by first bytes.
_LOOK_ALIKES = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"<", "a web page; download the file itself (on Hugging Face: the download arrow, or hf:...)"),
    (b"PK\x03\x04", "a zip archive or PyTorch checkpoint; convert it to GGUF first"),
    (b"\x80", "a Python pickle; convert it to GGUF first"),
    (b"tjgg", "an old GGML file; convert it to GGUF, or download a newer version"),
    (b"lmgg", "an old GGML file; convert it to GGUF, or download a newer version"),
    (b"{", "a JSON file, not a model"),
)


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Sizes of a model.

    Attributes:
        n_layer: Layers.
        n_embd: Width of the hidden state.
        n_ff: Width of the feed-forward layers.
        n_vocab: Tokens in the vocabulary.
        n_ctx_train: Tokens of context it was trained with.
        n_head: Attention heads (the most, where layers differ).
        n_head_kv: Heads of keys and values (the most).
        kv_heads: Heads of keys and values in each layer; 0 for layers without attention.
        head_dim_k: Width of one key.
        head_dim_v: Width of one value.
        n_swa: Width of its sliding attention window; 0 if it has none.
        state_bytes: Fixed state of one sequence in recurrent layers.
    """

    n_layer: int
    n_embd: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    n_head: int
    n_head_kv: int
    kv_heads: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    n_swa: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a GGUF file.

    Attributes:
        name: Such as ``"blk.0.attn_q.weight"``.
        shape: Its dimensions, the fastest first.
        type: ggml's number of its type.
        offset: Where it begins in the file.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata of a GGUF file.

    Attributes:
        version: Version of the format.
        n_params: Elements of all tensors in this file.
        tensor_bytes: Bytes of this file that tensors take.
        metadata: Values by key; arrays of strings only where asked for.
        array_lengths: Lengths of all arrays, by key.
        tensors: All tensors in this file.
    """

    version: int
    n_params: int
    tensor_bytes: int
    metadata: dict[str, MetadataValue]
    array_lengths: dict[str, int]
    tensors: tuple[TensorInfo, ...]

    def number(self, key: str, default: int = 0) -> int:
        """A hyper-parameter of the architecture; the largest where layers differ.

        Args:
            key: Its key without the architecture, such as ``"attention.head_count"``.
            default: What it is if the file does not say.
        """
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}", default)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and 0 <= v <= _MAX_NUMBER for v in values):
            raise ModelLoadError(f"the model file is damaged: {key} is {value!r}")
        return max((int(v) for v in values), default=default)

    def sizes(self) -> ModelSizes:
        """Sizes of the model."""
        number = self.number
        n_layer, n_embd = number("block_count"), number("embedding_length")
        if n_layer > _MAX_LAYERS:
            raise ModelLoadError(f"the model file is damaged: block_count is {n_layer}")
        n_head = number("attention.head_count")
        head_dim = n_embd // n_head if n_head else 0
        key = f"{self.metadata.get('general.architecture')}.attention.head_count_kv"
        heads = self.metadata.get(key, n_head)
        per_layer = heads if isinstance(heads, list) else [heads] * n_layer
        n_state = number("ssm.inner_size") * (number("ssm.state_size") + number("ssm.conv_kernel"))
        return ModelSizes(
            n_layer=n_layer,
            n_embd=n_embd,
            n_ff=number("feed_forward_length"),
            n_vocab=self.array_lengths.get("tokenizer.ggml.tokens", number("vocab_size")),
            n_ctx_train=number("context_length"),
            n_head=n_head,
            n_head_kv=number("attention.head_count_kv", n_head),
            # A purely recurrent model has no attention heads at all.
            kv_heads=tuple(int(n) for n in per_layer) if n_head else (),
            head_dim_k=number("attention.key_length", head_dim),
            head_dim_v=number("attention.value_length", head_dim),
            n_swa=number("attention.sliding_window"),
            state_bytes=n_layer * n_state * _F32_BYTES,
        )


def check_model_file(path: Path) -> None:
    """Make sure that a path is a GGUF file.

    Raises:
        ModelNotFound: There is no such file, or it is a folder.
        ModelLoadError: It is something else, and the message says what.
    """
    if path.is_dir():
        names = sorted(p.name for p in path.glob("*.gguf"))
        inside = f"it holds: {', '.join(names[:10])}" if names else "it holds no .gguf file"
        raise ModelNotFound(f"{path} is a folder, not a model file; {inside}")
    if not path.exists():
        raise ModelNotFound(f"there is no file {path}; {_near(path)}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}") from error
    if not start:
        raise ModelLoadError(f"{path} is empty; the download may have failed, try it again")
    if not start.startswith(_MAGIC):
        raise ModelLoadError(f"{path} is not a GGUF file: {_describe(start)}")


def model_files(path: Path) -> list[Path]:
    """All files of a model: the file itself, or every part of a split one that is there."""
    match = _SPLIT_NAME.match(path.name)
    if match is None:
        return [path]
    stem, _, n_parts = match.groups()
    names = (f"{stem}-{i:05d}-of-{n_parts}.gguf" for i in range(1, int(n_parts) + 1))
    return [part for part in map(path.with_name, names) if part.exists()]


def read_header(path: Path, *, string_arrays: Collection[str] = ()) -> GgufHeader:
    """Read a GGUF file's metadata.

    Args:
        path: The file.
        string_arrays: Keys of the arrays of strings to read.

    Raises:
        ModelNotFound: There is no such file.
        ModelLoadError: It is not a GGUF file, or its header is cut short.
    """
    check_model_file(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _HeaderReader(data, frozenset(string_arrays)).read()
        except (struct.error, ValueError, OverflowError, MemoryError) as error:
            raise ModelLoadError(
                f"the header of {path} is damaged or cut short ({error}); download the file again"
            ) from error


class _HeaderReader:
    def __init__(self, data: mmap.mmap, wanted: frozenset[str]) -> None:
        self._data = data
        self._wanted = wanted
        self._at = len(_MAGIC)

    def read(self) -> GgufHeader:
        (version,) = self._unpack("I")
        if version & 0xFFFF == 0:
            raise ValueError("it is for big-endian machines")
        if version < 2:
            raise ValueError(f"GGUF version {version} is no longer read")
        n_tensors, n_values = self._unpack("QQ")
        metadata: dict[str, MetadataValue] = {}
        lengths: dict[str, int] = {}
        for _ in range(n_values):
            key = self._string()
            (kind,) = self._unpack("I")
            if kind != _ARRAY:
                metadata[key] = self._scalar(kind)
                continue
            kind, length = self._unpack("IQ")
            lengths[key] = length
            if kind == _STRING and key not in self._wanted:
                self._skip_strings(length)
            else:
                metadata[key] = self._array(kind, length)
        tensors = [self._tensor() for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"the alignment is {alignment}")
        begin = -(-self._at // alignment) * alignment
        return GgufHeader(
            version=version,
            n_params=sum(math.prod(tensor.shape) for tensor in tensors),
            tensor_bytes=max(0, len(self._data) - begin),
            metadata=metadata,
            array_lengths=lengths,
            tensors=tuple(replace(tensor, offset=begin + tensor.offset) for tensor in tensors),
        )

    def _tensor(self) -> TensorInfo:
        name = self._string()
        (n_dims,) = self._unpack("I")
        if n_dims > _MAX_DIMS:
            raise ValueError(f"a tensor has {n_dims} dimensions")
        shape = self._unpack(f"{n_dims}Q")
        kind, offset = self._unpack("IQ")
        return TensorInfo(name, shape, kind, offset)

    def _unpack(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise ValueError("a text reaches beyond the end")
        return self._data[start : self._at].decode("utf-8", "replace")

    def _scalar(self, kind: int) -> str | int | float | bool:
        if kind == _STRING:
            return self._string()
        return self._unpack(_form(kind))[0]

    def _array(self, kind: int, length: int) -> list[str] | list[int]:
        if length > len(self._data):
            raise ValueError("an array reaches beyond the end")
        if kind == _STRING:
            return [self._string() for _ in range(length)]
        return list(self._unpack(f"{length}{_form(kind)}"))

    def _skip_strings(self, length: int) -> None:
        at, data, unpack = self._at, self._data, struct.Struct("<Q").unpack_from
        for _ in range(length):
            at += 8 + unpack(data, at)[0]
        self._at = at


def _form(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"unknown value type {kind}")
    return _SCALARS[kind]


def _near(path: Path) -> str:
    """What there is instead of a missing file."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = sorted(p.name for p in folder.glob("*.gguf"))
    return f"that folder holds: {', '.join(names[:10])}" if names else "check the path"


def _describe(start: bytes) -> str:
    stripped = start.lstrip()
    for prefix, what in _LOOK_ALIKES:
        if stripped.startswith(prefix):
            return f"it looks like {what}"
    if start[8:9] == b"{":
        return "it looks like a safetensors file; convert it to GGUF first"
    return f"it starts with {start[:16]!r} and not with {_MAGIC!r}"
