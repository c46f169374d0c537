"""Single frames with a label for each token, for training the vision tower of the tinyhost."""

from __future__ import annotations

import numpy as np

from framefold.data.evidence import evidence_mask
from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.render import COLORS, HALO, SHAPES, TEXTURES, fill_mask, glyph, render_texture
from framefold.data.synthetic.timeline import DISC, GLYPH, LATTICE

# What a token shows: nothing, a glyph without a disc, a white disc without a glyph, or a glyph on a disc: of the colour
# of decoys, of the mover, of a flash, or of another colour, which only a crowd has.
KINDS = ("none", "plain", "flare", "decoy", "mover", "flash", "cream", "sky", "violet", "teal")

# Number of values of each label; 0 is the number of rows (and columns) of the token grid.
PROBES = {
    "kind": len(KINDS),
    "shape": len(SHAPES),
    "color": len(COLORS),
    "texture": len(TEXTURES),
    "row": 0,
    "column": 0,
}

IGNORE = -100

_STREAM = 7919  # videos have keys of three parts (seed, split, index), frames of four

_COLORS = tuple(COLORS)

_SHIFT = 12  # pixels (of 64): one period of the widest texture


def frame_batch(
    index: int, *, seed: int, frames: int, size: int = 64, cells: int = 4
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Generate frames in the style of synthetic videos, with more glyphs, and labels for each probe.

    Args:
        index: of the batch.
        seed: of the run.
        frames: N, number of frames.
        size: S, height and width in pixels.
        cells: rows (and columns) of the token grid.

    Returns:
        Frames, uint8 (N, S, S, 3), and labels by probe, int64 (N, cells * cells): the value of the probe at each token,
        or IGNORE where it is undefined (no glyph) or where too little of a glyph is visible.
    """
    rng = RandomStream(seed, _STREAM, index, 0)
    pixels = np.empty((frames, size, size, 3), np.uint8)
    labels = {name: np.full((frames, cells, cells), IGNORE) for name in PROBES}
    labels["kind"][:] = 0
    labels["row"][:] = np.arange(cells)[:, None]
    labels["column"][:] = np.arange(cells)
    for i in range(frames):
        _render_frame(rng, pixels[i], {name: label[i] for name, label in labels.items()}, size)
        if rng.below(8) == 0:
            gain = rng.between(-32, 32)
            pixels[i] = np.clip(pixels[i] + np.int16(gain), 12, 243)
    noise = rng.bytes(pixels.size).reshape(pixels.shape) & 15
    noise += np.array([rng.between(-4, 4) - 8 for _ in range(frames)]).astype(np.uint8)[:, None, None, None]
    pixels += noise
    return pixels, {name: label.reshape(frames, -1) for name, label in labels.items()}


def _render_frame(rng: RandomStream, frame: np.ndarray, labels: dict[str, np.ndarray], size: int) -> None:
    texture = rng.below(len(TEXTURES))
    canvas = _canvas(rng, texture, size)
    frame[:] = _window(rng, canvas, size)
    labels["texture"][:] = texture
    chance = rng.below(16)
    if chance < 5:  # a part of the frame is shifted, as behind a moving part
        y0, x0 = size * rng.below(3) // 4, size * rng.below(3) // 4
        frame[y0 : y0 + size // 2, x0 : x0 + size // 2] = _window(rng, canvas, size)[: size - y0, : size - x0][
            : size // 2, : size // 2
        ]
    elif chance == 5:  # a cross-fade of two textures, in which the label is undefined
        other = _window(rng, _canvas(rng, rng.below(len(TEXTURES)), size), size)
        weight = np.uint16(rng.between(1, 4))
        frame[:] = (frame * weight + other * (np.uint16(5) - weight)) // np.uint16(5)
        labels["texture"][:] = IGNORE
    # Render in the order of videos: objects that questions ask about are on top.
    for kind in sorted(rng.pick((1, 1, 2, 3, 4, 5, 5, 5)) for _ in range(rng.below(5))):
        _render_glyph(rng, frame, labels, kind, size)


def _canvas(rng: RandomStream, texture: int, size: int) -> np.ndarray:
    """Return a background that is larger than the frame, for windows at any shift."""
    dark = np.array([rng.between(70, 150) for _ in range(3)])
    light = dark + np.array([rng.between(40, 64) for _ in range(3)])
    colors = np.stack((light, dark) if rng.below(2) else (dark, light))
    side = size + size * _SHIFT // 64
    return render_texture(TEXTURES[texture], side, size * rng.pick((8, 10, 12)) // 64, colors)


def _window(rng: RandomStream, canvas: np.ndarray, size: int) -> np.ndarray:
    y, x = (rng.below(len(canvas) - size + 1) for _ in range(2))
    return canvas[y : y + size, x : x + size]


def _render_glyph(rng: RandomStream, frame: np.ndarray, labels: dict[str, np.ndarray], kind: int, size: int) -> None:
    """Render a glyph and its labels; discs lie on the lattice, and glyphs without a disc anywhere, as in the videos."""
    halo = HALO.get(KINDS[kind])
    steps = DISC if halo else GLYPH
    unit = size // LATTICE
    inner, extent = unit * GLYPH, unit * steps
    step = unit if halo else 1
    y, x = (step * rng.below((size - extent) // step + 1) for _ in range(2))
    shape, color = rng.below(len(SHAPES)), rng.below(len(COLORS))
    empty = KINDS[kind] == "flare"
    if halo:
        fill_mask(frame, glyph("circle", extent), y, x, halo)
    inset = (extent - inner) // 2
    if not empty:
        fill_mask(frame, glyph(SHAPES[shape], inner), y + inset, x + inset, COLORS[_COLORS[color]])
    box = (0, y / size, x / size, (y + extent) / size, (x + extent) / size)
    cells = labels["kind"].shape[0]
    held = evidence_mask([box], (1, cells, cells))[0]
    overlapped = overlapped_tokens(box, cells) & ~held
    for name, value in (("kind", kind), ("shape", IGNORE if empty else shape), ("color", IGNORE if empty else color)):
        labels[name][held] = value
        labels[name][overlapped] = IGNORE


def overlapped_tokens(box: tuple[int, float, float, float, float], cells: int) -> np.ndarray:
    """Return (cells, cells), the tokens that a box overlaps."""
    edges = np.arange(cells + 1) / cells
    rows = (box[1] < edges[1:]) & (box[3] > edges[:-1])
    columns = (box[2] < edges[1:]) & (box[4] > edges[:-1])
    return rows[:, None] & columns[None, :]
