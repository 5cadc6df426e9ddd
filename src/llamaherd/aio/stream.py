"""`TokenStream`: an answer while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from llamaherd.aio.call import AsyncCall
from llamaherd.errors import RequestError
from llamaherd.models.calls import failure_of
from llamaherd.results import GenerationResult

__all__ = ["StreamPiece", "TokenStream"]


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """More of an answer.

    Attributes:
        text: Whole characters, never part of a stop string.
        tokens: The tokens behind it; several when the reader was slow or a character took
            several.
    """

    text: str
    tokens: tuple[int, ...]


class TokenStream:
    """Iterates over an answer while it is written.

    Leaving an ``async for`` early, cancelling the task that reads, `aclose`, and dropping the
    stream all free the row's slot at the engine's next step. The engine never waits for a
    reader: pieces that were not read yet merge. A row that fails raises after the text that
    it gave.

    Example:
        >>> stream = await model.generate_stream("Once upon a time", max_tokens=50)
        >>> async for piece in stream:
        ...     print(piece.text, end="")
        >>> stream.result.finish_reason

    Args:
        call: The row.
        owner: Whoever must not be closed while the stream is read.
    """

    def __init__(self, call: AsyncCall, *, owner: object) -> None:
        self._call = call
        # Keeps the model open while somebody reads.
        self._owner = owner
        self._is_over = False
        self._is_reading = False

    @property
    def result(self) -> GenerationResult | None:
        """The whole answer and its statistics; None until the row has ended."""
        return self._call.result

    def __aiter__(self) -> AsyncIterator[StreamPiece]:
        return _Loop(self)

    async def __anext__(self) -> StreamPiece:
        """The next piece.

        Raises:
            StopAsyncIteration: The answer is complete, or the stream was closed.
            RequestError: The row failed, or the stream is read elsewhere.
        """
        if self._is_over:
            raise StopAsyncIteration
        self._check_reader()
        self._is_reading = True
        try:
            await self._call.news()
        except BaseException:
            self.cancel()
            raise
        finally:
            self._is_reading = False
        text, tokens = self._call.take()
        if text or tokens:
            return StreamPiece(text, tokens)
        self._is_over = True
        result = self._call.result
        assert result is not None
        self.over(result)
        error = failure_of(result)
        if error is not None:
            raise error
        raise StopAsyncIteration

    async def text(self) -> str:
        """Read to the end and return the text that was not read yet."""
        return "".join([piece.text async for piece in self])

    def cancel(self) -> None:
        """Stop the row at the next step. Any thread."""
        self._is_over = True
        self._call.cancel()
        self.over(None)

    def over(self, result: GenerationResult | None) -> None:
        """Nobody reads on: with the result if it was read to its end. May be called again."""

    async def aclose(self) -> None:
        """Stop the row; later reads find the end."""
        self.cancel()

    async def __aenter__(self) -> TokenStream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self.cancel()

    def _check_reader(self) -> None:
        if asyncio.get_running_loop() is not self._call.loop:
            raise RequestError(
                "this stream was opened on another event loop; read it there, "
                "or open one on this loop"
            )
        if self._is_reading:
            raise RequestError("another task is reading this stream; give each task its own")


class _Loop:
    """One ``async for``. Python drops it when the loop is left, by whichever way."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Loop:
        return self

    async def __anext__(self) -> StreamPiece:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        self._stream.cancel()
