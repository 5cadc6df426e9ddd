"""Constrained output: which tokens a schema, pattern, list of choices or grammar lets follow.

llguidance compiles the grammars and computes the masks. A row's next mask is computed on a thread
of its own while the model computes the row's next logits.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llamaherd.config import GenerationConfig
from llamaherd.errors import ConfigError, DecodeFailed

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarConstraint", "Grammars"]

# Compiled grammars that are kept for later rows.
_MAX_COMPILED = 64


class GrammarTokens(Protocol):
    """What has to be known of a vocabulary to compile grammars for it."""

    n_vocab: int
    bos: int | None
    end_tokens: Collection[int]
    control_tokens: Collection[int]

    def piece(self, token: int) -> bytes:
        """Bytes of one token."""
        ...

    def tokenize(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Tokens of a text."""
        ...


class Grammars:
    """Compiles the grammars of one model's rows, each once. Safe to use from any thread.

    Args:
        tokens: The vocabulary.
    """

    def __init__(self, tokens: GrammarTokens) -> None:
        self._tokens = tokens
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher | ConfigError] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    def prepare(self, config: GenerationConfig) -> None:
        """Compile the grammar of a configuration, if it has one.

        Raises:
            ConfigError: The grammar is wrong.
        """
        if config.constraint_kind is not None:
            self._matcher(config)

    def constraint(self, config: GenerationConfig) -> GrammarConstraint | None:
        """The constraint of one row; None if it may write anything.

        Raises:
            ConfigError: The grammar is wrong.
        """
        if config.constraint_kind is None:
            return None
        matcher = self._matcher(config)
        assert self._pool is not None and self._tokenizer is not None
        return GrammarConstraint(matcher.deep_copy(), self._tokenizer.vocab_size, self._pool)

    def close(self) -> None:
        """End the thread. May be called twice."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._compiled.clear()
        if pool is not None:
            pool.shutdown()

    def _matcher(self, config: GenerationConfig) -> LLMatcher:
        kind, grammar = _grammar_text(config)
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="llamaherd-grammar")
            if grammar not in self._compiled:
                self._compiled[grammar] = self._compile(kind, grammar)
                if len(self._compiled) > _MAX_COMPILED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            compiled = self._compiled[grammar]
        if isinstance(compiled, ConfigError):
            raise ConfigError(str(compiled))
        return compiled

    def _compile(self, kind: str, grammar: str) -> LLMatcher | ConfigError:
        from llguidance import LLMatcher, LLTokenizer
        from llguidance._tokenizer import TokenizerWrapper

        if self._tokenizer is None:
            ends = sorted(self._tokens.end_tokens)
            self._tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(self._tokens)), eos_token=ends)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            return ConfigError(f"{kind} cannot be used: {_brief(matcher.get_error())}")
        return matcher


class GrammarConstraint:
    """One row's way through its grammar; implements the engine's `Constraint`.

    Args:
        matcher: At the beginning of the grammar; owned by this constraint.
        n_vocab: Tokens in the vocabulary.
        pool: Computes the masks.

    Attributes:
        is_complete: Whether the text so far satisfies the grammar.
        is_finished: Whether nothing can follow.
    """

    def __init__(self, matcher: LLMatcher, n_vocab: int, pool: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._pool = pool
        self._mask: Future[bytes] | None = None
        self.is_complete = False
        self.is_finished = False

    def begin(self) -> Sequence[int]:
        """Tokens that have to come first."""
        return self._follow_forced()

    def accept(self, token: int) -> Sequence[int]:
        """Go on by an allowed token; return those that have to follow it, accepted as well."""
        if not self._matcher.consume_token(token):
            raise self._failure()
        return self._follow_forced()

    def allowed(self) -> NDArray[np.bool_]:
        """Bool ``[n_vocab]``: which tokens may follow."""
        assert self._mask is not None
        bits = np.frombuffer(self._mask.result(), np.uint8)
        if self._matcher.is_error():
            raise self._failure()
        return np.unpackbits(bits, count=self._n_vocab, bitorder="little").view(np.bool_)

    def _follow_forced(self) -> Sequence[int]:
        forced: list[int] = self._matcher.compute_ff_tokens()
        if forced and not self._matcher.consume_tokens(forced):
            raise self._failure()
        # The matcher can be asked nothing while a mask is being computed.
        self.is_complete = self._matcher.is_accepting()
        self.is_finished = self._matcher.is_stopped()
        if not self.is_finished:
            self._mask = self._pool.submit(self._matcher.compute_bitmask)
        return forced

    def _failure(self) -> DecodeFailed:
        return DecodeFailed(
            f"the grammar cannot be followed any further: {_brief(self._matcher.get_error())}"
        )


class _Tokens:
    """A vocabulary as llguidance wants to see it."""

    def __init__(self, tokens: GrammarTokens) -> None:
        self._source = tokens
        self.bos_token_id = tokens.bos
        self.eos_token_id = min(tokens.end_tokens, default=0)
        self.tokens = [tokens.piece(token) for token in range(tokens.n_vocab)]
        self.special_token_ids = sorted({*tokens.control_tokens, *tokens.end_tokens})

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens of a text in the middle of an answer.

        Some vocabularies put a space before every text; behind a line feed there is none.
        """
        data = text if isinstance(text, bytes) else text.encode()
        for before in ("", "\n"):
            tokens = self._source.tokenize(before + data.decode(), add_bos=False)
            pieces = [self.tokens[token] for token in tokens]
            for n in range(min(4, len(tokens))):
                if b"".join(pieces[n:]) == data:
                    return tokens[n:]
        raise ValueError(f"{data!r} has no tokens")


def _grammar_text(config: GenerationConfig) -> tuple[str, str]:
    """The field that constrains a row, and its grammar in llguidance's form."""
    from llguidance import LLMatcher, grammar_from

    if config.json_schema is not None:
        # Free white space would let a model at a high temperature write blanks without end.
        layout: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        schema = dict(config.json_schema)
        return "json_schema", LLMatcher.grammar_from_json_schema(schema, overrides=layout)
    if config.regex is not None:
        return "regex", LLMatcher.grammar_from_regex(config.regex)
    if config.choices is not None:
        options = " | ".join(json.dumps(text, ensure_ascii=False) for text in config.choices)
        return "choices", LLMatcher.grammar_from_lark(f"start: {options}")
    assert config.grammar is not None
    return "grammar", grammar_from("grammar", config.grammar)


def _brief(message: str) -> str:
    """The lines of an error that concern the user."""
    return " ".join(message.split())[:500]
