"""The synthetic task: deterministic, balanced, and true to its annotations."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from framefold.data.errors import DataError
from framefold.data.render import COLORS, glyph
from framefold.data.synthetic import (
    CHANCE,
    LATTICE,
    MIN_FRAMES,
    QUESTION_TYPES,
    SPLITS,
    VOCABULARY,
    Video,
    evidence_mask,
    generate,
)


@pytest.fixture(scope="module")
def videos() -> list[Video]:
    return [generate(i, frames=(16, 24, 64)[i % 3], size=32) for i in range(300)]


def digest(video: Video) -> str:
    text = json.dumps(video.annotations(), sort_keys=True).encode()
    return hashlib.sha256(video.frames.tobytes() + text).hexdigest()[:16]


def test_a_key_gives_the_same_bytes_on_every_machine():
    got = [digest(generate(0)), digest(generate(7, seed=3, split="test", frames=16, clutter=2.0, size=32))]
    assert got == ["7cb45915a0d27cca", "899768fce9e9f694"]


def test_index_seed_split_and_settings_change_the_video():
    base = digest(generate(0, frames=16))
    others = [
        generate(1, frames=16),
        generate(0, frames=16, seed=1),
        generate(0, frames=16, split="val"),
        generate(0, frames=17),
    ]
    assert len({base, *map(digest, others)}) == 5
    assert len(set(SPLITS.values())) == 3


def test_shapes_and_types_of_what_flows():
    video = generate(5, frames=48)
    assert video.frames.shape == (48, 64, 64, 3) and video.frames.dtype == np.uint8
    assert video.times.shape == (48,) and video.times.dtype == np.float32 and (np.diff(video.times) > 0).all()
    assert video.key == (0, "train", 5)
    assert json.loads(json.dumps(video.annotations())) == json.loads(json.dumps(video.annotations()))
    assert set(video.annotations()) == {"schema", "key", "times", "questions", "events", "scenes"}


def test_every_word_is_in_the_closed_vocabulary_and_every_answer_among_its_choices(videos):
    for video in videos:
        for question in video.questions:
            assert set(question.text.split()) | {question.answer} <= set(VOCABULARY)
            assert question.answer in question.choices
            assert len(question.choices) == round(1 / CHANCE[question.type])
            assert question.evidence
    assert {q.type for video in videos for q in video.questions} == set(QUESTION_TYPES)


def test_answers_follow_from_what_happened(videos):
    numbers = ("one", "two", "three", "four")
    for video in videos:
        flashes = [e for e in video.events if e.kind == "flash"]
        answers = {q.type: q.answer for q in video.questions}
        assert all(a.last < b.first for a, b in zip(flashes, flashes[1:], strict=False))
        assert len({f.shape for f in flashes}) == len(flashes)
        assert answers["count_flash"] == numbers[len(flashes) - 1]
        assert answers["count_scene"] == numbers[len(video.scenes) - 1]
        if len(flashes) > 1:
            assert (answers["order_first"], answers["order_last"]) == (flashes[0].shape, flashes[-1].shape)
        for question in video.questions:
            at = next((f for f in flashes if question.type in ("needle", "bg_at") and f.shape in question.text), None)
            if question.type == "needle":
                assert at is not None and question.answer == at.color
            if question.type == "bg_at":
                assert at is not None
                scene = next(s for s in video.scenes if s.first <= at.first and at.last <= s.last)
                assert question.answer == scene.texture
            if question.type == "order_pair":
                named = [f for f in flashes if f.shape in question.choices]
                assert len(named) == 2 and question.answer == named[0].shape
        mover = next(e for e in video.events if e.kind == "mover")
        (y0, x0), (y1, x1) = mover.path[0], mover.path[-1]
        moved = {"left": x1 < x0, "right": x1 > x0, "up": y1 < y0, "down": y1 > y0}
        assert [way for way, true in moved.items() if true] == [answers["direction"]]


def test_scenes_cover_the_video_without_gaps_and_differ(videos):
    for video in videos:
        assert video.scenes[0].first == 0 and video.scenes[-1].last == len(video.frames) - 1
        assert all(a.last + 1 == b.first for a, b in zip(video.scenes, video.scenes[1:], strict=False))
        assert len({scene.texture for scene in video.scenes}) == len(video.scenes)


def test_flash_is_seen_where_its_box_says_and_nowhere_near_before():
    for index in range(20):
        video = generate(index, clutter=0.0)
        for flash in (e for e in video.events if e.kind == "flash"):
            frame, y0, x0, y1, x1 = flash.boxes[0]
            box = np.s_[round(y0 * 64) : round(y1 * 64), round(x0 * 64) : round(x1 * 64)]
            inner = video.frames[frame][box][4:16, 4:16][glyph(flash.shape, 12)].astype(int)
            assert abs(inner.mean(axis=0) - COLORS[flash.color]).max() < 16
            white = (video.frames[:, *box].min(axis=-1) > 205).sum(axis=(1, 2))
            shown = np.zeros(len(video.frames), bool)
            shown[[b[0] for f in video.events if f.kind == "flash" and overlap(f, flash) for b in f.boxes]] = True
            assert (white[flash.first : flash.last + 1] > 60).all() and (white[~shown] < 30).all()


def overlap(a, b) -> bool:
    return all(abs(p - q) < a.extent for p, q in zip(a.path[0], b.path[0], strict=True))


def test_every_glyph_stands_on_the_lattice_inside_the_frame(videos):
    for video in videos[:50]:
        for event in video.events:
            for corner in event.path:
                assert all(c >= 0 and c + event.extent <= 1 and c * LATTICE == int(c * LATTICE) for c in corner)


def test_flashes_stay_clear_of_the_mover():
    for index in range(100):
        video = generate(index, frames=16)
        mover = next(e for e in video.events if e.kind == "mover")
        for flash in (e for e in video.events if e.kind == "flash"):
            for frame in range(max(flash.first, mover.first), min(flash.last, mover.last) + 1):
                (_, y, x, *_), (_, v, u, *_) = flash.box(frame), mover.box(frame)
                assert abs(y - v) >= mover.extent or abs(x - u) >= mover.extent


def test_a_blind_model_stays_at_chance():
    """Answers guessed from the question's text, with priors fitted on the train split, are no better than chance."""
    priors: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(1500):
        for question in generate(index, frames=16, size=32, clutter=0).questions:
            priors[question.text][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for index in range(700):
        for question in generate(index, frames=16, size=32, clutter=0, split="test").questions:
            known = priors[question.text]
            right[question.type].append(bool(known) and known.most_common(1)[0][0] == question.answer)
    for kind, hits in right.items():
        error = (CHANCE[kind] * (1 - CHANCE[kind]) / len(hits)) ** 0.5
        assert abs(np.mean(hits) - CHANCE[kind]) < 3.5 * error, kind


def test_evidence_mask_marks_the_covered_tokens_of_any_grid():
    mask = evidence_mask([(1, 0.0, 0.0, 0.5, 0.5)], (3, 4, 4))
    assert mask[1, :2, :2].all() and mask.sum() == 4
    assert evidence_mask([(0, 0.4, 0.4, 0.45, 0.45)], (1, 2, 2)).sum() == 1  # too small to cover a quarter
    assert evidence_mask([], (2, 3, 3)).sum() == 0
    assert evidence_mask([(0, 0.0, 0.0, 1.0, 1.0)], (1, 7, 5)).all()
    with pytest.raises(DataError, match="frame 3"):
        evidence_mask([(3, 0.0, 0.0, 1.0, 1.0)], (3, 4, 4))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frames": 4}, f"at least {MIN_FRAMES}"),
        ({"split": "dev"}, "train, val, test"),
        ({"index": -1}, "negative"),
        ({"clutter": 5.0}, "clutter"),
        ({"size": 50}, "multiple of 16"),
    ],
)
def test_impossible_settings_are_refused_with_the_limit(settings, reason):
    with pytest.raises(DataError, match=reason):
        generate(**{"index": 0, **settings})


def test_data_needs_no_torch():
    code = "import sys; import framefold.data.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
