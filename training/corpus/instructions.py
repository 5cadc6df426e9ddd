"""Instructions put together from parts, so that the model reads them for what they say.

A few dozen fixed phrasings are learned by heart, and a new one is then taken for whatever it
resembles. The parts here give tens of thousands.
"""

from __future__ import annotations

import random

from corpus.grammar import expand, words

_SLOTS: dict[str, list[str]] = {
    "polite": words("please; kindly; now; can you; I need you to; your task:; task:; you should"),
    "sep": [": ", ":\n", ":\n\n", ". ", ".\n", ".\n\n", "\n", "\n\n", " - "],
    "only": words("""
Respond with only the answer.; Answer with one word.; One word only.; Reply with nothing else.
Do not explain.; Give only the label.; Output only the label.; Just the label.; Be brief.; No comments.
"""),
    # News.
    "sort": words("""
classify; categorize; label; sort; tag; identify the topic of; determine the category of; name the topic of
find the category of; decide on the topic of; give the category of; assign a category to; predict the class of
tell me the topic of; say which category fits; select the category of; work out the topic of
"""),
    "item": words("""
this headline; the headline; this news headline; the following headline; this news; this news story
the news story below; this news article; the following article; the article below; this text; this report
the following news item; a headline; this title; the news text; this press item; this story
"""),
    "as": words("as; into; as one of; using one of; as exactly one of; with one of; , choosing from; from"),
    "which": words("""
What is the category of; What is the topic of; Which category fits; What kind of news is; What section suits
Which label describes; What subject is covered by; Which topic has; What is the right label for
"""),
    "titled": words("Title; Headline; News; Article; Text; Input; Story; Item"),
    "asked": words("Category; Topic; Label; Class; Answer; Section; Output"),
    # Sentiment.
    "rate": words("""
classify the sentiment of; determine the sentiment of; label the sentiment of; identify the mood of
find the sentiment of; rate the sentiment of; judge the tone of; detect the sentiment in; analyse the feeling in
state the sentiment of; work out the sentiment of; tell me the mood of; predict the sentiment of
"""),
    "post": words("""
this tweet; the tweet; the following tweet; this message; the message below; this post; this text; the text
this comment; this review; the following text; the sentence; this sentence; the tweet below; a tweet
"""),
    "feel": words("""
What is the sentiment of; What is the mood of; What feeling is in; Which sentiment has; What tone has
How positive or negative is; What emotion is in
"""),
    "posted": words("Tweet; Text; Message; Post; Input; Review; Comment"),
    "mood": words("Sentiment; Mood; Label; Answer; Tone; Output; Class"),
    # Extraction.
    "take": words("""
extract; find; get; list; return; output; give me; show; parse; identify; collect; copy; report; fetch; grab; pick
note; note down; gather; obtain; spot; state; provide; compile; determine; retrieve; isolate; record; supply; take
save; read off; look up; tell me; name; select; choose; locate; mention; set down; fill in; print; send; present
hand me; store; deliver; produce; format; express; summarize; detect; recognize; deduce; transcribe; restate; note
"""),
    "fields": words("""
the name, city and age; name, city and age; the name, the city and the age; the age, name and city
name, age and city; the person's name, city and age; who it is, the city and the age; city, age and name
the city, the name and the age; the fields name, city, age; name, city, age; age, city and name
"""),
    "source": words("""
from this sentence; from the sentence; from the following text; from this text; in this sentence; in the text
from the text below; from the sentence below; of the person; of the person described; from this; mentioned here
out of this text; out of the following line; that the text mentions; found in this line; in the line below
of whoever is described; which appear in the text; contained in the following words; as they stand in this note
"""),
    "json": words("""
as JSON; in JSON; as a JSON object; in JSON format; as valid JSON; as JSON only; as one JSON object; using JSON
"""),
    "reply": words("reply; answer; respond; return them; give them; write them; show them; put them"),
    "Before": words("""
Using the sentence below,; For the person in this text,; Reading the line below,; Given this sentence,; With this text,
Based on the following,; After reading this,; As a clerk,; In the following line,; Out of this note,; Looking at this text,
"""),
    "Opening": words("""
Here is a sentence.; Below is a line about a person.; Consider this text.; A note came in.; Have a look at this line.
Somebody wrote this.; This is about one person.; Data entry:; New record.; One sentence follows.
"""),
    "sentence": words("Sentence; Text; Input; Description; Person; Note"),
    "output": words("JSON; Output; Result; Answer; Object"),
    # Capitals.
    "ask": words("""
Tell me; Please tell me; Can you tell me; Could you tell me; Do you know; I wonder; Say; Let me know
Can you say; Would you tell me; I am asking; Please say; I need to know; Remind me; Explain; Could you say
"""),
    "thing": words("""
what the capital of {x} is; which city is the capital of {x}; the capital of {x}; the capital city of {x}
{x}'s capital; the name of {x}'s capital; the name of the capital of {x}; what {x}'s capital is called
which city the capital of {x} is; what the capital city of {x} is called; {x}'s capital city
"""),
    "what": words("""
What is the capital of {x}; Which city is the capital of {x}; What is {x}'s capital; What is {x}'s capital city
What is the name of {x}'s capital; What's the capital city of {x}; Which is the capital of {x}
What city is {x}'s capital; What do you call the capital of {x}; Which city is {x}'s capital
Of {x}, what is the capital; The capital of {x} is which city; For {x}, what is the capital city
What would be the capital of {x}; Which capital does {x} have; Which capital belongs to {x}
"""),
    "before": words("Hi!; Hello,; Quick question:; Question:; Hey,; Please,; So,; Geography:; One more:"),
    "after": words("Thanks.; Please answer.; Just one sentence.; Thank you!; I forgot.; Answer shortly."),
}

