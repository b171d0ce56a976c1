"""How a training went, as an SVG drawing: the loss by step, and the share of held-out tokens that it had right."""

from collections.abc import Sequence

from distil_ray.assistant_training.trainer import History

WIDTH, HEIGHT, MARGIN, GAP = 720, 180, 48, 40  # pixels; of a panel
LINE, INK, GRID = "#1f6f8b", "#222222", "#dddddd"

Point = tuple[float, float]


def draw(history: History) -> str:
    """Two panels over the same steps."""
    losses = [(float(step), loss) for step, loss in history.losses]
    right = [(float(step), 100 * share) for step, _, share in history.checks]
    steps = max(1.0, float(history.step))
    foot = f"step (of {history.step:,}; {history.elapsed_s:,.0f} s)"
    panels = [
        *_panel("loss, mean of twenty steps", losses, steps, max([loss for _, loss in losses], default=1.0), GAP),
        *_panel("held-out tokens drafted rightly, %", right, steps, 100.0, 2 * GAP + HEIGHT),
        _text(WIDTH / 2, 3 * GAP + 2 * HEIGHT - 14, foot, "middle"),
    ]
    height = 3 * GAP + 2 * HEIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *panels, "</svg>", ""])


def _panel(title: str, points: Sequence[Point], most_x: float, most_y: float, top: float) -> list[str]:
    lines = [_text(MARGIN, top - 8, title)]
    for share in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - share)
        lines.append(f'<line x1="{MARGIN}" y1="{y:.1f}" x2="{WIDTH - 16}" y2="{y:.1f}" stroke="{GRID}"/>')
        lines.append(_text(MARGIN - 6, y + 4, f"{share * most_y:.3g}", "end"))
    width = WIDTH - 16 - MARGIN
    path = " ".join(f"{MARGIN + width * x / most_x:.1f},{top + HEIGHT * (1 - y / most_y):.1f}" for x, y in points)
    lines.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
    return lines


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}" fill="{INK}">{text}</text>'
