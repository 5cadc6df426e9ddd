"""Tokenizes many texts fast, with exactly llama.cpp's result.

Words repeat. For byte-level BPE vocabularies whose word borders are known, a text is cut into
words here, and only words that were not seen before go to llama.cpp. All other texts go to it
whole, on several threads. The short way is compared with llama.cpp on a set of difficult
strings before its first use, and not taken if it differs on any.
"""

from __future__ import annotations

import functools
import itertools
import logging
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from llamaherd.config import ThreadPoolConfig
from llamaherd.errors import InvalidPrompt
from llamaherd.hardware import available_cpus
from llamaherd.llama.binding import C
from llamaherd.llama.vocabulary import LlamaVocabulary
from llamaherd.models.word_splitter import WordSplitter, make_word_splitter

__all__ = ["BatchTokenizer", "SpecialTokens"]

logger = logging.getLogger(__name__)

# Words to remember; about 40 MB when full.
_MAX_WORDS = 200_000
_MAX_WORD_LENGTH = 64
# Texts that a thread takes at once from the shared queue.
_PIECE = 64


class BatchTokenizer:
    """Tokenizes texts with one vocabulary. Any thread may use it.

    Args:
        vocabulary: The model's vocabulary.
        pre: Name of its pre-tokenizer, ``tokenizer.ggml.pre`` in the metadata.
        thread_pool: How many threads to use, and how they share the work.
    """

    def __init__(
        self,
        vocabulary: LlamaVocabulary,
        pre: str,
        thread_pool: ThreadPoolConfig | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self._pre = pre
        self._thread_pool = thread_pool or ThreadPoolConfig()
        self._words = _Words(functools.partial(vocabulary.tokenize, add_bos=False))

    def batch_tokenize(
        self,
        texts: Iterable[str],
        add_bos: bool = True,
        special: bool = False,
        *,
        thread_pool: ThreadPoolConfig | None = None,
    ) -> list[list[int]]:
        """Tokens of each text, as `LlamaVocabulary.tokenize` gives them.

        Args:
            texts: The texts.
            add_bos: Put the tokens around each that the model wants.
            special: Let control tokens that are written in the texts count as such.
            thread_pool: Threads to use instead of the tokenizer's own.

        Raises:
            InvalidPrompt: A text is not valid; the message names its index.
        """
        if isinstance(texts, (str, bytes)):
            raise InvalidPrompt("batch_tokenize takes a list of texts; for one, call tokenize")
        texts = list(texts)
        results = [self._try_by_words(text, special) for text in texts]
        pool = thread_pool or self._thread_pool
        left = [i for i, ids in enumerate(results) if ids is None]
        for i, ids in zip(left, self._by_llama(texts, left, special, pool), strict=True):
            results[i] = ids
        done = [ids for ids in results if ids is not None]
        return [self.surround(ids) for ids in done] if add_bos else done

    def tokenize(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Tokens of one text; see `batch_tokenize`."""
        ids = self._try_by_words(text, special)
        if ids is None:
            return self.vocabulary.tokenize(text, add_bos, special)
        return self.surround(ids) if add_bos else ids

    def prompt_tokens(self, text: str) -> list[int]:
        """Tokens of a raw prompt: control tokens count, and BOS is not put before a BOS."""
        ids = self.tokenize(text, add_bos=False, special=True)
        return self.begin(ids)

    def tokenize_continued(self, text: str) -> list[int]:
        """Tokens of a plain text that goes on from another, without a space put in front."""
        if self.vocabulary.is_byte_level:
            return self.tokenize(text, add_bos=False)
        line = self.vocabulary.tokenize("\n", add_bos=False)
        ids = self.vocabulary.tokenize("\n" + text, add_bos=False)
        if ids[: len(line)] == line:
            return ids[len(line) :]
        return self.vocabulary.tokenize(text, add_bos=False)

    def begin(self, ids: list[int]) -> list[int]:
        """Put BOS in front if the model wants one and it is not there."""
        vocabulary = self.vocabulary
        if vocabulary.adds_bos and vocabulary.bos is not None and ids[:1] != [vocabulary.bos]:
            return [vocabulary.bos, *ids]
        return ids

    def surround(self, ids: list[int]) -> list[int]:
        """Put around a text what the model wants there."""
        before, after = self.frame
        return [*before, *ids, *after]

    @functools.cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Tokens that the model wants before and after a text, such as BERT's [CLS] and [SEP].

        They are learned from a text, since llama.cpp tells BOS and EOS but not all others.
        """
        bare = self.vocabulary.tokenize("a", add_bos=False)
        whole = self.vocabulary.tokenize("a")
        for i in range(len(whole) - len(bare) + 1):
            if whole[i : i + len(bare)] == bare:
                return whole[:i], whole[i + len(bare) :]
        return [], []

    @property
    def knows_words(self) -> bool:
        """Whether texts can be cut into words here."""
        return self._split is not None

    @functools.cached_property
    def special_tokens(self) -> SpecialTokens:
        """Tokens that llama.cpp recognizes in a text only with `special`."""
        vocabulary = self.vocabulary
        return SpecialTokens({vocabulary.token_text(t): t for t in vocabulary.control_tokens})

    def _try_by_words(self, text: str, special: bool) -> list[int] | None:
        """Tokens of a text without what surrounds it, or None if llama.cpp must see it whole."""
        split = self._split
        if split is None or not isinstance(text, str):
            return None
        if self._user_defined is not None and self._user_defined(text):
            return None
        if special and self.special_tokens.is_in(text):
            return None
        words = split(text)
        if words is None:
            return None
        return list(itertools.chain.from_iterable(map(self._words.__getitem__, words)))

    @functools.cached_property
    def _user_defined(self) -> Callable[[str], object] | None:
        """Search for tokens that count wherever they are written, across word borders."""
        tokens = self.vocabulary.tokens_with(C.LLAMA_TOKEN_ATTR_USER_DEFINED)
        if not tokens:
            return None
        return re.compile("|".join(re.escape(self.vocabulary.token_text(t)) for t in tokens)).search

    @functools.cached_property
    def _split(self) -> WordSplitter | None:
        if not self.vocabulary.is_byte_level:
            return None
        split = make_word_splitter(self._pre)
        if split is None:
            return None
        for text in difficult_texts():
            words = split(text)
            if words is None or (self._user_defined is not None and self._user_defined(text)):
                continue
            ids = [token for word in words for token in self._words[word]]
            if ids != self.vocabulary.tokenize(text, add_bos=False):
                logger.warning("the %s words of %r differ from llama.cpp's", self._pre, text)
                return None
        return split

    def _by_llama(
        self, texts: Sequence[str], indices: Sequence[int], special: bool, pool: ThreadPoolConfig
    ) -> Iterator[list[int]]:
        """Tokens of some of the texts, in order, from llama.cpp."""

        def tokenize(piece: Sequence[int]) -> list[list[int]]:
            return [self._by_llama_one(texts[i], i, special) for i in piece]

        n_threads = pool.num_threads or available_cpus()
        size = _PIECE if pool.work_stealing else -(-len(indices) // n_threads)
        pieces = [indices[i : i + size] for i in range(0, len(indices), max(1, size))]
        if n_threads == 1 or len(pieces) < 2:
            yield from itertools.chain.from_iterable(map(tokenize, pieces))
            return
        # llama.cpp does its part outside Python's lock, so threads help.
        with ThreadPoolExecutor(n_threads, "llamaherd-tokenize") as threads:
            yield from itertools.chain.from_iterable(threads.map(tokenize, pieces))

    def _by_llama_one(self, text: str, index: int, special: bool) -> list[int]:
        try:
            return self.vocabulary.tokenize(text, add_bos=False, special=special)
        except InvalidPrompt as error:
            raise InvalidPrompt(f"text {index}: {error}") from error


class SpecialTokens:
    """Finds the written form of tokens in text.

    Vocabularies have up to thousands of such tokens, too many for one regular expression, but
    they begin with few characters and have few lengths.

    Args:
        tokens: Token ids by written form.
    """

    def __init__(self, tokens: dict[str, int]) -> None:
        self.tokens = {text: token for text, token in tokens.items() if text}
        lengths: dict[str, set[int]] = {}
        for text in self.tokens:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        firsts = "".join(map(re.escape, self._lengths))
        self._starts = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Begin and end of each occurrence: from the left, the longest at each place."""
        at = 0
        while (match := self._starts.search(text, at)) is not None:
            begin = match.start()
            length = self.starts_at(text, begin)
            if length:
                yield begin, begin + length
            at = begin + max(1, length)

    def starts_at(self, text: str, begin: int) -> int:
        """Length of the longest of the tokens that is written at a place; 0 if none is."""
        tokens = self.tokens
        for length in self._lengths.get(text[begin], ()):
            if text[begin : begin + length] in tokens:
                return length
        return 0

    def is_in(self, text: str) -> bool:
        """Whether any of the tokens is written in a text."""
        return next(self.find(text), None) is not None


class _Words(dict[str, list[int]]):
    """Tokens of words, found out when first asked for."""

    def __init__(self, tokenize: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._tokenize = tokenize

    def __missing__(self, word: str) -> list[int]:
        tokens = self._tokenize(word)
        if len(word) <= _MAX_WORD_LENGTH:
            if len(self) >= _MAX_WORDS:
                self.clear()
            self[word] = tokens
        return tokens


def difficult_texts() -> Iterator[str]:
    """Texts on which word splitters tend to differ; always the same."""
    yield from (
        "It's we'LL I'd they've 'tis 's' don''t O'Reilly",
        "1 12 123 1234 12345 3.14 1,000 x1y22z333 ²½Ⅷ٣",
        "a  b   c \t d\n\ne \r\n\r\n f\x0b\x0cg   ",
        "\n \n  \n\t\n",
        "naïve café ẞß ſt Ωmega Привет शब्द สวัสดี 日本語のテキスト 한국어 中文，标点。",
        "e\u0301 a\u0308\u0323 \u200b\u200d\ufeff\xa0\u3000\u2028 …—’s “q”",
        "🦙 👩‍👩‍👧 🇺🇳 ♥️ \x00\x1c\x7f <|im_end|> <s> [INST] </s>",
        "def f(x):\n    return x**2  # ok\n\n\nif __name__ == '__main__':\n\tf(3)",
        "https://example.org/a?b=c&d=%20 user@example.org $1.50 #tag C++ ... !!!",
    )
    letters = list(" \t\n\r\x00\x0b\x1c\x85'\"sStTrRelLvVmMdD09az.,!_-<|>éßſK中日ä\u0301²½Ⅷ٣")
    letters += ["  ", "\n\n", "'s", "'LL", "\xa0", "\u3000", "\u2028", "…", "’", "й", "ا", "한"]
    random_choice = random.Random(0)
    for _ in range(500):
        yield "".join(random_choice.choices(letters, k=random_choice.randint(2, 14)))
