"""One call from a text or a list of texts to answers."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Sequence
from os import PathLike
from typing import Any, overload

from llamaherd.config import GenerationConfig
from llamaherd.errors import RequestError
from llamaherd.models.model import Model, Prompt
from llamaherd.processing.parallel import ParallelProcessor
from llamaherd.results import GenerationResult

__all__ = ["generate_parallel", "quick_llama"]

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_cached: dict[str, ParallelProcessor] = {}


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
        model: Anything that `Model.load` takes. One model is kept.
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
    processor = _processor(str(model))
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
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


def _processor(source: str) -> ParallelProcessor:
    """The processor that is kept; another model takes its place."""
    with _lock:
        processor = _cached.get(source)
        if processor is None:
            _forget()
            processor = _cached[source] = ParallelProcessor(source)
        return processor


@atexit.register
def _forget() -> None:
    for processor in _cached.values():
        processor.close()
    _cached.clear()


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
