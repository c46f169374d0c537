"""Rendering of many discs with glyphs; integer arithmetic, so that every machine produces the same bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from .crowd import CROWD_HALOS, Crowd
from .render import COLORS, SHAPES, glyph
from .timeline import DISC, FULL, GLYPH, SLOW

RAMP = 3  # frames in which a slow disc appears and disappears

_HALOS = np.array(CROWD_HALOS)

_COLORS = np.array([*COLORS.values(), (0, 0, 0)])  # the last is that of no glyph


def paint_discs(pixels: np.ndarray, crowd: Crowd, tint: np.ndarray, lattice: int, style: str) -> None:
    """Paint the discs of a crowd, in place.

    A faint disc has colours between its own and those of the background, so its glyph stays sharp.

    Args:
        pixels: (T, S, S, 3) uint8, contiguous.
        crowd: the discs; parts outside the frame are not painted.
        tint: (T, 3) mean colour of the background in each frame.
        lattice: steps per side of a frame.
        style: style of the glyphs.
    """
    frames, size, unit = len(pixels), pixels.shape[1], pixels.shape[1] // lattice
    extent = DISC * unit
    rows = pixels.reshape(frames, size, 3 * size)  # a channel is a column here, since short last axes are slow
    visible, inked = _stencil(extent, GLYPH * unit, style)
    sprites, sprite_of = _sprites(crowd, tint, inked)
    origin, offsets = (crowd.corner * unit).tolist(), (crowd.sway * unit).tolist()
    moves = [frame for frame in range(1, frames) if offsets[frame] != offsets[frame - 1]]
    spans = zip(origin, sprite_of, crowd.first.tolist(), crowd.last.tolist(), strict=True)
    for (y0, x0), sprite, first, last in spans:
        for start, end in _still_spans(first, last, moves):
            stage = min(start - first, last - start, RAMP - 1) if last - first + 1 >= SLOW[0] else 0
            dy, dx = offsets[start]
            y, x = y0 + dy, x0 + dx
            top, left, bottom, right = max(-y, 0), max(-x, 0), min(extent, size - y), min(extent, size - x)
            if top < bottom and left < right:
                part = (slice(top, bottom), slice(3 * left, 3 * right))
                target = rows[start:end, y + top : y + bottom, 3 * (x + left) : 3 * (x + right)]
                np.copyto(target, sprites[sprite + stage][part], where=visible[part])


def _still_spans(first: int, last: int, moves: list[int]) -> Iterable[tuple[int, int]]:
    """Return the spans of frames, from start to end - 1, in which a disc neither moves nor changes its contrast."""
    if first == last:
        return ((first, last + 1),)
    edges = {first, last + 1, *moves[bisect_right(moves, first) : bisect_right(moves, last)]}
    if last - first + 1 >= SLOW[0]:
        edges |= {*range(first + 1, first + RAMP), *range(last + 2 - RAMP, last + 1)}
    return pairwise(sorted(edges))


def _sprites(crowd: Crowd, tint: np.ndarray, inked: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return what discs look like, (M, E, 3 E) uint8, and the first of each: slow discs have one for each of RAMP."""
    stages = np.where(crowd.last - crowd.first + 1 >= SLOW[0], RAMP, 1)
    first = np.cumsum(stages) - stages
    disc = np.repeat(np.arange(len(crowd)), stages)
    strength = crowd.opacity[disc] * (RAMP - stages[disc] + 1 + np.arange(len(disc)) - first[disc])
    background = tint[crowd.first[disc]]
    colors = (_mix(some[disc], background, strength) for some in (_COLORS[crowd.color], _HALOS[crowd.halo]))
    rows = [np.tile(color, inked.shape[1])[:, None] for color in colors]
    return np.where(inked[crowd.shape[disc]], *rows), first.tolist()


def _mix(colors: np.ndarray, background: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return (M, 3) uint8 colours, moved to the background by what is missing of the strength."""
    most, share = FULL * RAMP, strength[:, None]
    return ((colors * share + background * (most - share)) // most).astype(np.uint8)


@lru_cache(maxsize=8)
def _stencil(extent: int, inner: int, style: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a disc, (E, 3 E) bool, and which of them each glyph inks, (shapes + 1, E, 3 E) bool."""
    inset = (extent - inner) // 2
    inked = np.zeros((len(SHAPES) + 1, extent, extent), bool)  # the last is no glyph
    for number, shape in enumerate(SHAPES):
        inked[number, inset : inset + inner, inset : inset + inner] = glyph(shape, inner, style)
    return glyph("circle", extent).repeat(3, axis=1), inked.repeat(3, axis=2)
