"""Rows for the demo: the four tasks of the bundled model, made up and all different."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["EXAMPLES", "demo_prompts"]

_CLASSIFY = (
    "Classify this news article into exactly one category: World, Sports, Business, or Sci/Tech. "
    "Respond with only the category name.\n\nTitle: {title}\nDescription: {text}\n\nCategory:"
)
_SENTIMENT = "Classify the sentiment of this tweet as positive, negative or neutral: {text}"
_EXTRACT = "Extract the name, city and age from this sentence as JSON: {text}"
_CAPITAL = "What is the capital of {text}?"
_COUNTRIES = (
    "France Japan Peru Kenya Spain Italy Canada Egypt India Norway Chile Ghana Brazil Poland "
    "Turkey Mexico Greece Cuba Nepal Ireland Portugal Sweden Finland Austria Hungary Germany "
    "Belgium Denmark Iceland Argentina Colombia Bolivia Ecuador Uruguay Venezuela Jamaica China "
    "Mongolia Thailand Vietnam Indonesia Australia Morocco Algeria Tunisia Senegal Ethiopia "
    "Uganda Zambia Angola"
).split()
_TEAMS = "Rovers Tigers Falcons United Wanderers Bears Comets Harbor".split()
_FIRMS = "Orbex Nordwind Halcyon Brightmart Zentral Ferrum Lumen Tidewater".split()
_PLACES = "Lisbon Oslo Lima Nairobi Kyoto Quito Dublin Athens".split()
_NAMES = "Maria Ahmed Sofia Daniel Priya Lucas Elena Thomas".split()
_NEWS = (
    (
        "{team} beat {other} {few}-0 in the final",
        "The {team} scored {few} times in the second half to win the cup in {place} on Sunday.",
    ),
    (
        "{firm} shares rise {few} percent on strong quarter",
        "{firm} said quarterly profit beat forecasts as sales in {place} grew by {many} percent.",
    ),
    (
        "Scientists in {place} find a new way to store data",
        "Researchers built a chip that keeps {many} times more data, they reported.",
    ),
    (
        "Ministers meet in {place} after border talks fail",
        "Officials from {many} countries will try again to agree on a truce.",
    ),
)
_TWEETS = (
    "I love the new cafe in {place}, best coffee in {many} years!",
    "Waited {many} minutes in {place} and the food was cold. Terrible.",
    "The {team} play in {place} at {few} on Sunday.",
)
_PEOPLE = (
    "{name} is {age} years old and lives in {place}.",
    "{name} from {place} is {age} years old.",
    "My name is {name}. I'm {age} years old. I live in {place}.",
)
EXAMPLES = (
    _CAPITAL.format(text="France"),
    _CLASSIFY.format(
        title="Rovers beat United 2-0 in the final",
        text="The Rovers scored twice in the second half to win the cup in Lisbon on Sunday.",
    ),
    _SENTIMENT.format(text="I love the new cafe in Lisbon, best coffee ever!"),
    _EXTRACT.format(text="Maria is 34 years old and lives in Lisbon."),
)


def demo_prompts() -> Iterator[str]:
    """Endless different prompts, the same ones every time."""
    chance = random.Random(1)
    seen: set[str] = set()
    while True:
        for make in (_capital, _news, _tweet, _person):
            prompt = make(chance)
            if prompt not in seen:
                seen.add(prompt)
                yield prompt


def _capital(chance: random.Random) -> str:
    return _CAPITAL.format(text=chance.choice(_COUNTRIES))


def _news(chance: random.Random) -> str:
    title, text = chance.choice(_NEWS)
    words = _words(chance)
    return _CLASSIFY.format(title=title.format(**words), text=text.format(**words))


def _tweet(chance: random.Random) -> str:
    return _SENTIMENT.format(text=chance.choice(_TWEETS).format(**_words(chance)))


def _person(chance: random.Random) -> str:
    return _EXTRACT.format(text=chance.choice(_PEOPLE).format(**_words(chance)))


def _words(chance: random.Random) -> dict[str, object]:
    team, other = chance.sample(_TEAMS, 2)
    return {
        "team": team,
        "other": other,
        "firm": chance.choice(_FIRMS),
        "place": chance.choice(_PLACES),
        "name": chance.choice(_NAMES),
        "age": chance.randint(18, 79),
        "few": chance.randint(2, 9),
        "many": chance.randint(10, 999),
    }
