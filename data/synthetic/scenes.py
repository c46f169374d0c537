"""The backgrounds of a synthetic video: scenes, the camera that drifts and shakes over them, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from framefold.data.question import Box
from framefold.data.random_stream import RandomStream

from .difficulty import Difficulty
from .render import COLORS, SHAPES, TEXTURES, glyph, paint_mask, paint_texture
from .timeline import GLYPH, LATTICE, Event, Stretch, overlapping

MOST = 4

MOVING = 8  # pixels (of 64) that a moving part of the background travels before it starts again


@dataclass(frozen=True)
class Scene:
    """Frames first..last (inclusive) over one background.

    view: a box in which it is seen bare. fade: frames at its start, and as many before it, that are a cross-fade.
    """

    first: int
    last: int
    texture: str
    view: Box
    fade: int = 0

    def reversed(self, frames: int, fade: int) -> Scene:
        """The same scene in a video of so many frames that runs backwards; fade: of the scene after it."""
        frame, *corners = self.view
        view: Box = (frames - 1 - frame, *corners)  # type: ignore[assignment]
        return replace(self, first=frames - 1 - self.last, last=frames - 1 - self.first, view=view, fade=fade)


@dataclass(frozen=True)
class Backdrop:
    """What a camera sees of a scene: canvas (S + 2 M, S + 2 M, 3), where it points, and a part that moves.

    offsets: (T, 2) upper left corner of the picture on the canvas in pixels, for every frame of the video.
    moving: (y0, x0, y1, x1) pixels of the picture, or None. bare: the canvas without glyphs. travel: (T,) pixels.
    """

    canvas: np.ndarray
    bare: np.ndarray
    offsets: np.ndarray
    moving: tuple[int, int, int, int] | None
    travel: np.ndarray

    def draw(self, frame: int, out: np.ndarray) -> None:
        """Write the picture (S, S, 3) of that frame into `out`."""
        size = len(out)
        y, x = self.offsets[frame]
        out[:] = self.canvas[y : y + size, x : x + size]
        if self.moving:
            y0, x0, y1, x1 = self.moving
            shift = self.travel[frame]
            out[y0:y1, x0:x1] = self.bare[y0 + shift : y1 + shift, x0 + shift : x1 + shift]


def draw_scenes(draws: RandomStream, events: Sequence[Event], frames: int, difficulty: Difficulty) -> tuple[Scene, ...]:
    """One to four scenes; neighbours differ in texture, and a later one may show an earlier one again."""
    count = draws.between(1, MOST)
    shortest = max(4, frames // 8)
    fade = 2 if shortest >= 6 else 1
    slack = frames - shortest * count
    ends = sorted(draws.below(slack + 1) for _ in range(count - 1))
    cuts = [0, *(at + shortest * (i + 1) for i, at in enumerate(ends)), frames]
    names = [TEXTURES[i] for i in draws.permutation(len(TEXTURES))]
    scenes: list[Scene] = []
    for i, (first, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        earlier = [scene.texture for scene in scenes[:-1] if scene.texture != scenes[-1].texture]
        texture = draws.pick(earlier) if earlier and _happens(draws, difficulty.returns) else names[i]
        faded = fade if i and _happens(draws, difficulty.fades) else 0
        scenes.append(Scene(first, end - 1, texture, _clear_view(events, (first + end - 1) // 2), faded))
    return tuple(scenes)


def _happens(draws: RandomStream, share: float) -> bool:
    return draws.below(1000) < round(share * 1000)


def _clear_view(events: Sequence[Event], frame: int) -> Box:
    """The quarter of a frame that its events cover least (the first of equals)."""
    boxes = [event.box(frame) for event in overlapping(events, frame, frame)]

    def covered(y: float, x: float) -> float:
        return sum(
            max(0.0, min(b[3], y + 0.5) - max(b[1], y)) * max(0.0, min(b[4], x + 0.5) - max(b[2], x)) for b in boxes
        )

    y, x = min(((y, x) for y in (0.0, 0.5) for x in (0.0, 0.5)), key=lambda corner: covered(*corner))
    return (frame, y, x, y + 0.5, x + 0.5)


def build_backdrops(
    draws: RandomStream,
    scenes: Sequence[Scene],
    quiet: Stretch,
    difficulty: Difficulty,
    shade: int,
    frames: int,
    size: int,
    style: str,
) -> tuple[list[Backdrop], list[Event]]:
    """A backdrop for every scene, and the static glyphs on them.

    shade: remainder by three of every dark background colour; no two splits share a colour.
    """
    unit = size / 64
    margin = round(max(difficulty.pan + difficulty.jitter, MOVING if difficulty.motion else 0) * unit)
    shake = draws.bytes(2 * frames).reshape(frames, 2) % (2 * difficulty.jitter + 1) - np.int64(difficulty.jitter)
    shake[quiet.first : quiet.end] = shake[quiet.first] if quiet.first < frames else 0
    clock = np.array([quiet.moving_time(frame) for frame in range(frames)])
    looks: dict[str, tuple[np.ndarray, int]] = {}
    backdrops, statics = [], []
    for scene in scenes:
        colors, period = looks.setdefault(scene.texture, _look(draws, shade))
        canvas = paint_texture(scene.texture, size + 2 * margin, size * period // 64, colors, style)
        offsets = margin + _camera(draws, scene, clock, shake, difficulty, unit)
        moving = _moving_part(draws, unit) if _happens(draws, difficulty.motion) else None
        bare = canvas.copy()
        for _ in range(draws.below(3)):
            statics.append(_paint_static(draws, canvas, scene, offsets, margin, size, style))
        travel = clock * 3 % max(1, round(MOVING * unit))
        backdrops.append(Backdrop(canvas, bare, offsets, moving, travel))
    return backdrops, statics


def _look(draws: RandomStream, shade: int) -> tuple[np.ndarray, int]:
    """Two colours (2, 3) and a period in pixels (of 64)."""
    dark = np.array([3 * draws.between(24, 49) + shade for _ in range(3)])
    light = dark + np.array([draws.between(40, 64) for _ in range(3)])
    return np.stack((light, dark) if draws.below(2) else (dark, light)), draws.pick((8, 10, 12))


def _camera(
    draws: RandomStream, scene: Scene, clock: np.ndarray, shake: np.ndarray, difficulty: Difficulty, unit: float
) -> np.ndarray:
    """(T, 2) pixels off the middle of the canvas: a slow drift along one axis, and a shake."""
    drift = draws.between(-difficulty.pan, difficulty.pan)
    axis = draws.below(2)
    length = max(1, scene.last - scene.first)
    at = np.clip(clock - clock[scene.first], 0, length)
    offsets = shake.copy()
    offsets[:, axis] += drift * at // length
    return np.trunc(offsets * unit).astype(np.int64)


def _moving_part(draws: RandomStream, unit: float) -> tuple[int, int, int, int]:
    height, width = draws.between(4, 8), draws.between(6, 10)
    y, x = draws.below(LATTICE - height + 1), draws.below(LATTICE - width + 1)
    step = 4 * unit
    return tuple(round(step * edge) for edge in (y, x, y + height, x + width))  # type: ignore[return-value]


def _paint_static(
    draws: RandomStream, canvas: np.ndarray, scene: Scene, offsets: np.ndarray, margin: int, size: int, style: str
) -> Event:
    """A glyph that belongs to the scene: it moves with the camera, and may leave the picture."""
    shape, color, inner = draws.pick(SHAPES), draws.pick(tuple(COLORS)), size * GLYPH // LATTICE
    room = LATTICE - GLYPH + 1
    y, x = (margin + draws.below(room) * size // LATTICE for _ in range(2))
    paint_mask(canvas, glyph(shape, inner, style), y, x, COLORS[color])
    seen = offsets[scene.first : scene.last + 1]
    path = [((y - int(oy)) / size, (x - int(ox)) / size) for oy, ox in seen]
    path = path[:1] if len(set(path)) == 1 else path
    return Event("static", shape, color, "", scene.first, scene.last, tuple(path), GLYPH / LATTICE)
