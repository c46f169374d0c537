"""Integer-only drawing on uint8 frames: the same bytes on every machine.

Glyphs are boolean masks, textures are two-colour patterns; nothing here is random and nothing is a float.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .errors import DataError

SHAPES = ("circle", "square", "triangle", "cross", "ring", "bowtie")
TEXTURES = ("plain", "stripes", "columns", "checks", "dots", "diagonal")
# Every value stays 24 away from 0 and 255: noise and brightness are then added without a clip (see synthetic.py).
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 190, 50),
    "blue": (50, 70, 225),
    "yellow": (228, 215, 40),
    "pink": (225, 60, 200),
    "cyan": (40, 205, 215),
}
WHITE, BLACK = (230, 230, 230), (25, 25, 25)


@lru_cache(maxsize=256)
def glyph(shape: str, size: int) -> np.ndarray:
    """Boolean mask (size, size) of a shape that fills its box."""
    # Doubled coordinates centred on the box: integers for odd and even sizes alike.
    y, x = np.meshgrid(*[2 * np.arange(size) - (size - 1)] * 2, indexing="ij")
    r2 = y * y + x * x
    if shape == "circle":
        return r2 <= size * size
    if shape == "square":
        return np.ones((size, size), bool)
    if shape == "triangle":
        return 2 * abs(x) <= y + size
    if shape == "cross":
        return (3 * abs(x) <= size) | (3 * abs(y) <= size)
    if shape == "ring":
        return (r2 <= size * size) & (4 * r2 >= size * size)
    if shape == "bowtie":
        return abs(y) <= abs(x)
    raise DataError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


@lru_cache(maxsize=64)
def texture(name: str, size: int, period: int) -> np.ndarray:
    """Boolean pattern (size, size), True where the second colour goes; period in pixels."""
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    half = period // 2
    if name == "plain":
        return np.zeros((size, size), bool)
    if name == "stripes":
        return y % period < half
    if name == "columns":
        return x % period < half
    if name == "checks":
        return (y % period < half) ^ (x % period < half)
    if name == "dots":
        dy, dx = 2 * (y % period) - period, 2 * (x % period) - period
        return 4 * (dy * dy + dx * dx) <= period * period
    if name == "diagonal":
        return (y + x) % period < half
    raise DataError(f"unknown texture {name!r}; known: {', '.join(TEXTURES)}")


def paint_texture(name: str, size: int, period: int, colors: np.ndarray) -> np.ndarray:
    """Background frame (size, size, 3) uint8 from two colours (2, 3)."""
    return colors.astype(np.uint8)[texture(name, size, period).astype(np.intp)]


def paint(frames: np.ndarray, mask: np.ndarray, y: int, x: int, color: tuple[int, int, int]) -> None:
    """Paint a mask (h, w) with its upper left corner at (y, x), in place.

    frames: (..., S, S, 3); the box lies inside.
    """
    h, w = mask.shape
    frames[..., y : y + h, x : x + w, :][..., mask, :] = color
