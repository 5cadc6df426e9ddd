"""Byte-level BPE for the demo model, and the ChatML layout around it.

The merges are learned on words that were split further than at run time: a space before a
capital letter or a digit, and each digit, stand alone. At run time only the GPT-2 pattern
(llama.cpp's pre-tokenizer ``gpt-2``) splits, but no merge crosses those borders, so a name
has the same tokens in the middle of a sentence and behind the quote of a JSON string.
Copying a name is then copying its tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import news, sentiment
from corpus.countries import CAPITAL_OF
from corpus.examples import Example, training_example
from corpus.grammar import title_case

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _training_splits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_GPT2), "isolated"),
            pre_tokenizers.Split(Regex(r"^ (?=[\p{Lu}\p{Lt}\p{N}])"), "isolated"),
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _word_lists() -> Iterator[str]:
    """The hand-written lists, so that rare topical words become few tokens too."""
    lists = [topic.SLOTS for topic in news.TOPICS.values()] + [sentiment.SLOTS]
    for slots in lists:
        for entries in slots.values():
            plain = [entry for entry in entries if "{" not in entry]
            yield " " + " , ".join(plain)
            yield " " + " , ".join(title_case(entry) for entry in plain)
    for name, capital in CAPITAL_OF.items():
        yield f"{name} {capital}"


def tokenizer_text(seed: int, examples: int) -> Iterator[str]:
    """Yields the text that the merges are learned from."""
    rng = random.Random(seed)
    mix = ("news",) * 6 + ("sentiment", "sentiment", "capital", "extraction")
    for _ in range(examples):
        example = training_example(rng.choice(mix), rng)
        yield "\n".join(part for turn in example.turns for part in turn)
    for _ in range(200):
        yield from _word_lists()


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns the merges and returns the tokenizer as it is used at run time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _training_splits()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer written by ``Tokenizer.save``."""
    return Tokenizer.from_file(str(path))


def encode_example(
    tokenizer: Tokenizer, example: Example
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encodes a chat in ChatML.

    Returns:
        The token ids and, for each answer, the half-open range of its tokens including
        the end mark. The model learns to write exactly these ranges.
    """
    ids: list[int] = []
    answers: list[tuple[int, int]] = []

    def add(text: str) -> None:
        ids.extend(tokenizer.encode(text).ids)

    if example.system:
        add(f"{IM_START}system\n{example.system}{IM_END}\n")
    for question, answer in example.turns:
        add(f"{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n")
        start = len(ids)
        add(f"{answer}{IM_END}")
        answers.append((start, len(ids)))
        add("\n")
    return ids, answers
