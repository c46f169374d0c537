"""Rendering a contact sheet: frames in rows, outlined evidence, and questions (matplotlib, extra ``report``).

Positions and lengths are in pixels of the sheet; (0, 0) is its upper left corner.
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

from .question_panel import MIN_WIDTH, TYPICAL_HEIGHT, QuestionPanel

DPI = 100

MARGIN, GAP, LABEL, HEADER = 24, 14, 20, 64

PANEL_GAP = 48  # between two panels of questions

MARK = 14, 12  # width and height of the mark of a question below a frame

MIN_TILE_WIDTH, MAX_TILE_WIDTH = 160, 320

LINE = 2.0  # width of an outline, in points

# As distinct as possible from each other and from the six colours of the glyphs; dark enough for text on white.
PALETTE = (
    *("#e6194b", "#0a7d33", "#4363d8", "#f26b00", "#911eb4", "#008c95"),
    *("#d81fc4", "#8a5a1c", "#6f7a00", "#b8860b", "#5a4fcf", "#a01c3c"),
)


@dataclass(frozen=True)
class ContactSheet:
    """Contents of a contact sheet.

    Attributes:
        title: one line.
        frames: (T, H, W, 3) uint8.
        times: (T,) seconds.
        questions: the questions; boxes of their evidence may extend beyond the frame.
        shown: numbers of the frames to render, ascending.
        columns: frames per row.
    """

    title: str
    frames: np.ndarray
    times: np.ndarray
    questions: Sequence[Question]
    shown: Sequence[int]
    columns: int

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a rendered frame; small frames are enlarged by an integer, so that pixels stay square."""
        height, width = self.frames.shape[1:3]
        rendered = width * -(-MIN_TILE_WIDTH // width) if width < MIN_TILE_WIDTH else min(width, MAX_TILE_WIDTH)
        return max(1, round(height * rendered / width)), rendered


def question_color(question: int) -> str:
    """Return the colour of a question, by its number."""
    return PALETTE[question % len(PALETTE)]


def render_contact_sheet(sheet: ContactSheet, file: Path) -> None:
    """Write a sheet to a PNG file."""
    figure = Figure(dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(MARGIN, MARGIN, sheet.title, fontsize=15, weight="bold", va="top", parse_math=False)
    width, height = _render_questions(axes, sheet, *_render_frames(axes, sheet))
    axes.set(xlim=(0, width), ylim=(height, 0))
    figure.set_size_inches(width / DPI, height / DPI)
    figure.savefig(file, format="png", dpi=DPI)


def _render_frames(axes: Axes, sheet: ContactSheet) -> tuple[float, float]:
    """Add the frames, and return their right and their lower edge."""
    height, width = sheet.tile
    columns = min(sheet.columns, len(sheet.shown))
    for number, frame in enumerate(sheet.shown):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * (width + GAP), HEADER + row * (height + LABEL + GAP)
        if number and frame > sheet.shown[number - 1] + 1:  # mark omitted frames
            axes.plot([left - GAP / 2] * 2, [top, top + height], color="0.6", linestyle=":", linewidth=1.2)
        _render_frame(axes, sheet, frame, left, top)
    rows = -(-len(sheet.shown) // columns)
    return MARGIN + columns * (width + GAP) - GAP, HEADER + rows * (height + LABEL + GAP) - GAP


def _render_questions(axes: Axes, sheet: ContactSheet, right: float, bottom: float) -> tuple[float, float]:
    """Add the questions to the right of the frames, or below them if that leaves less empty space.

    Args:
        axes: axes of the sheet.
        sheet: contents of the sheet.
        right: right edge of the frames.
        bottom: lower edge of the frames.

    Returns:
        Width and height of the sheet.
    """
    panels = int((right - MARGIN + PANEL_GAP) // (MIN_WIDTH + PANEL_GAP))  # that fit side by side below the frames
    below = panels > 0 and HEADER + len(sheet.questions) * TYPICAL_HEIGHT > 1.25 * bottom
    if below:
        left, top, stride = float(MARGIN), bottom + MARGIN, (right - MARGIN + PANEL_GAP) / panels
    else:
        left, top, stride, panels = right + MARGIN, HEADER, MIN_WIDTH + PANEL_GAP, 1
    per_panel = max(1, -(-len(sheet.questions) // panels))
    ends = [bottom]
    for first in range(0, len(sheet.questions), per_panel):
        panel = QuestionPanel(axes, left + first // per_panel * stride, top, stride - PANEL_GAP)
        for number in range(first, min(first + per_panel, len(sheet.questions))):
            panel.add(number, sheet.questions[number], question_color(number))
        ends.append(panel.bottom)
    return (right if below else left + MIN_WIDTH) + MARGIN, max(ends) + MARGIN


def _render_frame(axes: Axes, sheet: ContactSheet, frame: int, left: float, top: float) -> None:
    """Add a frame with outlined evidence, its number and time, and a mark for each question it is evidence for."""
    height, width = sheet.tile
    axes.imshow(sheet.frames[frame], extent=(left, left + width, top + height, top), aspect="auto")
    marked = [n for n, question in enumerate(sheet.questions) if any(box[0] == frame for box in question.evidence)]
    for box, numbers in _boxes_in(sheet.questions, frame):
        _outline(axes, box, [question_color(n) for n in numbers], (left, top, width, height))
    weight, color = ("bold", "black") if marked else ("normal", "0.45")
    label = f"#{frame}  {sheet.times[frame]:.4g} s"
    axes.text(left, top + height + 3, label, fontsize=9.5, va="top", weight=weight, color=color)
    for position, number in enumerate(reversed(marked)):
        x, y = left + width - MARK[0] - (MARK[0] + 1) * position, top + height + 4
        axes.add_patch(Rectangle((x, y), *MARK, color=question_color(number), linewidth=0))
        center = (x + MARK[0] / 2, y + MARK[1] / 2)
        style = {"fontsize": 6.5, "color": "white", "weight": "bold", "ha": "center", "va": "center_baseline"}
        axes.text(*center, str(number + 1), **style)  # type: ignore[arg-type]


def _boxes_in(questions: Sequence[Question], frame: int) -> Iterator[tuple[Box, list[int]]]:
    """Yield the distinct boxes in a frame, each with the numbers of all questions whose evidence contains it."""
    pairs = sorted({(box, n) for n, question in enumerate(questions) for box in question.evidence if box[0] == frame})
    for box, group in groupby(pairs, key=lambda pair: pair[0]):
        yield box, [number for _, number in group]


def _outline(axes: Axes, box: Box, colors: Sequence[str], tile: tuple[float, float, float, float]) -> None:
    """Outline a box on a tile (left, top, width, height); several colours alternate as dashes."""
    left, top, width, height = tile
    inset = LINE * DPI / 72 / 2 + 0.5  # the line is drawn inside its box, so that it is visible at the edge of a frame
    y0, x0, y1, x1 = (min(max(edge, 0.0), 1.0) for edge in box[1:])
    if y0 >= y1 or x0 >= x1:  # outside the frame
        return
    corner = (left + x0 * width + inset, top + y0 * height + inset)
    size = (max(1.0, (x1 - x0) * width - 2 * inset), max(1.0, (y1 - y0) * height - 2 * inset))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=LINE + 1.5))
    dash = 4.0  # in line widths
    for number, color in enumerate(colors):
        style = (dash * (len(colors) - number), (dash, dash * (len(colors) - 1))) if len(colors) > 1 else "solid"
        axes.add_patch(
            Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=LINE, linestyle=style, capstyle="butt")
        )
