"""How a variant of a comparison asks the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llamaherd.errors import ConfigError
from llamaherd.jobs.prompts import RowTemplate

__all__ = ["PromptOptions", "named_prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """One way to ask, for `explore`. What is None is as in the call of `explore`.

    Example:
        >>> from llamaherd import PromptOptions
        >>> prompts = {
        ...     "plain": "{title}",
        ...     "shown": PromptOptions(prompt="{title}", examples=[("Rovers win", "Sports")]),
        ... }

    Attributes:
        prompt: What to ask, with columns in braces. With labels, the text that is classified.
        system: System message of answers; "" for none.
        instructions: What the model is asked when it classifies, as in `Classifier`; "" for those
            that `Classifier` brings.
        examples: (text, answer) pairs, shown to the model as questions and answers before each
            row; with labels, each answer is a label. () for none.

    Raises:
        ConfigError: One of them is of the wrong type, or the prompt has no column.
    """

    prompt: str | None = None
    system: str | None = None
    instructions: str | None = None
    examples: Sequence[tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "system", "instructions"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"PromptOptions.{name} is {value!r}; give a text")
        if self.prompt is not None:
            RowTemplate.braces(self.prompt)
        if self.examples is not None:
            object.__setattr__(self, "examples", _checked_examples(self.examples))

    @property
    def template(self) -> RowTemplate | None:
        """The prompt as a template, or None."""
        return RowTemplate.braces(self.prompt) if self.prompt is not None else None


def named_prompts(
    prompts: str | PromptOptions | Mapping[str, str | PromptOptions] | None,
    default: PromptOptions,
    labels: Sequence[str] | None,
) -> dict[str, PromptOptions]:
    """The options of every prompt by its name; of a single one, the name is "".

    Args:
        prompts: As `explore` takes them.
        default: What is not said there.
        labels: The labels, if rows are classified.

    Raises:
        ConfigError: There are none, or they do not fit what is done with the rows.
    """
    if prompts is None or isinstance(prompts, (str, PromptOptions)):
        prompts = {"": PromptOptions() if prompts is None else prompts}
    if not prompts:
        raise ConfigError("prompts is empty; give at least one")
    named = {name: _merged(prompt, default) for name, prompt in prompts.items()}
    for name, options in named.items():
        _check_task(options, f"the prompt {name!r}" if name else "the prompt", labels)
    return named


def _merged(prompt: str | PromptOptions, default: PromptOptions) -> PromptOptions:
    own = prompt if isinstance(prompt, PromptOptions) else PromptOptions(prompt=prompt)
    missing = {
        name: getattr(default, name)
        for name in ("prompt", "system", "instructions", "examples")
        if getattr(own, name) is None
    }
    return replace(own, **missing)


def _check_task(options: PromptOptions, where: str, labels: Sequence[str] | None) -> None:
    """What would have no effect is said, instead of comparing variants that are the same."""
    if labels is None and options.instructions:
        raise ConfigError(f"{where} has instructions, which are for labels; give a system message")
    if labels is not None and options.system:
        raise ConfigError(f"{where} has a system message, which labels do not use; instructions do")
    for _, answer in options.examples or ():
        if labels is not None and answer not in labels:
            known = ", ".join(map(str, labels))
            raise ConfigError(f"{where} has an example of {answer!r}; labels are: {known}")


def _checked_examples(examples: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(examples, (str, Mapping)) or not isinstance(examples, Sequence):
        raise ConfigError(f"PromptOptions.examples is {examples!r}; give a list of pairs")
    pairs: list[tuple[str, str]] = []
    for example in examples:
        match example:
            case [str(text), str(answer)]:
                pairs.append((text, answer))
            case _:
                raise ConfigError(
                    f"PromptOptions.examples has {example!r}; give (text, answer) pairs"
                )
    return tuple(pairs)
