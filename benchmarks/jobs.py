"""The jobs of the throughput benchmark, as token ids that every engine is given unchanged.

| job | rows | what it stands for |
|---|---|---|
| news | 100 | classification: one instruction shared by all rows, answers of 5 tokens |
| unrelated | 64 | prompts of 60 words with nothing in common, answers of 32 tokens |
| mixed | 96 | prompts of 10 to 400 tokens, answers of 1 to 128 tokens |

Decoding is greedy and goes on to the last token, whatever the model says.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

JOBS = ("news", "unrelated", "mixed")

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class Job:
    """Prompts as token ids, and how many tokens each is to be answered with."""

    name: str
    prompts: list[list[int]]
    max_tokens: list[int]

    @property
    def prompt_tokens(self) -> int:
        """Tokens in all prompts."""
        return sum(map(len, self.prompts))

    @property
    def generated_tokens(self) -> int:
        """Tokens in all answers."""
        return sum(self.max_tokens)

    @property
    def distinct_prompt_tokens(self) -> int:
        """Nodes of the trie of all prompts: what has to be computed if nothing is computed twice.

        In order, a prompt adds what it does not share with the one before it.
        """
        total = 0
        before: list[int] = []
        for prompt in sorted(self.prompts):
            total += len(prompt) - common_prefix(before, prompt)
            before = prompt
        return total

    def to_json(self) -> dict[str, Any]:
        """Plain data for another process."""
        return asdict(self)


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens two prompts share."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def make_job(name: str, tokenize: Tokenize, news_csv: Path | None = None) -> Job:
    """One of `JOBS`, tokenized.

    Args:
        name: Which one.
        tokenize: Turns text into token ids; control tokens in the text count.
        news_csv: News with columns title and description. Without it they are made up.
    """
    if name == "news":
        prompts = [tokenize(news_prompt(*article)) for article in news_articles(news_csv)]
        return Job(name, prompts, [5] * len(prompts))
    if name == "unrelated":
        prompts = [tokenize(text) for text in unrelated_texts(64, 60)]
        return Job(name, prompts, [32] * len(prompts))
    if name == "mixed":
        return mixed_job(tokenize, 96)
    raise SystemExit(f"no job {name!r}; there are {', '.join(JOBS)}")


class LlamaTokenizer:
    """The model's own tokenizer, as llama.cpp implements it."""

    def __init__(self, model_path: Path) -> None:
        from llama_cpp import Llama, llama_cpp

        # A context on a bare vocabulary logs a warning even when told to be quiet.
        self._silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silent, None)
        self._vocabulary = Llama(str(model_path), vocab_only=True, verbose=False)

    def __call__(self, text: str) -> list[int]:
        """Token ids of `text`; control tokens written in it count."""
        return list(self._vocabulary.tokenize(text.encode(), add_bos=False, special=True))

    def text(self, tokens: list[int]) -> str:
        """Text of generated tokens, control tokens left out."""
        return bytes(self._vocabulary.detokenize(tokens)).decode(errors="replace")


# --- news ----------------------------------------------------------------------------------------


def news_prompt(title: str, description: str) -> str:
    """The classification prompt of one article, in ChatML."""
    question = (
        "Classify this news article into exactly one category: World, Sports, Business, or "
        "Sci/Tech. Respond with only the category name.\n\n"
        f"Title: {title}\nDescription: {description[:100]}\n\nCategory:"
    )
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def news_articles(path: Path | None) -> list[tuple[str, str]]:
    """Title and description of 100 articles, from a file or made up."""
    if path is None:
        return [invented_article(random.Random(f"news {i}")) for i in range(100)]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:100]
    if not rows or not {"title", "description"} <= rows[0].keys():
        raise SystemExit(f"{path}: needs a header line with the columns title and description")
    return [(row["title"], row["description"]) for row in rows]


def invented_article(rng: random.Random) -> tuple[str, str]:
    """An article with the length and the shape of a news agency's."""
    place, other = rng.sample(PLACES, 2)
    who, act, what = rng.choice(WHO), rng.choice(ACTS), rng.choice(WHAT)
    title = f"{who.title()} {act.title()} {what.title()} in {other}"
    description = (
        f"{place.upper()} ({rng.choice(AGENCIES)}) - {who.capitalize()} {act} {what} on "
        f"{rng.choice(DAYS)}, {rng.choice(AFTERTHOUGHTS)}, sources in {other} said."
    )
    return title, description


