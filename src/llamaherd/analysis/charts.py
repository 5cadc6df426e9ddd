"""Small charts as SVG. Colors come from the page's style sheet, so that they fit light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Line", "bars", "lines"]

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 44
_N_TICKS = 4
# Ends of an axis that four ticks divide well.
_NICE = (1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: Shown when the pointer is over it.
        color: Number of its color, from 0.
        points: (x, y).
    """

    name: str
    color: int
    points: Sequence[tuple[float, float]]


def lines(
    data: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    has_diagonal: bool = False,
    has_dots: bool = False,
) -> Markup:
    """A chart of lines.

    Args:
        data: The lines.
        x_title: Below.
        y_title: At the left.
        x_range: From the data if None.
        y_range: From 0 to what the data need if None.
        has_diagonal: Draw where x equals y.
        has_dots: Mark the points.
    """
    xs = [x for line in data for x, _ in line.points]
    ys = [y for line in data for _, y in line.points]
    frame = _Frame(
        x_range or (0.0, _nice(max(xs, default=1.0))), y_range or (0.0, _nice(max(ys, default=1.0)))
    )
    parts = [frame.axes(x_title, y_title)]
    if has_diagonal:
        (x0, x1), (y0, y1) = frame.x_range, frame.y_range
        parts.append(
            f'<line class="guide" x1="{frame.x(x0)}" y1="{frame.y(y0)}" '
            f'x2="{frame.x(x1)}" y2="{frame.y(y1)}"/>'
        )
    for line in data:
        points = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in line.points)
        name = escape(line.name)
        parts.append(f'<g class="c{line.color}"><title>{name}</title><polyline points="{points}"/>')
        if has_dots:
            parts.extend(
                f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" r="3.5"/>' for x, y in line.points
            )
        parts.append("</g>")
    return frame.svg(parts, f"{y_title} by {x_title}")


def bars(
    parts: Sequence[tuple[str, Sequence[int]]], edges: Sequence[float], *, x_title: str
) -> Markup:
    """A histogram of stacked bars.

    Args:
        parts: (CSS class, counts) from the bottom up.
        edges: Edges of the bins, one more than counts.
        x_title: Below.
    """
    totals = [sum(counts) for counts in zip(*(counts for _, counts in parts), strict=True)]
    # At least four rows, so that the ticks are whole numbers.
    frame = _Frame((edges[0], edges[-1]), (0.0, _nice(max([4, *totals]))))
    drawn = [frame.axes(x_title, "rows")]
    below = [0] * len(totals)
    for name, counts in parts:
        for i, count in enumerate(counts):
            x, width = frame.x(edges[i]), frame.x(edges[i + 1]) - frame.x(edges[i])
            top, bottom = frame.y(below[i] + count), frame.y(below[i])
            drawn.append(
                f'<rect class="{name}" x="{x + 1:.1f}" y="{top}" width="{width - 2:.1f}" '
                f'height="{bottom - top:.1f}"><title>{count} {name}, '
                f"{edges[i]:.1f} to {edges[i + 1]:.1f}</title></rect>"
            )
            below[i] += count
    return frame.svg(drawn, f"rows by {x_title}")


class _Frame:
    """From values to places, and the axes."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range = x_range
        self.y_range = y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(
            _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1
        )

    def axes(self, x_title: str, y_title: str) -> str:
        parts = []
        for value in _ticks(*self.y_range):
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}"/>'
                f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{_short(value)}</text>'
            )
        parts.extend(
            f'<text x="{self.x(value)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{_short(value)}</text>"
            for value in _ticks(*self.x_range)
        )
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(
            f'<text class="title" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}" '
            f'text-anchor="middle">{escape(x_title)}</text>'
            f'<text class="title" x="12" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 12 {middle})">{escape(y_title)}</text>'
        )
        return "".join(parts)

    def svg(self, parts: Sequence[str], label: str) -> Markup:
        content = "".join(parts)
        return Markup(
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
            f"{content}</svg>"
        )


def _ticks(low: float, high: float) -> list[float]:
    step = (high - low) / _N_TICKS
    return [low + i * step for i in range(_N_TICKS + 1)]


def _nice(value: float) -> float:
    """The next larger round number."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(factor * unit for factor in _NICE if factor * unit >= value)


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if abs(value - round(value)) < 1e-9 else f"{value:.2f}".rstrip("0")
