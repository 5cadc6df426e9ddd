"""Invented news: headlines and descriptions in four categories."""

from __future__ import annotations

import random
import re

from corpus import news_business, news_scitech, news_sports, news_world
from corpus.grammar import Slots, expand, first_upper, title_case, words
from corpus.people import CITIES, made_up_word, person

CATEGORIES = ("World", "Sports", "Business", "Sci/Tech")
TOPICS = {
    "World": news_world,
    "Sports": news_sports,
    "Business": news_business,
    "Sci/Tech": news_scitech,
}

_COMMON: dict[str, object] = {
    "person": person,
    "surname": lambda rng: person(rng).split(" ", 1)[1],
    "made": made_up_word,
    "city": lambda rng: rng.choice(CITIES),
    "day": words("Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday"),
    "month": words("""
January; February; March; April; May; June; July; August; September; October; November; December
"""),
    "number": lambda rng: str(rng.choice((rng.randint(2, 12), rng.randint(13, 90)))),
    "ordinal": words("second; third; fourth; fifth; sixth; seventh"),
    "pct": lambda rng: rng.choice((f"{rng.randint(2, 60)} percent", f"{rng.randint(1, 9)}.{rng.randint(1, 9)} pct", f"{rng.randint(2, 60)}%")),
    "nation_adj": words("""
U.S.; British; German; French; Japanese; Chinese; Indian; Italian; European; Canadian; Australian
Russian; Brazilian; Korean; Asian; global; Spanish; Swiss; Dutch; Mexican
"""),
    "sport_bare": words("""
Tennis; Golf; Cricket; Soccer; Football; Rugby; Swimming; Cycling; Athletics; Rowing; Baseball
Boxing; Gymnastics; Basketball; Hockey; Motor racing; Sailing; Weightlifting; Volleyball
"""),
    "move_s": words("rose; fell; gained; slipped; climbed; tumbled; edged up; dropped; surged; eased"),
    "move_p": words("rose; fell; gained; slipped; climbed; tumbled; edged up; dropped; surged"),
    "verb_p": words("attacked; ambushed; accused; detained; fought; met; bombed; warned; captured"),
    "strike": words("strike; accept; reject a deal; walk out"),
}

# Words that say nothing about the topic, so that the model learns not to trust them.
_AGENCY = words("Reuters; AP; AFP; Reuters; AP; AFP; PA; dpa; CP; Xinhua")
_SITES = words("""
washingtonpost.com; SPACE.com; TechWeb; PC World; NewsFactor; Forbes.com; CBS.MW; USATODAY.com
The Christian Science Monitor; Ziff Davis; Canadian Press; Business Week; MacCentral; SI.com
InfoWorld; Bloomberg; National Geographic; Los Angeles Times; Boston Globe; Investor's Business Daily
""")
_SITE_TOPIC = {
    "World": words("The Christian Science Monitor; Canadian Press; Los Angeles Times"),
    "Sports": words("SI.com; Boston Globe; USATODAY.com; Canadian Press; Sports Network"),
    "Business": words("CBS.MW; Forbes.com; Bloomberg; Business Week; Investor's Business Daily"),
    "Sci/Tech": words("SPACE.com; TechWeb; PC World; NewsFactor; Ziff Davis; InfoWorld; MacCentral"),
}
_TAILS = words("""
officials said; a spokesman said; according to a report; sources said; it was reported on {day}
the company said; a source told Reuters; the agency said; witnesses said; he said; reports said
""")


def _slots_of(category: str) -> Slots:
    own = dict(TOPICS[category].SLOTS)
    slots: dict[str, object] = {**_COMMON, **own}
    for name in list(slots):
        if isinstance(slots[name], list):
            slots[f"{name}_cap"] = [first_upper(entry) for entry in slots[name]]
    return slots  # type: ignore[return-value]


_SLOTS = {category: _slots_of(category) for category in CATEGORIES}


def _loose(category: str, rng: random.Random) -> str:
    """Topical words in no fixed pattern, so that any one word counts as evidence."""
    glue = words("in; of; for; and; to; on; as; after; with; over; near; at; by; from; but; amid; ,")
    verbs = words("""
gets; sees; hits; faces; set to; may; could; will; back; goes; new; more; no; big; first; top; key
says; makes; wants; needs; plans; seeks; finds; keeps; loses; wins; starts; ends; grows; nears
""")
    generic = ("{made}", "{surname}", "{person}", "{city}", "{number}", "{day}")
    own = [f"{{{name}}}" for name in TOPICS[category].SLOTS]
    parts: list[str] = []
    for _ in range(rng.randint(2, 5)):
        roll = rng.random()
        parts.append("{term}" if roll < 0.5 else rng.choice(own if roll < 0.82 else generic))
        parts.append(rng.choice(verbs if rng.random() < 0.45 else glue))
    return expand(" ".join(parts[:-1]).replace(" ,", ","), _SLOTS[category], rng)


def _noisy(text: str, rng: random.Random) -> str:
    """Formatting noise that news feeds carry: broken entities, markup, odd quotes."""
    if rng.random() < 0.3:
        parts = text.split(" ")
        parts[rng.randrange(len(parts))] = made_up_word(rng) if rng.random() < 0.5 else (
            made_up_word(rng).lower()
        )
        text = " ".join(parts)
    if rng.random() < 0.5:
        text = text.replace("'", rng.choice((" #39;", "#39;", "&#39;")))
    if rng.random() < 0.1:
        text = text.replace("$", "\\$")
    if rng.random() < 0.08:
        middle = rng.choice(text.split(" "))
        text = text.replace(middle, rng.choice((f"&quot;{middle}&quot;", f"quot;{middle}quot;")), 1)
    if rng.random() < 0.04:
        text = f"&lt;b&gt;{text}&lt;/b&gt;"
    return text


