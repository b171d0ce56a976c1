"""The sweep as an SVG drawing, without a plotting library: a panel a filter, hours kept against the WER of these.

Without references the second axis is the share of utterances rejected. The configured threshold is the filled point.
"""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Protocol

PANEL_WIDTH, PANEL_HEIGHT, ROOM = 380, 250, 52  # pixels of a panel, and of what surrounds its plot
COLUMNS = 2
INK, LINE, FAINT = "#222222", "#1f6f8b", "#d8dfe2"


class Point(Protocol):
    """As sweep.py has it."""

    @property
    def filter(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def is_configured(self) -> bool: ...
    @property
    def hours_kept(self) -> float: ...
    @property
    def hours_share(self) -> float: ...
    @property
    def wer_kept(self) -> float | None: ...


def draw(points: Sequence[Point]) -> str:
    """The drawing, as the text of an SVG file."""
    panels = [list(some) for _, some in groupby(points, key=lambda point: point.filter)]
    has_wer = any(point.wer_kept is not None for point in points)
    highest = max((_height(point, has_wer) for point in points), default=0.0) or 1.0
    all_hours = max((point.hours_kept / point.hours_share for point in points if point.hours_share), default=0.0)
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, rows * PANEL_HEIGHT + 30
    axis = "WER of what is kept, %" if has_wer else "share of the audio left out, %"
    body = [_text(16, 22, f"Hours kept (across) and {axis} (up), by threshold; filled: as configured", size=13)]
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        body += _panel(panel, column * PANEL_WIDTH, 30 + row * PANEL_HEIGHT, all_hours, highest, has_wer)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *body, "</svg>", ""])


def _height(point: Point, has_wer: bool) -> float:
    return (point.wer_kept or 0.0) if has_wer else 1 - point.hours_share


def _panel(
    panel: Sequence[Point], left: float, top: float, all_hours: float, highest: float, has_wer: bool
) -> list[str]:
    x0, y0 = left + ROOM, top + PANEL_HEIGHT - ROOM
    across, up = PANEL_WIDTH - 2 * ROOM, PANEL_HEIGHT - 2 * ROOM
    places = [(x0 + across * p.hours_share, y0 - up * _height(p, has_wer) / highest) for p in panel]
    drawn = [
        _text(x0, top + ROOM - 14, panel[0].filter, size=13),
        *(_grid(x0, y0, across, up, share) for share in (0.0, 0.5, 1.0)),
        *(
            _text(x0 + across * share, y0 + 16, f"{all_hours * share:.3g} h", anchor="middle")
            for share in (0.0, 0.5, 1.0)
        ),
        *(_text(x0 - 6, y0 - up * s + 4, f"{100 * highest * s:.3g}", anchor="end") for s in (0.0, 0.5, 1.0)),
        f'<polyline fill="none" stroke="{LINE}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>',
    ]
    for point, (x, y) in zip(panel, places, strict=True):
        fill = LINE if point.is_configured else "#ffffff"
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" stroke="{LINE}" fill="{fill}"/>')
        drawn.append(_text(x - 6, y - 6, f"{point.threshold:g}", size=9, anchor="end"))
    return drawn


def _grid(x0: float, y0: float, across: float, up: float, share: float) -> str:
    y = y0 - up * share
    return f'<line x1="{x0}" y1="{y:.1f}" x2="{x0 + across}" y2="{y:.1f}" stroke="{FAINT}"/>'


def _text(x: float, y: float, text: str, size: int = 11, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
