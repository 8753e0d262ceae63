"""Figures as SVG, written by hand: the same bytes each time, and no library to install.

Readable on light and on dark pages: a white ground, and colours that differ in lightness too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = ("#1b6ca8", "#d1495b", "#2a9d4f", "#8a5bb5", "#c77f1a", "#444444")
INK, FAINT = "#222222", "#d8d8d8"


class Figure:
    """A drawing of so many units; x goes right, y goes down."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        says: str,
        *,
        size: float = 13,
        anchor: str = "start",
        colour: str = INK,
        turn: float = 0,
    ) -> None:
        """`anchor` is start, middle or end; `turn` in degrees."""
        turned = f' transform="rotate({_n(turn)} {_n(x)} {_n(y)})"' if turn else ""
        self.parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" text-anchor="{anchor}"'
            f' fill="{colour}"{turned}>{escape(says)}</text>'
        )

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none"
    ) -> None:
        self.parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
            f' fill="{fill}" stroke="{stroke}"/>'
        )

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str = INK,
        *,
        width: float = 1,
        dash: str = "",
    ) -> None:
        joined = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}"'
            f' stroke-width="{_n(width)}"{dashed}/>'
        )

    def heat(
        self,
        x: float,
        y: float,
        cell: float,
        rows: Sequence[Sequence[float]],
        *,
        low: float = 0.0,
        high: float = 1.0,
        labels: bool = False,
    ) -> None:
        """A table as squares, white at `low` and blue at `high`; NaN is hatched red."""
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                share = min(max((value - low) / (high - low), 0.0), 1.0) if value == value else 0.0
                fill = "#f3b0b0" if value != value else _shade(share)
                self.rectangle(x + j * cell, y + i * cell, cell, cell, fill, FAINT)
                if labels and value == value:
                    ink = "#ffffff" if share > 0.55 else INK
                    middle = (x + (j + 0.5) * cell, y + (i + 0.62) * cell)
                    self.text(*middle, f"{value:.2f}", size=cell / 3.2, anchor="middle", colour=ink)

    def axes(
        self,
        box: tuple[float, float, float, float],
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        x_label: str = "",
        y_label: str = "",
    ) -> Callable[[float, float], tuple[float, float]]:
        """Draw axes in `box` (left, top, width, height); returns (x, y) -> where that is drawn."""
        left, top, width, height = box

        def place(x: float, y: float) -> tuple[float, float]:
            across = (x - x_range[0]) / (x_range[1] - x_range[0])
            up = (y - y_range[0]) / (y_range[1] - y_range[0])
            return left + across * width, top + height - up * height

        for tick in x_ticks:
            at, _ = place(tick, y_range[0])
            self.line([(at, top), (at, top + height)], FAINT)
            self.text(at, top + height + 17, f"{tick:g}", size=11, anchor="middle")
        for tick in y_ticks:
            _, at = place(x_range[0], tick)
            self.line([(left, at), (left + width, at)], FAINT)
            self.text(left - 7, at + 4, f"{tick:g}", size=11, anchor="end")
        self.line([(left, top), (left, top + height), (left + width, top + height)])
        self.text(left + width / 2, top + height + 36, x_label, anchor="middle")
        self.text(left - 44, top + height / 2, y_label, anchor="middle", turn=-90)
        return place

    def save(self, path: Path) -> None:
        body = "\n".join(self.parts)
        size = f'width="{_n(self.width)}" height="{_n(self.height)}"'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
            f' viewBox="0 0 {_n(self.width)} {_n(self.height)}" font-family="sans-serif">\n'
            f"<title>{escape(self.title)}</title>\n"
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n'
            f"{body}\n</svg>\n",
            "utf-8",
        )


def _n(value: float) -> str:
    """Two places are enough, and no machine rounds them differently."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _shade(share: float) -> str:
    """White to COLOURS[0]."""
    goal = (0x1B, 0x6C, 0xA8)
    return "#" + "".join(f"{round(255 + (c - 255) * share):02x}" for c in goal)
