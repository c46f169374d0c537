"""Times and positions of flashes, the mover and irrelevant glyphs, and the quiet period between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from framefold.data.evidence import evidence_mask
from framefold.data.synthetic.difficulty import PRESETS, Difficulty
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.render import COLORS, glyph
from framefold.data.synthetic.timeline import DISC, GLYPH, LATTICE, Event
from tests.support.annotated_videos import without_pixels

HARD = PRESETS["hard"]


@pytest.fixture(scope="module")
def hard() -> list[Video]:
    """Annotations of long hard videos."""
    with without_pixels():
        return [generate(i, difficulty="hard", size=32) for i in range(200)]


@pytest.fixture(scope="module")
def short() -> list[Video]:
    """Annotations of short easy and hard videos."""
    with without_pixels():
        return [generate(i, difficulty=("easy", "hard")[i // 2 % 2], frames=16 + i % 9, size=32) for i in range(200)]


def of_kind(video: Video, *kinds: str) -> list[Event]:
    return [event for event in video.events if event.kind in kinds]


def the_mover(video: Video) -> Event:
    (mover,) = of_kind(video, "mover")
    return mover


# ---- flashes --------------------------------------------------------------------------------------------------------


def test_number_and_duration_of_flashes_follow_the_difficulty(hard):
    assert {len(of_kind(video, "flash")) for video in hard} == set(range(8, 17))
    easy = [generate(i, size=32) for i in range(40)]
    assert {len(of_kind(video, "flash")) for video in easy} == set(range(4, 7))
    assert {e.last - e.first + 1 for video in hard for e in of_kind(video, "flash")} == {1, 2}


def test_flashes_are_separated_in_time(hard, short):
    for video in hard + short:
        assert all(a.last + 1 < b.first for a, b in pairwise(of_kind(video, "flash")))


def test_three_shapes_flash_once_and_two_of_them_enclose_a_single_flash(hard, short):
    for video in hard + short:
        shapes = [event.shape for event in of_kind(video, "flash")]
        times = Counter(shapes)
        assert sum(number == 1 for number in times.values()) >= 3
        assert any(times[a] == times[b] == 1 for a, b in zip(shapes, shapes[2:], strict=False))
    shapes = [Counter(event.shape for event in of_kind(video, "flash")) for video in hard]
    assert np.mean([max(times.values()) for times in shapes]) > 3  # the others repeat


def test_counted_colour_appears_one_to_four_times_equally_often():
    for difficulty in ("easy", "hard"):
        numbers = Counter()
        with without_pixels():
            for index in range(0, 1000, 2):
                video = generate(index, frames=24, difficulty=difficulty, size=32)
                numbers[sum(event.color == video.counted for event in of_kind(video, "flash"))] += 1
        assert set(numbers) == {1, 2, 3, 4}, difficulty
        assert 95 < min(numbers.values()) <= max(numbers.values()) < 155, (difficulty, numbers)


def test_flash_is_visible_in_its_box_and_only_then():
    for index in range(12):
        video = generate(index, difficulty=replace(HARD, clutter=0.0, flares=0.0, decoys=0.0, pulses=0.0))
        flashes = of_kind(video, "flash")
        for flash in flashes:
            frame, y0, x0, y1, x1 = flash.boxes[0]
            box = np.s_[round(y0 * 64) : round(y1 * 64), round(x0 * 64) : round(x1 * 64)]
            inner = video.frames[frame][box][4:16, 4:16][glyph(flash.shape, 12)].astype(int)
            assert abs(inner.mean(axis=0) - COLORS[flash.color]).max() < 16
            white = (video.frames[:, *box].min(axis=-1) > 205).sum(axis=(1, 2))
            shown = np.zeros(len(video.frames), bool)
            shown[[b[0] for other in flashes if overlap(other, flash) for b in other.boxes]] = True
            assert (white[flash.first : flash.last + 1] > 60).all() and (white[~shown] < 30).all()


def overlap(a: Event, b: Event) -> bool:
    return all(abs(p - q) < a.extent for p, q in zip(a.path[0], b.path[0], strict=True))


def test_discs_and_moving_glyphs_are_on_the_lattice_inside_the_frame(hard, short):
    sizes = {"flash": DISC, "flare": DISC, "decoy": DISC, "mover": DISC, "blink": GLYPH}
    for video in hard[:40] + short[:40]:
        for event in of_kind(video, *sizes):
            assert event.extent == sizes[event.kind] / LATTICE
            for corner in event.path:
                assert all(c >= 0 and c + event.extent <= 1 and c * LATTICE == int(c * LATTICE) for c in corner)


def test_flashes_cover_the_frame_and_the_video(hard):
    flashes = [event for video in hard for event in of_kind(video, "flash")]
    assert {flash.first for flash in flashes} >= set(range(63))
    for axis in range(2):
        assert {round(flash.path[0][axis] * LATTICE) for flash in flashes} == set(range(LATTICE - DISC + 1))


# ---- the mover ------------------------------------------------------------------------------------------------------


def test_flashes_do_not_touch_the_mover(hard, short):
    met = 0
    for video in hard + short:
        mover = the_mover(video)
        for flash in of_kind(video, "flash"):
            for frame in range(max(flash.first, mover.first), min(flash.last, mover.last) + 1):
                (_, y, x, *_), (_, v, u, *_) = flash.box(frame), mover.box(frame)
                assert abs(y - v) >= mover.extent or abs(x - u) >= mover.extent
                met += 1
    assert met > 100


def test_mover_crosses_the_frame_in_a_straight_line_and_is_visible():
    for index in range(20):
        video = generate(index, difficulty=replace(HARD, clutter=0.0, flares=0.0, decoys=0.0, pulses=0.0))
        mover = the_mover(video)
        assert 6 <= len(mover.path) == mover.last - mover.first + 1 <= 8
        steps = np.diff(np.array(mover.path), axis=0) * LATTICE
        along = steps[:, {"left": 1, "right": 1, "up": 0, "down": 0}[mover.direction]]
        sign = {"left": -1, "up": -1, "right": 1, "down": 1}[mover.direction]
        assert (along * sign >= 1).all() and abs(along.sum()) >= 7 and np.abs(steps).sum() == np.abs(along).sum()
        for frame, y, x, *_ in mover.boxes:
            corner = round(y * 64), round(x * 64)
            disc = video.frames[frame, corner[0] : corner[0] + 20, corner[1] : corner[1] + 20][glyph("circle", 20)]
            assert (disc.max(axis=-1) < 60).mean() > 0.3  # dark around the glyph
            inner = video.frames[frame, corner[0] + 4 : corner[0] + 16, corner[1] + 4 : corner[1] + 16]
            seen = inner[glyph(mover.shape, 12)].astype(int)
            assert abs(seen.mean(axis=0) - COLORS[mover.color]).max() < 16


def test_flashes_and_mover_are_more_than_five_percent_of_hard_tokens(hard):
    shares = []
    for video in hard:
        boxes = [box for event in of_kind(video, "flash", "mover") for box in event.boxes]
        shares.append(evidence_mask(boxes, (64, 4, 4)).mean())
    assert 0.05 < np.mean(shares) < 0.25


# ---- quiet period and distractors -----------------------------------------------------------------------------------


def longest_quiet(video: Video) -> tuple[int, int]:
    """First frame and length of the longest period without events, static glyphs excepted."""
    events = [event for event in video.events if event.kind != "static"]
    busy = sorted({box[0] for event in events for box in event.boxes})
    edges = [-1, *busy, len(video.frames)]
    length, first = max((b - a - 1, a + 1) for a, b in pairwise(edges))
    return first, length


def test_quiet_period_has_the_configured_length_and_any_position():
    for share, frames in product([0.25, 0.5], [64, 101]):
        positions = []
        with without_pixels():
            for index in range(0, 60, 2):
                video = generate(index, frames=frames, difficulty=replace(HARD, quiet=share, clutter=1.0), size=32)
                first, length = longest_quiet(video)
                assert int(frames * share) <= length < int(frames * share) + 4  # clutter is in every other frame
                positions.append(first / frames)
        assert min(positions) < 0.2 and max(positions) > 0.8 * (1 - share), (share, frames)


def test_quiet_period_is_optional():
    with without_pixels():
        for index in range(0, 40, 2):
            assert longest_quiet(generate(index, difficulty=replace(HARD, quiet=0.0, clutter=1.0), size=32))[1] == 0


def test_irrelevant_glyphs_appear_at_their_rate_for_one_frame():
    settings = [("blink", "clutter"), ("flare", "flares"), ("decoy", "decoys")]
    for (kind, setting), rate in product(settings, [0.0, 0.25, 1.5]):
        with without_pixels():
            videos = [generate(2 * i, difficulty=Difficulty(**{setting: rate}), size=32) for i in range(40)]
        events = [event for video in videos for event in of_kind(video, kind)]
        assert abs(len(events) / (40 * 64) - rate) <= 0.04 * (rate > 0), (kind, rate)
        assert all(event.first == event.last for event in events)
        if events:
            assert {event.shape == "" for event in events} == {kind == "flare"}
            assert {event.first for event in events} == set(range(64)), (kind, rate)


def test_flares_and_decoys_differ_from_flashes_in_one_respect():
    """A flare has no glyph, a decoy has another disc."""
    for kind, setting in (("flare", "flares"), ("decoy", "decoys")):
        seen = 0
        for index in range(4):
            video = generate(index, difficulty=Difficulty(**{"clutter": 0.0, setting: 1.0}))
            for event in of_kind(video, kind):
                if sum(e.first <= event.first <= e.last for e in video.events if e.kind != "static") > 1:
                    continue
                frame, y, x, *_ = event.box(event.first)
                disc = video.frames[frame, round(y * 64) : round(y * 64) + 20, round(x * 64) : round(x * 64) + 20]
                outside = glyph("circle", 20).copy()
                if kind == "decoy":
                    outside[4:16, 4:16] &= ~glyph(event.shape, 12)
                    inner = disc[4:16, 4:16][glyph(event.shape, 12)]
                    assert abs(inner.mean(axis=0) - COLORS[event.color]).max() < 16
                assert (disc[outside].min() > 205) == (kind == "flare")
                assert np.ptp(disc[outside].astype(int), axis=0).max() <= 15
                seen += 1
        assert seen > 60, kind


def test_hard_videos_have_many_more_decoys_than_flashes(hard):
    decoys, flashes = (sum(len(e.boxes) for v in hard for e in of_kind(v, kind)) for kind in ("decoy", "flash"))
    assert decoys > 3 * flashes
