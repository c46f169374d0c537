"""The synthetic task as a whole: deterministic, in twins, split without overlap, in two styles, and generated quickly.

The other files of this folder test the timeline, scenes, questions, and what the task reveals without the video.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest

from framefold.data.splits import SPLITS
from framefold.data.synthetic import generate as module
from framefold.data.synthetic.difficulty import PRESETS, Difficulty
from framefold.data.synthetic.generate import MIN_FRAMES, Video, generate
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.render import COLORS, GLYPH_STYLES, SHAPES, TEXTURES, glyph, texture
from framefold.errors import DataError
from tests.support.paths import ROOT

NOISE = 15 + 8  # largest difference between two frames due to sensor noise and brightness
GOLDEN = [
    ({"index": 0}, "037f64cae3b6e065"),
    ({"index": 0, "difficulty": "hard"}, "e7a5ee20847010c3"),
    ({"index": 7, "seed": 3, "split": "test", "frames": 16, "difficulty": "hard", "size": 32}, "f534061ed75569b1"),
    (
        {"index": 4, "split": "val", "style": "held_out", "frames": 256, "difficulty": "hard", "size": 48},
        "0cd519ad79fb70c7",
    ),
    ({"index": 0, "difficulty": "crowded"}, "48341464af8339b7"),
    (
        {"index": 5, "split": "val", "style": "held_out", "frames": 20, "difficulty": "crowded", "size": 64},
        "55dc3adc8f63000d",
    ),
]


def digest(video: Video) -> str:
    text = json.dumps(video.annotations(), sort_keys=True).encode()
    return hashlib.sha256(video.frames.tobytes() + text).hexdigest()[:16]


def test_key_gives_the_same_bytes_on_every_machine():
    for settings, expected in GOLDEN:
        assert digest(generate(**settings)) == expected, settings


def test_bytes_do_not_depend_on_the_process():
    code = (
        "import hashlib, json, sys\nfrom framefold.data.synthetic.generate import generate\n"
        f"for settings in {[settings for settings, _ in GOLDEN[1:3]]!r}:\n"
        "    video = generate(**settings)\n"
        "    text = json.dumps(video.annotations(), sort_keys=True).encode()\n"
        "    print(hashlib.sha256(video.frames.tobytes() + text).hexdigest()[:16])\n"
    )
    env = {"PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected for _, expected in GOLDEN[1:3]]


def test_every_setting_changes_the_video():
    base = {"index": 0, "frames": 16}
    for change in (
        {"index": 1},
        {"index": 2},
        {"seed": 1},
        {"split": "val"},
        {"frames": 17},
        {"difficulty": "hard"},
        {"difficulty": Difficulty(clutter=0.6)},
        {"style": "held_out"},
        {"size": 48},
    ):
        assert digest(generate(**base)) != digest(generate(**{**base, **change})), change


def test_presets_equal_their_settings():
    for name, settings in PRESETS.items():
        assert digest(generate(3, frames=16, difficulty=name)) == digest(generate(3, frames=16, difficulty=settings))
    assert PRESETS["easy"] == Difficulty() and set(PRESETS) == {"easy", "hard", "crowded"}


def test_shapes_and_types():
    video = generate(5, frames=48, difficulty="hard")
    assert video.frames.shape == (48, 64, 64, 3) and video.frames.dtype == np.uint8
    assert video.times.shape == (48,) and video.times.dtype == np.float32 and (np.diff(video.times) > 0).all()
    assert video.key == (0, "train", 5)
    metadata = video.annotations()
    assert set(metadata) == {"schema", "key", "times", "questions", "events", "scenes"}
    read = json.loads(json.dumps(metadata))
    assert [len(read[name]) for name in ("questions", "events", "scenes")] == [
        len(some) for some in (video.questions, video.events, video.scenes)
    ]


# ---- twins ----------------------------------------------------------------------------------------------------------


def test_twins_are_the_same_frames_in_opposite_order_except_for_noise():
    for difficulty, even in product(["easy", "hard"], range(0, 20, 2)):
        settings = {"frames": 33 + even, "difficulty": difficulty, "size": 32}
        one, other, stranger = (generate(even + i, **settings) for i in range(3))
        difference = np.abs(one.frames.astype(int) - other.frames[::-1])
        assert 0 < difference.max() <= NOISE and difference.mean() > 2, (difficulty, even)  # each has its own noise
        assert np.abs(other.frames.astype(int) - stranger.frames[::-1]).mean() > 10


def test_annotations_of_twins_mirror_each_other():
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up", "": ""}
    for even in range(0, 60, 2):
        one, other = (generate(even + i, difficulty="hard", size=32) for i in range(2))
        mirrored = [
            replace(e, first=63 - e.last, last=63 - e.first, path=e.path[::-1], direction=opposite[e.direction])
            for e in one.events
        ]
        assert sorted(map(repr, mirrored)) == sorted(map(repr, other.events))
        assert [(63 - s.last, 63 - s.first, s.texture) for s in one.scenes[::-1]] == [
            (s.first, s.last, s.texture) for s in other.scenes
        ]
        assert [63 - s.view[0] for s in one.scenes[::-1]] == [s.view[0] for s in other.scenes]
        assert [s.fade for s in one.scenes[:0:-1]] == [s.fade for s in other.scenes[1:]]
        for video in (one, other):
            firsts = [event.first for event in video.events if event.kind == "flash"]
            assert firsts == sorted(firsts)


# ---- splits ---------------------------------------------------------------------------------------------------------


def test_no_two_splits_share_a_background_colour_or_a_timetable(monkeypatch):
    real, seen = module.build_backdrops, []

    def spy(*args):
        backdrops, statics = real(*args)
        seen.extend(backdrops)
        return backdrops, statics

    monkeypatch.setattr(module, "build_backdrops", spy)
    timetables = {}
    for split, number in SPLITS.items():
        seen.clear()
        for index, seed in product(range(0, 60, 2), (0, 1)):
            video = generate(index, split=split, seed=seed, frames=20, size=32)
            timetable = tuple((event.first, event.last, event.path) for event in video.events)
            assert timetables.setdefault(timetable, split) == split
        colors = [np.unique(backdrop.bare.reshape(-1, 3), axis=0) for backdrop in seen]
        assert {len(some) for some in colors} == {1, 2}
        assert all((some.min(axis=0) % 3 == number).all() for some in colors if len(some) == 2)
        assert any((some[0] % 3 == number).all() for some in colors if len(some) == 1)
    assert len(set(SPLITS.values())) == 3 and len(timetables) == 3 * 60


# ---- styles ---------------------------------------------------------------------------------------------------------


def test_held_out_style_has_other_pixels_and_the_same_annotations():
    for index in range(6):
        one, other = (generate(index, difficulty="hard", style=style, frames=32) for style in GLYPH_STYLES)
        assert one.annotations() == other.annotations()
        assert (np.abs(one.frames.astype(int) - other.frames).max(axis=(1, 2, 3)) > NOISE).all()


def test_each_style_renders_only_its_own_glyphs():
    for style, index in product(GLYPH_STYLES, range(12)):
        video = generate(index, difficulty=Difficulty(clutter=0.0), style=style)
        for event in (event for event in video.events if event.kind in ("flash", "mover")):
            frame, y, x, *_ = event.boxes[-1]
            box = video.frames[frame, round(y * 64) + 4 :, round(x * 64) + 4 :][:12, :12].astype(int)
            colored = np.abs(box - COLORS[event.color]).max(axis=-1) <= NOISE
            assert (colored == glyph(event.shape, 12, style)).all(), (style, index, event)


def test_all_glyphs_and_textures_of_both_styles_are_distinct():
    kinds = [(glyph, SHAPES), (lambda name, period, style: texture(name, 64, period, style), TEXTURES)]
    for (mask_of, names), size in product(kinds, [9, 12]):
        masks = [mask_of(name, size, style) for name in names for style in GLYPH_STYLES]
        assert len({mask.tobytes() for mask in masks}) == 2 * len(names), (names, size)
        assert {mask.dtype for mask in masks} == {np.dtype(bool)}


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_impossible_settings_are_refused_with_the_limit():
    for settings, reason in (
        ({"frames": MIN_FRAMES - 1}, f"frames must be between {MIN_FRAMES}"),
        ({"frames": 1025}, "frames.*1024"),
        ({"split": "dev"}, "split.*train, val, test"),
        ({"style": "odd"}, "style.*normal, held_out"),
        ({"index": -1}, "index.*negative"),
        ({"seed": -1}, "seed.*negative"),
        ({"size": 50}, "size.*multiple of 16"),
        ({"size": 16}, "size.*at least 32"),
        ({"difficulty": "brutal"}, "difficulty must be easy or hard or crowded.*'brutal'"),
    ):
        with pytest.raises(DataError, match=reason):
            generate(**{"index": 0, **settings})
            pytest.fail(f"{settings} is accepted")


def test_impossible_recipe_is_refused_at_construction():
    for settings, reason in (
        ({"frames": (15, 20)}, "frames"),
        ({"frames": (20, 16)}, "frames"),
        ({"split": "dev"}, "split"),
        ({"seed": -1}, "seed"),
        ({"difficulty": "brutal"}, "difficulty"),
        ({"style": "odd"}, "style"),
    ):
        with pytest.raises(DataError, match=reason):
            Recipe(**settings)
            pytest.fail(f"{settings} is accepted")


LARGEST = {"clutter": 4, "flares": 2, "decoys": 2, "jitter": 2, "pan": 16, "motion": 1, "pulses": 0.2, "fades": 1}
LARGEST |= {"returns": 1, "quiet": 0.5, "blotches": 40}
LARGEST |= {"crowd": 1, "churn": 1, "slow": 1, "faint": 0.6, "sway": 1, "conspicuous": 4}
OUT_OF_RANGE = [(name, value) for name, most in LARGEST.items() for value in (-0.1, most + 0.1, float("nan"))]
OUT_OF_RANGE += [("flashes", value) for value in ((2, 6), (6, 3), (3, 17))]
OUT_OF_RANGE += [("lattice", 24), ("size", 50), ("size", 16), ("size", 1024)]
OUT_OF_RANGE += [("churn", "x"), ("faint", None), ("size", 64.0), ("lattice", "16")]


def test_difficulty_out_of_range_is_refused_with_the_name_of_the_field():
    for field, value in OUT_OF_RANGE:
        with pytest.raises(DataError, match=f"^{field} must be"):
            Difficulty(**{field: value})
            pytest.fail(f"{field} = {value} is accepted")
    assert {name for name, _ in OUT_OF_RANGE} | {"repeats", "lists"} == set(asdict(Difficulty()))


def test_extreme_settings_give_a_complete_video():
    most = Difficulty((16, 16), **LARGEST)
    few = [replace(most, flashes=(4, 4), quiet=0.0), Difficulty((4, 4), clutter=0)]
    for frames, difficulty in product([16, 17, 1024], [most, *few]):
        video = generate(1, frames=frames, difficulty=difficulty, size=32)
        assert len(video.frames) == frames and len(video.questions) > 8, (frames, difficulty)


# ---- speed ----------------------------------------------------------------------------------------------------------


def test_hard_video_is_generated_quickly():
    """Processor time as a multiple of plain Python and numpy work, without allocations, on the same machine."""
    pixels = np.zeros((64, 64, 64, 3), np.uint8)

    def yardstick(index: int) -> None:
        sum(i % 7 for i in range(20_000))
        for _ in range(8):
            np.add(pixels, 1, out=pixels)

    def cost(function) -> float:
        costs = []
        for _ in range(6):
            start = time.process_time()
            for index in range(4):
                function(index)
            costs.append((time.process_time() - start) / 4)
        return min(costs)

    ratio = cost(lambda index: generate(index, difficulty="hard")) / cost(yardstick)
    assert ratio < 18, ratio  # about 7; a video of 64 frames then takes 5 ms