_NEWS = words("""
{Sort} {item} {as} {labels}{sep}{c}; {Sort} {item} {as} {labels}. {only}{sep}{c}; {Sort} {item} ({labels}){sep}{c}
{Sort} {item}{sep}{c}; {polite} {sort} {item} {as} {labels}{sep}{c}; {which} {item}: {labels}?{sep}{c}
{which} {item}? {labels}. {c}; {which} {item}? {c}; {c}{sep}{which} {item}: {labels}?; {c}{sep}{Sort} {item} {as} {labels}.
{labels}? {c}; {c} ({labels}?); {asked}? {c}; {only} {Sort} {item} {as} {labels}{sep}{c}; Options: {labels}. {which} {item}?{sep}{c}
{polite} {sort} {item} ({labels}). {only}{sep}{c}; Is {item} about {labels}?{sep}{c}; {labels}: {which} {item}?{sep}{c}
""")
_SENTIMENT = words("""
{Rate} {post} as {moods}{sep}{c}; {Rate} {post} ({moods}){sep}{c}; {Rate} {post}{sep}{c}; {feel} {post}: {moods}?{sep}{c}
{polite} {rate} {post} as {moods}{sep}{c}; {feel} {post}? {c}; Is {post} {moods}?{sep}{c}; {c}{sep}Is {post} {moods}?
{posted}: {c}\\n{mood} ({moods}):; {posted}: {c}\\n{mood}:; {moods}? {c}; {Rate} {post} as {moods}. {only}{sep}{c}
{only} {Rate} {post}, {moods}{sep}{c}; {c}{sep}{Rate} {post} as {moods}.; {polite} {rate} {post} in one word: {moods}{sep}{c}
Does {post} sound {moods}?{sep}{c}; Options: {moods}. {feel} {post}?{sep}{c}; {mood}? {c}; {feel} {post}? ({moods}){sep}{c}
""")
_EXTRACTION = words("""
{Take} {fields} {source} {json}{sep}{c}; {Take} {fields} {json}{sep}{c}; {polite} {take} {fields} {source} {json}{sep}{c}
{c}{sep}{Take} {fields} {json}.; {c}{sep}{Take} {fields} {source} {json}.; {sentence}: {c}\\n{output}:; {Take} {fields} {source}{sep}{c}
{Take} {fields} {json}.\\n{sentence}: {c}\\n{output}:; What are {fields} {source}? Answer {json}.{sep}{c}; {sentence}: {c}\\n{Take} {fields} {json}.
{Take} {fields} {source} and {reply} {json}{sep}{c}; {Take} {fields} and {reply} {json}{sep}{c}; {Fields} {json}{sep}{c}
{Before} {take} {fields} {json}{sep}{c}; {Before} {take} {fields} {source} and {reply} {json}{sep}{c}; {Opening} {Take} {fields} {json}.\\n{c}
{Opening}\\n{c}\\n{Take} {fields} {source} {json}.; {Opening} {c}\\n{Fields} {json}:; {c}\\n{Before} {take} {fields} {json}.
{Take} JSON with {fields}{sep}{c}; Make a JSON object of {fields} {source}{sep}{c}; {polite} {take} {fields} {json}{sep}{c}
Answer {json}. {Take} {fields} {source}{sep}{c}; {source} {take} {fields} {json}{sep}{c}
""")
_CAPITAL = words("""
{ask} {thing}.; {ask} {thing}?; {ask} {thing}; {what}?; {what}; {before} {what}?; {what}? {after}; {ask}, {what}?; {before} {ask} {thing}.
{ask} {thing}, please.; {ask}: {what}?; {thing}?; {thing}; {before} {thing}?; I want {thing}.; {ask} {thing}. {after}
""")

for _name in ("sort", "rate", "take", "fields"):
    _SLOTS[_name.capitalize()] = [text[:1].upper() + text[1:] for text in _SLOTS[_name]]


def _listed(labels: tuple[str, ...], rng: random.Random) -> str:
    order = list(labels) if rng.random() < 0.5 else rng.sample(labels, len(labels))
    joined = rng.choice((", ", ", ", ", ", " / ", " or "))
    if joined != ", " or rng.random() < 0.3:
        return joined.join(order)
    last = rng.choice((" or ", ", or ", " or ", " and "))
    return ", ".join(order[:-1]) + last + order[-1]


def _compose(templates: list[str], content: str, rng: random.Random, **more: str) -> str:
    # The content goes in last, so that braces in it stay what they are.
    slots = {**_SLOTS, **{name: [text] for name, text in more.items()}, "c": ["\0"]}
    text = expand(rng.choice(templates), slots, rng).replace("\\n", "\n").strip()
    text = text if rng.random() < 0.15 else text[:1].upper() + text[1:]
    return text.replace("\0", content)


def news_prompt(content: str, rng: random.Random) -> str:
    """An instruction to classify a headline or an article."""
    labels = _listed(("World", "Sports", "Business", "Sci/Tech"), rng)
    return _compose(_NEWS, content, rng, labels=labels)


def sentiment_prompt(content: str, rng: random.Random) -> str:
    """An instruction to classify a tweet."""
    return _compose(
        _SENTIMENT, content, rng, moods=_listed(("positive", "negative", "neutral"), rng)
    )


def extraction_prompt(content: str, rng: random.Random) -> str:
    """An instruction to extract name, city and age."""
    return _compose(_EXTRACTION, content, rng)


def capital_prompt(country: str, rng: random.Random) -> str:
    """A question about a capital."""
    return _compose(_CAPITAL, "", rng, x=country)
