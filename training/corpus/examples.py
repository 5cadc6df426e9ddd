"""Puts instructions, contents and answers together into chat examples.

``training_example`` and ``heldout_rows`` share fillers where that cannot be avoided (the
facts, the topical vocabulary), but never an instruction, a sentence pattern or a headline
pattern; ``check_disjoint`` proves it on the text itself.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from corpus import capitals, chat, extraction, instructions, news, people, sentences, sentiment
from corpus.countries import CAPITAL_OF, COUNTRIES
from corpus.grammar import expand, first_upper

TASKS = ("capital", "news", "sentiment", "extraction")

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are a helpful, concise assistant.",
    "You are a careful assistant. Answer briefly.",
    "Answer briefly and correctly.",
    "You are an expert classifier.",
    "You are a data extraction engine. Reply with JSON only.",
    "You classify text. Respond with the label only.",
    "You are an AI assistant that follows instructions exactly.",
    "Be concise.",
)


@dataclass(frozen=True)
class Example:
    """A chat: an optional system message and turns of question and answer."""

    task: str
    turns: tuple[tuple[str, str], ...]
    system: str | None = None

    def messages(self) -> list[dict[str, str]]:
        """The chat without its last answer, as role and content."""
        result = [{"role": "system", "content": self.system}] if self.system else []
        for index, (question, answer) in enumerate(self.turns):
            result.append({"role": "user", "content": question})
            if index + 1 < len(self.turns):
                result.append({"role": "assistant", "content": answer})
        return result

    @property
    def expected(self) -> str:
        """The last answer."""
        return self.turns[-1][1]


def capital_turn(country: str, question: str) -> tuple[str, str]:
    """A question about a country's capital and its answer."""
    answer = capitals.ANSWER.format(x=country, y=CAPITAL_OF[country])
    return question.format(x=country), answer.replace("..", ".")


def extraction_answer(name: str, city: str, age: int) -> str:
    """The JSON text the model is to write."""
    return json.dumps({"name": name, "city": city, "age": age}, ensure_ascii=False)


# How often an instruction is put together from parts instead of taken from the fixed lists.
_COMPOSED = 0.5


def _extraction_turn(rng: random.Random) -> tuple[str, str]:
    name = people.first_name(rng) if rng.random() < 0.5 else people.person(rng)
    city, age = people.city(rng), rng.randint(1, 99)
    slots = {**extraction.SLOTS, "name": (name,), "city": (city,), "age": (str(age),)}
    if rng.random() < _COMPOSED:
        sentence, age = sentences.composed_sentence(name, city, age, extraction.SLOTS, rng)
    else:
        sentence = expand(rng.choice(extraction.TRAIN_SENTENCES), slots, rng)
    answer = extraction_answer(name, city, age)
    if rng.random() < 0.7:
        return instructions.extraction_prompt(sentence, rng), answer
    return rng.choice(extraction.TRAIN_INSTRUCTIONS).replace("{x}", sentence), answer


def _sentiment_turn(rng: random.Random) -> tuple[str, str]:
    label = rng.choice(sentiment.CLASSES)
    text = expand(rng.choice(sentiment.TRAIN[label]), sentiment.SLOTS, rng)
    text = first_upper(text) if rng.random() < 0.8 else text.lower()
    if rng.random() < _COMPOSED:
        return instructions.sentiment_prompt(text, rng), label
    return rng.choice(sentiment.TRAIN_INSTRUCTIONS).replace("{x}", text), label


def _news_content(category: str, title: str, rng: random.Random) -> str:
    if rng.random() < 0.45:
        return title
    text = news.shortened(news.description(category, rng), rng)
    forms = ("{t}\n{d}", "{t}. {d}", "Title: {t}\nDescription: {d}", "{t}\n\n{d}", "{t} {d}", "{d}")
    return rng.choice(forms).replace("{t}", title).replace("{d}", text)


