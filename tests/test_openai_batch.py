"""OpenAI's Batch format, read back by the official client's own types."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from cli_process import llamaherd, records

PERU = [{"role": "user", "content": "What is the capital of Peru?"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def request(id: str, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    if url == "/v1/chat/completions":
        body.setdefault("messages", PERU)
    return {"custom_id": id, "method": "POST", "url": url, "body": {"model": "m", **body}}


def run(tmp_path: Path, lines: list[Any], *options: str) -> tuple[int, dict[str, Any], str]:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    done = llamaherd("batch", str(source), "-o", str(output), *options)
    found = records(output.read_text()) if output.exists() else []
    return done.returncode, {row["custom_id"]: row for row in found}, done.stderr


def test_answers_are_what_the_client_expects(tmp_path: Path) -> None:
    code, rows, _ = run(
        tmp_path,
        [
            request("plain", temperature=0),
            request("many", n=3, seed=4, max_tokens=5, logprobs=True, top_logprobs=2),
            request("stop", temperature=0, stop=" Lima"),
            request(
                "schema",
                temperature=0,
                max_completion_tokens=40,
                response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
            ),
            request("text", "/v1/completions", prompt="What is", max_tokens=4, logprobs=1),
            request("ids", "/v1/completions", prompt=[5, 6, 7], temperature=0, max_tokens=4),
        ],
    )
    assert code == 0 and len(rows) == 6
    bodies = {name: row["response"]["body"] for name, row in rows.items()}
    chats = {
        name: ChatCompletion.model_validate(bodies[name], strict=True)
        for name in ("plain", "many", "stop", "schema")
    }
    plain = chats["plain"]
    assert plain.choices[0].message.content == "The capital of Peru is Lima."
    assert plain.choices[0].finish_reason == "stop" and plain.model == "m"
    assert plain.usage is not None
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
    assert [choice.index for choice in chats["many"].choices] == [0, 1, 2]
    logprobs = chats["many"].choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 2
    assert chats["stop"].choices[0].message.content == "The capital of Peru is"
    person = json.loads(chats["schema"].choices[0].message.content or "")
    assert set(person) == {"name", "age"}
    for name in ("text", "ids"):
        completion = Completion.model_validate(bodies[name], strict=True)
        assert completion.usage is not None and 0 < completion.usage.completion_tokens <= 4
    assert all(row["error"] is None for row in rows.values())


def test_a_wrong_line_fails_alone(tmp_path: Path) -> None:
    lines: list[Any] = [
        request("good", temperature=0),
        "{no json",
        request("tools", tools=[{"type": "function"}]),
        request("url", "/v1/images"),
        request("hot", temperature=-1),
        request("empty", messages=[]),
        request("stream", stream=True),
        request("two", "/v1/completions", prompt=["a", "b"]),
        {"custom_id": "bodyless", "url": "/v1/completions"},
        request("format", response_format={"type": "xml"}),
    ]
    code, rows, said = run(tmp_path, lines)
    assert code == 2 and len(rows) == 10
    assert rows["good"]["response"]["status_code"] == 200
    for name, message in (
        ("tools", "'tools' is not supported"),
        ("url", "/v1/images"),
        ("hot", "temperature is -1"),
        ("empty", "messages"),
        ("stream", "stream"),
        ("two", "one prompt"),
        ("bodyless", "body"),
        ("format", "response_format"),
    ):
        assert rows[name]["response"] is None
        assert message in rows[name]["error"]["message"]
    assert "line 2: not JSON" in rows[None]["error"]["message"]
    assert "9 rows failed" in said


def test_embeddings(tmp_path: Path) -> None:
    code, rows, _ = run(
        tmp_path,
        [
            request("one", "/v1/embeddings", input="The cup is ours."),
            request("two", "/v1/embeddings", input=["Shares rose.", "The cup is ours."]),
            request("bad", "/v1/embeddings", input=["fine", ""]),
            request("other"),
            request("odd", "/v1/embeddings", input=5),
            request("short", "/v1/embeddings", input="The cup is ours.", dimensions=8),
            request("coded", "/v1/embeddings", input="Shares rose.", encoding_format="base64"),
            request("long", "/v1/embeddings", input="Shares rose.", dimensions=257),
        ],
    )
    assert code == 2 and len(rows) == 8
    one, two = (
        CreateEmbeddingResponse.model_validate(rows[name]["response"]["body"], strict=True)
        for name in ("one", "two")
    )
    assert len(two.data) == 2 and two.usage.total_tokens > 0
    cosine = sum(a * b for a, b in zip(one.data[0].embedding, two.data[1].embedding, strict=True))
    assert cosine > 0.999
    short, coded = (
        np.array(one.data[0].embedding[:8]),
        rows["coded"]["response"]["body"]["data"][0]["embedding"],
    )
    cut = rows["short"]["response"]["body"]["data"][0]["embedding"]
    np.testing.assert_allclose(cut, short / np.linalg.norm(short), atol=1e-5)
    decoded = np.frombuffer(base64.b64decode(coded), "<f4")
    np.testing.assert_allclose(decoded, two.data[0].embedding, atol=1e-5)
    for name, message in {
        "bad": "empty",
        "other": "no other requests",
        "odd": "a text",
        "long": "1 to 256",
    }.items():
        assert message in rows[name]["error"]["message"]


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    lines = [request(str(i), max_tokens=6) for i in range(20)]
    code, whole, _ = run(tmp_path, lines)
    assert code == 0
    output = tmp_path / "out.jsonl"
    kept = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(kept[:8]) + kept[8][:30])
    code, again, said = run(tmp_path, lines)
    assert code == 0 and "8 rows were done before" in said
    text = lambda rows: {  # noqa: E731
        id: row["response"]["body"]["choices"][0]["message"]["content"] for id, row in rows.items()
    }
    assert text(again) == text(whole)
