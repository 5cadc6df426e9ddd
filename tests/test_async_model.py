"""`AsyncModel`: calls join one batch, and whoever stops waiting frees the slot."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from event_loops import new_loop, run, until
from llamaherd import (
    AsyncConfig,
    AsyncModel,
    ConfigError,
    FinishReason,
    GenerationConfig,
    InvalidPrompt,
    Model,
    ModelError,
    ModelNotFound,
    RequestError,
    RequestTimeout,
    StreamConfig,
    TokenStream,
)
from scripted import Gate, ScriptedModel, expected_tokens, follow

GREEDY = GenerationConfig.greedy(max_tokens=20)
LONG = StreamConfig.greedy(max_tokens=200)
LOOPS = ["asyncio", "uvloop"]


def question(country: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the capital of {country}?"}]


def letters(text: str) -> list[int]:
    return [ord(letter) - 32 for letter in text]


def slowly(tokens: Sequence[int]) -> int:
    """A model that takes about a second for 200 tokens."""
    time.sleep(0.005)
    return follow(tokens)


# ── calls ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", LOOPS)
def test_a_hundred_calls_become_one_batch(kind: str, demo: Model) -> None:
    async def main() -> None:
        async with AsyncModel(demo, AsyncConfig(max_concurrent=100, context_size=128)) as model:
            countries = ["Peru", "Kenya", "France", "Japan"] * 25
            answers = await asyncio.gather(
                *(model.generate(question(c), config=GREEDY) for c in countries)
            )
            assert [a.text.split()[-1] for a in answers[:4]] == [
                "Lima.",
                "Nairobi.",
                "Paris.",
                "Tokyo.",
            ]
            sizes = model.engine.pass_sizes()
            assert max(sizes) == 100 and sum(sizes.values()) <= 30

    run(main(), kind)


def test_embeddings_are_awaited(demo: Model) -> None:
    async def main() -> None:
        async with AsyncModel(demo) as model:
            one, many = await asyncio.gather(
                model.embed("hello", pooling="mean"), model.embed(["hello", "who won?"])
            )
            assert one.shape == (256,) and many.shape == (2, 256)
        with pytest.raises(ModelError, match="closed"):
            await model.embed("hello")

    run(main(), "asyncio")


def test_everything_a_model_tells(tmp_path: Path) -> None:
    async def main() -> None:
        model = await AsyncModel.load("demo", context_size=256)
        assert await model.is_ready()
        assert (await model.model_info()).name == model.model.info.name
        assert await model.tokenize_async("Hello") == model.model.tokenize("Hello")
        assert await model.tokenize_async("Hello " * 500, False) == model.model.tokenize(
            "Hello " * 500, False
        )
        twin = model.clone()
        await model.close()
        await model.close()
        assert not await model.is_ready() and await twin.is_ready()
        with pytest.raises(ModelError, match="was closed"):
            await model.generate("Hello")
        answer = await twin.generate(question("Peru"), 3, temperature=0)
        assert answer.tokens_generated == 3
        with pytest.raises(ConfigError, match="temprature"):
            await twin.generate("Hello", temprature=0)
        with pytest.raises(InvalidPrompt):
            await twin.generate([])
        await twin.close()
        with pytest.raises(ModelNotFound):
            await AsyncModel.load(tmp_path / "missing.gguf")
        with pytest.raises(ConfigError, match="model_path is empty"):
            await AsyncModel.load_with_config(AsyncConfig())

    run(main())
    defaults = AsyncConfig()
    assert (defaults.context_size, defaults.max_concurrent, defaults.timeout_ms) == (2048, 4, 30000)
    for wrong in ({"timeout_ms": -1}, {"max_concurrent": 0}, {"context_size": 1}):
        with pytest.raises(ConfigError, match=f"AsyncConfig.{next(iter(wrong))}"):
            AsyncConfig(**wrong)


def test_max_concurrent_and_timeout_hold() -> None:
    async def main() -> None:
        config = AsyncConfig(max_concurrent=4, timeout_ms=20, context_size=256)
        async with AsyncModel(ScriptedModel(), config) as model:
            prompts = [letters(f"ROW {i}") for i in range(40)]
            answers = await asyncio.gather(*(model.generate(p, config=GREEDY) for p in prompts))
            assert [list(a.tokens) for a in answers] == [expected_tokens(p, 20) for p in prompts]
            assert max(model.engine.pass_sizes()) == 4
        async with AsyncModel(ScriptedModel(slowly), config) as model:
            own = asyncio.create_task(model.generate("OWN", config=GREEDY, timeout_ms=60_000))
            answer = await model.generate("SLOW", config=LONG)
            assert answer.finish_reason is FinishReason.TIMEOUT and not answer.success
            assert (await own).success
            with pytest.raises(RequestTimeout):
                await (await model.generate_stream("STREAM", LONG)).text()

    run(main())


# ── whoever stops waiting frees the slot ────────────────────────────────────────────────


async def leave_loop(stream: TokenStream) -> None:
    async for _ in stream:
        break


async def close_stream(stream: TokenStream) -> None:
    async with stream:
        await anext(stream)


async def cancel_reader(stream: TokenStream) -> None:
    async def read() -> None:
        while True:
            await anext(stream)

    reader = asyncio.create_task(read())
    await until(lambda: stream._call._waiter is not None)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def time_out(stream: TokenStream) -> None:
    async def read() -> None:
        async for _ in stream:
            await asyncio.sleep(60)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(read(), 0.01)


async def raise_inside(stream: TokenStream) -> None:
    with pytest.raises(ZeroDivisionError):
        async for _ in stream:
            _ = 1 / 0


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("leave", [leave_loop, close_stream, cancel_reader, time_out, raise_inside])
def test_leaving_a_stream_frees_its_slot(leave: object, kind: str) -> None:
    """The next row gets the only slot at once, though the first had 200 tokens to go."""

    async def main() -> None:
        async with AsyncModel(ScriptedModel(slowly), AsyncConfig(max_concurrent=1)) as model:
            stream = await model.generate_stream("LONG", LONG)
            await leave(stream)
            await until(lambda: stream.result is not None)
            assert stream.result.finish_reason is FinishReason.CANCELLED
            assert (await model.generate("NEXT", config=GREEDY)).success
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(main(), kind)


def test_tokens_after_a_cancellation_are_one_step_at_most() -> None:
    async def main() -> None:
        gate = Gate()
        async with AsyncModel(ScriptedModel(gate), AsyncConfig(max_concurrent=2)) as model:
            task = asyncio.create_task(model.generate("LONG", config=LONG))
            stream = await model.generate_stream("STREAM", LONG)
            await until(gate.entered.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stream.cancel()
            gate.open()
            other = await model.generate("OTHER", config=GREEDY)
            assert list(other.tokens) == expected_tokens(letters("OTHER"), 20)
            assert stream.result.finish_reason is FinishReason.CANCELLED
            assert stream.result.tokens_generated <= 1
            assert model.stats().generated_tokens <= 20 + 2

    run(main())


def test_a_dropped_stream_frees_its_slot() -> None:
    async def main() -> None:
        gate = Gate()
        async with AsyncModel(ScriptedModel(gate), AsyncConfig(max_concurrent=1)) as model:
            await model.generate_stream("LONG", LONG)
            gc.collect()
            gate.open()
            assert (await model.generate("NEXT", config=GREEDY)).success
            assert model.stats().generated_tokens <= 21

    run(main())


# ── streams ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", LOOPS)
def test_pieces_are_whole_characters_and_make_up_the_text(kind: str, demo: Model) -> None:
    async def main() -> None:
        config = StreamConfig(
            max_tokens=60, temperature=3.0, top_k=0, top_p=1.0, ignore_eos=True, seed=4
        )
        async with AsyncModel(demo, AsyncConfig(max_concurrent=4)) as model:
            stream = await model.generate_stream("中文 😀 é", config)
            pieces = [piece async for piece in stream]
        assert stream.result is not None
        assert "".join(piece.text for piece in pieces) == stream.result.text
        assert sum((piece.tokens for piece in pieces), ()) == stream.result.tokens
        whole = demo.detokenize(stream.result.tokens)
        assert stream.result.text.count("\ufffd") == whole.count("\ufffd")

    run(main(), kind)


def test_a_slow_reader_gets_merged_pieces_and_no_stop_string() -> None:
    script = letters("AB-CD-EF-STOP-GH" + "X" * 100)

    async def main() -> None:
        runner = ScriptedModel(lambda tokens: script[len(tokens) - 1])
        async with AsyncModel(runner, AsyncConfig(max_concurrent=2)) as model:
            stream = await model.generate_stream(letters("Q"), LONG, stop=("STOP",))
            await until(lambda: stream.result is not None)
            (piece,) = [piece async for piece in stream]
            assert piece.text == "AB-CD-EF-" == stream.result.text
            assert stream.result.finish_reason is FinishReason.STOP

    run(main())


def test_two_readers_and_a_foreign_loop_are_told() -> None:
    async def main(model: AsyncModel, gate: Gate) -> TokenStream:
        stream = await model.generate_stream("LONG", LONG)
        reader = asyncio.create_task(anext(stream))
        await until(lambda: stream._call._waiter is not None)
        with pytest.raises(RequestError, match="another task"):
            await anext(stream)
        gate.open()
        assert (await reader).text
        return stream

    gate = Gate()
    model = AsyncModel(ScriptedModel(gate), AsyncConfig(max_concurrent=2))
    stream = run(main(model, gate))

    async def elsewhere() -> None:
        with pytest.raises(RequestError, match="another event loop"):
            await anext(stream)
        # The model itself works on any loop.
        assert (await model.generate("NEXT", config=GREEDY)).success
        await model.close()

    run(elsewhere())


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_is_closed_ends_its_rows(kind: str) -> None:
    """Rows that nobody can read any more do not run to their end."""
    gate = Gate()
    model = AsyncModel(ScriptedModel(gate), AsyncConfig(max_concurrent=1))
    loop = new_loop(kind)
    stream = loop.run_until_complete(model.generate_stream("LONG", LONG))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    gate.open()

    async def main() -> None:
        assert (await model.generate("NEXT", config=GREEDY)).success
        assert stream.result.finish_reason is FinishReason.CANCELLED
        assert stream.result.tokens_generated <= 2
        await model.close()

    run(main(), kind)


def test_closing_the_model_ends_calls_and_streams() -> None:
    async def main() -> None:
        gate = Gate()
        model = AsyncModel(ScriptedModel(gate), AsyncConfig(max_concurrent=2))
        task = asyncio.create_task(model.generate("LONG", config=LONG))
        stream = await model.generate_stream("STREAM", LONG)
        await until(gate.entered.is_set)
        closing = asyncio.create_task(model.close())
        await asyncio.sleep(0)
        gate.open()
        await closing
        assert (await task).error.type == "ProcessorStopped"
        with pytest.raises(RequestError):
            await stream.text()

    run(main())
