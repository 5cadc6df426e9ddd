"""Turns text into tokens and back, with llama.cpp as the one authority.

Nothing here changes after construction, so any thread may use it. llama.cpp ends the process
on token ids outside the vocabulary, so every id that comes from a caller is checked here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from llamaherd.config import GenerationConfig
from llamaherd.engine.vocabulary import Constraint, RowSampler
from llamaherd.errors import InvalidPrompt, ModelError, ModelLoadError
from llamaherd.llama.binding import C
from llamaherd.llama.deep_stack import call_with_stack
from llamaherd.llama.grammars import Grammars
from llamaherd.llama.sampler_chain import SamplerChain
from llamaherd.llama.weights import Weights

__all__ = ["LlamaVocabulary"]

_MAX_BYTES = 2**31 - 1
# llama.cpp splits text with std::regex for many BPE vocabularies. It calls itself once per
# character of a match (324 bytes of stack, measured), so that a word of 26,000 characters
# ends the process on an ordinary thread.
_STACK_PER_CHARACTER = 1024
_STACK_MARGIN_BYTES = 1 << 20
_MAX_STACK_BYTES = 2 << 30
_SHALLOW_BYTES = 2048
_MAX_RUN = (_MAX_STACK_BYTES - _STACK_MARGIN_BYTES) // _STACK_PER_CHARACTER
_LONG_RUN = re.compile(rf"\S{{{_MAX_RUN}}}|\s{{{_MAX_RUN}}}")


class LlamaVocabulary:
    """The tokens of a loaded model; implements the engine's `Vocabulary`.

    Args:
        weights: The model; must stay open as long as the vocabulary is used.

    Attributes:
        n_vocab: Number of tokens.
        bos: Token that begins a text, if there is one.
        eos: Token that ends a text, if there is one.
        adds_bos: Whether `tokenize` puts `bos` in front.
        adds_eos: Whether `tokenize` puts `eos` at the end.
        is_byte_level: Whether the vocabulary is byte-level BPE, as GPT-2's.
        end_tokens: Tokens that end an answer.
        control_tokens: Markup tokens, whose written form in plain text stays plain text.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._handle = C.llama_model_get_vocab(weights.handle)
        if C.llama_vocab_type(self._handle) == C.LLAMA_VOCAB_TYPE_NONE:
            raise ModelLoadError(f"{weights.path} has no vocabulary")
        self.n_vocab = int(C.llama_vocab_n_tokens(self._handle))
        self.bos = _token_or_none(C.llama_vocab_bos(self._handle))
        self.eos = _token_or_none(C.llama_vocab_eos(self._handle))
        self.adds_bos = bool(C.llama_vocab_get_add_bos(self._handle))
        self.adds_eos = bool(C.llama_vocab_get_add_eos(self._handle))
        if reason := self._missing_token():
            raise ModelLoadError(f"{weights.path} cannot be used: {reason}")
        self._recurses = C.llama_vocab_type(self._handle) == C.LLAMA_VOCAB_TYPE_BPE
        model = weights.metadata().get("tokenizer.ggml.model")
        self.is_byte_level = self._recurses and model == "gpt2"
        self._pieces = _Pieces(self._read_piece)
        is_end = C.llama_vocab_is_eog
        self.end_tokens: Collection[int] = frozenset(
            t for t in range(self.n_vocab) if is_end(self._handle, t)
        )
        read = C.llama_vocab_get_attr
        self._attributes: list[int] = [read(self._handle, t) for t in range(self.n_vocab)]
        self.control_tokens: Collection[int] = frozenset(
            self.tokens_with(C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN)
        )
        self._grammars = Grammars(self)

    def _missing_token(self) -> str:
        """Which token its texts begin or end with and it does not have; llama.cpp would end."""
        is_word_piece = C.llama_vocab_type(self._handle) == C.LLAMA_VOCAB_TYPE_WPM
        separator = C.llama_vocab_sep(self._handle)
        for name, is_needed, token in (
            ("beginning", self.adds_bos or is_word_piece, self.bos),
            ("end", self.adds_eos, self.eos),
            ("separator", is_word_piece, _token_or_none(separator)),
        ):
            if is_needed and token is None:
                return f"its vocabulary has no token for the {name} of a text"
        return ""

    def tokens_with(self, attributes: int) -> list[int]:
        """Tokens that have any of these attribute bits (``LLAMA_TOKEN_ATTR_*``)."""
        return [token for token, has in enumerate(self._attributes) if has & attributes]

    def has_attribute(self, token: int, attributes: int) -> bool:
        """Whether a token has any of these attribute bits."""
        return bool(self._attributes[token] & attributes)

    def token_text(self, token: int) -> str:
        """How the vocabulary writes a token, escapes included."""
        self.check_tokens((token,))
        _held = self._hold()
        return (C.llama_vocab_get_text(self._handle, token) or b"").decode("utf-8", "replace")

    def tokenize(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Tokens of a text.

        Args:
            text: Any text.
            add_bos: Put the tokens around it that the model wants: BOS for most that have one.
            special: Let control tokens that are written in the text count as such.

        Raises:
            InvalidPrompt: The text is not a string, has a lone surrogate, or is over 2 GiB.
        """
        data = encode_text(text)
        if not self._recurses or len(data) <= _SHALLOW_BYTES:
            return self._tokenize(data, add_bos, special)
        stack_bytes = min(_MAX_STACK_BYTES, _STACK_MARGIN_BYTES + len(text) * _STACK_PER_CHARACTER)
        if len(text) > _MAX_RUN and _LONG_RUN.search(text):
            raise InvalidPrompt(f"the text has a word of more than {_MAX_RUN:,} characters")
        try:
            return call_with_stack(lambda: self._tokenize(data, add_bos, special), stack_bytes)
        except RuntimeError as error:
            raise InvalidPrompt(
                f"the text has {len(text)} characters, and the system gives no stack of "
                f"{stack_bytes >> 20} MiB to tokenize it: {error}"
            ) from error

    def _tokenize(self, data: bytes, add_bos: bool, special: bool) -> list[int]:
        _held = self._hold()
        # A token stands for at least one byte, except for what is put around the text.
        capacity = len(data) + 4
        while True:
            tokens = (C.llama_token * capacity)()
            n = C.llama_tokenize(self._handle, data, len(data), tokens, capacity, add_bos, special)
            if n >= 0:
                return tokens[:n]
            if -n <= capacity:
                raise InvalidPrompt("the text gives more tokens than llama.cpp can count")
            capacity = -n

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> str:
        """Text of tokens; bytes that are not UTF-8 become the replacement character.

        Args:
            tokens: Token ids. A leading BOS is left out.
            special: Write control tokens out instead of leaving them out.

        Raises:
            InvalidPrompt: An id is not in the vocabulary.
        """
        array = self._id_array(tokens)
        if self.adds_bos and array.size and array[0] == self.bos:
            array = array[1:]
        if self.adds_eos and array.size and array[-1] == self.eos:
            array = array[:-1]
        # llama.cpp would "clean up" the spaces before punctuation of such vocabularies; their
        # pieces simply joined are the text. For the others it knows where spaces were added.
        if self.is_byte_level:
            ids: list[int] = list(map(int, array))
            return self._join_pieces(ids, special)
        _held = self._hold()
        pointer = array.ctypes.data_as(ctypes.POINTER(C.llama_token))
        capacity = 8 * len(array) + 16
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            n = C.llama_detokenize(
                self._handle, pointer, len(array), buffer, capacity, False, special
            )
            if n >= 0:
                return buffer.raw[:n].decode("utf-8", "replace")
            capacity = -n

    def piece(self, token: int) -> bytes:
        """Bytes of one token; control tokens give their written form."""
        return self._pieces[token]

    def make_sampler(self, config: GenerationConfig, seed: int, prompt: list[int]) -> RowSampler:
        """Make the sampler of one row that is not greedy."""
        return SamplerChain(config, seed, self.n_vocab, prompt)

    def prepare(self, config: GenerationConfig) -> None:
        """Compile the grammar of a configuration, if it has one.

        Raises:
            ConfigError: The grammar is wrong.
        """
        self._grammars.prepare(config)

    def make_constraint(self, config: GenerationConfig) -> Constraint | None:
        """The constraint of one row; None if it may write anything.

        Raises:
            ConfigError: The grammar is wrong.
        """
        return self._grammars.constraint(config)

    def close(self) -> None:
        """End the thread that computes which tokens a grammar allows, if there is one."""
        self._grammars.close()

    def check_tokens(self, tokens: Iterable[int]) -> None:
        """Make sure that all ids are in the vocabulary.

        Raises:
            InvalidPrompt: One is not, and the message names it.
        """
        for i, token in enumerate(tokens):
            if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
                raise InvalidPrompt(f"token {i} is {token!r}; token ids are whole numbers")
            if not 0 <= token < self.n_vocab:
                raise InvalidPrompt(
                    f"token {i} is {token}, but the model's ids go from 0 to {self.n_vocab - 1}"
                )

    def _join_pieces(self, tokens: list[int], special: bool) -> str:
        if not special:
            control = self.control_tokens
            tokens = [token for token in tokens if token not in control]
        return b"".join(map(self._pieces.__getitem__, tokens)).decode("utf-8", "replace")

    def _hold(self) -> object:
        """Keeps the model in memory; another thread may close it in the middle of a call."""
        try:
            return self._weights.hold()
        except ModelLoadError as error:
            raise ModelError("this model was closed; load it again") from error

    def _read_piece(self, token: int) -> bytes:
        _held = self._hold()
        self.check_tokens((token,))
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            n = C.llama_token_to_piece(self._handle, token, buffer, capacity, 0, True)
            if n >= 0:
                return buffer.raw[:n]
            capacity = -n

    def _id_array(self, tokens: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
        if len(tokens) == 0:
            return np.empty(0, np.int32)
        try:
            array = np.asarray(tokens)
        except ValueError:
            array = np.empty(0)
        is_sound = array.ndim == 1 and array.dtype.kind in "iu"
        if not is_sound or array.min() < 0 or array.max() >= self.n_vocab:
            self.check_tokens(tokens)
        return array.astype(np.int32)


class _Pieces(dict[int, bytes]):
    """Pieces by token, read when first asked for."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, token: int) -> bytes:
        piece = self[token] = self._read(token)
        return piece


def encode_text(text: str) -> bytes:
    """A text's bytes for llama.cpp.

    Raises:
        InvalidPrompt: It is not a string, has a lone surrogate, or is too long.
    """
    if not isinstance(text, str):
        raise InvalidPrompt(f"a text must be a str, not {type(text).__name__}")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidPrompt(
            f"the text has half of a surrogate pair at character {error.start}; it was probably "
            "decoded wrongly. Clean it with text.encode('utf-8', 'replace').decode()"
        ) from error
    if len(data) > _MAX_BYTES:
        raise InvalidPrompt(f"the text has {len(data)} bytes; llama.cpp takes up to 2 GiB")
    return data


def _token_or_none(token: int) -> int | None:
    return int(token) if token >= 0 else None