def _news_turn(rng: random.Random) -> tuple[str, str]:
    category = rng.choice(news.CATEGORIES)
    title = news.title(category, rng)
    if rng.random() < _COMPOSED:
        return instructions.news_prompt(_news_content(category, title, rng), rng), category
    if rng.random() < 0.35:
        template = rng.choice(news.TRAIN_TITLE_INSTRUCTIONS)
        return template.replace("{t}", title), category
    text = news.shortened(news.description(category, rng), rng)
    template = rng.choice(news.TRAIN_ARTICLE_INSTRUCTIONS)
    return template.replace("{t}", title).replace("{d}", text), category


def _copy_turn(rng: random.Random) -> tuple[str, str]:
    """Words, names and numbers to say again."""
    makers = (
        lambda: people.made_up_word(rng),
        lambda: people.made_up_word(rng).lower(),
        lambda: people.person(rng),
        lambda: people.city(rng),
        lambda: str(rng.randint(0, 9999)),
    )
    joint = rng.choice((" ", " ", ", ", "; ", "\n"))
    text = joint.join(rng.choice(makers)() for _ in range(rng.randint(2, 9)))
    return rng.choice(chat.COPY_INSTRUCTIONS).replace("{x}", text), text


def _long_news_turn(rng: random.Random) -> tuple[str, str]:
    """An article of several hundred tokens, so that distant positions are seen too."""
    category = rng.choice(news.CATEGORIES)
    text = " ".join(news.description(category, rng) for _ in range(rng.randint(3, 10)))
    template = rng.choice(news.TRAIN_ARTICLE_INSTRUCTIONS)
    return template.replace("{t}", news.title(category, rng)).replace("{d}", text), category


