"""Drawing what a compressor keeps: frames in rows, and a strip over time below (matplotlib, extra ``report``)."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.files import replace_file

CELL = 12  # least pixels of a place of the grid, drawn

WIDE = 224  # least width of a frame, drawn

DIM = 0.22  # of the light of a dropped place that is left

LINE = 2  # pixels of an outline


@dataclass(frozen=True, eq=False)
class KeptSheet:
    """What is drawn.

    Attributes:
        title: one line.
        frames: (T, height, width, 3) uint8, one a step of the token grid.
        times: (T,) seconds.
        tokens: what was kept, with its (T, H, W) grid.
        events: (T*H*W,) bool, or None.
        columns: frames in a row.
    """

    title: str
    frames: np.ndarray
    times: np.ndarray
    tokens: VideoTokens
    events: Tensor | None
    columns: int


def draw_kept_tokens(sheet: KeptSheet, file: Path) -> None:
    """Write the sheet as a PNG, beside and renamed."""
    tiles = render_kept_tokens(sheet)
    count, high, wide = tiles.shape[:3]
    columns = min(sheet.columns, count)
    rows = -(-count // columns)
    width, above, strip = columns * (wide + 10) + 10, rows * (high + 26) + 40, 190
    figure = Figure(figsize=(width / 100, (above + strip) / 100), dpi=100)
    FigureCanvasAgg(figure)
    figure.text(10 / width, 1 - 24 / (above + strip), sheet.title, fontsize=12)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top = above + strip - 40 - row * (high + 26)
        box = (10 + column * (wide + 10), top - high, wide, high)
        axes = figure.add_axes((box[0] / width, box[1] / (above + strip), box[2] / width, box[3] / (above + strip)))
        axes.imshow(tile, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        kept = int((per_frame(sheet.tokens))[number])
        axes.set_title(f"{sheet.times[number]:.4g} s   {kept} tokens", fontsize=7, pad=2, loc="left")
    _strip(
        figure.add_axes((60 / width, 42 / (above + strip), (width - 120) / width, (strip - 70) / (above + strip))),
        sheet,
    )
    replace_file(file, lambda beside: figure.savefig(beside, dpi=100, format="png"))


def per_frame(tokens: VideoTokens) -> np.ndarray:
    """(T,) tokens whose anchor lies in each frame."""
    return np.bincount(tokens.index.numpy() // tokens.per_frame, minlength=tokens.grid[0])


def render_kept_tokens(sheet: KeptSheet) -> np.ndarray:
    """(T, height, width, 3) uint8 frames in their own proportions, dropped places dim, merged groups outlined."""
    steps, rows, columns = sheet.tokens.grid
    wide = max(WIDE, CELL * columns)
    high = max(round(wide * sheet.frames.shape[1] / sheet.frames.shape[2]), CELL * rows)
    pixels = torch.from_numpy(sheet.frames).movedim(-1, 1).float()
    tiles = torch.nn.functional.interpolate(pixels, size=(high, wide), mode="area").movedim(1, -1).numpy()
    owner = sheet.tokens.assign.numpy().reshape(steps, rows, columns)
    owner = owner[:, np.arange(high) * rows // high][:, :, np.arange(wide) * columns // wide]
    tiles *= np.where(owner >= 0, 1.0, DIM)[..., None]
    merged = np.append(sheet.tokens.size.numpy() > 1, False)  # an owner of -1 reads the last
    edge = _edges(owner) & merged[owner]
    tiles[edge] = colors(len(sheet.tokens))[owner[edge]]
    return tiles.round().clip(0, 255).astype(np.uint8)


def _edges(owner: np.ndarray) -> np.ndarray:
    """Pixels within LINE of another owner in their frame, or of the edge of the frame."""
    edge = np.zeros(owner.shape, bool)
    for axis in (1, 2):
        for shift in range(1, LINE + 1):
            for way in (shift, -shift):
                other = np.roll(owner, way, axis)
                border = [slice(None)] * 3
                border[axis] = slice(0, shift) if way > 0 else slice(-shift, None)
                other[tuple(border)] = -2  # beyond the frame
                edge |= other != owner
    return edge


def colors(count: int) -> np.ndarray:
    """(count, 3) bright colours from 0 to 255, those of neighbouring numbers far apart."""
    hue = np.arange(count) * 0.61803398875 % 1
    return 255 * np.array([colorsys.hsv_to_rgb(h, 0.85, 1.0) for h in hue]).reshape(count, 3)


def _strip(axes: Axes, sheet: KeptSheet) -> None:
    """Tokens of each step over time, and the share of its places that are events."""
    times = sheet.times
    width = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    axes.bar(times, per_frame(sheet.tokens), width=0.9 * width, color="#4c78a8")
    axes.set_ylabel("tokens", color="#4c78a8", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_xlim(times[0] - width, times[-1] + width)
    if sheet.events is None:
        return
    share = sheet.events.numpy().reshape(len(times), -1).mean(1)
    other = axes.twinx()
    other.plot(times, 100 * share, color="#e45756", marker=".", linewidth=1)
    other.set_ylabel("events, % of places", color="#e45756", fontsize=8)
    other.set_ylim(0, 105)
    other.tick_params(labelsize=7)
