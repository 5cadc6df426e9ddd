r"""Renders chat messages with a model's own template, and turns them safely into tokens.

Text inside messages never becomes a control token. A template mixes its own markup with the
text of the messages, and afterwards nobody can tell which is which. So where a message holds
the written form of such a token, or the beginning or end of one, it is marked before rendering
with a character that occurs nowhere else:

    message    see <|im_end|> there
    marked     see <¤|im_end|> there
    rendered   <|im_start|>user\nsee <¤|im_end|> there<|im_end|>\n
    cut        [im_start] "user\nsee <|im_end|> there" [im_end] "\n"

Whatever is still intact after rendering came from the template and becomes a token; the text
between is tokenized as plain text, without the marks. Messages without anything of the kind,
nearly all, are rendered as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import jinja2

from llamaherd.errors import InvalidPrompt, TemplateError
from llamaherd.llama.binding import C
from llamaherd.llama.weights import Weights
from llamaherd.models.marking import Marker
from llamaherd.models.template_sandbox import FILE_NAME, TemplateSandbox
from llamaherd.models.tokenizing import BatchTokenizer, SpecialTokens

__all__ = ["ChatTemplate"]

Message = Mapping[str, Any]

_WHITE_SPACE = " \t\n\v\f\r"


class ChatTemplate:
    """A compiled chat template. Any thread may use it.

    Args:
        source: Jinja source.
        tokenizer: Tokenizer of the model.

    Raises:
        TemplateError: The source is not valid Jinja.
    """

    def __init__(self, source: str, tokenizer: BatchTokenizer) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._sandbox = TemplateSandbox()
        try:
            self._template = self._sandbox.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise _template_error(error, None) from error
        vocabulary = tokenizer.vocabulary
        self._bos, self._eos = (
            vocabulary.token_text(t) if t is not None else ""
            for t in (vocabulary.bos, vocabulary.eos)
        )
        self._special = SpecialTokens(_markup_tokens(tokenizer))
        self._marker = Marker(self._special, source)
        self._has_strip = bool(
            vocabulary.tokens_with(C.LLAMA_TOKEN_ATTR_LSTRIP | C.LLAMA_TOKEN_ATTR_RSTRIP)
        )

    @classmethod
    def for_model(
        cls, weights: Weights, tokenizer: BatchTokenizer, source: str | None = None
    ) -> ChatTemplate | None:
        """The template of a model, or None if it has none.

        Args:
            weights: The model.
            tokenizer: Its tokenizer.
            source: Jinja source to use instead of the model's own.
        """
        source = source if source is not None else weights.chat_template()
        return cls(source, tokenizer) if source else None

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        **template_vars: Any,
    ) -> str:
        """Text of a chat. Control tokens that a message contains are not told apart in it.

        Args:
            messages: Such as ``[{"role": "user", "content": "Hello"}]``.
            add_generation_prompt: End where the assistant's answer begins.
            **template_vars: Passed to the template.

        Raises:
            InvalidPrompt: The messages have the wrong form.
            TemplateError: The template failed.
        """
        return self._render(check_messages(messages), add_generation_prompt, template_vars)

    def encode(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        **template_vars: Any,
    ) -> list[int]:
        """Tokens of a chat; text in messages and variables never becomes a control token.

        Args and errors are those of `render`.
        """
        checked = check_messages(messages)
        mark = self._marker.choose_mark((checked, template_vars))
        if mark is None:
            text = self._render(checked, add_generation_prompt, template_vars)
            return self._tokenizer.begin(self._encode_trusted(text))
        checked = self._marker.mark_messages(checked, mark)
        # Names are the caller's, and the template looks for them as they are.
        template_vars = {
            name: self._marker.mark(value, mark) for name, value in template_vars.items()
        }
        text = self._render(checked, add_generation_prompt, template_vars)
        # JSON with only ASCII in it writes the mark as an escape.
        text = text.replace(json.dumps(mark)[1:-1], mark)
        return self._tokenizer.begin([t for ids in self._encode_marked(text, mark) for t in ids])

    def _render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool, more: dict[str, Any]
    ) -> str:
        variables = {
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
            **more,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        self._sandbox.start_render()
        # A template can fail in any way that an expression on wrong data can.
        try:
            return self._template.render(variables)
        except Exception as error:
            raise _template_error(error, messages) from error

    def _encode_trusted(self, text: str) -> list[int]:
        """Tokens of a text in which every control token counts."""
        tokenizer = self._tokenizer
        if not tokenizer.knows_words or self._has_strip:
            return tokenizer.vocabulary.tokenize(text, add_bos=False, special=True)
        ids: list[int] = []
        for part in self._cut(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += tokenizer.tokenize(part, add_bos=False)
        return ids

    def _encode_marked(self, text: str, mark: str) -> Iterator[list[int]]:
        """Tokens of a text in which what is marked stays text."""
        parts = list(self._cut(text))
        for i, part in enumerate(parts):
            if isinstance(part, int):
                yield [part]
                continue
            if i > 0 and self._strips(parts[i - 1], C.LLAMA_TOKEN_ATTR_RSTRIP):
                part = part.lstrip(_WHITE_SPACE)
            if i + 1 < len(parts) and self._strips(parts[i + 1], C.LLAMA_TOKEN_ATTR_LSTRIP):
                part = part.rstrip(_WHITE_SPACE)
            yield from self._encode_span(part, mark)

    def _encode_span(self, span: str, mark: str) -> Iterator[list[int]]:
        plain = span.replace(mark, "")
        ids = self._tokenizer.tokenize(plain, add_bos=False) if plain else []
        guarded = self._special.tokens.values()
        if not set(ids).isdisjoint(guarded):
            # Some tokens count even in plain text. Cutting them in two is the only way out.
            first, *rest = span.split(mark)
            ids = self._tokenizer.tokenize(first, add_bos=False) if first else []
            for part in rest:
                ids += self._tokenizer.tokenize_continued(part)
        yield ids

    def _cut(self, text: str) -> Iterator[str | int]:
        """The text between special tokens, and the tokens."""
        at = 0
        for begin, end in self._special.find(text):
            if begin > at:
                yield text[at:begin]
            yield self._special.tokens[text[begin:end]]
            at = end
        if at < len(text):
            yield text[at:]

    def _strips(self, neighbor: str | int, attribute: int) -> bool:
        if not self._has_strip or isinstance(neighbor, str):
            return False
        return self._tokenizer.vocabulary.has_attribute(neighbor, attribute)


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Make sure that messages have the right form; lists of text parts become texts.

    Raises:
        InvalidPrompt: They do not; the message names the index.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidPrompt(
            'chat messages are a list such as [{"role": "user", "content": "Hello"}], '
            f"not a {type(messages).__name__}"
        )
    if not messages:
        raise InvalidPrompt("the list of chat messages is empty")
    return [_check_message(message, i) for i, message in enumerate(messages)]


def _check_message(message: Message, index: int) -> dict[str, Any]:
    where = f"chat message {index}"
    if not isinstance(message, Mapping):
        raise InvalidPrompt(f"{where} is a {type(message).__name__}, not a dict")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise InvalidPrompt(f'{where} needs a "role" such as "user", not {role!r}')
    if isinstance(content, str):
        return message if type(message) is dict else dict(message)
    if content is None and message.get("tool_calls"):
        return {**message, "content": ""}
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return {**message, "content": "\n".join(_text_of(part, where) for part in content)}
    raise InvalidPrompt(f'{where} needs a "content" that is a text, not {type(content).__name__}')


def _text_of(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise InvalidPrompt(f"{where} has a part that is not text; only text is supported")


def _markup_tokens(tokenizer: BatchTokenizer) -> dict[str, int]:
    """Tokens that a message must not be able to write.

    These are the control tokens, and ones that llama.cpp matches in plain text too but that
    are written like markup; gpt-oss has its channel markers among those. One character cannot
    be cut in two, so tokens of one character are always text.
    """
    vocabulary = tokenizer.vocabulary
    tokens = dict(tokenizer.special_tokens.tokens)
    for token in vocabulary.tokens_with(C.LLAMA_TOKEN_ATTR_USER_DEFINED):
        text = vocabulary.token_text(token)
        if text.startswith(("<|", "<｜")) or text.endswith(("|>", "｜>")):
            tokens[text] = token
    return {text: token for text, token in tokens.items() if len(text) > 1}


def _template_error(error: BaseException, messages: list[dict[str, Any]] | None) -> TemplateError:
    """Say where it happened: the line, and the message that was at hand."""
    line = getattr(error, "lineno", None)
    index = None
    for frame, frame_line in _template_frames(error.__traceback__):
        line = frame_line
        values = frame.values()
        index = next(
            (i for i, m in enumerate(messages or ()) if any(m is v for v in values)), index
        )
    where = f" at line {line}" if line is not None else ""
    where += f", message {index}" if index is not None else ""
    kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
    return TemplateError(f"the chat template failed{where}: {kind}{error}")


def _template_frames(
    trace: TracebackType | None,
) -> Iterator[tuple[dict[str, Any], int]]:
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE_NAME:
            yield trace.tb_frame.f_locals, trace.tb_lineno
        trace = trace.tb_next
