"""The synthetic task as a whole: deterministic, in twins, split without overlap, in two styles, and made quickly.

test_timeline.py has when things happen, test_scenes.py backgrounds, test_questions.py questions, and test_leaks.py what
the task gives away.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest

from framefold.data.evidence import evidence_mask
from framefold.data.splits import SPLITS
from framefold.data.synthetic import generate as synthetic
from framefold.data.synthetic.difficulty import PRESETS, Difficulty
from framefold.data.synthetic.generate import MIN_FRAMES, Video, generate
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.render import COLORS, SHAPES, STYLES, TEXTURES, glyph, texture
from framefold.errors import DataError
from tests.support.paths import ROOT

NOISE = 15 + 8  # most that sensor noise and brightness differ between two frames
GOLDEN = [
    ({"index": 0}, "037f64cae3b6e065"),
    ({"index": 0, "difficulty": "hard"}, "e7a5ee20847010c3"),
    ({"index": 7, "seed": 3, "split": "test", "frames": 16, "difficulty": "hard", "size": 32}, "f534061ed75569b1"),
    (
        {"index": 4, "split": "val", "style": "held_out", "frames": 256, "difficulty": "hard", "size": 48},
        "0cd519ad79fb70c7",
    ),
]


def digest(video: Video) -> str:
    text = json.dumps(video.annotations(), sort_keys=True).encode()
    return hashlib.sha256(video.frames.tobytes() + text).hexdigest()[:16]


@pytest.mark.parametrize(("settings", "expected"), GOLDEN)
def test_a_key_gives_the_same_bytes_on_every_machine(settings, expected):
    assert digest(generate(**settings)) == expected


def test_no_byte_depends_on_the_process():
    code = (
        "import tests.data.synthetic.test_generate as t; print(*(t.digest(t.generate(**s)) for s, _ in t.GOLDEN[1:3]))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected for _, expected in GOLDEN[1:3]]


@pytest.mark.parametrize(
    "change",
    [
        {"index": 1},
        {"index": 2},
        {"seed": 1},
        {"split": "val"},
        {"frames": 17},
        {"difficulty": "hard"},
        {"difficulty": Difficulty(clutter=0.6)},
        {"style": "held_out"},
        {"size": 48},
    ],
)
def test_every_setting_changes_the_video(change):
    base = {"index": 0, "frames": 16}
    assert digest(generate(**base)) != digest(generate(**{**base, **change}))


def test_a_preset_is_its_settings():
    for name, settings in PRESETS.items():
        assert digest(generate(3, frames=16, difficulty=name)) == digest(generate(3, frames=16, difficulty=settings))
    assert PRESETS["easy"] == Difficulty() and set(PRESETS) == {"easy", "hard"}


def test_shapes_and_types_of_what_flows():
    video = generate(5, frames=48, difficulty="hard")
    assert video.frames.shape == (48, 64, 64, 3) and video.frames.dtype == np.uint8
    assert video.times.shape == (48,) and video.times.dtype == np.float32 and (np.diff(video.times) > 0).all()
    assert video.key == (0, "train", 5)
    notes = video.annotations()
    assert set(notes) == {"schema", "key", "times", "questions", "events", "scenes"}
    read = json.loads(json.dumps(notes))
    assert [len(read[name]) for name in ("questions", "events", "scenes")] == [
        len(some) for some in (video.questions, video.events, video.scenes)
    ]


# ---- twins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_twins_are_the_same_frames_in_opposite_order_but_for_the_noise(difficulty):
    for even in range(0, 20, 2):
        settings = {"frames": 33 + even, "difficulty": difficulty, "size": 32}
        one, other = generate(even, **settings), generate(even + 1, **settings)
        apart = np.abs(one.frames.astype(int) - other.frames[::-1])
        assert 0 < apart.max() <= NOISE and apart.mean() > 2  # each has noise of its own
        stranger = generate(even + 2, **settings)
        assert np.abs(other.frames.astype(int) - stranger.frames[::-1]).mean() > 10


def test_annotations_of_twins_mirror_each_other():
    turned = {"left": "right", "right": "left", "up": "down", "down": "up", "": ""}
    for even in range(0, 60, 2):
        one, other = (generate(even + i, difficulty="hard", size=32) for i in range(2))
        mirrored = [
            replace(e, first=63 - e.last, last=63 - e.first, path=e.path[::-1], direction=turned[e.direction])
            for e in one.events
        ]
        key = repr
        assert sorted(map(key, mirrored)) == sorted(map(key, other.events))
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
    real, seen = synthetic.build_backdrops, []

    def spy(*args):
        made = real(*args)
        seen.extend(made[0])
        return made

    monkeypatch.setattr(synthetic, "build_backdrops", spy)
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


def test_held_out_style_is_other_pixels_of_the_same_annotations():
    for index in range(6):
        one, other = (generate(index, difficulty="hard", style=style, frames=32) for style in STYLES)
        assert one.annotations() == other.annotations()
        assert (np.abs(one.frames.astype(int) - other.frames).max(axis=(1, 2, 3)) > NOISE).all()


@pytest.mark.parametrize("style", STYLES)
def test_each_style_draws_its_own_glyphs_and_no_more(style):
    for index in range(12):
        video = generate(index, difficulty=Difficulty(clutter=0.0), style=style)
        for event in (event for event in video.events if event.kind in ("flash", "mover")):
            frame, y, x, *_ = event.boxes[-1]
            box = video.frames[frame, round(y * 64) + 4 :, round(x * 64) + 4 :][:12, :12].astype(int)
            colored = np.abs(box - COLORS[event.color]).max(axis=-1) <= NOISE
            assert (colored == glyph(event.shape, 12, style)).all()


@pytest.mark.parametrize(("draw", "names"), [(glyph, SHAPES), (lambda n, s, t: texture(n, 64, s, t), TEXTURES)])
@pytest.mark.parametrize("size", [9, 12])
def test_every_glyph_and_texture_looks_like_no_other_in_either_style(draw, names, size):
    masks = {(name, style): draw(name, size, style) for name in names for style in STYLES}
    assert len({mask.tobytes() for mask in masks.values()}) == 2 * len(names)
    assert {mask.dtype for mask in masks.values()} == {np.dtype(bool)}


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frames": MIN_FRAMES - 1}, f"frames must be between {MIN_FRAMES}"),
        ({"frames": 1025}, "frames.*1024"),
        ({"split": "dev"}, "split.*train, val, test"),
        ({"style": "odd"}, "style.*normal, held_out"),
        ({"index": -1}, "index.*negative"),
        ({"seed": -1}, "seed.*negative"),
        ({"size": 50}, "size.*multiple of 16"),
        ({"size": 16}, "size.*at least 32"),
        ({"difficulty": "brutal"}, "difficulty must be easy or hard.*'brutal'"),
    ],
)
def test_impossible_settings_are_refused_with_the_limit(settings, reason):
    with pytest.raises(DataError, match=reason):
        generate(**{"index": 0, **settings})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frames": (15, 20)}, "frames"),
        ({"frames": (20, 16)}, "frames"),
        ({"split": "dev"}, "split"),
        ({"seed": -1}, "seed"),
        ({"difficulty": "brutal"}, "difficulty"),
        ({"style": "odd"}, "style"),
    ],
)
def test_an_impossible_recipe_is_refused_when_it_is_made(settings, reason):
    with pytest.raises(DataError, match=reason):
        Recipe(**settings)


LARGEST = {"clutter": 4, "flares": 2, "decoys": 2, "jitter": 2, "pan": 16, "motion": 1, "pulses": 0.2, "fades": 1}
LARGEST |= {"returns": 1, "quiet": 0.5}
OUT_OF_RANGE = [(name, value) for name, most in LARGEST.items() for value in (-0.1, most + 0.1, float("nan"))]
OUT_OF_RANGE += [("flashes", value) for value in ((2, 6), (6, 3), (3, 17))]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
def test_a_difficulty_out_of_range_is_refused_with_the_name_of_the_field(field, value):
    with pytest.raises(DataError, match=f"^{field} must be"):
        Difficulty(**{field: value})
    assert {name for name, _ in OUT_OF_RANGE} == set(asdict(Difficulty()))


@pytest.mark.parametrize("frames", [16, 17, 1024])
def test_extreme_settings_make_a_whole_video(frames):
    most = Difficulty((16, 16), **LARGEST)
    for difficulty in (most, replace(most, flashes=(4, 4), quiet=0.0), Difficulty((4, 4), clutter=0)):
        video = generate(1, frames=frames, difficulty=difficulty, size=32)
        assert len(video.frames) == frames and len(video.questions) > 8


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_a_hard_video_of_64_frames_takes_no_more_than_15_ms_of_a_core():
    def cost(first: int) -> float:
        began = time.process_time()
        for index in range(first, first + 8):
            generate(index, difficulty="hard")
        return (time.process_time() - began) / 8

    assert min(cost(8 * i) for i in range(6)) < 0.015  # 6 ms where the goal of 10 ms was set


def test_evidence_mask_marks_the_covered_tokens_of_any_grid():
    mask = evidence_mask([(1, 0.0, 0.0, 0.5, 0.5)], (3, 4, 4))
    assert mask[1, :2, :2].all() and mask.sum() == 4
    assert evidence_mask([(0, 0.4, 0.4, 0.45, 0.45)], (1, 2, 2)).sum() == 1  # too small to cover a quarter
    assert evidence_mask([], (2, 3, 3)).sum() == 0
    assert evidence_mask([(0, 0.0, 0.0, 1.0, 1.0)], (1, 7, 5)).all()
    with pytest.raises(DataError, match="frame 3"):
        evidence_mask([(3, 0.0, 0.0, 1.0, 1.0)], (3, 4, 4))


def test_data_needs_no_torch():
    code = "import sys; import framefold.data.synthetic.generate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
