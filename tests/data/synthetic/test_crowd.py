"""The crowded task: discs that differ from flashes in their colour only, and conspicuous things that hide nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from framefold.data.synthetic.conspicuous import EVERY
from framefold.data.synthetic.crowd import CROWD_HALOS, STATIC, Crowd
from framefold.data.synthetic.difficulty import PRESETS, Difficulty, preset_name
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.render import COLORS, HALO, SHAPES, glyph
from framefold.data.synthetic.timeline import DISC, SHORT, SLOW, Event
from tests.support.annotated_videos import without_pixels

CROWDED = PRESETS["crowded"]
CALM = replace(CROWDED, conspicuous=0.0, pulses=0.0, faint=0.0)  # everything at full contrast, with nothing above it
STEPS = CROWDED.lattice
NOISE = 15 + 8
WHITE, DARK = (CROWD_HALOS.index(HALO[kind]) for kind in ("flash", "mover"))


@pytest.fixture(scope="module")
def videos() -> list[Video]:
    """Annotations of crowded videos."""
    with without_pixels():
        return [generate(i, difficulty="crowded", size=64) for i in range(120)]


def crowd_of(video: Video) -> Crowd:
    assert video.crowd is not None
    return video.crowd


def flashes_of(video: Video) -> list[Event]:
    return [event for event in video.events if event.kind == "flash"]


def in_steps(event: Event) -> np.ndarray:
    """(frames, 2) corners of an event."""
    path = event.path if len(event.path) > 1 else event.path * (event.last - event.first + 1)
    return np.round(np.array(path) * STEPS).astype(int)


# ---- annotations ----------------------------------------------------------------------------------------------------


def test_only_flashes_are_white_discs_with_a_glyph_and_only_the_mover_is_dark_with_its_shape(videos):
    halos = Counter[int]()
    for video in videos:
        crowd = crowd_of(video)
        (mover,) = (event for event in video.events if event.kind == "mover")
        assert (crowd.shape[crowd.halo == WHITE] == -1).all() and (crowd.color[crowd.halo == WHITE] == -1).all()
        assert (crowd.shape[crowd.halo != WHITE] >= 0).all()
        assert (crowd.shape[crowd.halo == DARK] != SHAPES.index(mover.shape)).all()
        assert all(event.shape != mover.shape for event in video.events if event.kind == "logo")
        halos.update(crowd.halo.tolist())
    assert set(halos) == set(range(len(CROWD_HALOS))) and min(halos.values()) > 0.9 * max(halos.values())


def test_glyphs_of_the_crowd_are_as_frequent_as_those_of_flashes(videos):
    for name, count in (("shape", len(SHAPES)), ("color", len(COLORS))):
        column = np.concatenate([getattr(crowd_of(video), name) for video in videos])
        shares = np.bincount(column[column >= 0], minlength=count) / (column >= 0).sum()
        assert np.abs(shares - 1 / count).max() < 0.02, (name, shares)


def test_contrasts_and_durations_are_those_of_flashes(videos):
    flashes = [flash for video in videos for flash in flashes_of(video)]
    crowds = [crowd_of(video) for video in videos]
    opacity = np.concatenate([crowd.opacity for crowd in crowds])
    assert {flash.opacity for flash in flashes} == set(opacity.tolist()) == set(range(8, 17))
    durations = np.concatenate([crowd.last - crowd.first + 1 for crowd in crowds])
    short = [np.isin(lengths, SHORT).mean() for lengths in (durations, [f.last - f.first + 1 for f in flashes])]
    assert 0.78 < short[1] < 0.92 and abs(short[0] - short[1]) < 0.15, short  # the crowd has static discs, too
    assert max(flash.last - flash.first + 1 for flash in flashes) == SLOW[1] < durations.max() <= STATIC[1]


def test_discs_overlap_neither_each_other_nor_a_flash(videos):
    for video in videos[:24]:
        crowd = crowd_of(video)
        for frame in range(0, 64, 7):
            shown = (crowd.first <= frame) & (frame <= crowd.last)
            corners = [*crowd.corner[shown]]
            corners += [
                in_steps(flash)[frame - flash.first] - crowd.sway[frame]
                for flash in flashes_of(video)
                if flash.first <= frame <= flash.last
            ]
            for at, corner in enumerate(corners):
                others = np.array(corners[at + 1 :]).reshape(-1, 2)
                assert (np.abs(others - corner).max(axis=1) >= DISC).all(), (video.key, frame)


def test_flashes_sway_with_the_crowd_and_stay_inside_the_frame(videos):
    moved = 0
    for video in videos:
        sway = crowd_of(video).sway
        assert np.abs(sway).max() <= 2 and np.abs(np.diff(sway, axis=0)).sum(axis=1).max() <= 1
        for flash in flashes_of(video):
            steps = in_steps(flash)
            assert steps.min() >= 0 and steps.max() <= STEPS - DISC
            assert (steps - steps[0] == sway[flash.first : flash.last + 1] - sway[flash.first]).all()
            moved += bool((steps != steps[0]).any())
    assert moved > 100


def test_places_of_flashes_cover_the_frame(videos):
    corners = np.array([flash.path[0] for video in videos for flash in flashes_of(video)])
    middles = (corners + DISC / STEPS / 2) * 4
    counts = np.histogram2d(middles[:, 0], middles[:, 1], bins=4, range=[[0, 4], [0, 4]])[0]
    assert counts.min() > 0.5 * counts.mean(), counts


def test_twin_shows_the_crowd_in_opposite_order(videos):
    for one, other in zip(videos[::2], videos[1::2], strict=True):
        mirrored = crowd_of(one).reversed(64)
        assert mirrored.to_dict() == crowd_of(other).to_dict() != crowd_of(one).to_dict()
        assert one.annotations()["crowd"]["first"] == crowd_of(one).first.tolist()


def test_conspicuous_things_are_frequent_and_no_frame_of_a_flash_is_black(videos):
    kinds = Counter(event.kind for video in videos for event in video.events)
    assert set(EVERY) <= set(kinds)
    assert sum(kinds[kind] for kind in EVERY) > 2 * kinds["flash"] + kinds["mover"]
    for video in videos:
        black = {event.first for event in video.events if event.kind == "black"}
        assert not black & {box[0] for flash in flashes_of(video) for box in flash.boxes}
        assert not black & {scene.view[0] for scene in video.scenes}


def test_later_settings_are_not_in_the_record_of_earlier_presets():
    first = {"flashes", "clutter", "flares", "decoys", "jitter", "pan", "motion", "pulses", "fades", "returns", "quiet"}
    for name, preset in PRESETS.items():
        record = preset.to_dict()
        assert preset_name(record) == name and first <= set(record)
        assert (set(record) == first) == (name != "crowded")
        assert Difficulty(**record | {"flashes": tuple(record["flashes"])}) == preset


# ---- pixels ---------------------------------------------------------------------------------------------------------


def disc_pixels(video: Video, frame: int, corner: np.ndarray) -> np.ndarray:
    """(20, 20, 3) pixels at a corner in steps."""
    y, x = corner * 4
    return video.frames[frame, y : y + 20, x : x + 20].astype(int)


def test_discs_and_flashes_are_painted_as_annotated():
    inked, ring = glyph("square", 12), glyph("circle", 20)
    ring = ring & ~np.pad(inked, 4)
    seen = 0
    for index in range(4):
        video = generate(index, difficulty=CALM)
        crowd = crowd_of(video)
        (mover,) = (event for event in video.events if event.kind == "mover")
        for frame in set(range(0, 64, 5)) - set(range(mover.first, mover.last + 1)):
            for number in np.flatnonzero((crowd.first < frame - 2) & (frame + 2 < crowd.last)):
                corner = crowd.corner[number] + crowd.sway[frame]
                if corner.min() < 0 or corner.max() > STEPS - DISC or crowd.shape[number] < 0:
                    continue
                pixels = disc_pixels(video, frame, corner)
                assert np.abs(pixels[ring] - CROWD_HALOS[crowd.halo[number]]).max() <= NOISE
                ink = np.pad(glyph(SHAPES[crowd.shape[number]], 12), 4)
                assert np.abs(pixels[ink] - tuple(COLORS.values())[crowd.color[number]]).max() <= NOISE
                seen += 1
        for flash in flashes_of(video):
            middle = (flash.last - flash.first) // 2
            pixels = disc_pixels(video, flash.first + middle, in_steps(flash)[middle])
            if flash.last - flash.first + 1 != SLOW[0]:  # such a flash never reaches its full contrast
                assert np.abs(pixels[ring] - HALO["flash"]).max() <= NOISE, flash
                ink = np.pad(glyph(flash.shape, 12), 4)
                assert np.abs(pixels[ink] - COLORS[flash.color]).max() <= NOISE, flash
                seen += 1
    assert seen > 100


def test_slow_flashes_appear_and_disappear_gradually():
    seen = 0
    for index in range(8):
        video = generate(index, difficulty=replace(CALM, slow=1.0, sway=0.0))
        for flash in flashes_of(video):
            if flash.last - flash.first + 1 >= SLOW[0] + 2:
                corner = in_steps(flash)[0]
                for way in (range(flash.first, flash.first + 3), range(flash.last, flash.last - 3, -1)):
                    light = [disc_pixels(video, frame, corner).min(axis=-1).max() for frame in way]
                    assert light[0] < light[1] - 12 and light[1] < light[2] - 12, (flash, light)
                seen += 1
    assert seen > 10


def test_nothing_conspicuous_hides_a_flash_or_the_mover():
    plain, full = (replace(CROWDED, conspicuous=rate, pulses=0.0) for rate in (0.0, 4.0))
    for index in range(4):
        one, other = (generate(index, difficulty=difficulty) for difficulty in (plain, full))
        assert one.crowd is not None and other.crowd is not None
        assert (one.frames != other.frames).mean() > 0.1
        disc = glyph("circle", 20)
        for event in one.events:
            if event.kind in ("flash", "mover"):
                for frame, corner in zip(range(event.first, event.last + 1), in_steps(event), strict=False):
                    pair = [disc_pixels(video, frame, corner)[disc] for video in (one, other)]
                    assert (pair[0] == pair[1]).all(), (index, event.kind, frame)


def test_a_crowded_video_changes_between_all_frames():
    """Sway, crowd and camera leave no two frames alike beyond sensor noise."""
    video = generate(0, difficulty="crowded")
    changes = [np.abs(a.astype(int) - b).max() for a, b in pairwise(video.frames)]
    assert min(changes) > NOISE
