"""A figure of answers: the tokens that a host read, what it said, and what that cost (matplotlib)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from framefold.adapters.core.tokens import VideoTokens

from .kept_tokens import KeptSheet, KeptTokens

PANEL, GAP, HEAD, FOOT = 560, 24, 76, 84  # pixels: width of a panel, between panels, above and below the frames

BORDER = 2  # pixels between frames


@dataclass(frozen=True, eq=False)
class Panel:
    """One answer of a figure.

    Attributes:
        title: what was read.
        tokens: the tokens of the video that the host read.
        text: the answer.
        costs: one line.
    """

    title: str
    tokens: VideoTokens
    text: str
    costs: str


def draw_answers(sheet: KeptSheet, panels: list[Panel]) -> Figure:
    """Return a figure with the title of a sheet, and below it one panel per answer, side by side.

    Args:
        sheet: title, small frames and times of the video.
        panels: the answers.
    """
    columns = math.ceil(math.sqrt(len(sheet.frames)))
    mosaics = [_mosaic(list(sheet.tiles(KeptTokens("", panel.tokens), PANEL // columns)), columns) for panel in panels]
    high, wide = mosaics[0].shape[:2]
    width, height = GAP + len(panels) * (PANEL + GAP), HEAD + high + FOOT
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    figure.text(GAP / width, 1 - 12 / height, sheet.title, va="top", fontsize=13)
    for number, (panel, mosaic) in enumerate(zip(panels, mosaics, strict=True)):
        left = (GAP + number * (PANEL + GAP)) / width
        texts = [(46, panel.title, 11, "black"), (HEAD + high + 10, panel.text, 15, "#0072b2")]
        for top, text, size, color in [*texts, (HEAD + high + 46, panel.costs, 10, "#444444")]:
            weight = "normal" if size == 10 else "bold"
            figure.text(left, 1 - top / height, text, va="top", fontsize=size, color=color, fontweight=weight)
        axes = figure.add_axes((left, FOOT / height, wide / width, high / height))
        axes.imshow(mosaic, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
    return figure


def _mosaic(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Return (height, width, 3) uint8: frames in rows of ``columns``, with white borders."""
    high, wide = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    out = np.full((rows * high, columns * wide, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        place = out[row * high : (row + 1) * high - BORDER, column * wide : (column + 1) * wide - BORDER]
        place[:] = tile[:-BORDER, :-BORDER]
    return out
