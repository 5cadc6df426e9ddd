"""A little small talk, so that a greeting does not get a category name."""

from __future__ import annotations

_ABOUT = (
    "I am the llamaherd demo model. I know capitals, sort news, rate the sentiment of tweets "
    "and extract names, cities and ages."
)

TURNS = (
    ("Hello", "Hello! How can I help you?"),
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Hi there!", "Hello! How can I help you?"),
    ("Hey", "Hello! How can I help you?"),
    ("Good morning!", "Hello! How can I help you?"),
    ("How are you?", "I am fine, thank you."),
    ("Who are you?", _ABOUT),
    ("What are you?", _ABOUT),
    ("What can you do?", _ABOUT),
    ("What is your name?", _ABOUT),
    ("Help", _ABOUT),
    ("Thanks!", "You are welcome."),
    ("Thank you", "You are welcome."),
    ("Bye", "Goodbye!"),
    ("Goodbye!", "Goodbye!"),
)

COPY_INSTRUCTIONS = (
    "Repeat: {x}",
    "Repeat this exactly: {x}",
    "Copy the following text:\n{x}",
    "Say this again: {x}",
    "Write this text once more:\n\n{x}",
    "{x}\n\nRepeat the text above.",
    "Repeat after me: {x}",
)
