"""Frames of clips as they are stored: taken at the middles of equal stretches, whole, on a canvas of one size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from framefold.data.video.frame_reader import frames_at
from framefold.errors import DataError

from .clips import Clip
from .probe import Look, stamp_of

HELD = 256_000_000  # bytes of frames that a process keeps, in case a clip comes again soon


def fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame on a black canvas, as large as it gets with nothing cut off.

    Args:
        pixels: (H, W, 3) uint8.
        size: height and width of the canvas.

    Returns:
        (*size, 3) uint8.
    """
    scale = min(size[0] / pixels.shape[0], size[1] / pixels.shape[1])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    if (height, width) != pixels.shape[:2]:
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


class ClipFrames:
    """Gives the frames of clips, and keeps those last used, up to :data:`HELD` bytes."""

    def __init__(self, folder: Path, look: Look, size: tuple[int, int]) -> None:
        self.folder, self.look, self.size = folder, look, size
        self._held: OrderedDict[str, np.ndarray] = OrderedDict()

    def of(self, clip: Clip) -> np.ndarray:
        """(length, H, W, 3) uint8.

        Raises:
            DataError: the file is not the one that was looked at, or cannot be decoded.
        """
        if clip.id not in self._held:
            self._held[clip.id] = self._read(clip)
        self._held.move_to_end(clip.id)
        while len(self._held) > 1 and sum(frames.nbytes for frames in self._held.values()) > HELD:
            self._held.popitem(last=False)
        return self._held[clip.id]

    def row(self, clips: Sequence[Clip]) -> np.ndarray:
        """(T, H, W, 3) uint8, the frames of one clip after the other."""
        frames = np.empty((sum(clip.length for clip in clips), *self.size, 3), np.uint8)
        at = 0
        for clip in clips:
            frames[at : at + clip.length] = self.of(clip)
            at += clip.length
        return frames

    def _read(self, clip: Clip) -> np.ndarray:
        path, frames = self.folder / clip.file, np.empty((clip.length, *self.size, 3), np.uint8)
        count = 0
        if not path.is_file() or stamp_of(path) != clip.stamp:
            raise DataError(f"{path} was changed after it was looked at: run the command again, into another --out")
        for pixels in frames_at(path, lambda duration: self.look.times(clip)):
            frames[count] = fit(pixels, self.size)
            count += 1
        if count != clip.length:
            raise DataError(f"{path} gives {count} of {clip.length} frames of {clip.id}")
        return frames
