"""Constrained output: it always validates, or the row says why it does not."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonschema
import pydantic
import pytest

from llamaherd import (
    AsyncModel,
    ConfigError,
    FinishReason,
    GenerationConfig,
    Model,
    ParallelProcessor,
)
from tiny_models import make_spm_model

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "minItems": 1, "maxItems": 3},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "is_adult": {"type": "boolean"},
    },
    "required": ["name", "tags", "age", "is_adult"],
    "additionalProperties": False,
}
QUESTION = [{"role": "user", "content": "Extract name and age: Anna Schmidt is 43 years old."}]


@pytest.fixture(scope="module", params=["native", "llama.cpp"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    with Model.load("demo", engine=request.param) as model:
        yield model


def test_json_validates_at_a_high_temperature(model: Model) -> None:
    config = GenerationConfig(
        max_tokens=200, temperature=1.5, top_k=0, top_p=1.0, seed=5, json_schema=SCHEMA
    )
    with ParallelProcessor(model) as processor:
        results = processor.batch_generate([QUESTION] * 40, config)
    assert len({result.text for result in results}) > 10
    for result in results:
        if result.success:
            jsonschema.validate(json.loads(result.text), SCHEMA)
            assert result.finish_reason is FinishReason.STOP
        else:
            assert result.error is not None and result.error.type == "OutputIncomplete"
            assert result.finish_reason is FinishReason.LENGTH
    assert sum(result.success for result in results) > 30


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"regex": r"[0-9]{3}-\w{4} (é|ü)+!"}, r"[0-9]{3}-.{4} (é|ü)+!"),
        ({"choices": ["World", 'say "hi"', "a\\b\n", "日本"]}, r'World|say "hi"|a\\b\n|日本'),
        ({"grammar": 'start: "x" /[0-3]{2,5}/ "y"'}, r"x[0-3]{2,5}y"),
        ({"grammar": 'root ::= "no" | "yes" [a-c] "!"'}, r"no|yes[a-c]!"),
    ],
)
def test_patterns_match(model: Model, options: dict[str, object], pattern: str) -> None:
    config = GenerationConfig(max_tokens=60, temperature=1.5, seed=2, top_p=1.0, **options)
    with ParallelProcessor(model) as processor:
        results = processor.batch_generate(["Once"] * 12, config)
    for result in results:
        if result.success:
            assert re.fullmatch(pattern, result.text)
        else:
            assert result.finish_reason is FinishReason.LENGTH
    assert any(result.success for result in results)


def test_an_answer_that_fits_anyway_is_not_changed(model: Model) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    free = model.generate(question, temperature=0)
    bound = model.generate(question, temperature=0, regex=r"[A-Z][a-z ]+ [A-Z][a-z ]+[A-Z][a-z]+\.")
    assert bound.text == free.text
    assert bound.tokens == free.tokens


def test_what_is_certain_is_not_sampled(model: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"a_rather_long_name_of_a_field": {"enum": ["yes", "no"]}},
        "required": ["a_rather_long_name_of_a_field"],
        "additionalProperties": False,
    }
    with ParallelProcessor(model, self_test=False) as processor:
        config = GenerationConfig.greedy(json_schema=schema, logprobs=0)
        (result,) = processor.batch_generate([QUESTION], config)
        assert json.loads(result.text)["a_rather_long_name_of_a_field"] in ("yes", "no")
        assert result.tokens_generated > 10
        assert processor.stats().batches_processed <= 3
        assert result.logprobs is not None and len(result.logprobs) == result.tokens_generated
        # A text without any choice needs no model at all.
        (only,) = processor.batch_generate([QUESTION], GenerationConfig(choices=["certain"]))
        assert only.text == "certain" and only.success


def test_too_few_tokens_are_a_clear_error() -> None:
    with Model.load("demo") as model:
        result = model.generate(QUESTION, max_tokens=3, temperature=0, json_schema=SCHEMA)
        assert not result.success and result.finish_reason is FinishReason.LENGTH
        assert result.error is not None
        assert "json_schema" in result.error.message and "max_tokens" in result.error.message
        assert result.tokens_generated == 3 and result.text
        # A text that is complete but could go on may end at the limit.
        digits = model.generate(QUESTION, max_tokens=3, temperature=0, regex=r"[0-9]+")
        assert digits.success and re.fullmatch("[0-9]+", digits.text)


class Person(pydantic.BaseModel):
    name: str
    mood: Literal["good", "bad"]


@dataclass
class Place:
    city: str
    zip: int


def test_schemas_come_from_types() -> None:
    with Model.load("demo") as model:
        text = model.generate(QUESTION, max_tokens=100, seed=1, json_schema=Person).text
        assert Person.model_validate_json(text).mood in ("good", "bad")
        place = json.loads(
            model.generate(QUESTION, max_tokens=100, temperature=0, json_schema=Place).text
        )
        assert set(place) == {"city", "zip"}
        with_text = GenerationConfig(json_schema=json.dumps(SCHEMA))  # type: ignore[arg-type]
        assert with_text.json_schema == SCHEMA


def test_a_wrong_grammar_fails_only_its_row() -> None:
    configs = [
        GenerationConfig.greedy(max_tokens=8),
        GenerationConfig.greedy(regex="(unclosed"),
        GenerationConfig.greedy(json_schema={"type": "no such type"}),
        GenerationConfig.greedy(grammar="start: missing_rule"),
        GenerationConfig.greedy(max_tokens=8, regex="[ab]{2}"),
    ]
    with ParallelProcessor("demo") as processor:
        results = processor.batch_generate(["Once"] * 5, configs)
    assert [result.success for result in results] == [True, False, False, False, True]
    for result, kind in zip(results[1:4], ("regex", "json_schema", "grammar"), strict=True):
        assert result.error is not None
        assert result.error.type == "ConfigError" and result.error.message.startswith(kind)


@pytest.mark.parametrize(
    "options",
    [
        {"regex": "a", "choices": ["a"]},
        {"regex": "a", "stop": "b"},
        {"regex": "a", "ignore_eos": True},
        {"regex": ""},
        {"choices": []},
        {"choices": "ab"},
        {"choices": ["a", ""]},
        {"json_schema": "{"},
        {"json_schema": 3},
    ],
)
def test_contradictions_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        GenerationConfig(**options)


def test_every_facade_can_be_constrained() -> None:
    async def ask() -> str:
        model = await AsyncModel.load("demo")
        try:
            config = GenerationConfig(regex="[xy]{4}", seed=1)
            return (await model.generate(QUESTION, config=config)).text
        finally:
            await model.close()

    assert re.fullmatch("[xy]{4}", asyncio.run(ask()))
    with Model.load("demo") as model:
        text = "".join(model.stream(QUESTION, temperature=0, json_schema=SCHEMA, max_tokens=200))
        jsonschema.validate(json.loads(text), SCHEMA)
    with ParallelProcessor("demo", replicas=1) as processor:
        (result,) = processor.batch_generate([QUESTION], GenerationConfig(json_schema=Person))
        assert Person.model_validate_json(result.text)


def test_a_vocabulary_that_puts_spaces_before_texts(tmp_path: Path) -> None:
    schema = {"const": {"an important key": "with  spaces", "n": 12}}
    with Model.load(make_spm_model(tmp_path / "spm.gguf")) as model:
        text = model.generate("a", temperature=0, json_schema=schema, max_tokens=200).text
        assert json.loads(text) == schema["const"]
        choices = ["a b", "c  d"]
        assert model.generate("a", temperature=0, choices=choices, max_tokens=60).text in choices


def test_closing_the_model_ends_the_thread() -> None:
    before = set(threading.enumerate())
    with Model.load("demo") as model:
        assert model.generate("Once", regex="a{3}", temperature=0).success
        assert model.generate("Once", regex="[ab]{3}", temperature=0).success
        assert any(t.name.startswith("llamaherd-grammar") for t in threading.enumerate())
    assert set(threading.enumerate()) <= before
