"""Photographs as backgrounds: pictures that the scikit-image package contains, so nothing is downloaded.

They are PNG files, which every decoder reads as the same bytes. The functions of ``skimage.data`` that return them
state that they are free: in the public domain (astronaut by NASA, clock), under CC0 (brick, grass, gravel, coffee,
chelsea, camera), or without known copyright restrictions (coins, ihc). No two splits share a picture.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np

from framefold.data.random_stream import RandomStream
from framefold.errors import DataError, MissingExtraError
from framefold.messages import install_command

# By number of the split.
PICTURES = (
    ("astronaut", "brick", "grass", "coins"),
    ("coffee", "gravel", "ihc"),
    ("chelsea", "camera", "clock_motion"),
)


def picture_background(stream: RandomStream, split: int, pattern: np.ndarray) -> np.ndarray:
    """Return a part of a picture in random light and scale, (S, S, 3) uint8, with a texture cast on it.

    Args:
        stream: source of random numbers.
        split: number of the split.
        pattern: (S, S) bool, the texture.

    Raises:
        MissingExtraError: scikit-image or Pillow is not installed.
        DataError: a picture is missing.
    """
    picture = read_picture(stream.pick(PICTURES[split]))
    scale = stream.between(6, 14)  # eighths of a pixel of the picture per pixel
    rows, columns = (_span(stream, length, len(pattern), scale) for length in picture.shape[:2])
    part = picture[rows[:, None], columns].astype(np.int64)
    gain = np.array([stream.between(6, 10) for _ in range(3)])
    contrast = stream.between(16, 26)
    return np.clip(40 + part * gain // 16 + np.where(pattern, contrast, -contrast)[..., None], 12, 243).astype(np.uint8)


def _span(stream: RandomStream, length: int, count: int, scale: int) -> np.ndarray:
    """Return (count,) rows or columns of a picture, in either direction; at its edges the picture is mirrored."""
    at = stream.below(length) + np.arange(count) * scale // 8
    at = at[::-1] if stream.below(2) else at
    at = at % (2 * length)
    return np.where(at < length, at, 2 * length - 1 - at)


@lru_cache(maxsize=16)
def read_picture(name: str) -> np.ndarray:
    """Return a picture of scikit-image, (H, W, 3) uint8.

    Raises:
        MissingExtraError: scikit-image or Pillow is not installed.
        DataError: the picture is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"style natural reads pictures with Pillow: {install_command('natural')}") from error
    package = importlib.util.find_spec("skimage")  # only located: importing it takes a second
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError(
            f"style natural uses pictures of scikit-image: {install_command('natural')}, or use another style"
        )
    file = Path(next(iter(package.submodule_search_locations))) / "data" / f"{name}.png"
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise DataError(f"style natural cannot read {file} ({error}): reinstall scikit-image") from error
