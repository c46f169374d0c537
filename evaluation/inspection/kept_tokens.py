"""Pictures of the tokens that compressors keep: frames in rows, and a plot over time (extra ``report``).

Dimensions: T frames, H x W tokens of a frame.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.data.video.frame_reader import SampledFrames

TOKEN_PIXELS = 12  # smallest side of a token

FRAME_PIXELS = 224  # smallest width of a frame

DIM = 0.45  # brightness of dropped tokens, which also lose their colour

LINE = 2  # pixels of an outline; 1 around small tokens, which it would cover

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """What one compressor keeps.

    Attributes:
        name: name of the compressor, and of the place in the language model if there are several.
        tokens: kept tokens, with their (T, H, W) grid.
        events: (T*H*W,) bool, the tokens with an event; None if the method detects none.
        note: text behind the title.
    """

    name: str
    tokens: VideoTokens
    events: Tensor | None = None
    note: str = ""

    @property
    def merges(self) -> bool:
        """Whether some tokens represent several originals."""
        return bool((self.tokens.size > 1).any())

    @property
    def title(self) -> str:
        """Name and number of the kept tokens."""
        return f"{self.name}: {len(self.tokens)} of {len(self.tokens.assign)} tokens{self.note}"

    def tokens_per_frame(self) -> np.ndarray:
        """Return the (T,) number of kept tokens that represent a part of each frame; merged ones count in each."""
        owners = self.tokens.assign.reshape(self.tokens.grid[0], -1)
        return np.array([len(frame[frame >= 0].unique()) for frame in owners])

    def event_share(self) -> np.ndarray | None:
        """Return the (T,) share of the tokens of each frame that are events."""
        return None if self.events is None else self.events.numpy().reshape(self.tokens.grid[0], -1).mean(1)


def without_features(tokens: VideoTokens) -> VideoTokens:
    """Return tokens on the CPU with features of width 0."""
    return replace(tokens, features=tokens.features.new_zeros(len(tokens.index), 0)).to("cpu")


@dataclass(frozen=True, eq=False)
class KeptSheet:
    """The frames of a video, and what compressors keep of them.

    Attributes:
        title: one line.
        frames: (T, height, width, 3) uint8, one per step of the token grid.
        times: (T,) seconds.
        kept: one entry per compressor, all of the same grid.
        columns: frames per row.
    """

    title: str
    frames: np.ndarray
    times: np.ndarray
    kept: tuple[KeptTokens, ...]
    columns: int

    def tiles(self, kept: KeptTokens, width: int | None = None) -> Iterator[np.ndarray]:
        """Yield each frame, (height, width, 3) uint8: dropped tokens dim and grey, merged groups outlined.

        Args:
            kept: tokens of one compressor.
            width: pixels; None: as many as it takes to see single tokens.
        """
        _, rows, columns = kept.tokens.grid
        wide = width or max(FRAME_PIXELS, TOKEN_PIXELS * columns)
        high = round(wide * self.frames.shape[1] / self.frames.shape[2])
        high = high if width else max(high, TOKEN_PIXELS * rows)
        merged = np.append(kept.tokens.size.numpy() > 1, False)  # an owner of -1 reads the last entry
        colors = group_colors(len(kept.tokens))
        owners = kept.tokens.assign.numpy().reshape(kept.tokens.grid)
        for frame, owner in zip(self.frames, owners, strict=True):  # one at a time: large frames become small at once
            tile = shrink_frame(frame, high, wide)
            owner = owner[np.arange(high) * rows // high][:, np.arange(wide) * columns // wide]
            tile[owner < 0] = DIM * (tile[owner < 0] @ np.array(LUMINANCE, np.float32))[:, None]
            edge = _edges(owner, LINE if wide >= 2 * TOKEN_PIXELS * columns else 1) & merged[owner]
            tile[edge] = colors[owner[edge]]
            yield tile.round().clip(0, 255).astype(np.uint8)


def step_frames(sample: SampledFrames, processor: Any, steps: int) -> np.ndarray:
    """Return the (steps, height, width, 3) frames of the steps of a token grid, cropped as for the host.

    Args:
        sample: frames that were shown to the host.
        processor: processor of the host.
        steps: T, number of steps of the token grid; a step may cover several frames.
    """
    frames = sample.frames[:: -(-len(sample.frames) // steps)]
    return _crop_to_square(frames) if getattr(processor.video_processor, "do_center_crop", False) else frames


def _crop_to_square(frames: np.ndarray) -> np.ndarray:
    """Return the central square of each frame, which is what processors that crop pass to a host."""
    side = min(frames.shape[1:3])
    top, left = ((size - side) // 2 for size in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side]


def shrink_frame(frame: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Resize a frame to (high, wide, 3) float32 by averaging areas."""
    pixels = torch.from_numpy(frame).movedim(-1, 0)[None].float()
    return torch.nn.functional.interpolate(pixels, size=(high, wide), mode="area")[0].movedim(0, -1).numpy().copy()


def _edges(owner: np.ndarray, line: int) -> np.ndarray:
    """Return the pixels of a frame within ``line`` of another owner, or of the border of the frame."""
    edge = np.zeros(owner.shape, bool)
    for axis in (0, 1):
        for shift in range(1, line + 1):
            for signed in (shift, -shift):
                other = np.roll(owner, signed, axis)
                border = [slice(None)] * 2
                border[axis] = slice(0, shift) if signed > 0 else slice(-shift, None)
                other[tuple(border)] = -2  # outside of the frame
                edge |= other != owner
    return edge


def group_colors(count: int) -> np.ndarray:
    """Return (count, 3) bright colours from 0 to 255; those of neighbouring numbers are far apart."""
    hue = np.arange(count) * 0.61803398875 % 1
    return 255 * np.array([colorsys.hsv_to_rgb(h, 0.85, 1.0) for h in hue]).reshape(count, 3)
