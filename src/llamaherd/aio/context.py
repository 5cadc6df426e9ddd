"""`AsyncContext`: a conversation with an `AsyncModel`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

from llamaherd.aio.call import AsyncCall
from llamaherd.aio.model import AsyncModel
from llamaherd.aio.saved import Conversation, read_conversation, write_conversation
from llamaherd.aio.stream import TokenStream
from llamaherd.config import GenerationConfig, StreamConfig
from llamaherd.errors import InvalidPrompt, RequestError
from llamaherd.models.model import Prompt
from llamaherd.results import GenerationResult

__all__ = ["AsyncContext"]


class AsyncContext:
    """What was said so far, and what is said next.

    What an earlier turn computed is used again as long as its slot is not needed for other
    rows, so a turn costs its own tokens, not the whole conversation.

    A conversation with a model that has a chat template consists of messages: a string is what
    the user says. One with another model, or one that begins with token ids, is plain text that
    goes on and on. A turn that fails, is cancelled or left early leaves the conversation as it
    was. One turn at a time; different conversations run together.

    Example:
        >>> context = AsyncContext(model)
        >>> (await context.generate("What is the capital of Peru?", temperature=0)).text
        'The capital of Peru is Lima.'
        >>> [message["role"] for message in context.messages]
        ['user', 'assistant']

    Args:
        model: Answers. The conversation does not close it.
        messages: How the conversation begins, for example with a system message.
    """

    def __init__(self, model: AsyncModel, messages: Sequence[Mapping[str, Any]] = ()) -> None:
        self._model = model
        self._state = Conversation(messages=tuple(messages))
        self._is_busy = False

    @property
    def messages(self) -> tuple[Mapping[str, Any], ...]:
        """The messages so far; empty if this is plain text."""
        return self._state.messages

    @property
    def tokens(self) -> tuple[int, ...]:
        """The token ids so far; empty if this consists of messages."""
        return self._state.tokens

    async def generate(
        self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any
    ) -> GenerationResult:
        """Say something, and get the answer.

        Args:
            prompt: A string, messages to add, or token ids to add.
            config: How to generate.
            **options: Fields of `GenerationConfig`, instead of or on top of `config`.

        Raises:
            InvalidPrompt: Token ids among messages, or messages after plain text.
            RequestError: The turn before is not over.
        """
        self._begin()
        try:
            asked = self._extend(prompt)
            result = await self._model.generate(_prompt_of(asked), config=config, **options)
            self._answered(asked, result)
        finally:
            self._is_busy = False
        return result

    async def generate_stream(
        self, prompt: Prompt, config: StreamConfig | None = None, **options: Any
    ) -> TokenStream:
        """Say something, and read the answer while it is written. Args as for `generate`.

        The turn is over, and part of the conversation, when the stream was read to its end.
        """
        asked = self._extend(prompt)
        call = AsyncCall(self._model.engine, streaming=True)
        self._begin()
        stream = _Turn(call, self, asked)
        try:
            await self._model.start(call, _prompt_of(asked), config, options)
        except BaseException:
            stream.cancel()
            raise
        return stream

    async def process_batch(
        self, batches: Sequence[Prompt], config: GenerationConfig | None = None, **options: Any
    ) -> list[GenerationResult]:
        """Answer several continuations of this conversation at once, each for itself.

        They share what the conversation so far has computed. The conversation stays as it is.

        Args:
            batches: What could be said next.
            config: How to generate.
            **options: Fields of `GenerationConfig`, instead of or on top of `config`.

        Returns:
            One result per continuation, in order.
        """
        prompts = [_prompt_of(self._extend(prompt)) for prompt in batches]
        calls = (self._model.generate(prompt, config=config, **options) for prompt in prompts)
        return list(await asyncio.gather(*calls))

    async def save_state(self, path: str | PathLike[str]) -> None:
        """Write the conversation to a small JSON file, in one step.

        Raises:
            OutputError: It cannot be written.
        """
        await asyncio.to_thread(write_conversation, Path(path), self._state, self._model.model)

    async def load_state(self, path: str | PathLike[str]) -> None:
        """Go on with a conversation that `save_state` wrote; unchanged if that fails.

        Raises:
            InputError: The file cannot be read, is damaged, or belongs to another model.
            RequestError: The turn before is not over.
        """
        self._begin()
        try:
            model = self._model.model
            state = await asyncio.to_thread(read_conversation, Path(path), model)
            if state.tokens:
                model.encode(state.tokens)
            self._state = state
        finally:
            self._is_busy = False

    def _begin(self) -> None:
        if self._is_busy:
            raise RequestError(
                "this conversation waits for an answer; one turn at a time, "
                "or one AsyncContext per conversation"
            )
        self._is_busy = True

    def _extend(self, prompt: Prompt) -> Conversation:
        """The conversation with something more said."""
        state = self._state
        model = self._model.model
        if isinstance(prompt, str) and (state.messages or not state.tokens):
            if model.info.chat_template:
                prompt = [{"role": "user", "content": prompt}]
        if isinstance(prompt, str):
            tokens = model.tokenize(prompt, add_bos=not state.tokens, special=True)
            return Conversation(tokens=(*state.tokens, *tokens))
        if not isinstance(prompt, Sequence) or not prompt:
            raise InvalidPrompt("nothing is said; give text, chat messages or token ids")
        if isinstance(prompt[0], Mapping):
            if state.tokens:
                raise InvalidPrompt("this conversation is plain text; give text or token ids")
            said = cast("Sequence[Mapping[str, Any]]", prompt)
            return Conversation(messages=(*state.messages, *said))
        if state.messages:
            raise InvalidPrompt("this conversation consists of messages; give text or messages")
        return Conversation(tokens=(*state.tokens, *cast("Sequence[int]", prompt)))

    def _answered(self, asked: Conversation, result: GenerationResult) -> None:
        if not result.success:
            return
        if asked.messages:
            answer = {"role": "assistant", "content": result.text}
            self._state = Conversation(messages=(*asked.messages, answer))
        else:
            self._state = Conversation(tokens=(*asked.tokens, *result.tokens))


class _Turn(TokenStream):
    """A stream that becomes part of its conversation."""

    def __init__(self, call: AsyncCall, context: AsyncContext, asked: Conversation) -> None:
        self._context: AsyncContext | None = context
        self._asked = asked
        super().__init__(call, owner=context)

    def over(self, result: GenerationResult | None) -> None:
        context, self._context = self._context, None
        if context is not None:
            context._is_busy = False
            if result is not None:
                context._answered(self._asked, result)


def _prompt_of(conversation: Conversation) -> Prompt:
    return conversation.messages or conversation.tokens
