"""`AsyncModel`: a model whose calls are awaited."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from llamaherd.aio.call import AsyncCall
from llamaherd.aio.stream import TokenStream
from llamaherd.config import (
    AsyncConfig,
    EmbeddingConfig,
    EngineConfig,
    GenerationConfig,
    StreamConfig,
)
from llamaherd.engine.engine import Engine
from llamaherd.engine.plan import FloatArray
from llamaherd.errors import ConfigError, ModelError
from llamaherd.models.calls import make_request
from llamaherd.models.info import ModelInfo
from llamaherd.models.model import Model, Prompt
from llamaherd.results import GenerationResult, ProcessorStats

__all__ = ["AsyncModel"]

# Longer prompts are tokenized on a thread, so that the event loop never stalls for long.
_MAX_INLINE_LENGTH = 1000
# What `load` takes: enough to fill a batch, for callers who did not ask for less.
_MAX_CONCURRENT = 32


class AsyncModel:
    """A model for asyncio. Calls that run at the same time, from any event loop, join one batch.

    Example:
        >>> async with await AsyncModel.load("demo") as model:
        ...     questions = [f"What is the capital of {c}?" for c in ("Peru", "Kenya")]
        ...     prompts = [[{"role": "user", "content": q}] for q in questions]
        ...     answers = await asyncio.gather(
        ...         *(model.generate(prompt, 20, temperature=0) for prompt in prompts)
        ...     )
        >>> [answer.text for answer in answers]
        ['The capital of Peru is Lima.', 'The capital of Kenya is Nairobi.']

    Make one with `load` or `load_with_config`, or from a `Model` that you have, which you close
    yourself then.

    Args:
        model: A loaded model. An engine of its own is opened on it.
        config: `max_concurrent`, `context_size` and `timeout_ms` count; the rest belongs to
            loading.
    """

    def __init__(self, model: Model, config: AsyncConfig | None = None) -> None:
        config = config or AsyncConfig(max_concurrent=_MAX_CONCURRENT)
        self._core = _Core(model, config, owns_model=False)
        self._is_closed = False

    @classmethod
    async def load(cls, source: str | PathLike[str], **options: Any) -> AsyncModel:
        """Load a model without blocking the event loop.

        Args:
            source: Anything that `Model.load` takes.
            **options: Fields of `AsyncConfig`. `max_concurrent` is 32 here unless given.

        Raises:
            ModelError: It cannot be found or loaded.
            ConfigError: An option is wrong.
        """
        options = {"max_concurrent": _MAX_CONCURRENT, **options}
        return await cls.load_with_config(AsyncConfig(model_path=fspath(source), **options))

    @classmethod
    async def load_with_config(cls, config: AsyncConfig) -> AsyncModel:
        """Load a model as a configuration says. Errors are those of `load`."""
        model = await load_model(config)
        loaded = cls.__new__(cls)
        loaded._core = await asyncio.to_thread(_Core, model, config, owns_model=True)
        loaded._is_closed = False
        return loaded

    async def generate(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        *,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> GenerationResult:
        """Answer one prompt.

        Cancelling the task, also by `asyncio.timeout`, frees the row's slot at the next step.

        Args:
            prompt: Text, chat messages or token ids; see `Model.encode`.
            max_tokens: Most tokens to generate.
            config: How to generate.
            **options: Fields of `GenerationConfig`, instead of or on top of `config`.

        Returns:
            The answer. If the row failed, `success` is False and `error` says why.

        Raises:
            InvalidPrompt, TemplateError: The prompt is wrong.
            ConfigError: An option is wrong.
            ModelError: The model was closed.
        """
        call = AsyncCall(self.engine)
        if max_tokens is not None:
            options["max_tokens"] = max_tokens
        await self.start(call, prompt, config, options)
        return await call.answer()

    async def generate_stream(
        self, prompt: Prompt, config: StreamConfig | None = None, **options: Any
    ) -> TokenStream:
        """Answer one prompt and give the text as it is written. Args are those of `generate`.

        Returns:
            The stream, once the row is with the engine.
        """
        call = AsyncCall(self.engine, streaming=True)
        stream = TokenStream(call, owner=self)
        await self.start(call, prompt, config, options)
        return stream

    async def embed(
        self, texts: str | Sequence[str], config: EmbeddingConfig | None = None, **options: Any
    ) -> FloatArray:
        """Vectors of texts, computed beside the answers of this model; see `Model.embed`.

        If the task is cancelled, texts that were begun are computed to their end.
        """
        return await asyncio.to_thread(self.model.embed, texts, config, **options)

    async def tokenize_async(self, text: str, add_bos: bool = True) -> list[int]:
        """Tokens of a text; see `Model.tokenize`."""
        return await self._core.compute(len(text), self.model.tokenize, text, add_bos)

    async def model_info(self) -> ModelInfo:
        """Facts about the model."""
        return self.model.info

    async def is_ready(self) -> bool:
        """Whether calls are accepted."""
        return not self._is_closed and self._core.engine.is_open

    def clone(self) -> AsyncModel:
        """The same model and engine once more, at no cost. The last of them closes both."""
        self._check_open()
        twin = AsyncModel.__new__(AsyncModel)
        twin._core = self._core.share()
        twin._is_closed = False
        return twin

    def stats(self) -> ProcessorStats:
        """What the engine counted."""
        return self._core.engine.stats()

    @property
    def model(self) -> Model:
        """The model as other façades take it."""
        self._check_open()
        return self._core.model

    @property
    def engine(self) -> Engine:
        """The engine that this model's calls join."""
        self._check_open()
        return self._core.engine

    async def close(self) -> None:
        """End the calls in work as cancelled and free the engine, unless a clone uses it."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.to_thread(self._core.release)

    async def __aenter__(self) -> AsyncModel:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelError("this model was closed; load it again")

    async def start(
        self,
        call: AsyncCall,
        prompt: Prompt,
        config: GenerationConfig | None,
        options: Mapping[str, Any],
    ) -> None:
        """Encode a prompt and submit it, for façades on this one."""
        config = self._core.complete(config, options)
        tokens = await self._core.compute(length_of(prompt), self._core.model.encode, prompt)
        call.submit(make_request(tokens, config, call))


class _Core:
    """A model and an engine on it, shared by clones."""

    def __init__(self, model: Model, config: AsyncConfig, *, owns_model: bool) -> None:
        self.model = model
        self.engine = model.open_engine(
            EngineConfig(max_batch_size=config.max_concurrent, n_ctx=config.context_size)
        )
        self._timeout_ms = config.timeout_ms
        self._is_warm = False
        self._lock = threading.Lock()
        self._n_users = 1
        # Also runs when every user is forgotten, or the interpreter ends, without a close.
        owned = model if owns_model else None
        self._finalizer = weakref.finalize(self, _close, self.engine, owned)

    def share(self) -> _Core:
        """Add a user."""
        with self._lock:
            self._n_users += 1
        return self

    def release(self) -> None:
        """Remove a user; the last one closes everything. Blocks until the engine has ended."""
        with self._lock:
            self._n_users -= 1
            if self._n_users:
                return
        self._finalizer()

    def complete(
        self, config: GenerationConfig | None, options: Mapping[str, Any]
    ) -> GenerationConfig:
        """A call's configuration with the model's timeout, unless it has one."""
        config = config or GenerationConfig()
        changes = dict(options)
        if config.timeout_ms is None:
            changes.setdefault("timeout_ms", self._timeout_ms)
        return replace(config, **changes) if changes else config

    async def compute(
        self, length: int, work: Callable[..., list[int]], *arguments: Any
    ) -> list[int]:
        """Tokenize: at once if it is quick, else on a thread. The first time is never quick."""
        if length <= _MAX_INLINE_LENGTH and self._is_warm:
            return work(*arguments)
        tokens = await asyncio.to_thread(work, *arguments)
        self._is_warm = True
        return tokens


async def load_model(config: AsyncConfig) -> Model:
    """Load a model on a thread. If the task is cancelled meanwhile, it is closed again."""
    if not config.model_path:
        raise ConfigError("AsyncConfig.model_path is empty; allowed: a model's path or name")
    loading = asyncio.get_running_loop().run_in_executor(None, _load, config)
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        loading.add_done_callback(_close_unwanted)
        raise


def _close(engine: Engine, model: Model | None) -> None:
    engine.close()
    if model is not None:
        model.close()


def _load(config: AsyncConfig) -> Model:
    return Model.load(
        config.model_path,
        n_ctx=config.context_size,
        gpu_layers=config.gpu_layers,
        threads=config.threads,
        flash_attention=config.flash_attention,
        progress=False,
    )


def _close_unwanted(loading: asyncio.Future[Model]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()


def length_of(prompt: object) -> int:
    """About how many characters or tokens there are to encode."""
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return len(prompt) if isinstance(prompt, str) else 0
    return sum(len(str(part)) if isinstance(part, Mapping) else 1 for part in prompt)
