"""One call from a text or a list of texts to answers."""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, overload

from llamaherd.config import GenerationConfig
from llamaherd.errors import RequestError
from llamaherd.models.model import Model, Prompt
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.results import GenerationResult

__all__ = ["generate_parallel", "quick_llama"]

_log = logging.getLogger(__name__)


@overload
def quick_llama(
    prompt: str,
    *,
    model: str | PathLike[str] = "demo",
    system: str | None = None,
    max_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 1234,
    progress: bool | None = None,
    **options: Any,
) -> str: ...
@overload
def quick_llama(
    prompt: Sequence[str],
    *,
    model: str | PathLike[str] = "demo",
    system: str | None = None,
    max_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 1234,
    progress: bool | None = None,
    **options: Any,
) -> list[str | None]: ...
def quick_llama(
    prompt: str | Sequence[str],
    *,
    model: str | PathLike[str] = "demo",
    system: str | None = None,
    max_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 1234,
    progress: bool | None = None,
    **options: Any,
) -> str | list[str | None]:
    """Answer a question, or each of a list. The model stays loaded for the next call.

    Example:
        >>> from llamaherd import quick_llama
        >>> quick_llama("What is the capital of Peru?")
        'The capital of Peru is Lima.'

    Args:
        prompt: A text gives a text, a list gives a list. The model's chat template is applied if
            it has one.
        model: Anything that `Model.load` takes. The model of the latest call is kept; another one
            is closed when no call, on any thread, is using it.
        system: System message.
        max_tokens: Most tokens per answer.
        temperature: 0 always takes the most probable token.
        seed: Makes sampling repeatable.
        progress: Show a bar; None does in an interactive terminal or notebook.
        **options: More fields of `GenerationConfig`.

    Returns:
        The answer; of a list, None for rows that failed, which are named in a warning.

    Raises:
        RequestError: The one prompt failed.
        ConfigError, ModelError: An option is wrong, or the model cannot be loaded.
    """
    config = GenerationConfig(max_tokens=max_tokens, temperature=temperature, seed=seed, **options)
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    with _kept.using(str(model)) as processor:
        prompts = [_question(processor.model, text, system) for text in texts]
        results = processor.batch_generate(prompts, config, progress=progress)
    if isinstance(prompt, str):
        if results[0].error is not None:
            raise RequestError(str(results[0].error))
        return results[0].text
    return _texts(results)


def generate_parallel(
    model: Model | ParallelProcessor | str | PathLike[str],
    prompts: Sequence[Prompt],
    max_tokens: int = 100,
    seed: int = 1234,
    progress: bool | None = None,
    clean: bool = False,
    **options: Any,
) -> list[str | None]:
    """Texts for many prompts, as they are (no chat template is applied to plain texts).

    Args:
        model: A model, a processor, or anything that `Model.load` takes.
        prompts: As in `ParallelProcessor.batch_generate`.
        max_tokens: Most tokens per answer.
        seed: Makes sampling repeatable.
        progress: Show a bar; None does in an interactive terminal or notebook.
        clean: Strip control tokens and surrounding white space.
        **options: More fields of `GenerationConfig`.

    Returns:
        A text per prompt; None for rows that failed, which are named in a warning.

    Raises:
        ConfigError, ModelError: An option is wrong, or the model cannot be loaded.
    """
    config = GenerationConfig(max_tokens=max_tokens, seed=seed, clean=clean, **options)
    if isinstance(model, ParallelProcessor):
        return _texts(model.batch_generate(prompts, config, progress=progress))
    with ParallelProcessor(model) as processor:
        return _texts(processor.batch_generate(prompts, config, progress=progress))


@dataclass
class _Open:
    """A model that is loaded, and how many calls are using it."""

    processor: ParallelProcessor
    n_calls: int


class _KeptModel:
    """Keeps the model that was asked for last, and any other one while a call is using it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Apart from the other one, so that calls can end while a model is loaded.
        self._loading = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._latest = ""

    @contextlib.contextmanager
    def using(self, source: str) -> Iterator[ParallelProcessor]:
        """A processor that stays open until the block ends.

        Args:
            source: Its model.
        """
        opened = self._begin(source)
        try:
            yield opened.processor
        finally:
            with self._lock:
                opened.n_calls -= 1
            self._close_unused()

    def close(self) -> None:
        """Close all of them, whoever is using them."""
        with self._lock:
            closing = list(self._open.values())
            self._open.clear()
        for opened in closing:
            opened.processor.close()

    def _begin(self, source: str) -> _Open:
        with self._lock:
            self._latest = source
            opened = self._joined(source)
        # Before the next one is loaded, which may need the memory.
        self._close_unused()
        if opened is not None:
            return opened
        with self._loading:
            with self._lock:
                opened = self._joined(source)
            if opened is None:
                opened = _Open(ParallelProcessor(source), 1)
                with self._lock:
                    self._open[source] = opened
        return opened

    def _joined(self, source: str) -> _Open | None:
        """The model, with one more call, if it is loaded."""
        opened = self._open.get(source)
        if opened is not None:
            opened.n_calls += 1
        return opened

    def _close_unused(self) -> None:
        with self._lock:
            names = [
                name
                for name, opened in self._open.items()
                if not opened.n_calls and name != self._latest
            ]
            closing = [self._open.pop(name) for name in names]
        for opened in closing:
            opened.processor.close()


_kept = _KeptModel()
atexit.register(_kept.close)


def _question(model: Model, text: object, system: str | None) -> Prompt:
    if not isinstance(text, str):
        return text  # type: ignore[return-value]  # its row fails by what it is
    if not model.info.chat_template:
        return text if system is None else f"{system}\n\n{text}"
    question = {"role": "user", "content": text}
    return [question] if system is None else [{"role": "system", "content": system}, question]


def _texts(results: Sequence[GenerationResult]) -> list[str | None]:
    failed = [result for result in results if not result.success]
    if failed:
        first = failed[0]
        _log.warning(
            "%d of %d rows failed; row %d: %s", len(failed), len(results), first.index, first.error
        )
    return [result.text if result.success else None for result in results]
