"""Runs a model's chat template, which is a program from a stranger.

Jinja's immutable sandbox keeps it away from Python's internals and from changing what it is
given. On top of that, what it may consume is bounded here: loop rounds and calls per render,
the size of texts and lists, and of numbers. The extras are those that Hugging Face's
`apply_chat_template` gives, since templates are written for it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["FILE_NAME", "TemplateSandbox"]

# What Jinja calls a template that did not come from a file.
FILE_NAME = "<template>"

# Loop rounds and calls in one render; a chat of a thousand messages needs about 50,000.
MAX_STEPS = 2_000_000
# Characters of a text, items of a list.
MAX_LENGTH = 32_000_000
MAX_BITS = 10_000
# Filters that make long output from short input, and that no chat template needs.
_NO_FILTERS = ("batch", "center", "pprint", "random", "slice", "urlize", "wordwrap", "xmlattr")
_PADDING_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
# Widths of four digits, and widths that are given as arguments.
_WIDE_FORMAT = re.compile(r"\d{4}|\*|\{[^{}]*\{")


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment that templates are compiled in and run in."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _GenerationTag],
        )
        self._state = threading.local()
        for name in _NO_FILTERS:
            self.filters.pop(name, None)
        self.filters.update(
            tojson=_tojson,
            format=self._format,
            indent=self._indent,
            replace=self._replace,
            _counted=self._counted,
            _checked=_checked,
        )
        self.globals.pop("lipsum", None)
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def start_render(self) -> None:
        """Give the next render of this thread its full allowance."""
        self._state.steps = MAX_STEPS

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something for a template."""
        __self._spend(1)
        # Jinja wraps str.format, and leaves the method itself in the wrapper.
        method = getattr(__obj, "__wrapped__", __obj)
        if isinstance(getattr(method, "__self__", None), str):
            _check_method(method, args)
        return _checked(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` for a template."""
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return _checked(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse, and put the checks in where there is no hook for them."""
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filtered(loop.iter, "_counted")
        for output in list(tree.find_all(nodes.Output)):
            output.nodes = [_checked_node(n) for n in output.nodes if isinstance(n, nodes.Expr)]
        for assignment in list(tree.find_all(nodes.Assign)):
            assignment.node = _checked_node(assignment.node)
        return tree

    def _spend(self, n: int) -> None:
        left = getattr(self._state, "steps", MAX_STEPS) - n
        self._state.steps = left
        if left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps; does it loop for ever?")

    def _counted(self, items: Any) -> Any:
        """What a loop runs over; lists stay lists, so that `loop.length` and such work."""
        try:
            self._spend(len(items))
        except TypeError:
            return self._count_each(items)
        return items

    def _count_each(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._spend(1)
            yield item

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        _check_replacement(str(text), str(old), str(new))
        return str(text).replace(str(old), str(new), -1 if count is None else count)

    def _format(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        _check_format(str(text))
        return FILTERS["format"](text, *args, **kwargs)

    def _indent(self, text: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
        _check_length((width if isinstance(width, int) else len(width)) * (text.count("\n") + 1))
        return str(FILTERS["indent"](text, width, first, blank))


class _GenerationTag(Extension):
    """``{% generation %}`` marks answers for training; here it is without effect."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _filtered(node: nodes.Node, name: str) -> nodes.Expr:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _checked_node(node: nodes.Node) -> nodes.Expr:
    """Names and constants cannot have grown since they were checked."""
    if isinstance(node, (nodes.TemplateData, nodes.Const, nodes.Getitem, nodes.Getattr)):
        return node
    return _filtered(node, "_checked")


def _checked(value: Any) -> Any:
    if isinstance(value, (str, list, tuple)):
        _check_length(len(value))
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise SecurityError("it makes a number that is too large")
    return value


def _check_method(method: Any, args: tuple[Any, ...]) -> None:
    """Check a call of a method of text."""
    name, text = method.__name__, method.__self__
    if name in _PADDING_METHODS:
        _check_length(max((abs(a) for a in args if isinstance(a, int)), default=0))
    elif name in ("format", "format_map"):
        _check_format(text)
    elif name == "replace" and len(args) > 1:
        _check_replacement(text, *args[:2])


def _check_length(n: int) -> None:
    if n > MAX_LENGTH:
        raise SecurityError(f"it makes a text or list longer than {MAX_LENGTH:,}")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int):
        left, right = right, left
    if isinstance(left, (str, list, tuple)) and isinstance(right, int):
        _check_length(len(left) * right)


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_BITS:
        raise SecurityError("it makes a number that is too large")


def _check_format(text: str) -> None:
    if _WIDE_FORMAT.search(text):
        raise SecurityError("it pads a text to more than 999 characters")


def _check_replacement(text: str, old: str, new: str) -> None:
    n = text.count(old) if old else len(text) + 1
    _check_length(len(text) + n * (len(new) - len(old)))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own also escapes for HTML, which prompts are not."""
    if isinstance(indent, int) and indent > 16:
        raise SecurityError("it indents JSON by more than 16")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    _check_format(form)
    return datetime.now().strftime(form)
