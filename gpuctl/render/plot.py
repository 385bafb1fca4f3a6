"""Simulations drawn: jobs waiting and GPUs in use over time, and the distribution of waits, as one SVG.

Written by hand: three panels of lines are a page of text, and a plotting library is ten packages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

_WIDTH, _HEIGHT = 880, 240  # of a panel, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 28, 40
# Okabe and Ito's colours, which everybody can tell apart (jfly.uni-koeln.de/color).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a00")
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    x_title: str
    key: str
    logarithmic: bool = False
    to_one: bool = False


_PANELS = (
    _Panel("jobs waiting", "time", "waiting"),
    _Panel("GPUs in use", "time", "busy"),
    _Panel("jobs that waited at most so long", "wait", "waits", logarithmic=True, to_one=True),
)


def svg(results: Sequence[dict[str, Any]]) -> str:
    """Return the drawing of replays that have `curves`; colours are by trace and policy."""
    traces = {result["trace"] for result in results}
    names = [f"{result['trace']} {result['policy']}" if len(traces) > 1 else result["policy"] for result in results]
    height = len(_PANELS) * _HEIGHT + 30
    box = f'width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {_WIDTH} {height}" font-size="12">',
        "<style>text { font-family: sans-serif }</style>",
        f'<rect {box} fill="white"/>',
        *_legend(names),
    ]
    for at, panel in enumerate(_PANELS):
        curves = [result["curves"][panel.key] for result in results]
        parts += [f'<g transform="translate(0 {30 + at * _HEIGHT})">', *_panel(panel, curves, names), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(names: Sequence[str]) -> list[str]:
    lines, at = [], _LEFT
    for number, name in enumerate(names):
        lines.append(f'<rect x="{at}" y="12" width="14" height="4" fill="{_color(number)}"/>')
        lines.append(f'<text x="{at + 18}" y="18">{escape(name)}</text>')
        at += 34 + 7 * len(name)
    return lines


def _panel(panel: _Panel, curves: Sequence[Sequence[Point]], names: Sequence[str]) -> list[str]:
    x_most = max((point[0] for curve in curves for point in curve), default=0.0) or 1.0
    y_most = 1.0 if panel.to_one else max((point[1] for curve in curves for point in curve), default=0.0) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def across(x: float) -> float:
        part = log10(1 + max(0.0, x)) / log10(1 + x_most) if panel.logarithmic else x / x_most
        return _LEFT + wide * part

    def up(y: float) -> float:
        return _TOP + high * (1 - y / y_most)

    unit_s, unit = next((each for each in _UNITS if x_most >= 3 * each[0]), _UNITS[-1])
    ticks = (
        _moments(x_most)
        if panel.logarithmic
        else [(mark * unit_s, f"{mark:g} {unit}") for mark in _marks(x_most / unit_s)]
    )
    base = _TOP + high
    lines = [f'<text x="{_LEFT}" y="{_TOP - 8}" font-weight="bold">{panel.title}</text>']
    for x, text in ticks:
        lines.append(f'<path d="M{across(x):.1f} {_TOP}V{base}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{across(x):.1f}" y="{base + 16}" text-anchor="middle">{text}</text>')
    for y in _marks(y_most):
        lines.append(f'<path d="M{_LEFT} {up(y):.1f}H{_LEFT + wide}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    lines.append(f'<path d="M{_LEFT} {_TOP}V{base}H{_LEFT + wide}" fill="none" stroke="#444"/>')
    lines.append(f'<text x="{_LEFT + wide}" y="{base + 32}" text-anchor="end" fill="#444">{panel.x_title}</text>')
    for number, (curve, name) in enumerate(zip(curves, names, strict=True)):
        whole = (
            [*curve, (x_most, curve[-1][1])] if curve and panel.to_one else curve
        )  # all of its jobs are in it by now
        lines.append(_line(whole, across, up, number, name))
    return lines


def _line(
    curve: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float], number: int, name: str
) -> str:
    """Return a curve as steps: a value holds until the next."""
    if not curve:
        return ""
    path = f"M{across(curve[0][0]):.1f} {up(curve[0][1]):.1f}"
    path += "".join(f"H{across(x):.1f}V{up(y):.1f}" for x, y in curve[1:])
    color = _color(number)
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"><title>{escape(name)}</title></path>'


def _marks(most: float) -> list[float]:
    """Return some four to eight round numbers from 0 up to `most`."""
    size = 10.0 ** int(log10(most) // 1) if most > 0 else 1.0
    step = next(each * size for each in (0.2, 0.5, 1.0, 2.0) if most / (each * size) <= 8)
    return [round(at * step, 10) for at in range(int(most / step + 1e-9) + 1)]


def _moments(most: float) -> list[tuple[float, str]]:
    """Return durations that people know, for a logarithmic axis."""
    known: tuple[tuple[int, str], ...] = (
        (0, "0"),
        (1, "1 s"),
        (10, "10 s"),
        (60, "1 min"),
        (600, "10 min"),
        (3_600, "1 h"),
        (36_000, "10 h"),
    )
    known += ((86_400, "1 d"), (864_000, "10 d"), (8_640_000, "100 d"))
    return [(float(at), text) for at, text in known if at <= most]


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]
