"""A line chart as SVG: enough for what benches show, so that no plotting library is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 210, 44, 56
COLOURS = ("#0b6e99", "#c2410c", "#3f7d20", "#7e22ce", "#a16207", "#be185d", "#475569")
TICKS_MAX = 8

Points = Sequence[tuple[float, float]]


def lines(
    title: str,
    series: Mapping[str, Points],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """A chart of named series; on a logarithmic axis every value must be above 0."""
    xs = [point[0] for points in series.values() for point in points]
    ys = [point[1] for points in series.values() for point in points]
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log=log_x)
    up = _Axis(min(ys) if log_y else 0, max(ys), HEIGHT - BOTTOM, TOP, log=log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1f2937">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 22, title, weight="600", size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x, anchor="middle"),
        f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y)}</text>',
    ]
    for tick in up.ticks():
        at = up.place(tick)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(_text(LEFT - 6, at + 4, _number(tick), anchor="end"))
    for tick in across.ticks():
        at = across.place(tick)
        parts.append(f'<path d="M{at:.1f} {HEIGHT - BOTTOM}v5" stroke="#6b7280"/>')
        parts.append(_text(at, HEIGHT - BOTTOM + 18, _number(tick), anchor="middle"))
    parts.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#6b7280"/>')
    for number, (name, points) in enumerate(series.items()):
        parts += _series(number, name, points, across.place, up.place)
    return "\n".join([*parts, "</svg>\n"])


class _Axis:
    """A range of values laid over a range of places."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        if log and low <= 0:
            raise ValueError(f"{low} cannot stand on a logarithmic axis")
        if log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        self._scale = math.log10 if log else float
        self._low, self._high, self._log = low, high if high > low else low + 1, log
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        share = (self._scale(value) - self._scale(self._low)) / (self._scale(self._high) - self._scale(self._low))
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        if self._log:
            first, last = round(math.log10(self._low)), round(math.log10(self._high))
            return [10.0**power for power in range(first, last + 1)]
        rough = (self._high - self._low) / (TICKS_MAX - 2)
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [number * step for number in range(first, last + 1)]


def _series(
    number: int, name: str, points: Points, across: Callable[[float], float], up: Callable[[float], float]
) -> list[str]:
    colour = COLOURS[number % len(COLOURS)]
    dashes = ' stroke-dasharray="5 3"' if number >= len(COLOURS) else ""
    places = [(across(x), up(y)) for x, y in points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    at = TOP + 8 + 18 * number
    return [
        f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>',
        *[f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places],
        f'<path d="M{WIDTH - RIGHT + 14} {at}h18" stroke="{colour}" stroke-width="2"{dashes}/>',
        _text(WIDTH - RIGHT + 38, at + 4, name),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}">{escape(text)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"
