"""Decoded frames as upright RGB pictures of one size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

FLAT = math.tan(math.radians(1))  # matrices within a degree of a multiple of 90 degrees count as one


Matrix = tuple[float, float, float, float]  # a b c d: the point (x, y) is displayed at (a x + c y, b x + d y)

UPRIGHT: Matrix = (1.0, 0.0, 0.0, 1.0)


class FrameConverter:
    """Converts frames to RGB, upright, all at the size of the first one.

    Args:
        max_pixels: shrink larger frames to this number of pixels, with the same proportions. None never shrinks.
    """

    def __init__(self, max_pixels: int | None = None) -> None:
        self.max_pixels = max_pixels
        self.size: tuple[int, int] | None = None  # height and width of all pictures
        self._matrices: dict[float, Matrix] = {}  # by rotation
        self._to_rgb = VideoReformatter()  # shared: creating one per frame takes half of the decoding time

    def set_size(self, frame: VideoFrame) -> None:
        """Give all pictures the size of this frame, unless the size is set already."""
        if self.size is None:
            height, width = frame.height, frame.width
            shrunk = min(1.0, math.sqrt((self.max_pixels or height * width) / (height * width)))
            upright = (width, height) if is_transposed(self._matrix(frame)) else (height, width)
            self.size = (max(1, round(upright[0] * shrunk)), max(1, round(upright[1] * shrunk)))

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return a frame as (H, W, 3) uint8."""
        self.set_size(frame)
        assert self.size is not None
        matrix = self._matrix(frame)
        height, width = reversed(self.size) if is_transposed(matrix) else self.size
        if (height, width) == (frame.height, frame.width):
            pixels = self._to_rgb.reformat(frame, format="rgb24").to_ndarray()
        else:
            scaling = "AREA" if width < frame.width and height < frame.height else "BICUBIC"
            pixels = self._to_rgb.reformat(frame, width, height, "rgb24", interpolation=scaling).to_ndarray()
        return apply_matrix(pixels, matrix)

    def _matrix(self, frame: VideoFrame) -> Matrix:
        """Return the display matrix, read from the first frame with each rotation.

        PyAV keeps a frame whose side data are read, until the garbage collector runs.
        """
        if frame.rotation not in self._matrices:
            self._matrices[frame.rotation] = display_matrix(frame)
        return self._matrices[frame.rotation]


def display_matrix(frame: VideoFrame) -> Matrix:
    """Return how a frame is to be displayed; files store it for cameras that are held sideways, or that mirror."""
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know another kind of side data of this frame
        turn = math.radians(frame.rotation)
        return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
    if data is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return a, b, c, d


def is_transposed(matrix: Matrix) -> bool:
    """Whether height and width are exchanged: a turn by 90 or 270 degrees, mirrored or not."""
    a, b, c, d = map(abs, matrix)
    return max(a, d) <= FLAT * min(b, c) and min(b, c) > 0


def apply_matrix(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Mirror and turn (H, W, 3) pixels for display; matrices that do neither, such as a turn by 30 degrees, do nothing.

    The scale in a matrix is ignored.
    """
    a, b, c, d = matrix
    if is_transposed(matrix):
        pixels, mirrored, reversed_ = pixels.swapaxes(0, 1), c < 0, b < 0
    elif max(abs(b), abs(c)) <= FLAT * min(abs(a), abs(d)):
        mirrored, reversed_ = a < 0, d < 0
    else:
        return pixels
    return np.ascontiguousarray(pixels[:: -1 if reversed_ else 1, :: -1 if mirrored else 1])
