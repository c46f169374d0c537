"""Frames of synthetic videos with a label for each token, for training the vision tower of the tinyhost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from framefold.data.evidence import evidence_mask
from framefold.data.question import Box
from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.crowd import Crowd
from framefold.data.synthetic.difficulty import Difficulty, resolve_difficulty
from framefold.data.synthetic.generate import MIN_FRAMES, Video, generate
from framefold.data.synthetic.render import COLORS, SHAPES, TEXTURES
from framefold.data.synthetic.timeline import DISC, EVIDENCE_KINDS, Event

from .frames import IGNORE, KINDS, PROBES, overlapped_tokens

_STREAM = 6151

_CLEAR = 0.5  # fraction of a token that a disc of the crowd covers where it is labelled

_COLORS = tuple(COLORS)

# Kinds of the discs of a crowd, in the order of CROWD_HALOS; its white discs have no glyph.
_CROWD = np.array([KINDS.index(kind) for kind in ("cream", "sky", "decoy", "violet", "teal", "mover", "flare")])

# Kinds of events by what they look like; all others have no glyph and no disc.
_LOOKS = {"static": "plain", "blink": "plain", "logo": "sky"} | {kind: kind for kind in KINDS}


def video_frame_batch(
    index: int, *, seed: int, frames: int, cells: int, difficulty: Sequence[str | Difficulty]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Generate short videos and select some of their frames, preferably those with events that questions are about.

    Args:
        index: of the batch.
        seed: of the run.
        frames: N, number of frames.
        cells: rows (and columns) of the token grid.
        difficulty: of the videos; each has one of these at random.

    Returns:
        Frames and labels as those of :func:`~framefold.training.tinyhost.frames.frame_batch`.
    """
    rng = RandomStream(seed, _STREAM, index, 0)
    pixels: list[np.ndarray] = []
    labels: list[dict[str, np.ndarray]] = []
    while len(pixels) < frames:
        settings = resolve_difficulty(rng.pick(difficulty))
        video = generate(rng.below(2**40), seed=seed, frames=MIN_FRAMES, difficulty=settings)
        some = _select(video, min(MIN_FRAMES // 2, frames - len(pixels)), rng)
        pixels += [video.frames[frame] for frame in some]
        labels += [label_frame(video, frame, cells, settings.lattice) for frame in some]
    return np.stack(pixels), {name: np.stack([label[name].reshape(-1) for label in labels]) for name in PROBES}


def _select(video: Video, count: int, rng: RandomStream) -> list[int]:
    busy = {box[0] for event in video.events if event.kind in EVIDENCE_KINDS for box in event.boxes}
    order = rng.permutation(len(video.frames))
    return sorted(order, key=lambda frame: frame not in busy)[:count]


def label_frame(video: Video, frame: int, cells: int, lattice: int) -> dict[str, np.ndarray]:
    """Return the (cells, cells) labels of a frame for each probe; what lies on top determines the label of a token.

    Args:
        video: the video.
        frame: number of the frame.
        cells: rows (and columns) of the token grid.
        lattice: that of the video's difficulty.
    """
    labels = {name: np.full((cells, cells), IGNORE) for name in PROBES}
    labels["kind"][:] = KINDS.index("none")
    labels["row"][:] = np.arange(cells)[:, None]
    labels["column"][:] = np.arange(cells)
    labels["texture"][:] = _texture(video, frame)
    if video.crowd is not None:
        _label_crowd(labels, video.crowd, frame, lattice)
    for event in video.events:
        if event.first <= frame <= event.last:
            _label_event(labels, event, event.box(frame))
    return labels


def _label_crowd(labels: dict[str, np.ndarray], crowd: Crowd, frame: int, lattice: int) -> None:
    """Label each token by the disc that covers most of it, if that is at least half."""
    shown = np.flatnonzero((crowd.first <= frame) & (frame <= crowd.last))
    if not len(shown):
        return
    cells = len(labels["kind"])
    corners = (crowd.corner[shown] + crowd.sway[frame]) * cells / lattice  # in tokens
    low, high = np.arange(cells), np.arange(1, cells + 1)
    sides = np.minimum(corners[..., None] + DISC * cells / lattice, high) - np.maximum(corners[..., None], low)
    rows, columns = np.clip(sides, 0, None).swapaxes(0, 1)
    covered = rows[:, :, None] * columns[:, None, :]  # (K, cells, cells)
    most = covered.max(axis=0)
    clear = most >= _CLEAR
    disc = shown[covered.argmax(axis=0)[clear]]
    labels["kind"][most > 0] = IGNORE
    blank = crowd.shape[disc] < 0
    labels["kind"][clear] = _CROWD[crowd.halo[disc]]
    labels["shape"][clear] = np.where(blank, IGNORE, crowd.shape[disc])
    labels["color"][clear] = np.where(blank, IGNORE, crowd.color[disc])


def _label_event(labels: dict[str, np.ndarray], event: Event, box: Box) -> None:
    """Label the tokens that hold an event; those that it covers less are undefined."""
    cells = len(labels["kind"])
    box = (0, *box[1:])
    touched = overlapped_tokens(box, cells)  # none where a static glyph is outside the frame
    held = touched & evidence_mask([box], (1, cells, cells))[0]
    values = {
        "kind": KINDS.index(_LOOKS.get(event.kind, "none")),
        "shape": SHAPES.index(event.shape) if event.shape else IGNORE,
        "color": _COLORS.index(event.color) if event.color else IGNORE,
    }
    for name, value in values.items():
        labels[name][touched] = IGNORE
        labels[name][held] = value


def _texture(video: Video, frame: int) -> int:
    """Return the number of the texture of a frame, or IGNORE in a cross-fade or where the frame is black."""
    if any(event.kind == "black" and event.first <= frame <= event.last for event in video.events):
        return IGNORE
    for scene in video.scenes:
        if scene.first - scene.fade <= frame < scene.first + scene.fade:
            return IGNORE
        if scene.first <= frame <= scene.last:
            texture = TEXTURES.index(scene.texture)
    return texture