def title(category: str, rng: random.Random, held_out: bool = False) -> str:
    """Makes up a headline."""
    topic = TOPICS[category]
    if held_out:
        text = expand(rng.choice(topic.HELDOUT_TITLES), _SLOTS[category], rng)
    elif rng.random() < 0.35:
        text = _loose(category, rng)
    else:
        text = expand(rng.choice(topic.TITLES), _SLOTS[category], rng)
    text = first_upper(text.strip())
    roll = rng.random()
    if roll < 0.5:
        text = title_case(text)
    elif roll < 0.53:
        text = text.upper()
    if rng.random() < 0.15:
        plain = held_out or rng.random() < 0.5
        agency = rng.choice(_AGENCY if plain else _SITE_TOPIC[category])
        text = f"{text} ({agency})"
    return text if held_out else _noisy(text, rng)


def _dateline(category: str, rng: random.Random, held_out: bool) -> str:
    # Some sites write about one topic only; on held-out rows that would give it away.
    any_site = held_out or rng.random() < 0.3
    site = rng.choice(_SITES if any_site else _SITE_TOPIC[category])
    agency, place = rng.choice(_AGENCY), rng.choice(CITIES)
    forms = (
        f"{place.upper()} ({agency}) - ", f"{place.upper()} ({agency}) -- ", f"{agency} - ",
        f"{place} - ", f"{place.upper()} - ", f"{place}, {rng.choice(CITIES)} ({agency}) - ",
        f"{site} - ", f" {place.upper()} ({agency}) - ", f"{place.upper()}, Aug. {rng.randint(1, 31)} - ",
    )
    return rng.choice(forms)


def description(category: str, rng: random.Random, held_out: bool = False) -> str:
    """Makes up the text under a headline: one to three sentences, often cut off."""
    topic = TOPICS[category]
    sentences = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        if held_out:
            text = expand(rng.choice(topic.HELDOUT_BODIES), _SLOTS[category], rng)
        elif rng.random() < 0.25:
            text = _loose(category, rng)
        else:
            text = expand(rng.choice(topic.BODIES), _SLOTS[category], rng)
        if rng.random() < 0.1:
            text += ", " + expand(rng.choice(_TAILS), _SLOTS[category], rng)
        sentences.append(first_upper(text) + ".")
    text = " ".join(sentences)
    if rng.random() < 0.55:
        text = _dateline(category, rng, held_out) + text
    return text if held_out else _noisy(text, rng)


def shortened(text: str, rng: random.Random) -> str:
    """Cuts a description the way callers do: at a number of characters, or with dots."""
    roll = rng.random()
    if roll < 0.6:
        return text[:100]
    if roll < 0.8:
        return text[: rng.randint(60, 200)]
    return text if roll < 0.9 else re.sub(r"\W+\w*$", "", text[: rng.randint(80, 200)]) + " ..."


_FORM = (
    "Classify this news article into exactly one category: World, Sports, Business, or Sci/Tech. "
    "Respond with only the category name.\n\nTitle: {t}\nDescription: {d}\n\nCategory:"
)
TRAIN_ARTICLE_INSTRUCTIONS = (
    _FORM, _FORM, _FORM, _FORM, _FORM,
    "Classify this news article as World, Sports, Business or Sci/Tech.\n\n{t}\n{d}",
    "Title: {t}\nDescription: {d}\nCategory (World, Sports, Business, Sci/Tech):",
    "News category? World, Sports, Business or Sci/Tech.\n{t}\n{d}",
    "What is the topic of this article? Choose from World, Sports, Business, Sci/Tech.\n\n{t} {d}",
    "Topic of this news text: {t}. {d}",
    "{t}\n{d}\n\nCategory?",
    "{t}\n\n{d}\n\nIs this World, Sports, Business or Sci/Tech news?",
    "Classify the article: World, Sports, Business, Sci/Tech.\nTitle: {t}\nText: {d}",
    "Categorize: {t} - {d}",
    "Article: {d}\nLabel (World, Sports, Business, Sci/Tech):",
    "Classify the news text into World, Sports, Business, Sci/Tech: {d}",
    "Classify: {d}",
)
TRAIN_TITLE_INSTRUCTIONS = (
    "Classify the headline as World, Sports, Business or Sci/Tech: {t}",
    "Classify the headline as World, Sports, Business or Sci/Tech: {t}",
    "Classify this news headline into World, Sports, Business or Sci/Tech: {t}",
    "Classify this headline: {t}",
    "Headline: {t}\nCategory:",
    "Headline: {t}\nCategory (World, Sports, Business, Sci/Tech):",
    "Is this headline World, Sports, Business or Sci/Tech? {t}",
    "Which section does this headline belong to: World, Sports, Business, Sci/Tech?\n{t}",
    "News topic: {t}",
    "{t}\n\nCategory:",
    "Title: {t}\nRespond with only the category name: World, Sports, Business, or Sci/Tech.",
)
HELDOUT_ARTICLE_INSTRUCTIONS = (
    "Put this article into one of the categories World, Sports, Business, Sci/Tech and reply with "
    "the category alone.\n\nTitle: {t}\nDescription: {d}",
    "Read the news item below. Does it belong to World, Sports, Business or Sci/Tech?\n\n{t}\n{d}",
)
HELDOUT_TITLE_INSTRUCTIONS = (
    "Choose the right category (World, Sports, Business, Sci/Tech) for the headline: {t}",
    "Under which of World, Sports, Business, Sci/Tech would you file this headline? {t}",
)
