"""Reading the frames of clips that are stored in a spliced video."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from framefold.data.video.frame_reader import frames_at
from framefold.errors import DataError

from .clips import Clip
from .probe import ClipSampling, file_stamp

CACHE_BYTES = 256_000_000  # of frames that a process keeps for clips that appear again soon


def letterbox(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a frame to fit on a black canvas without cropping.

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


class ClipFrameReader:
    """Reads the frames of clips, and caches those used last, up to :data:`CACHE_BYTES`.

    Args:
        folder: folder of clips.
        sampling: times at which frames are taken.
        size: height and width of the stored frames.
    """

    def __init__(self, folder: Path, sampling: ClipSampling, size: tuple[int, int]) -> None:
        self.folder, self.sampling, self.size = folder, sampling, size
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()

    def read(self, clip: Clip) -> np.ndarray:
        """Return the frames of a clip, (length, H, W, 3) uint8.

        Raises:
            DataError: the file has changed since it was probed, or cannot be decoded.
        """
        if clip.id not in self._cache:
            self._cache[clip.id] = self._decode(clip)
        self._cache.move_to_end(clip.id)
        while len(self._cache) > 1 and sum(frames.nbytes for frames in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return self._cache[clip.id]

    def concatenate(self, clips: Sequence[Clip]) -> np.ndarray:
        """Return the frames of clips in order, (T, H, W, 3) uint8."""
        frames = np.empty((sum(clip.length for clip in clips), *self.size, 3), np.uint8)
        start = 0
        for clip in clips:
            frames[start : start + clip.length] = self.read(clip)
            start += clip.length
        return frames

    def _decode(self, clip: Clip) -> np.ndarray:
        path, frames = self.folder / clip.file, np.empty((clip.length, *self.size, 3), np.uint8)
        count = 0
        if not path.is_file() or file_stamp(path) != clip.stamp:
            raise DataError(f"{path} has changed since it was probed: run the command again, with another --out")
        times = self.sampling.frame_times(clip)
        for pixels in frames_at(path, lambda duration: times, self.sampling.tolerance):
            frames[count] = letterbox(pixels, self.size)
            count += 1
        if count != clip.length:
            raise DataError(f"only {count} of {clip.length} frames of {clip.id} could be read from {path}")
        return frames
