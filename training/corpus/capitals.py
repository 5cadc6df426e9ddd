"""Ways to ask for a capital."""

from __future__ import annotations

EXACT = "What is the capital of {x}?"

TRAIN_QUESTIONS = (
    EXACT,
    "what is the capital of {x}?",
    "What's the capital of {x}?",
    "What is the capital city of {x}?",
    "What is the capital of {x}",
    "what's the capital of {x}",
    "Capital of {x}?",
    "capital of {x}",
    "The capital of {x}?",
    "Which city is the capital of {x}?",
    "Name the capital of {x}.",
    "Tell me the capital of {x}.",
    "Can you tell me the capital of {x}?",
    "Please tell me what the capital of {x} is.",
    "Do you know the capital of {x}?",
    "What is {x}'s capital?",
    "What is the name of the capital of {x}?",
    "{x}: what is the capital?",
    "Give me the capital of {x}.",
    "Question: What is the capital of {x}?",
    "Question: What is the capital of {x}?\nAnswer:",
    "Answer in one sentence: What is the capital of {x}?",
    "I would like to know the capital of {x}.",
    "Quiz: the capital of {x}?",
    "Which city is {x}'s capital city?",
    "What city is the capital city of {x}?",
    "Geography question: what is the capital of {x}?",
    "Where is the capital of {x}, and what is it called?",
    "I forgot the capital of {x}. What is it?",
    "My homework asks for the capital of {x}.",
    "In one sentence, what is the capital of {x}?",
    "Hello! What is the capital of {x}?",
    "Hi, which city is the capital of {x}?",
    "The country is {x}. What is its capital?",
    "{x}'s capital city is called what?",
    "Country: {x}\nCapital:",
)

HELDOUT_QUESTIONS = (
    "Could you please name the capital city of {x}?",
    "Tell me, which city is {x}'s capital?",
    "I want to know what the capital of {x} is.",
    "Which city serves as the capital of {x}?",
)

ANSWER = "The capital of {x} is {y}."
