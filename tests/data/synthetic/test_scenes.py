"""Backgrounds: scenes, camera motion, moving parts, cross-fades, repeated scenes, and changes of brightness.

Most tests look at pixels: sensor noise changes a pixel by at most NOISE, anything else by more.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from framefold.data.synthetic.difficulty import PRESETS, Difficulty
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.render import COLORS, glyph
from framefold.data.synthetic.scenes import Scene
from tests.support.annotated_videos import without_pixels

NOISE = 15 + 8
STILL = Difficulty((4, 4), clutter=0.0)  # only four flashes, the mover and cuts
HARD = PRESETS["hard"]


@pytest.fixture(scope="module")
def hard() -> list[Video]:
    return [generate(2 * i + i % 2, difficulty="hard", size=32) for i in range(300)]


def videos_of(difficulty: Difficulty, count: int = 24, **settings) -> list[Video]:
    return [generate(2 * i + i % 2, difficulty=difficulty, **settings) for i in range(count)]


def uneventful(video: Video) -> np.ndarray:
    """(T,) frames without a cross-fade and without events, static glyphs excepted."""
    free = np.ones(len(video.frames), bool)
    for event in video.events:
        if event.kind != "static":
            free[event.first : event.last + 1] = False
    for scene in video.scenes[1:]:
        free[scene.first - scene.fade : scene.first + scene.fade] = False
    return free


def changes(video: Video) -> np.ndarray:
    """(T - 1,) whether more than noise changes from one frame to the next."""
    return np.abs(np.diff(video.frames.astype(np.int16), axis=0)).max(axis=(1, 2, 3)) > NOISE


def steps_inside(video: Video) -> np.ndarray:
    """(T - 1,) steps between uneventful frames of one scene."""
    free = uneventful(video)
    inside = free[:-1] & free[1:]
    inside[[scene.first - 1 for scene in video.scenes[1:]]] = False
    return inside


def textured(video: Video) -> np.ndarray:
    """(T - 1,) steps from frames with a texture on which a shift is visible."""
    plain = np.zeros(len(video.frames), bool)
    for scene in video.scenes:
        plain[scene.first : scene.last + 1] = scene.texture == "plain"
    return ~plain[:-1]


# ---- scenes ---------------------------------------------------------------------------------------------------------


def test_scenes_cover_the_video_and_have_a_minimum_length(hard):
    for video in hard + videos_of(HARD, frames=16, size=32):
        frames = len(video.frames)
        assert video.scenes[0].first == 0 and video.scenes[-1].last == frames - 1
        assert all(a.last + 1 == b.first for a, b in pairwise(video.scenes))
        assert min(s.last - s.first + 1 for s in video.scenes) >= max(4, frames // 8)
    assert {len(video.scenes) for video in hard} == {1, 2, 3, 4}


def test_neighbouring_scenes_differ_in_texture(hard):
    assert all(a.texture != b.texture for video in hard for a, b in pairwise(video.scenes))


def test_cut_changes_pixels_and_nothing_else_does_in_a_still_video():
    cuts = 0
    for video in videos_of(STILL):
        moved = changes(video)
        assert not moved[steps_inside(video)].any()
        free = uneventful(video)
        for scene in video.scenes[1:]:
            if free[scene.first - 1] and free[scene.first]:
                assert moved[scene.first - 1]
                cuts += 1
    assert cuts > 15


def test_scenes_are_repeated_at_their_rate(hard):
    def returning(videos: list[Video]) -> float:
        later = [(v, i) for v in videos for i in range(2, len(v.scenes))]
        return float(np.mean([v.scenes[i].texture in {s.texture for s in v.scenes[:i]} for v, i in later]))

    def forward(difficulty: Difficulty) -> list[Video]:  # odd videos are reversed
        with without_pixels():
            return [generate(2 * i, frames=32, difficulty=difficulty, size=32) for i in range(120)]

    assert returning(forward(replace(STILL, returns=0.0))) == 0
    assert abs(returning(forward(replace(STILL, returns=0.5))) - 0.5) < 0.1
    assert returning(forward(replace(STILL, returns=1.0))) == 1
    assert 0.3 < returning(hard) < 0.7


def test_repeated_scene_looks_the_same():
    found = 0
    for video in videos_of(replace(STILL, returns=1.0), 60, size=32):
        free = uneventful(video)
        looks: dict[str, np.ndarray] = {}
        for scene in video.scenes:
            frames = [i for i in range(scene.first, scene.last + 1) if free[i]]
            if len(frames) < 3:
                continue
            look = np.median(video.frames[frames].astype(int), axis=0)  # the camera does not move
            if scene.texture in looks:
                assert (np.abs(look - looks[scene.texture]).max(axis=-1) <= 16).mean() > 0.8  # except for static glyphs
                found += 1
            looks[scene.texture] = look
    assert found > 15


def test_view_of_a_scene_is_nearly_free_of_events(hard):
    for video in hard:
        for number, scene in enumerate(video.scenes):
            frame, y0, x0, y1, x1 = scene.view
            end = video.scenes[number + 1].first - video.scenes[number + 1].fade if scene != video.scenes[-1] else 99
            assert scene.first + scene.fade <= frame < min(end, scene.last + 1)
            assert (y1 - y0, x1 - x0) == (0.5, 0.5)
            covered = 0.0
            for event in video.events:
                if event.kind in ("flash", "mover") and event.first <= frame <= event.last:
                    _, top, left, bottom, right = event.box(frame)
                    covered += max(0, min(bottom, y1) - max(top, y0)) * max(0, min(right, x1) - max(left, x0))
            assert covered < 0.06  # of the frame; the box is a quarter of it


# ---- cross-fades ----------------------------------------------------------------------------------------------------


def test_cross_fades_replace_cuts_at_their_rate(hard):
    def share(videos: list[Video]) -> float:
        return float(np.mean([scene.fade > 0 for video in videos for scene in video.scenes[1:]]))

    with without_pixels():
        assert share(videos_of(replace(STILL, fades=0.0), size=32)) == 0
        assert share(videos_of(replace(STILL, fades=1.0), size=32)) == 1
    assert abs(share(hard) - HARD.fades) < 0.06
    assert all(video.scenes[0].fade == 0 for video in hard)


def test_cross_fade_has_equal_steps():
    seen = 0
    for video in videos_of(replace(STILL, fades=1.0)):
        busy = {box[0] for event in video.events if event.kind != "static" for box in event.boxes}
        for scene in video.scenes[1:]:
            span = range(scene.first - scene.fade - 1, scene.first + scene.fade + 1)
            if busy & set(span):
                continue
            before, *mixed, after = (video.frames[i].astype(float) for i in span)
            change = after - before
            parts = [((frame - before) * change).sum() / (change * change).sum() for frame in mixed]
            np.testing.assert_allclose(parts, np.arange(1, len(span) - 1) / (len(span) - 1), atol=0.12)
            seen += 1
    assert seen > 10


# ---- camera, moving parts, brightness -------------------------------------------------------------------------------


def test_motion_of_the_background_changes_pixels_between_events():
    for setting, value, least in [("jitter", 1, 0.8), ("pan", 16, 0.1), ("motion", 1.0, 0.6)]:
        moved = []
        for video in videos_of(replace(STILL, **{setting: value})):
            moved.append(changes(video)[steps_inside(video) & textured(video)])
        assert np.concatenate(moved).mean() > least, setting  # 0 in still videos, see above


def test_camera_moves_in_every_hard_video():
    shares = []
    for video in videos_of(replace(HARD, clutter=0.0, flares=0.0, decoys=0.0), 40):
        here = steps_inside(video) & textured(video)
        if here.sum() > 20:
            shares.append(changes(video)[here].mean())
    assert len(shares) > 20 and min(shares) > 0.1 and max(shares) < 1


def test_fraction_of_scenes_with_a_moving_part_is_as_configured():
    for share in (0.3, 0.7):
        moving = []
        for video in videos_of(replace(STILL, motion=share), 60, size=32):
            steps = changes(video) & steps_inside(video)
            inside = steps_inside(video)
            for scene in video.scenes:
                span = np.s_[scene.first : scene.last]
                if scene.texture != "plain" and inside[span].sum() > 4:
                    moving.append(steps[span].any())
        assert len(moving) > 50 and abs(np.mean(moving) - share) < 0.15


def test_camera_drift_is_bounded():
    def drifts(difficulty: Difficulty) -> np.ndarray:
        with without_pixels():
            statics = [e for v in videos_of(difficulty, 60) for e in v.events if e.kind == "static"]
        return np.array([np.ptp(np.array(event.path), axis=0) * 64 for event in statics])

    assert drifts(STILL).max() == 0 and drifts(replace(STILL, jitter=2)).max() == 4
    pan = drifts(replace(STILL, pan=12))
    assert 9 <= pan.max() <= 12 and (pan.min(axis=1) == 0).all()  # along one axis
    assert drifts(HARD).max() <= 12 + 2


def test_static_glyphs_are_visible_in_their_boxes_while_the_camera_moves():
    seen = 0
    for video in videos_of(replace(STILL, jitter=1, pan=12)):
        free = uneventful(video)
        statics = [event for event in video.events if event.kind == "static"]
        for event in statics:
            if sum(other.first == event.first for other in statics) > 1:
                continue  # one may cover the other
            for frame in range(event.first, event.last + 1):
                y, x = (round(at * 64) for at in event.box(frame)[1:3])
                if free[frame] and min(y, x) >= 0 and max(y, x) <= 52:
                    look = video.frames[frame, y : y + 12, x : x + 12][glyph(event.shape, 12)].astype(int)
                    assert abs(look.mean(axis=0) - COLORS[event.color]).max() < 16
                    seen += 1
    assert seen > 100


def test_brightness_pulses_occur_at_their_rate():
    def share(pulses: float) -> float:
        off = []
        for video in videos_of(replace(STILL, pulses=pulses), 40, frames=64, size=32):
            free, light = uneventful(video), video.frames.mean(axis=(1, 2, 3))
            for scene in video.scenes:
                here = [i for i in range(scene.first, scene.last + 1) if free[i]]
                off += list(abs(light[here] - np.median(light[here])) > 12) if here else []
        return float(np.mean(off))

    assert share(0.0) == 0
    assert 0.09 < share(0.04) < 0.17  # 3 pulses of 3 frames in 64, which may overlap
    assert share(0.12) > 0.25


# ---- quiet period ---------------------------------------------------------------------------------------------------


def test_quarter_of_a_hard_video_is_still_except_for_noise_and_scene_changes(hard):
    for video in hard:
        busy = np.zeros(64, bool)
        for event in video.events:
            if event.kind != "static":
                busy[event.first : event.last + 1] = True
        excused = changes_of_scene(video.scenes)
        calm = ~changes(video) | excused
        starts = [i for i in range(64 - 15) if not busy[i : i + 16].any() and calm[i : i + 15].all()]
        assert starts, video.key


def changes_of_scene(scenes: tuple[Scene, ...]) -> np.ndarray:
    """(63,) steps into, through and out of cuts and cross-fades."""
    steps = np.zeros(63, bool)
    for scene in scenes[1:]:
        steps[scene.first - 1 - scene.fade : scene.first + scene.fade] = True
    return steps
