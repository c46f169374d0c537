"""Drawing a contact sheet: frames in rows, evidence outlined, questions beside them (matplotlib, extra ``report``).

Everything is placed in pixels of the sheet, (0, 0) at its upper left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from framefold.data.question import Box, Question
from framefold.errors import DataError

from .question_panel import PANEL, USUAL, Panel

MOST = 64  # frames on a sheet, unless evidence lies in more


def thinned(count: int, evidence: set[int]) -> list[int]:
    """Numbers of at most MOST frames of `count`, evenly spaced, besides all that hold evidence.

    Raises:
        DataError: evidence in a frame that the video does not have.
    """
    if evidence and not 0 <= min(evidence) <= max(evidence) < count:
        raise DataError(f"evidence in frames {min(evidence)} to {max(evidence)} of a video with {count} frames")
    for step in range(min(count, MOST), 2, -1):
        chosen = evidence | {round(place) for place in np.linspace(0, count - 1, step)}
        if len(chosen) <= MOST:
            return sorted(chosen)
    return sorted(evidence | {0, count - 1})


DPI = 100

MARGIN, GAP, LABEL, HEAD = 24, 14, 20, 64

BETWEEN = 48  # stacks of questions

CHIP = 14, 12  # width and height of the mark of a question

SMALLEST, WIDEST = 160, 320  # width of a tile

LINE = 2.0  # width of an outline, in points

# Apart from each other and from the six colours of the glyphs where that is possible; dark enough for text on white.
PALETTE = (
    *("#e6194b", "#0a7d33", "#4363d8", "#f26b00", "#911eb4", "#008c95"),
    *("#d81fc4", "#8a5a1c", "#6f7a00", "#b8860b", "#5a4fcf", "#a01c3c"),
)


@dataclass(frozen=True)
class ContactSheet:
    """What is drawn.

    Attributes:
        title: one line.
        frames: (T, H, W, 3) uint8.
        times: (T,) seconds.
        questions: their evidence may lie partly outside the frame.
        shown: numbers of the frames to draw, ascending.
        columns: frames in a row.
    """

    title: str
    frames: np.ndarray
    times: np.ndarray
    questions: Sequence[Question]
    shown: Sequence[int]
    columns: int

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a drawn frame: small ones grow by a whole factor, so that their pixels stay squares."""
        height, width = self.frames.shape[1:3]
        drawn = width * -(-SMALLEST // width) if width < SMALLEST else min(width, WIDEST)
        return max(1, round(height * drawn / width)), drawn


def color_of(question: int) -> str:
    """Colour of question number `question`."""
    return PALETTE[question % len(PALETTE)]


def draw_contact_sheet(sheet: ContactSheet, file: Path) -> None:
    """Write a sheet as PNG."""
    figure = Figure(dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(MARGIN, MARGIN, sheet.title, fontsize=15, weight="bold", va="top", parse_math=False)
    width, height = _questions(axes, sheet, *_grid(axes, sheet))
    axes.set(xlim=(0, width), ylim=(height, 0))
    figure.set_size_inches(width / DPI, height / DPI)
    figure.savefig(file, format="png", dpi=DPI)


def _grid(axes: Axes, sheet: ContactSheet) -> tuple[float, float]:
    """The frames; returns where they end, (x, y)."""
    high, wide = sheet.tile
    columns = min(sheet.columns, len(sheet.shown))
    for at, frame in enumerate(sheet.shown):
        row, column = divmod(at, columns)
        left, top = MARGIN + column * (wide + GAP), HEAD + row * (high + LABEL + GAP)
        if at and frame > sheet.shown[at - 1] + 1:  # frames were left out here
            axes.plot([left - GAP / 2] * 2, [top, top + high], color="0.6", linestyle=":", linewidth=1.2)
        _tile(axes, sheet, frame, left, top)
    rows = -(-len(sheet.shown) // columns)
    return MARGIN + columns * (wide + GAP) - GAP, HEAD + rows * (high + LABEL + GAP) - GAP


def _questions(axes: Axes, sheet: ContactSheet, right: float, bottom: float) -> tuple[float, float]:
    """The questions: beside frames that end at (right, bottom), or below them where that leaves less empty.

    Returns the size of the sheet.
    """
    stacks = int((right - MARGIN + BETWEEN) // (PANEL + BETWEEN))  # that fit below
    below = stacks > 0 and HEAD + len(sheet.questions) * USUAL > 1.25 * bottom
    if below:
        left, top, stride = float(MARGIN), bottom + MARGIN, (right - MARGIN + BETWEEN) / stacks
    else:
        left, top, stride, stacks = right + MARGIN, HEAD, PANEL + BETWEEN, 1
    each = max(1, -(-len(sheet.questions) // stacks))
    ends = [bottom]
    for first in range(0, len(sheet.questions), each):
        panel = Panel(axes, left + first // each * stride, top, stride - BETWEEN)
        for number in range(first, min(first + each, len(sheet.questions))):
            panel.add(number, sheet.questions[number], color_of(number))
        ends.append(panel.bottom)
    return (right if below else left + PANEL) + MARGIN, max(ends) + MARGIN


def _tile(axes: Axes, sheet: ContactSheet, frame: int, left: float, top: float) -> None:
    """One frame with its outlines, its number and time, and a chip for each question it is evidence of."""
    high, wide = sheet.tile
    axes.imshow(sheet.frames[frame], extent=(left, left + wide, top + high, top), aspect="auto")
    asked = [n for n, question in enumerate(sheet.questions) if any(box[0] == frame for box in question.evidence)]
    for box, numbers in _together(sheet.questions, frame):
        _outline(axes, box, [color_of(n) for n in numbers], (left, top, wide, high))
    weight, ink = ("bold", "black") if asked else ("normal", "0.45")
    label = f"#{frame}  {sheet.times[frame]:.4g} s"
    axes.text(left, top + high + 3, label, fontsize=9.5, va="top", weight=weight, color=ink)
    for place, number in enumerate(reversed(asked)):
        x, y = left + wide - CHIP[0] - (CHIP[0] + 1) * place, top + high + 4
        axes.add_patch(Rectangle((x, y), *CHIP, color=color_of(number), linewidth=0))
        middle = (x + CHIP[0] / 2, y + CHIP[1] / 2)
        look = {"fontsize": 6.5, "color": "white", "weight": "bold", "ha": "center", "va": "center_baseline"}
        axes.text(*middle, str(number + 1), **look)  # type: ignore[arg-type]


def _together(questions: Sequence[Question], frame: int) -> Iterator[tuple[Box, list[int]]]:
    """Boxes in a frame, each with the numbers of all questions that it is evidence of."""
    found = sorted({(box, n) for n, question in enumerate(questions) for box in question.evidence if box[0] == frame})
    for box, pairs in groupby(found, key=lambda pair: pair[0]):
        yield box, [number for _, number in pairs]


def _outline(axes: Axes, box: Box, colors: Sequence[str], tile: tuple[float, float, float, float]) -> None:
    """A box on a tile (left, top, width, height); several colours take turns along the line."""
    left, top, wide, high = tile
    inset = LINE * DPI / 72 / 2 + 0.5  # the line lies inside its box, so that boxes at the edge of a frame stay whole
    y0, x0, y1, x1 = (min(max(edge, 0.0), 1.0) for edge in box[1:])
    if y0 >= y1 or x0 >= x1:  # outside the frame
        return
    corner = (left + x0 * wide + inset, top + y0 * high + inset)
    size = (max(1.0, (x1 - x0) * wide - 2 * inset), max(1.0, (y1 - y0) * high - 2 * inset))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=LINE + 1.5))
    dash = 4.0  # widths of the line
    for turn, color in enumerate(colors):
        style = (dash * (len(colors) - turn), (dash, dash * (len(colors) - 1))) if len(colors) > 1 else "solid"
        axes.add_patch(
            Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=LINE, linestyle=style, capstyle="butt")
        )
