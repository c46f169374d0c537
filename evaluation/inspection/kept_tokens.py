"""Picture of the tokens that a compressor keeps: frames in rows, a plot over time below (extra ``report``).

Dimensions: T frames, H x W tokens of a frame.
"""

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

TOKEN_PIXELS = 12  # smallest side of a token

FRAME_PIXELS = 224  # smallest width of a frame

DIM = 0.22  # brightness of dropped tokens

LINE = 2  # pixels of an outline


@dataclass(frozen=True, eq=False)
class KeptSheet:
    """Contents of the picture.

    Attributes:
        title: one line.
        frames: (T, height, width, 3) uint8, one per step of the token grid.
        times: (T,) seconds.
        tokens: kept tokens, with their (T, H, W) grid.
        events: (T*H*W,) bool, or None.
        columns: frames per row.
    """

    title: str
    frames: np.ndarray
    times: np.ndarray
    tokens: VideoTokens
    events: Tensor | None
    columns: int


def draw_kept_tokens(sheet: KeptSheet, file: Path) -> None:
    """Write the picture as a PNG file, atomically."""
    tiles = render_kept_tokens(sheet)
    count, high, wide = tiles.shape[:3]
    columns = min(sheet.columns, count)
    rows = -(-count // columns)
    width, above, plot = columns * (wide + 10) + 10, rows * (high + 26) + 40, 190
    height = above + plot
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    figure.text(10 / width, 1 - 24 / height, sheet.title, fontsize=12)
    kept = tokens_per_frame(sheet.tokens)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top = height - 40 - row * (high + 26)
        left, bottom = 10 + column * (wide + 10), top - high
        axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
        axes.imshow(tile, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(f"{sheet.times[number]:.4g} s   {kept[number]} tokens", fontsize=7, pad=2, loc="left")
    _plot_over_time(figure.add_axes((60 / width, 42 / height, (width - 120) / width, (plot - 70) / height)), sheet)
    replace_file(file, lambda temporary: figure.savefig(temporary, dpi=100, format="png"))


def tokens_per_frame(tokens: VideoTokens) -> np.ndarray:
    """(T,) number of kept tokens with their anchor in each frame."""
    return np.bincount(tokens.index.numpy() // tokens.per_frame, minlength=tokens.grid[0])


def render_kept_tokens(sheet: KeptSheet) -> np.ndarray:
    """Return (T, height, width, 3) uint8 frames with their aspect ratio, dropped tokens dim, merged groups outlined."""
    steps, rows, columns = sheet.tokens.grid
    wide = max(FRAME_PIXELS, TOKEN_PIXELS * columns)
    high = max(round(wide * sheet.frames.shape[1] / sheet.frames.shape[2]), TOKEN_PIXELS * rows)
    pixels = torch.from_numpy(sheet.frames).movedim(-1, 1).float()
    tiles = torch.nn.functional.interpolate(pixels, size=(high, wide), mode="area").movedim(1, -1).numpy()
    owner = sheet.tokens.assign.numpy().reshape(steps, rows, columns)
    owner = owner[:, np.arange(high) * rows // high][:, :, np.arange(wide) * columns // wide]
    tiles *= np.where(owner >= 0, 1.0, DIM)[..., None]
    merged = np.append(sheet.tokens.size.numpy() > 1, False)  # an owner of -1 reads the last entry
    edge = _edges(owner) & merged[owner]
    tiles[edge] = group_colors(len(sheet.tokens))[owner[edge]]
    return tiles.round().clip(0, 255).astype(np.uint8)


def _edges(owner: np.ndarray) -> np.ndarray:
    """Pixels within LINE of another owner in their frame, or of the border of the frame."""
    edge = np.zeros(owner.shape, bool)
    for axis in (1, 2):
        for shift in range(1, LINE + 1):
            for signed in (shift, -shift):
                other = np.roll(owner, signed, axis)
                border = [slice(None)] * 3
                border[axis] = slice(0, shift) if signed > 0 else slice(-shift, None)
                other[tuple(border)] = -2  # outside of the frame
                edge |= other != owner
    return edge


def group_colors(count: int) -> np.ndarray:
    """(count, 3) bright colours from 0 to 255; those of neighbouring numbers are far apart."""
    hue = np.arange(count) * 0.61803398875 % 1
    return 255 * np.array([colorsys.hsv_to_rgb(h, 0.85, 1.0) for h in hue]).reshape(count, 3)


def _plot_over_time(axes: Axes, sheet: KeptSheet) -> None:
    """Plot the kept tokens of each step, and the share of its tokens that are events."""
    times = sheet.times
    width = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    axes.bar(times, tokens_per_frame(sheet.tokens), width=0.9 * width, color="#4c78a8")
    axes.set_ylabel("tokens", color="#4c78a8", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_xlim(times[0] - width, times[-1] + width)
    if sheet.events is None:
        return
    share = sheet.events.numpy().reshape(len(times), -1).mean(1)
    other = axes.twinx()
    other.plot(times, 100 * share, color="#e45756", marker=".", linewidth=1)
    other.set_ylabel("events, % of tokens", color="#e45756", fontsize=8)
    other.set_ylim(0, 105)
    other.tick_params(labelsize=7)
