"""Single frames with dense labels, to teach the vision tower of the embedded host what each of its tokens shows."""

from __future__ import annotations

import numpy as np

from framefold.data.evidence import evidence_mask
from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.render import COLORS, HALO, SHAPES, TEXTURES, glyph, paint_mask, paint_texture
from framefold.data.synthetic.timeline import DISC, GLYPH, LATTICE

KINDS = ("none", "plain", "flare", "decoy", "mover", "flash")

PROBES = {
    "kind": len(KINDS),
    "shape": len(SHAPES),
    "color": len(COLORS),
    "texture": len(TEXTURES),
    "row": 4,
    "column": 4,
}

IGNORE = -100

_STREAM = 7919  # key apart from those of videos: (seed, split, index) never has four parts

_COLORS = tuple(COLORS)

_SHIFT = 12  # pixels (of 64): a whole period of the widest texture


def frame_batch(
    index: int, *, seed: int, frames: int, size: int = 64, cells: int = 4
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames uint8 (N, S, S, 3) of the looks of synthetic videos, with more glyphs, and labels per probe.

    Labels are int64 (N, cells * cells) for the tokens of a cells x cells grid: what covers the token, IGNORE where
    there is nothing to say (no glyph) or too little of a glyph to say it.
    """
    draws = RandomStream(seed, _STREAM, index, 0)
    pixels = np.empty((frames, size, size, 3), np.uint8)
    labels = {name: np.full((frames, cells, cells), IGNORE) for name in PROBES}
    labels["kind"][:] = 0
    labels["row"][:] = np.arange(cells)[:, None]
    labels["column"][:] = np.arange(cells)
    for i in range(frames):
        _draw_frame(draws, pixels[i], {name: label[i] for name, label in labels.items()}, size)
        if draws.below(8) == 0:
            gain = draws.between(-32, 32)
            pixels[i] = np.clip(pixels[i] + np.int16(gain), 12, 243)
    noise = draws.bytes(pixels.size).reshape(pixels.shape) & 15
    noise += np.array([draws.between(-4, 4) - 8 for _ in range(frames)]).astype(np.uint8)[:, None, None, None]
    pixels += noise
    return pixels, {name: label.reshape(frames, -1) for name, label in labels.items()}


def _draw_frame(draws: RandomStream, frame: np.ndarray, labels: dict[str, np.ndarray], size: int) -> None:
    texture = draws.below(len(TEXTURES))
    canvas = _canvas(draws, texture, size)
    frame[:] = _window(draws, canvas, size)
    labels["texture"][:] = texture
    chance = draws.below(16)
    if chance < 5:  # a part that moves against the rest
        y0, x0 = size * draws.below(3) // 4, size * draws.below(3) // 4
        frame[y0 : y0 + size // 2, x0 : x0 + size // 2] = _window(draws, canvas, size)[: size - y0, : size - x0][
            : size // 2, : size // 2
        ]
    elif chance == 5:  # in a cross-fade: two textures, no answer
        other = _window(draws, _canvas(draws, draws.below(len(TEXTURES)), size), size)
        weight = np.uint16(draws.between(1, 4))
        frame[:] = (frame * weight + other * (np.uint16(5) - weight)) // np.uint16(5)
        labels["texture"][:] = IGNORE
    # Painting order is that of videos: what is asked about lies on top.
    for kind in sorted(draws.pick((1, 1, 2, 3, 4, 5, 5, 5)) for _ in range(draws.below(5))):
        _draw_glyph(draws, frame, labels, kind, size)


def _canvas(draws: RandomStream, texture: int, size: int) -> np.ndarray:
    """A background larger than the frame, so that it can be seen at any shift."""
    dark = np.array([draws.between(70, 150) for _ in range(3)])
    light = dark + np.array([draws.between(40, 64) for _ in range(3)])
    colors = np.stack((light, dark) if draws.below(2) else (dark, light))
    side = size + size * _SHIFT // 64
    return paint_texture(TEXTURES[texture], side, size * draws.pick((8, 10, 12)) // 64, colors)


def _window(draws: RandomStream, canvas: np.ndarray, size: int) -> np.ndarray:
    y, x = (draws.below(len(canvas) - size + 1) for _ in range(2))
    return canvas[y : y + size, x : x + size]


def _draw_glyph(draws: RandomStream, frame: np.ndarray, labels: dict[str, np.ndarray], kind: int, size: int) -> None:
    """Discs stand on the lattice; glyphs without one stand anywhere, as those on a drifting background do."""
    halo = HALO.get(KINDS[kind])
    steps = DISC if halo else GLYPH
    unit = size // LATTICE
    inner, extent = unit * GLYPH, unit * steps
    step = unit if halo else 1
    y, x = (step * draws.below((size - extent) // step + 1) for _ in range(2))
    shape, color = draws.below(len(SHAPES)), draws.below(len(COLORS))
    empty = KINDS[kind] == "flare"
    if halo:
        paint_mask(frame, glyph("circle", extent), y, x, halo)
    inset = (extent - inner) // 2
    if not empty:
        paint_mask(frame, glyph(SHAPES[shape], inner), y + inset, x + inset, COLORS[_COLORS[color]])
    box = (0, y / size, x / size, (y + extent) / size, (x + extent) / size)
    cells = labels["kind"].shape[0]
    held = evidence_mask([box], (1, cells, cells))[0]
    touched = _touched(box, cells) & ~held
    for name, value in (("kind", kind), ("shape", IGNORE if empty else shape), ("color", IGNORE if empty else color)):
        labels[name][held] = value
        labels[name][touched] = IGNORE


def _touched(box: tuple[int, float, float, float, float], cells: int) -> np.ndarray:
    """Tokens (cells, cells) that a box covers at all."""
    edges = np.arange(cells + 1) / cells
    rows = (box[1] < edges[1:]) & (box[3] > edges[:-1])
    columns = (box[2] < edges[1:]) & (box[4] > edges[:-1])
    return rows[:, None] & columns[None, :]