PLACES = "London Tokyo Baghdad Sydney Athens Chicago Nairobi Moscow Lima Toronto Jakarta".split()
AGENCIES = ("Reuters", "AP", "AFP", "Dow Jones", "SPACE.com")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
WHO = (
    "the central bank", "a software maker", "the home team", "rebel leaders", "an airline",
    "the prime minister", "astronomers", "oil producers", "the champion", "election officials",
)  # fmt: skip
ACTS = (
    "rejects", "announces", "wins", "delays", "approves", "questions", "unveils", "loses",
    "abandons", "defends", "welcomes",
)  # fmt: skip
WHAT = (
    "a record merger", "the new budget", "the final match", "a ceasefire", "a faster chip",
    "the merger talks", "a trade deal", "its quarterly forecast", "a space probe", "the recount",
)  # fmt: skip
AFTERTHOUGHTS = (
    "the second such move this year", "despite criticism from shareholders",
    "ending weeks of speculation", "with little time left", "as prices continued to climb",
    "in front of a sellout crowd", "according to a report published earlier",
)  # fmt: skip

# --- unrelated and mixed -------------------------------------------------------------------------

WORDS = """
account address air animal answer apple arm army author autumn baker balance bank basket beach
bear bed bird blanket blue board boat body book border bottle bottom box branch bread bridge
bright brother brown building butter captain car carpet castle cat center chair chapter cheap
chicken child circle city clean clever clock cloud coat coffee cold color column common copper
corner country cousin cover crowd cup curtain dark daughter day deep desert dinner direct distant
doctor dog door double dragon dress drink drum dry early east edge egg engine evening eye face
family farmer father feather fence field fire fish flag floor flower forest fork fox frame free
friend fruit garden gate gentle gift girl glass gold grain grass green ground group guard guitar
hair hall hammer hand harbour harvest hat heart heavy hidden hill holiday honest horse hotel hour
house hunter ice image iron island jacket job journey judge key king kitchen knife ladder lady
lake lamp language large leader leaf letter light line lion local long machine magic mail map
market master meal member message metal middle milk mirror model money moon morning mother
mountain music name narrow needle neighbor night noise north number ocean office oil old orange
order owner page paint paper parent park partner path pattern peace pencil people picture pilot
place plain plane plant plate pocket point poor port post potato power present price prince
printer prize public queen quick quiet rabbit rain record red rice rich ring river road rock roof
room rope round sailor salt sand scale school science sea season second secret seed serious shadow
shape sheep sheet ship shoe shop short silver simple singer sister sky slow small smoke snow
soft soldier song south space spring square staff star station stone store storm story strange
street student sugar summer sun surface sweet table tail tall teacher tea test theory thick ticket
tiger time tiny title tool tower town track train tree truck tunnel uncle user valley vehicle
video village voice wagon wall warm watch water weather week west wheel white wide wild wind
window winter woman wood word worker world writer yard year yellow young
""".split()
VERBS = "carries finds remembers follows paints sells hides repairs watches borrows".split()
LINKS = "near under behind beyond without before among against towards beside".split()


def words(rng: random.Random) -> Iterator[str]:
    """Endless sentences that are grammatical and mean nothing."""
    while True:
        subject, thing, place, quality = rng.sample(WORDS, 4)
        yield from (subject.capitalize(), rng.choice(VERBS), "the", quality, thing)
        yield from (rng.choice(LINKS), "a", place + ".")


def unrelated_texts(n_texts: int, n_words: int) -> list[str]:
    """Texts of so many words; no two begin with the same one."""
    rng = random.Random("unrelated")
    texts = []
    for first in rng.sample(WORDS, n_texts):
        source = words(rng)
        next(source)
        texts.append(" ".join([first.capitalize(), *(next(source) for _ in range(n_words - 1))]))
    return texts


def mixed_job(tokenize: Tokenize, n_rows: int) -> Job:
    """Rows of very different sizes in no order, as they reach a server."""
    rng = random.Random("mixed")
    # 400 English words are more than 400 tokens, whatever the vocabulary.
    texts = unrelated_texts(n_rows, 400)
    prompts = [tokenize(text)[: rng.randint(10, 400)] for text in texts]
    return Job("mixed", prompts, [rng.randint(1, 128) for _ in prompts])
