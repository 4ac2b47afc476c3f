"""The ratios to raw `grpc.aio` as a picture: a dot for each median, a line for its interval."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tests.bench.chain.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.chain.rounds import Result

_WIDTH, _LEFT, _RIGHT = 900, 400, 60
_ROW, _HEAD, _TOP, _BOTTOM = 20, 30, 16, 36
_COLOURS = {"apibase": "#0b6e4f", "sdk": "#b3541e", "raw": "#555555"}


def plot(results: Mapping[str, Result]) -> str:
    """Return an SVG with a block of rows for each cell."""
    cells = [result for result in results.values() if "raw" in result.rounds]
    rows = sum(_HEAD + _ROW * len(cell.rounds) for cell in cells)
    height = _TOP + rows + _BOTTOM
    ratios = [cell.ratio(server, "raw") for cell in cells for server in cell.rounds]
    most = max([1.0, *(each.high for each in ratios)]) * 1.05

    def across(value: float) -> float:
        return _LEFT + value / most * (_WIDTH - _LEFT - _RIGHT)

    parts = [_axis(across(tick), tick, height) for tick in _ticks(most)]
    parts.append(_line(across(1), _TOP, across(1), height - _BOTTOM, "#888888", 1.5))
    down = float(_TOP)
    for cell in cells:
        parts.append(_text(12, down + _HEAD - 10, cell.cell.title, weight="bold"))
        down += _HEAD
        for server in cell.rounds:
            middle = down + _ROW / 2
            found = cell.ratio(server, "raw")
            colour = _COLOURS["sdk" if server.startswith("sdk") else "raw" if server.startswith("raw") else "apibase"]
            parts += [
                _text(24, middle + 4, SERVERS[server].title.replace("`", "")),
                _line(across(found.low), middle, across(found.high), middle, colour, 2),
                f'<circle cx="{across(found.median):.1f}" cy="{middle:.1f}" r="4" fill="{colour}"/>',
                _text(across(found.high) + 8, middle + 4, f"{found.median:.2f}", size=11),
            ]
            down += _ROW
    parts.append(
        _text(_LEFT, height - 6, "times as many calls, or messages, as raw grpc.aio + uvloop in the same round")
    )
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" role="img" aria-label="Ratios to raw grpc.aio">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n{inside}\n</svg>\n'
    )


def _ticks(most: float) -> list[float]:
    step = next((step for step in (0.2, 0.5, 1.0, 2.0) if most / step <= 8), 5.0)
    return [round(number * step, 1) for number in range(int(most / step) + 1)]


def _axis(x: float, tick: float, height: int) -> str:
    return _line(x, _TOP, x, height - _BOTTOM, "#dddddd", 1) + _text(x - 8, height - _BOTTOM + 14, f"{tick:g}", size=11)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, size: int = 12, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}">{escape(text)}</text>'
