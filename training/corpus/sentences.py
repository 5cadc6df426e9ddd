"""Sentences about a person put together from parts, so that no single form is learned by heart."""

from __future__ import annotations

import random

from corpus.grammar import expand, words

FORMS = words("""
{intro}, {aged}, {lives}, {did}.; {intro}, {lives} and {aged}, {did}.; {intro}, {aged}, {did} in {city}.
{there}, {intro}, {aged}, {did}.; {there} you can meet {intro_low}, {aged}.; {there} lives {intro_low}, {aged}.
{crowd} in {city} {know} {name}, {aged}.; {crowd} in {city} {know} {name}, {aged}, {often}.
{crowd} from {city} {know} {job_bare} {name}, {aged}.; {crowd} {know} {name}, {aged}, a true child of {city}.
{name} {held} {poss} {age}th birthday in {city}.; {name} {held} {poss} {age}th birthday {place} {city}.
{then}, on {poss} {age}th birthday, {name} came to {city}.; {city} saw {name} turn {age} {when}.
{job_cap} {name}, {age}, {travels} to {city} {often}.; {job_cap} {name} of {city} is {age}.
{job_cap} {name}, {aged}, {did} in {city}.; {job_cap} {name} ({age}) {travels} through {city} {often}.
{then} {name}, then {age}, {bought} in {city}.; {then}, aged {age}, {name} {bought} near {city}.
The {award} was given to {name} ({age}) from {city}.; The {award} goes to {name}, {age}, {city}.
They handed the {award} to {name} of {city}, {aged}.; {name}, {aged}, took the {award} back to {city}.
Our {new} {role} is named {name}, lives in {city} and is {age}.; The {new} {role}, {name}, is {age} and from {city}.
Their {role} {name} is {age} and {lives_verb} {city}.; Please welcome {name} from {city}, our {role} of {age} years.
After {number} years abroad {name}, {age}, returned to {city}.; Once {age}, {name} went back to {city}.
When {name} was {age}, {city} became home.; Since turning {age}, {name} {lives_verb} {city}.
Best regards from {city}, {name} ({age}); Greetings from {city}! {name}, {age} years old
I am writing from {city}, my name is {name} and my age is {age}.; Good morning, {name} speaking, {age}, from {city}.
{name} shares a flat in {city} with {number} students and is {age} years old.; {name} keeps {number} hens in {city} at the age of {age}.
{name} is {aged_plain} and employed as {job} in {city}.; {name}, {job} by trade, is {age} and at home in {city}.
{name}, {job} {aged}, {lives_verb} {city}.; A {job_bare} {aged}, {name}, {did} in {city}.
A {age}-year-old called {name} {did} in {city}.; Witnesses saw {name}, {age}, in {city}.
The {age}-year-old from {city} is called {name}.; The name of the {age}-year-old {job_bare} from {city} is {name}.
""")

_SLOTS: dict[str, list[str]] = {
    "intro": words("""
{name}; {name}; {name}; A woman called {name}; A man named {name}; My uncle {name}; Our aunt {name}; The {job_bare} {name}
{job_cap} {name}; Mr. {name}; Dr. {name}; A certain {name}; The singer {name}; Little {name}; Old {name}
"""),
    "intro_low": words("{name}; the {job_bare} {name}; my friend {name}; a woman called {name}; a man named {name}"),
    "aged": words("""
{age}; aged {age}; who is {age}; now {age}; who turned {age} {when}; {age} years old; who is {age} years of age
just {age}; already {age}; not older than {age}; {age} this year
"""),
    "aged_plain": words("{age}; {age} years old; aged {age}; {age} years of age"),
    "lives": words("""
from {city}; of {city}; living in {city}; at home in {city}; who lives in {city}; born in {city}; resident in {city}
who comes from {city}; who grew up in {city}; working in {city}; staying in {city}
"""),
    "lives_verb": words("lives in; stays in; works in; lives close to; has a house in; rents a room in; sells fish in"),
    "there": words("In {city}; Near {city}; Outside {city}; Back in {city}; In the middle of {city}; At the harbor of {city}"),
    "crowd": words("""
Neighbors; Friends; Colleagues; Visitors; Readers; Children; Shopkeepers; Tourists; Fans; Students; Teachers; Customers
"""),
    "know": words("admire; remember; like; trust; greet; visit; love; respect; call; thank; help; miss; follow"),
    "often": words("""
twice a week; each morning; on Mondays; all the time; now and then; every week; a lot; on weekends; once a month; quite well
"""),
    "held": words("had; planned; enjoyed; marked; held; missed; announced; spent"),
    "poss": words("his; her; the; a; their"),
    "place": words("at home in; together with the family in; at a restaurant in; by the sea near; with colleagues in"),
    "then": words("""
Two years ago; Last winter; Long ago; In spring; One day; Last autumn; A year ago; In January; Some time ago
"""),
    "travels": words("drives; cycles; walks; flies; takes the train; runs; sails; returns; moves"),
    "bought": words("rented a room; sold a house; opened a bar; found a job; lost a wallet; bought a boat; built a barn"),
    "award": words("medal; cup; title; contract; trophy; first place; job; award; certificate; gold medal"),
    "new": words("new; next; latest; former; only; youngest; oldest; first"),
    "role": words("manager; neighbor; captain; guest; tenant; trainee; coach; partner; assistant; client; member"),
    "job_cap": words("""
Baker; Doctor; Plumber; Driver; Chef; Waiter; Journalist; Dentist; Farmer; Gardener; Musician; Librarian; Pilot; Actor
"""),
}
# Ages of which "{age}th" is right.
_ORDINAL_AGES = [age for age in range(4, 100) if age % 10 in (0, 4, 5, 6, 7, 8, 9) or 10 < age < 20]


def composed_sentence(
    name: str, city: str, age: int, slots: dict[str, tuple[str, ...]], rng: random.Random
) -> tuple[str, int]:
    """Makes a sentence about a person.

    Returns:
        The sentence, and the age in it, which is another one where an ordinal needs that.
    """
    form = rng.choice(FORMS)
    if "{age}th" in form:
        age = rng.choice(_ORDINAL_AGES)
    filled = {**slots, **_SLOTS, "name": (name,), "city": (city,), "age": (str(age),)}
    return expand(form, filled, rng), age