def _capital_turn(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(_COUNTRY_NAMES)
    if rng.random() < _COMPOSED:
        return instructions.capital_prompt(name, rng), capital_turn(name, capitals.EXACT)[1]
    exact = rng.random() < 0.5
    question = capitals.EXACT if exact else rng.choice(capitals.TRAIN_QUESTIONS)
    return capital_turn(name, question)


# Main names twice, other names once.
_COUNTRY_NAMES = [*sorted(COUNTRIES), *sorted(CAPITAL_OF)]
_MAKERS = {
    "capital": _capital_turn,
    "news": _news_turn,
    "sentiment": _sentiment_turn,
    "extraction": _extraction_turn,
    "copy": _copy_turn,
    "chat": lambda rng: rng.choice(chat.TURNS),
    "long": _long_news_turn,
}


def training_example(task: str, rng: random.Random, turns: int = 1) -> Example:
    """Makes one training chat.

    Args:
        task: The task of every turn, or ``"mixed"``.
        rng: Source of randomness.
        turns: How many questions and answers the chat has.
    """
    system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.4 else None
    made = tuple(_MAKERS[rng.choice(TASKS) if task == "mixed" else task](rng) for _ in range(turns))
    return Example(task, made, system)


def _heldout_extraction(rng: random.Random, *, new_names: bool) -> tuple[str, str]:
    """A held-out sentence and instruction, with names from the lists or never seen ones."""
    if new_names:
        first, last = people.HELDOUT_FIRST_NAMES, people.HELDOUT_LAST_NAMES
        cities = people.HELDOUT_CITIES
    else:
        first, last, cities = people.FIRST_NAMES, people.LAST_NAMES, people.CITIES
    name = rng.choice(first)
    if rng.random() < 0.5:
        name += " " + rng.choice(last)
    # 2nd, 3rd and the like would make "{age}th" wrong, so ages end in 4 to 9.
    ages = [a for a in range(14, 90) if a % 10 > 3]
    city, age = rng.choice(cities), rng.choice(ages)
    slots = {**extraction.SLOTS, "name": (name,), "city": (city,), "age": (str(age),)}
    sentence = expand(rng.choice(extraction.HELDOUT_SENTENCES), slots, rng)
    question = rng.choice(extraction.HELDOUT_INSTRUCTIONS).replace("{x}", sentence)
    return question, extraction_answer(name, city, age)


def _heldout_sentiment(rng: random.Random, label: str) -> tuple[str, str]:
    text = first_upper(expand(rng.choice(sentiment.HELDOUT[label]), sentiment.SLOTS, rng))
    return rng.choice(sentiment.HELDOUT_INSTRUCTIONS).replace("{x}", text), label


def _heldout_news(rng: random.Random, category: str) -> tuple[str, str]:
    title = news.title(category, rng, held_out=True)
    if rng.random() < 0.4:
        return rng.choice(news.HELDOUT_TITLE_INSTRUCTIONS).replace("{t}", title), category
    text = news.description(category, rng, held_out=True)[:100]
    template = rng.choice(news.HELDOUT_ARTICLE_INSTRUCTIONS)
    return template.replace("{t}", title).replace("{d}", text), category


def heldout_rows(per_task: int, seed: int) -> list[Example]:
    """Makes the evaluation rows; classes take turns, so that they are balanced."""
    rng = random.Random(seed)
    countries = sorted(COUNTRIES)
    rng.shuffle(countries)
    rows = []
    for index in range(per_task):
        question = rng.choice(capitals.HELDOUT_QUESTIONS)
        label = sentiment.CLASSES[index % len(sentiment.CLASSES)]
        category = news.CATEGORIES[index % len(news.CATEGORIES)]
        turns = {
            "capital": capital_turn(countries[index % len(countries)], question),
            "news": _heldout_news(rng, category),
            "sentiment": _heldout_sentiment(rng, label),
            "extraction": _heldout_extraction(rng, new_names=False),
        }
        system = rng.choice((None, SYSTEM_MESSAGES[0]))
        rows.extend(Example(task, (turns[task],), system) for task in TASKS)
    return sorted(rows, key=lambda row: TASKS.index(row.task))


def extraction_rows(n_rows: int, seed: int) -> list[Example]:
    """Held-out sentences and instructions with names that training uses."""
    rng = random.Random(seed)
    return [
        Example("extraction", (_heldout_extraction(rng, new_names=False),)) for _ in range(n_rows)
    ]


def new_name_rows(n_rows: int, seed: int) -> list[Example]:
    """Extraction of names and places that occur nowhere in the training text."""
    rng = random.Random(seed)
    return [
        Example("new names", (_heldout_extraction(rng, new_names=True),)) for _ in range(n_rows)
    ]


def exact_capital_rows() -> list[Example]:
    """The question the documentation asks, for every country and every other name."""
    return [
        Example("capital_exact", (capital_turn(name, capitals.EXACT),))
        for name in sorted(CAPITAL_OF)
    ]


_PATTERN_PAIRS = (
    (capitals.TRAIN_QUESTIONS, capitals.HELDOUT_QUESTIONS),
    (extraction.TRAIN_SENTENCES, extraction.HELDOUT_SENTENCES),
    (sentences.FORMS, extraction.HELDOUT_SENTENCES),
    (extraction.TRAIN_INSTRUCTIONS, extraction.HELDOUT_INSTRUCTIONS),
    (sentiment.TRAIN_INSTRUCTIONS, sentiment.HELDOUT_INSTRUCTIONS),
    (news.TRAIN_ARTICLE_INSTRUCTIONS, news.HELDOUT_ARTICLE_INSTRUCTIONS),
    (news.TRAIN_TITLE_INSTRUCTIONS, news.HELDOUT_TITLE_INSTRUCTIONS),
    *((sentiment.TRAIN[label], sentiment.HELDOUT[label]) for label in sentiment.CLASSES),
    *((topic.TITLES, topic.HELDOUT_TITLES) for topic in news.TOPICS.values()),
    *((topic.BODIES, topic.HELDOUT_BODIES) for topic in news.TOPICS.values()),
    (people.FIRST_NAMES, people.HELDOUT_FIRST_NAMES),
    (people.LAST_NAMES, people.HELDOUT_LAST_NAMES),
    (people.CITIES, people.HELDOUT_CITIES),
)


def check_disjoint(training_prompts: set[str], rows: list[Example]) -> None:
    """Raises if a held-out pattern, name or prompt is also a training one."""
    for train, held_out in _PATTERN_PAIRS:
        shared = set(train) & set(held_out)
        if shared:
            raise ValueError(f"held-out patterns are also trained on: {sorted(shared)}")
    repeated = [row for row in rows if row.turns[-1][0] in training_prompts]
    if repeated:
        raise ValueError(f"held-out prompts occur in the training text: {repeated[:3]}")
