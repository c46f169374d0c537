"""A figure and an animation of the tokens that compressors keep (matplotlib, PyAV)."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from framefold.files import replace_file

from .kept_tokens import KeptSheet, KeptTokens
from .picture_file import check_picture, save_figure

ANIMATIONS = (".mp4",)

COLORS = ("#0072b2", "#c04a00", "#00805f", "#a8488a", "#8a6a00", "#1a8fc4")

GAP, LABEL, HEAD, PLOT = 10, 24, 64, 270  # pixels between tiles, above a tile, above the first strip, of the plot


class KeptFigure:
    """The tokens that compressors keep, as a figure: the result of ``framefold.show``. Notebooks display it.

    Attributes:
        sheet: what is drawn.
    """

    def __init__(self, sheet: KeptSheet) -> None:
        self.sheet = sheet

    def figure(self) -> Figure:
        """Return a new matplotlib figure: one strip of frames per compressor, and their tokens over time."""
        return draw_figure(self.sheet)

    def save(self, file: str | Path) -> Path:
        """Write a picture (png, jpg, webp, svg, pdf), or an animation over time (mp4), atomically.

        Raises:
            ConfigError: another suffix, or there is no such folder.
            OSError: the file cannot be written.
        """
        path = check_picture(file, ANIMATIONS)
        if path.suffix.lower() not in ANIMATIONS:
            return save_figure(self.figure(), path)
        replace_file(path, lambda temporary: temporary.write_bytes(encode_animation(self.sheet)))
        return path

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.figure().savefig(buffer, dpi=100, format="png")
        return buffer.getvalue()


def draw_figure(sheet: KeptSheet) -> Figure:
    """Return the figure of a sheet."""
    strips = [list(sheet.tiles(kept)) for kept in sheet.kept]
    high, wide = strips[0][0].shape[:2]
    columns = min(sheet.columns, len(strips[0]))
    rows = -(-len(strips[0]) // columns)
    strip_height = LABEL + 20 + rows * (high + LABEL)
    width = max(columns * (wide + GAP) + GAP, 560)
    height = HEAD + len(strips) * strip_height + PLOT
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", **style)

    write(GAP, 8, sheet.title, fontsize=14)
    write(GAP, 36, _legend(sheet), fontsize=10, color="#444444")
    for number, (kept, tiles) in enumerate(zip(sheet.kept, strips, strict=True)):
        top = HEAD + number * strip_height
        write(GAP, top, kept.title, fontsize=12, fontweight="bold", color=COLORS[number % len(COLORS)])
        counts = kept.tokens_per_frame()
        for step, tile in enumerate(tiles):
            row, column = divmod(step, columns)
            left, above = GAP + column * (wide + GAP), top + LABEL + 8 + row * (high + LABEL)
            write(left, above, f"{sheet.times[step]:.4g} s · {counts[step]}", fontsize=9)
            bottom = height - above - LABEL + 6 - high
            axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
            axes.imshow(tile, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
    plot = figure.add_axes((64 / width, 52 / height, (width - 140) / width, (PLOT - 130) / height))
    _plot_over_time(plot, sheet)
    return figure


def _legend(sheet: KeptSheet) -> str:
    """Return a line that explains the frames."""
    parts = ["in colour: kept", "grey: dropped"]
    if any(kept.merges for kept in sheet.kept):
        parts.append("outlined in one colour: merged into one token, which counts in every frame that it represents")
    return " · ".join([*parts, "above each frame: its time and its tokens"])


def _plot_over_time(axes: Axes, sheet: KeptSheet) -> None:
    """Plot the tokens of each frame by compressor, and the share of its tokens that are events."""
    times = sheet.times
    for number, kept in enumerate(sheet.kept):
        color = COLORS[number % len(COLORS)]
        axes.plot(times, kept.tokens_per_frame(), "o-", color=color, markersize=4, label=f"{kept.name}: tokens")
    axes.set_ylabel("tokens of the frame", fontsize=10)
    axes.set_xlabel("seconds", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    handles = axes.get_legend_handles_labels()
    shares = [(number, kept, kept.event_share()) for number, kept in enumerate(sheet.kept)]
    if any(share is not None for _, _, share in shares):
        other = axes.twinx()
        for number, kept, share in shares:
            if share is not None:
                label = f"{kept.name}: tokens with an event, %"
                other.plot(times, 100 * share, ":", color=COLORS[number % len(COLORS)], linewidth=2, label=label)
        other.set_ylabel("events, % of the frame", fontsize=10)
        other.set_ylim(0, 105)
        handles = tuple(a + b for a, b in zip(handles, other.get_legend_handles_labels(), strict=True))  # type: ignore[assignment]
    axes.legend(*handles, fontsize=9, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))


def encode_animation(sheet: KeptSheet) -> bytes:
    """Return an mp4 with the original and what each compressor keeps side by side, at most ten steps per second."""
    step = float(np.median(np.diff(sheet.times))) if len(sheet.times) > 1 else 1.0
    rate = Fraction(min(max(1 / max(step, 1e-3), 1.0), 10.0)).limit_denominator(100)
    everything = KeptTokens("original", _all_of(sheet.kept[0]))
    strips = [everything, *sheet.kept]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        for number, tiles in enumerate(zip(*map(sheet.tiles, strips), strict=True)):
            picture = _labelled(tiles, strips, float(sheet.times[number]))
            if not number:
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _all_of(kept: KeptTokens) -> Any:
    from framefold.adapters.core.tokens import VideoTokens

    grid = kept.tokens.grid
    return VideoTokens.from_grid(kept.tokens.features.new_zeros(*grid, 1))


def _labelled(tiles: tuple[np.ndarray, ...], strips: list[KeptTokens], seconds: float) -> np.ndarray:
    """Return the tiles of one step side by side with their names above, of even height and width."""
    high, wide = tiles[0].shape[:2]
    width, height = len(tiles) * (wide + GAP) + GAP, high + 2 * LABEL
    width, height = width + width % 2, height + height % 2
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for number, (tile, kept) in enumerate(zip(tiles, strips, strict=True)):
        left = GAP + number * (wide + GAP)
        text = f"{seconds:.4g} s" if not number else f"{kept.name}"
        figure.text(left / width, 1 - 6 / height, text, va="top", fontsize=10)
        axes = figure.add_axes((left / width, GAP / height, wide / width, high / height))
        axes.imshow(tile, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
