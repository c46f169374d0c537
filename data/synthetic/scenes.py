"""Backgrounds of a synthetic video: scenes, camera motion, and their rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from framefold.data.question import Box
from framefold.data.random_stream import RandomStream

from .difficulty import Difficulty
from .pictures import picture_background
from .render import COLORS, SHAPES, TEXTURES, fill_mask, glyph, render_texture, texture
from .timeline import GLYPH, Event, QuietPeriod, overlapping

MAX_SCENES = 4

MOTION_PERIOD = 8  # pixels (of 64) that a moving part of the background travels before it jumps back


@dataclass(frozen=True)
class Scene:
    """Consecutive frames with one background.

    Attributes:
        first: first frame.
        last: last frame, inclusive.
        texture: name of the texture of the background.
        view: a box that shows the background with few or no events in it.
        fade: number of frames before `first`, and after it, that are a cross-fade from the previous scene.
    """

    first: int
    last: int
    texture: str
    view: Box
    fade: int = 0

    def reversed(self, frames: int, fade: int) -> Scene:
        """Return the scene in the reversed video of `frames` frames; fade: that of the scene after it."""
        frame, *corners = self.view
        view: Box = (frames - 1 - frame, *corners)  # type: ignore[assignment]
        return replace(self, first=frames - 1 - self.last, last=frames - 1 - self.first, view=view, fade=fade)


@dataclass(frozen=True)
class Backdrop:
    """The background of a scene and the motion of the camera over it.

    S is the size of a frame and M the margin around it.

    Attributes:
        canvas: (S + 2 M, S + 2 M, 3) background with static glyphs.
        bare: the canvas without glyphs.
        offsets: (T, 2) upper left corner of the frame on the canvas in pixels, for every frame of the video.
        moving: (y0, x0, y1, x1) of a moving part in pixels of the frame, or None.
        travel: (T,) displacement of the moving part in pixels.
    """

    canvas: np.ndarray
    bare: np.ndarray
    offsets: np.ndarray
    moving: tuple[int, int, int, int] | None
    travel: np.ndarray

    def render(self, frame: int, out: np.ndarray) -> None:
        """Write the pixels (S, S, 3) of a frame into `out`."""
        size = len(out)
        y, x = self.offsets[frame]
        out[:] = self.canvas[y : y + size, x : x + size]
        if self.moving:
            y0, x0, y1, x1 = self.moving
            shift = self.travel[frame]
            out[y0:y1, x0:x1] = self.bare[y0 + shift : y1 + shift, x0 + shift : x1 + shift]


def sample_scenes(
    stream: RandomStream, events: Sequence[Event], frames: int, difficulty: Difficulty
) -> tuple[Scene, ...]:
    """Sample one to four scenes; neighbours differ in texture, and a later scene may repeat an earlier one."""
    count = stream.between(1, MAX_SCENES)
    shortest = max(4, frames // 8)
    fade = 2 if shortest >= 6 else 1
    slack = frames - shortest * count
    ends = sorted(stream.below(slack + 1) for _ in range(count - 1))
    cuts = [0, *(at + shortest * (i + 1) for i, at in enumerate(ends)), frames]
    names = [TEXTURES[i] for i in stream.permutation(len(TEXTURES))]
    scenes: list[Scene] = []
    for i, (first, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        earlier = [scene.texture for scene in scenes[:-1] if scene.texture != scenes[-1].texture]
        texture = stream.pick(earlier) if earlier and _happens(stream, difficulty.returns) else names[i]
        faded = fade if i and _happens(stream, difficulty.fades) else 0
        middle = (first + end - 1) // 2
        view = _clear_view(events, middle, middle % 4 if difficulty.crowd else 0)
        scenes.append(Scene(first, end - 1, texture, view, faded))
    return tuple(scenes)


def _happens(stream: RandomStream, share: float) -> bool:
    return stream.below(1000) < round(share * 1000)


def _clear_view(events: Sequence[Event], frame: int, start: int) -> Box:
    """Return the quarter of a frame that its events cover least; of equal ones, the first from number `start` on."""
    boxes = [event.box(frame) for event in overlapping(events, frame, frame)]

    def covered(y: float, x: float) -> float:
        return sum(
            max(0.0, min(b[3], y + 0.5) - max(b[1], y)) * max(0.0, min(b[4], x + 0.5) - max(b[2], x)) for b in boxes
        )

    quarters = [(y, x) for y in (0.0, 0.5) for x in (0.0, 0.5)]
    y, x = min(quarters[start:] + quarters[:start], key=lambda corner: covered(*corner))
    return (frame, y, x, y + 0.5, x + 0.5)


def build_backdrops(
    stream: RandomStream,
    scenes: Sequence[Scene],
    quiet: QuietPeriod,
    difficulty: Difficulty,
    shade: int,
    frames: int,
    size: int,
    style: str,
) -> tuple[list[Backdrop], list[Event]]:
    """Create a backdrop for every scene.

    Args:
        stream: source of random numbers.
        scenes: scenes of the video.
        quiet: period without camera motion.
        difficulty: settings of the generator.
        shade: number of the split. It is the remainder modulo three of all dark background colours, so that no two
            splits share a colour.
        frames: number of frames of the video.
        size: height and width of a frame in pixels.
        style: style of textures and glyphs.

    Returns:
        The backdrops, and the static glyphs on them as events.
    """
    unit = size / (4 * difficulty.lattice)  # pixels of the settings are quarters of a step
    margin = round(max(difficulty.pan + difficulty.jitter, MOTION_PERIOD if difficulty.motion else 0) * unit)
    shake = stream.bytes(2 * frames).reshape(frames, 2) % (2 * difficulty.jitter + 1) - np.int64(difficulty.jitter)
    shake[quiet.first : quiet.end] = shake[quiet.first] if quiet.first < frames else 0
    clock = np.array([quiet.moving_time(frame) for frame in range(frames)])
    canvases: dict[str, np.ndarray] = {}
    backdrops, statics = [], []
    for scene in scenes:
        colors, period = _colors_and_period(stream, shade)
        if scene.texture not in canvases:
            settings = (scene.texture, size + 2 * margin, size * period // (4 * difficulty.lattice))
            if style == "natural":
                canvas = picture_background(stream, shade, texture(*settings))
            else:
                canvas = render_texture(*settings, colors, style)
            if difficulty.blotches:
                # A stream of its own, because the number of its draws depends on the size of the frame.
                _add_blotches(RandomStream(stream.below(2**32)), canvas, max(1, round(4 * unit)), difficulty.blotches)
            canvases[scene.texture] = canvas
        canvas = canvases[scene.texture].copy()
        offsets = margin + _camera(stream, scene, clock, shake, difficulty, unit)
        moving = _moving_part(stream, unit, difficulty.lattice) if _happens(stream, difficulty.motion) else None
        bare = canvas.copy()
        for _ in range(stream.below(3)):
            statics.append(_add_static_glyph(stream, canvas, scene, offsets, margin, size, difficulty.lattice, style))
        travel = clock * 3 % max(1, round(MOTION_PERIOD * unit))
        backdrops.append(Backdrop(canvas, bare, offsets, moving, travel))
    return backdrops, statics


def _colors_and_period(stream: RandomStream, shade: int) -> tuple[np.ndarray, int]:
    """Sample two colours (2, 3) and the period of a texture in pixels (of 64)."""
    dark = np.array([3 * stream.between(24, 49) + shade for _ in range(3)])
    light = dark + np.array([stream.between(40, 64) for _ in range(3)])
    return np.stack((light, dark) if stream.below(2) else (dark, light)), stream.pick((8, 10, 12))


def _add_blotches(stream: RandomStream, canvas: np.ndarray, step: int, most: int) -> None:
    """Lighten and darken a canvas by coloured noise of two scales, in place; neighbouring points are interpolated."""
    side, total = len(canvas), np.zeros(canvas.shape, np.int32)
    for scale in (2 * step, 6 * step):
        count = side // scale + 2
        points = stream.bytes(3 * count * count).reshape(count, count, 3).astype(np.int32) - 128
        for axis in (0, 1):
            cell, rest = np.divmod(np.arange(side, dtype=np.int32), np.int32(scale))
            weight = rest.reshape([-1 if i == axis else 1 for i in range(3)])
            points = points.take(cell, axis) * (scale - weight) + points.take(cell + 1, axis) * weight
            points //= scale
        total += points
    canvas[:] = np.clip(canvas + total * most // (2 * 64), 12, 243)


def _camera(
    stream: RandomStream, scene: Scene, clock: np.ndarray, shake: np.ndarray, difficulty: Difficulty, unit: float
) -> np.ndarray:
    """Return offsets (T, 2) from the centre of the canvas in pixels: a slow drift along one axis, and a shake."""
    drift = stream.between(-difficulty.pan, difficulty.pan)
    axis = stream.below(2)
    length = max(1, scene.last - scene.first)
    elapsed = np.clip(clock - clock[scene.first], 0, length)
    offsets = shake.copy()
    offsets[:, axis] += drift * elapsed // length
    return np.trunc(offsets * unit).astype(np.int64)


def _moving_part(stream: RandomStream, unit: float, lattice: int) -> tuple[int, int, int, int]:
    height, width = stream.between(4, 8), stream.between(6, 10)
    y, x = stream.below(lattice - height + 1), stream.below(lattice - width + 1)
    step = 4 * unit
    return tuple(round(step * edge) for edge in (y, x, y + height, x + width))  # type: ignore[return-value]


def _add_static_glyph(
    stream: RandomStream,
    canvas: np.ndarray,
    scene: Scene,
    offsets: np.ndarray,
    margin: int,
    size: int,
    lattice: int,
    style: str,
) -> Event:
    """Add a glyph to a canvas; it moves with the background and may leave the frame."""
    shape, color, inner = stream.pick(SHAPES), stream.pick(tuple(COLORS)), size * GLYPH // lattice
    room = lattice - GLYPH + 1
    y, x = (margin + stream.below(room) * size // lattice for _ in range(2))
    fill_mask(canvas, glyph(shape, inner, style), y, x, COLORS[color])
    visible = offsets[scene.first : scene.last + 1]
    path = [((y - int(oy)) / size, (x - int(ox)) / size) for oy, ox in visible]
    path = path[:1] if len(set(path)) == 1 else path
    return Event("static", shape, color, "", scene.first, scene.last, tuple(path), GLYPH / lattice)
