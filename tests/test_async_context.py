"""Conversations: they reuse what is computed, and can be saved and loaded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from event_loops import run
from llamaherd import (
    AsyncContext,
    AsyncModel,
    GenerationConfig,
    InputError,
    InvalidPrompt,
    Model,
    OutputError,
    RequestError,
)

GREEDY = GenerationConfig.greedy(max_tokens=20)
PERU = "What is the capital of Peru?"


def test_a_conversation_goes_on_and_computes_only_what_is_new(demo: Model) -> None:
    async def main() -> None:
        async with AsyncModel(demo) as model:
            context = AsyncContext(model, [{"role": "system", "content": "Be brief."}])
            first = await context.generate(PERU, GREEDY)
            assert first.text == "The capital of Peru is Lima."
            stream = await context.generate_stream("And of Kenya?", GREEDY)
            text = await stream.text()
            assert stream.result is not None and text == stream.result.text
            assert stream.result.cached_tokens >= first.prompt_tokens - 1
            roles = [message["role"] for message in context.messages]
            assert roles == ["system", "user", "assistant", "user", "assistant"]

    run(main())


def test_token_ids_make_plain_text(demo: Model) -> None:
    async def main() -> None:
        async with AsyncModel(demo) as model:
            context = AsyncContext(model)
            start = demo.tokenize("Once upon a time")
            stream = await context.generate_stream(start, GREEDY)
            await stream.text()
            again = await context.generate("And then", GREEDY)
            assert context.tokens[: len(start)] == tuple(start)
            assert context.tokens[-again.tokens_generated :] == again.tokens
            assert again.cached_tokens >= len(start)
            with pytest.raises(InvalidPrompt, match="plain text"):
                await context.generate([{"role": "user", "content": PERU}])

    run(main())


def test_turns_that_do_not_end_leave_the_conversation_as_it_was(demo: Model) -> None:
    async def main() -> None:
        async with AsyncModel(demo) as model:
            context = AsyncContext(model)
            stream = await context.generate_stream(PERU, GREEDY, ignore_eos=True)
            with pytest.raises(RequestError, match="waits for an answer"):
                await context.generate(PERU)
            async for _ in stream:
                break
            assert context.messages == ()
            task = asyncio.create_task(context.generate(PERU, GREEDY))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(InvalidPrompt):
                await context.generate([])
            failed = await context.generate(PERU, GREEDY, timeout_ms=0.001)
            assert not failed.success and context.messages == ()
            await context.generate(PERU, GREEDY)
            with pytest.raises(InvalidPrompt, match="consists of messages"):
                await context.generate([5, 6])
            assert len(context.messages) == 2

    run(main())


def test_continuations_run_together_and_change_nothing(demo: Model) -> None:
    async def main() -> None:
        async with AsyncModel(demo) as model:
            context = AsyncContext(model)
            await context.generate(PERU, GREEDY)
            before = context.messages
            questions = [f"What is the capital of {c}?" for c in ("Kenya", "Japan", "France")]
            answers = await context.process_batch(questions, GREEDY)
            assert all(a.success and a.cached_tokens > 10 for a in answers)
            assert len({a.text for a in answers}) == 3 and context.messages == before

    run(main())


def test_saved_conversations_are_checked(demo: Model, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"

    async def main() -> None:
        async with AsyncModel(demo) as model:
            context = AsyncContext(model)
            await context.generate(PERU, GREEDY)
            await context.save_state(path)
            expected = await context.generate("And of Kenya?", GREEDY)
            later = AsyncContext(model)
            await later.load_state(path)
            assert (await later.generate("And of Kenya?", GREEDY)).text == expected.text
            text = path.read_text(encoding="utf-8")
            saved = json.loads(text)
            damaged = {
                "cut short": text[: len(text) // 2],
                "no saved conversation": "[]",
                "version 99": json.dumps({**saved, "version": 99}),
                "damaged: its": json.dumps({**saved, "messages": [{"content": 5}]}),
                "damaged: it does": json.dumps({**saved, "model": None}),
                "another model": json.dumps({**saved, "model": {"name": "x", "fingerprint": "y"}}),
            }
            before = later.messages
            for message, content in damaged.items():
                path.write_text(content, encoding="utf-8")
                with pytest.raises(InputError, match=message):
                    await later.load_state(path)
            with pytest.raises(InputError, match="cannot read"):
                await later.load_state(tmp_path / "missing")
            with pytest.raises(OutputError, match="cannot write"):
                await later.save_state(tmp_path / "no" / "folder")
            assert later.messages == before
            path.write_text(text, encoding="utf-8")
            with pytest.raises(OutputError, match="JSON"):
                await AsyncContext(model, [{"role": {1}}]).save_state(path)
            assert path.read_text(encoding="utf-8") == text
        async with await AsyncModel.load(tiny_model, context_size=128) as other:
            with pytest.raises(InputError, match="another model"):
                await AsyncContext(other).load_state(path)

    run(main())
    assert [p.name for p in tmp_path.iterdir()] == ["talk.json"]
