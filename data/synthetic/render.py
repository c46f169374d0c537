"""Rendering of glyphs and textures in integer arithmetic, so that every machine produces the same bytes.

Glyphs are boolean masks, and textures are patterns of two colours. Nothing in this module is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from framefold.errors import DataError

SHAPES = ("circle", "square", "triangle", "cross", "ring", "bowtie")

TEXTURES = ("plain", "stripes", "columns", "checks", "dots", "diagonal")

# All values are at least 24 away from 0 and 255, so that noise and brightness can be added without clipping.
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 190, 50),
    "blue": (50, 70, 225),
    "yellow": (228, 215, 40),
    "pink": (225, 60, 200),
    "cyan": (40, 205, 215),
}

# Colours of the discs behind glyphs, by kind of event.
HALO = {
    **{"flash": (230, 230, 230), "flare": (230, 230, 230), "mover": (25, 25, 25), "decoy": (228, 130, 30)},
    "logo": (135, 200, 240),
}

GLYPH_STYLES = ("normal", "held_out")  # forms of glyphs and textures with the same names

STYLES = (*GLYPH_STYLES, "natural")  # natural: normal glyphs on photographs


@lru_cache(maxsize=256)
def glyph(shape: str, size: int, style: str = "normal") -> np.ndarray:
    """Return a boolean mask (size, size) of a shape that fills its box; style "held_out" is another form of it."""
    if shape not in SHAPES:
        raise DataError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    # Doubled coordinates with the origin at the centre of the box are integers for odd and even sizes.
    y, x = np.meshgrid(*[2 * np.arange(size) - (size - 1)] * 2, indexing="ij")
    return (_held_out_glyph if style == "held_out" else _normal_glyph)(shape, size, y, x)


def _normal_glyph(shape: str, size: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
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
    return abs(y) <= abs(x)  # bowtie


def _held_out_glyph(shape: str, size: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    r2 = y * y + x * x
    if shape == "circle":  # an ellipse
        return x * x + 2 * y * y <= size * size
    if shape == "square":  # a broad rectangle
        return 4 * abs(y) <= 3 * size
    if shape == "triangle":  # on its side
        return 2 * abs(y) <= x + size
    if shape == "cross":  # thin arms
        return (6 * abs(x) <= size) | (6 * abs(y) <= size)
    if shape == "ring":  # thin
        return (r2 <= size * size) & (2 * r2 >= size * size)
    return abs(x) <= abs(y)  # bowtie, upright


@lru_cache(maxsize=64)
def texture(name: str, size: int, period: int, style: str = "normal") -> np.ndarray:
    """Return a boolean pattern (size, size), True for the second colour; period in pixels."""
    if name not in TEXTURES:
        raise DataError(f"unknown texture {name!r}; known: {', '.join(TEXTURES)}")
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    return (_held_out_texture if style == "held_out" else _normal_texture)(name, period, y, x)


def _normal_texture(name: str, period: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    half = period // 2
    if name == "plain":
        return np.zeros(y.shape, bool)
    if name == "stripes":
        return y % period < half
    if name == "columns":
        return x % period < half
    if name == "checks":
        return (y % period < half) ^ (x % period < half)
    if name == "dots":
        return _disc(y % period, x % period, period)
    return (y + x) % period < half  # diagonal


def _held_out_texture(name: str, period: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    third = max(1, period // 3)
    if name == "plain":
        return np.ones(y.shape, bool)
    if name == "stripes":  # thin
        return y % period < third
    if name == "columns":
        return x % period < third
    if name == "checks":  # wide tiles
        return (y % period < period // 2) ^ (x % (2 * period) < period)
    if name == "dots":  # every other row shifted
        return _disc(y % period, (x + y // period % 2 * (period // 2)) % period, period)
    return (y - x) % period < third  # diagonal in the other direction


def _disc(y: np.ndarray, x: np.ndarray, period: int) -> np.ndarray:
    dy, dx = 2 * y - period, 2 * x - period
    return 4 * (dy * dy + dx * dx) <= period * period


def render_texture(name: str, size: int, period: int, colors: np.ndarray, style: str = "normal") -> np.ndarray:
    """Return a background (size, size, 3) uint8 in two colours (2, 3)."""
    return colors.astype(np.uint8)[texture(name, size, period, style).astype(np.intp)]


def mix(color: Sequence[int], background: Sequence[int], opacity: int) -> tuple[int, ...]:
    """Return a colour, moved to that of the background by what its opacity lacks of sixteen sixteenths."""
    return tuple((a * opacity + int(b) * (16 - opacity)) // 16 for a, b in zip(color, background, strict=True))


def fill_mask(frames: np.ndarray, mask: np.ndarray, y: int, x: int, color: Sequence[int]) -> None:
    """Fill a mask with a colour, in place.

    Args:
        frames: (..., S, S, 3) uint8.
        mask: (h, w) bool.
        y: upper edge of the mask in the frame; the mask must lie inside the frame.
        x: left edge of the mask in the frame.
        color: red, green and blue.
    """
    h, w = mask.shape
    frames[..., y : y + h, x : x + w, :][..., mask, :] = color
