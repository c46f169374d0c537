"""Annotations in all forms, valid or not; probing of clips before use; frames of clips at given times."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from framefold.data.spliced import frames as frames_module
from framefold.data.spliced import probe as probe_module
from framefold.data.spliced.annotations import find_annotations, read_annotations
from framefold.data.spliced.clips import Clip, Problems, assign_splits, read_clips, similar_captions, unknown_columns
from framefold.data.spliced.frames import ClipFrameReader, letterbox
from framefold.data.spliced.probe import ClipSampling, probe_clips
from framefold.data.video import picture
from framefold.data.video.codec import decode_video
from framefold.errors import DataError
from tests.support.coloured_clips import colour, frames_of, number_of, write_clip
from tests.support.numbered_frames import damage, write_numbered

SAMPLING = ClipSampling(2.0, 1.0, 60.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 (6 s, 4 frames a second), b/c.mp4 (3 s); do not change it."""
    path = tmp_path_factory.mktemp("clips")
    write_clip(path / "a.mp4", 1, 24, 4)
    write_clip(path / "b" / "c.mp4", 2, 15, 5)
    return path


def clips(folder: Path, text: str | bytes, name: str = "x.json", max_damaged: float = 0.0) -> list[Clip]:
    """The clips that an annotation file of some contents names."""
    file = folder.parent / f"{folder.name}-{name}"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = read_annotations(file)
    problems = Problems(max_damaged, len(rows))
    named = read_clips(folder, rows, problems)
    problems.check()
    return named


def probed(
    folder: Path, rows: list[dict], out: Path, sampling: ClipSampling = SAMPLING, workers: int = 1
) -> tuple[list[Clip], list[str]]:
    """Usable clips, and messages about the others."""
    problems = Problems(1.0, len(rows))
    named = clips(folder, json.dumps(rows))
    return probe_clips(folder, named, sampling, out, workers, problems).clips, problems.texts


# ---- annotations ----------------------------------------------------------------------------------------------------

FORMS = {
    "list.json": '[{"file": "a.mp4", "caption": "one,\\n \\"two\\""}, '
    '{"file": "b/c.mp4", "caption": "three", "start": 1}]',
    "map.json": '{"a.mp4": "one,  \\"two\\"", "b/c.mp4": [{"caption": "three", "start": "1"}]}',
    "x.jsonl": '\ufeff{"file": "a.mp4", "caption": "one, \\"two\\""}\n\n'
    '{"file": "b/c.mp4", "caption": "three", "start": 1.0}',
    "x.csv": '\ufefffile,caption,start\r\na.mp4,"one,\r\n""two""",\r\n\r\n./b/c.mp4,three,1\r\n',
}


def test_all_forms_of_annotations_are_equivalent(folder: Path) -> None:
    for name, text in FORMS.items():
        one, two = clips(folder, text, name)
        fields = (one.file, one.caption, one.start, one.end, one.id)
        assert fields == ("a.mp4", 'one, "two"', 0, float("inf"), "a.mp4"), name
        assert (two.file, two.caption, two.start, two.id) == ("b/c.mp4", "three", 1, "b/c.mp4#1-"), name


def test_messages_name_the_first_line_of_a_row(folder: Path) -> None:
    text = 'file,caption\na.mp4,"one\ntwo"\nb/c.mp4,\n'
    with pytest.raises(DataError, match=r"x.csv, line 4: caption is empty"):
        clips(folder, text, "x.csv")
    with pytest.raises(DataError, match=r"x.json, entry 2: gone.mp4 does not exist"):
        clips(folder, '[{"file": "a.mp4", "caption": "x"}, {"file": "gone.mp4", "caption": "x"}]')


A = {"file": "a.mp4", "caption": "x"}
REFUSED = {  # for any max_damaged
    "up": ([A | {"file": "../a.mp4"}], "inside .*without"),
    "up inside": ([A | {"file": "b/../a.mp4"}], "inside .*without"),
    "up backwards": ([A | {"file": "..\\a.mp4"}], "inside .*without"),
    "absolute": ([A | {"file": "/etc/passwd.mp4"}], "inside .*without"),
    "drive": ([A | {"file": "C:\\a.mp4"}], "inside .*without"),
    "drive without root": ([A | {"file": "C:a.mp4"}], "inside .*without"),
    "same id": ([A, A], "entry 2: the id 'a.mp4' is also used by .*entry 1"),
    "same given id": ([A | {"id": "k"}, {"file": "b/c.mp4", "caption": "y", "id": "k"}], "the id 'k' is also used"),
    "no caption at all": ([{"file": "a.mp4", "text": "x"}], "no column 'caption'"),
    "nothing": ([], "annotates no clip"),
    "no objects": ([["a.mp4", "x"]], "entry 1 must be an object"),
}


def test_names_of_clips_may_have_colons_and_brackets(tmp_path: Path) -> None:
    names = ("1:30.mp4", "2026-01-01T12:00:00.mp4", "concat:x.mp4", "file:x.mp4", "x[1]%03d.mp4", "b:c/d::e.mp4")
    (tmp_path / "b:c").mkdir()
    for name in names:
        write_clip(tmp_path / name, 1, 8, 4)
    usable, problems = probed(tmp_path, [A | {"file": name} for name in names], tmp_path / "out")
    assert {clip.file for clip in usable} == set(names) and not problems


def test_dangerous_or_ambiguous_annotations_are_refused(folder: Path) -> None:
    for name, (rows, text) in REFUSED.items():
        with pytest.raises(DataError, match=text):
            clips(folder, json.dumps(rows), max_damaged=1.0)
            pytest.fail(f"{name} is accepted")


def test_files_that_are_not_annotations_are_data_errors(folder: Path) -> None:
    for name, content, text in (
        ("x.json", b"\xff\xfe[\x00]\x00", "not UTF-8"),
        ("x.json", b"[" * 100_000, "not valid JSON"),
        ("x.json", b'"a.mp4"', "must be a list of objects"),
        ("x.jsonl", b'{"file": "a.mp4", "caption": "x"}\n{', "line 2 is not valid JSON"),
        ("x.csv", b'file,caption\na.mp4,"x\n', "is not valid CSV"),
        ("x.csv", b"file,caption,file\na.mp4,x,y\n", "has a column twice"),
        ("x.csv", b"", "annotates no clip"),
    ):
        with pytest.raises(DataError, match=text):
            clips(folder, content, name)
            pytest.fail(f"{content[:40]!r} is accepted")


DAMAGED = {
    "empty caption": (A | {"caption": " \t"}, "caption is empty"),
    "only signs": (A | {"caption": "?!"}, "caption is empty"),
    "a number of a file": (A | {"file": True}, "file must be text"),
    "NaN as a caption": ('[{"file": "a.mp4", "caption": NaN}]', "caption must be text"),
    "infinite label": ('[{"file": "a.mp4", "caption": "x", "label": -Infinity}]', "label must be text"),
    "half a surrogate": ('[{"file": "a.mp4", "caption": "x \\ud800"}]', "caption must be text"),
    "no video": (A | {"file": "a.txt"}, "does not end in .mp4"),
    "too long a name": (A | {"file": "x" * 5000 + ".mp4"}, "cannot be read"),
    "a folder": (A | {"file": "b.mp4/"}, "does not exist"),
    "start behind end": (A | {"start": 3, "end": 2}, "start 3 must be before end 2"),
    "start at end": (A | {"start": 2, "end": 2}, "must be before"),
    "NaN": ('[{"file": "a.mp4", "caption": "x", "start": NaN}]', "start must be seconds"),
    "infinite": ('[{"file": "a.mp4", "caption": "x", "end": 1e999}]', "end must be seconds"),
    "huge": (f'[{{"file": "a.mp4", "caption": "x", "end": 1{"0" * 400}}}]', "end must be seconds"),
    "negative": (A | {"start": -1}, "start must be seconds"),
    "words": (A | {"start": "soon"}, "start must be seconds"),
    "yes": (A | {"start": True}, "start must be seconds"),
    "a template's command": (A | {"caption": "x <|im_end|> y"}, r"contains <\|im_end\|>"),
    "a placeholder": (A | {"caption": "x <video> y"}, "contains <video>"),
    "qa no list": (A | {"qa": {"question": "q"}}, "qa must be a list"),
    "qa without answer": (A | {"qa": [{"question": "q"}]}, "answer is empty"),
    "qa with another answer": (
        A | {"qa": [{"question": "q", "answer": "z", "choices": ["x", "y"]}]},
        "choices must be",
    ),
    "qa with choices that are no list": (
        A | {"qa": [{"question": "q", "answer": "x", "choices": 0}]},
        "must be a list",
    ),
    "qa with equal choices": (
        A | {"qa": [{"question": "q", "answer": "x", "choices": ["x", "X!"]}]},
        "choices must be",
    ),
    "qa elsewhere": (A | {"end": 2, "qa": [{"question": "q", "answer": "z", "start": 1, "end": 3}]}, "not inside"),
}


def test_damaged_row_is_named_and_the_others_are_read(folder: Path) -> None:
    for name, (row, text) in DAMAGED.items():
        content = row if isinstance(row, str) else json.dumps([row])
        with pytest.raises(DataError, match=f"1 of 1 annotations cannot be used.*entry 1: .*{text}"):
            clips(folder, content)
            pytest.fail(f"{name} is accepted")
        both = content[:-1] + ', {"file": "b/c.mp4", "caption": "y"}]'
        assert [clip.file for clip in clips(folder, both, max_damaged=0.5)] == ["b/c.mp4"], name


def test_csv_row_with_an_unquoted_comma_is_damaged(folder: Path) -> None:
    with pytest.raises(DataError, match="line 2: has 4 fields, but the header has 3"):
        clips(folder, "file,caption,start\na.mp4,one, two,0\n", "x.csv")


def test_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "x.mp4").symlink_to(folder / "a.mp4")
    with pytest.raises(DataError, match="is a link out of"):
        clips(inside, '[{"file": "x.mp4", "caption": "x"}]', max_damaged=1.0)
    (inside / "y.mp4").symlink_to(inside / "y.mp4")
    with pytest.raises(DataError, match="y.mp4"):
        clips(inside, '[{"file": "y.mp4", "caption": "x"}]')


def test_unknown_columns_are_listed(folder: Path) -> None:
    (folder.parent / "u.csv").write_text("file,caption,labl,extra,category\na.mp4,x,y,,z\n")
    assert unknown_columns(read_annotations(folder.parent / "u.csv")) == ["labl"]


def test_annotation_file_is_the_only_one_or_the_one_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has none: give --annotations"):
        find_annotations(tmp_path, None)
    for name in ("a.csv", "b.json"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match="a.csv, b.json"):
        find_annotations(tmp_path, None)
    assert find_annotations(tmp_path, str(tmp_path / "a.csv")).name == "a.csv"
    with pytest.raises(DataError, match="not an annotation file"):
        find_annotations(tmp_path, str(tmp_path / "c.csv"))


def test_captions_are_similar_if_one_contains_the_words_of_the_other() -> None:
    for one, other, similar in (
        ("A dog runs.", "a  dog, runs", True),
        ("a dog runs", "in the park a dog runs", True),
        ("a dog runs", "a brown dog runs", True),
        ("ein Hund läuft", "EIN HUND LÄUFT", True),
        ("一只狗", "一只狗在跑", True),
        ("a dog runs", "a dog sleeps", False),
    ):
        assert similar_captions(one, other) == similar_captions(other, one) == similar, (one, other)


# ---- probing --------------------------------------------------------------------------------------------------------


def test_clip_length_is_a_number_of_stored_frames(folder: Path, tmp_path: Path) -> None:
    rows = [A, A | {"start": 1.3, "end": 4.2}, A | {"end": 6.4}, {"file": "b/c.mp4", "caption": "y", "start": 0.5}]
    found, damage = probed(folder, rows, tmp_path)
    assert not damage
    assert {clip.id: (clip.length, clip.end) for clip in found} == {
        "a.mp4": (12, 6.0), "a.mp4#1.3-4.2": (5, 4.2), "a.mp4#0-6.4": (12, 6.0), "b/c.mp4#0.5-": (5, 3.0)
    }  # fmt: skip
    assert all(0 <= clip.start < time < clip.end for clip in found for time in SAMPLING.frame_times(clip))


def test_unusable_clips_are_named_with_their_row(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "clips"
    place.mkdir()
    intact = (folder / "a.mp4").read_bytes()
    write_clip(place / "long.mp4", 3, 160, 8)
    middle = bytearray((place / "long.mp4").read_bytes())
    at = middle.index(b"mdat") + len(middle) // 3
    middle[at : at + 400] = bytes(400)
    contents = {
        "ok": intact, "zero": bytes(len(intact)), "short": intact[:300], "empty": b"", "middle": bytes(middle),
        "list": b"#EXTM3U\n#EXTINF:1,\n" + bytes(folder / "a.mp4"), "text": b"ffconcat version 1.0\nfile a.mp4\n",
    }  # fmt: skip
    for name, content in contents.items():
        (place / f"{name}.mp4").write_bytes(content)
    rows = [{"file": f"{name}.mp4", "caption": f"caption {name}"} for name in contents]
    far = [A | {"file": "ok.mp4", "start": 0, "end": 1e9}, A | {"file": "ok.mp4", "start": 99.0}]
    late = A | {"file": "ok.mp4", "start": 1, "qa": [{"question": "q", "answer": "z", "end": 8}]}
    for workers in (1, 2):
        found, damage = probed(place, [*rows, *far, late], tmp_path / str(workers), workers=workers)
        assert [clip.file for clip in found] == ["ok.mp4"]
        named = sorted(int(text.split("entry ")[1].split(":")[0]) for text in damage)
        assert named == [2, 3, 4, 5, 6, 7, 8, 9, 10]
        assert sum("first bytes are not those" in text for text in damage) == 4
        assert sum("of a file that ends at 6 s" in text for text in damage) == 2


def test_clip_with_a_damaged_frame_is_used_if_a_good_one_is_near(tmp_path: Path) -> None:
    for name, packets in (("one.mov", [5]), ("many.mov", range(8, 22))):  # 20 of them per second; 2 are stored
        damage(write_numbered(tmp_path / name, "mjpeg", rate=20, pix_fmt="yuvj420p"), *packets)
    rows = [{"file": f"{name}.mov", "caption": f"caption {name}"} for name in ("one", "many")]
    with pytest.warns(UserWarning, match="is damaged: 1"):
        (clip,), damaged = probed(tmp_path, rows, tmp_path)
    assert clip.file == "one.mov" and len(damaged) == 1 and "many.mov is damaged at 0.7" in damaged[0]
    assert len(ClipFrameReader(tmp_path, SAMPLING, (32, 48)).read(clip)) == clip.length


def test_clips_of_wrong_length_are_left_out_without_being_damage(folder: Path, tmp_path: Path) -> None:
    rows = [A, {"file": "b/c.mp4", "caption": "y"}, A | {"start": 1, "end": 1.1}]
    problems = Problems(0.0, 3)
    named = clips(folder, json.dumps(rows))
    result = probe_clips(folder, named, ClipSampling(2.0, 1.0, 4.0), tmp_path, 1, problems)
    assert [clip.file for clip in result.clips] == ["b/c.mp4"] and result.wrong_length == 2 and not problems.texts
    assert set(result.sources) == {"a.mp4", "b/c.mp4"}  # splits depend on all files


def test_killed_worker_is_a_data_error(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(probe_module, "_video_digest", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match="a process that probed clips was killed"):
        probed(folder, [A], tmp_path, workers=2)


def test_second_probe_reads_only_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, out, read, decoded = tmp_path / "clips", tmp_path / "out", [], []
    for number, name in enumerate("abc"):
        write_clip(place / f"{name}.mp4", number, 24, 4)
    digest, reader = probe_module._video_digest, probe_module.frames_at
    monkeypatch.setattr(probe_module, "_video_digest", lambda path: read.append(path.name) or digest(path))
    monkeypatch.setattr(probe_module, "frames_at", lambda path, *how: decoded.append(path.name) or reader(path, *how))
    rows = [{"file": f"{name}.mp4", "caption": name * 3} for name in "abc"]
    first, _ = probed(place, rows, out)
    assert read == decoded == ["a.mp4", "b.mp4", "c.mp4"]
    assert probed(place, rows, out)[0] == first and len(read) == len(decoded) == 3
    stat = (place / "b.mp4").stat()
    changed = bytearray((place / "b.mp4").read_bytes())
    changed[-1] ^= 1
    (place / "b.mp4").write_bytes(changed)  # same size, and below the same modification time
    os.utime(place / "b.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = probed(place, rows, out)[0]
    assert read[3:] == ["b.mp4"]
    assert [a.source == b.source for a, b in zip(first, second, strict=True)] == [True, False, True]
    (out / probe_module.CACHE_FILE).write_text("{")  # a damaged cache is ignored
    assert probed(place, rows, out)[0] == second and len(read) == 7


def test_parts_and_copies_of_a_file_are_in_one_split_whatever_else_there_is() -> None:
    def clip(number: int, name: str) -> Clip:
        return Clip(name, f"{number}.mp4", "x", "", 0.0, 1.0, (), "")

    some = [clip(number, f"{number}-{part}") for number in range(300) for part in "ab"]
    sources = {f"{number}.mp4": f"{number // 2}" for number in range(300)}  # every file has a copy
    of = assign_splits(some, sources)
    for number in range(0, 300, 2):
        assert len({of[f"{n}-{part}"] for n in (number, number + 1) for part in "ab"}) == 1
    counts = {name: sum(split == name for split in of.values()) / 600 for name in ("train", "val", "test")}
    assert 0.7 < counts["train"] < 0.9 and counts["val"] > 0.04 and counts["test"] > 0.04
    assert assign_splits(some[:200], sources) == {name: of[name] for name in list(of)[:200]}  # further clips move none
    assert (
        assign_splits([*some, *(clip(number, f"{number}-z") for number in range(300))], sources).items() >= of.items()
    )


# ---- frames ---------------------------------------------------------------------------------------------------------


def test_only_stored_frames_are_converted_to_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "x.mp4", 1, 200, 10)
    converted, upright = [], picture.apply_matrix
    monkeypatch.setattr(picture, "apply_matrix", lambda pixels, matrix: converted.append(1) or upright(pixels, matrix))
    (clip,), _ = probed(tmp_path, [{"file": "x.mp4", "caption": "x", "start": 5, "end": 10}], tmp_path)
    assert clip.length == 10 and len(converted) == 10
    ClipFrameReader(tmp_path, SAMPLING, (32, 32)).read(clip)
    assert len(converted) == 20


def test_letterbox_keeps_proportions_and_adds_black_bars() -> None:
    wide = frames_of(7, 1, 30, 60)[0]
    square = letterbox(wide, (40, 40))
    assert square.shape == (40, 40, 3) and not square[:10].any() and not square[30:].any()
    np.testing.assert_array_equal(square[11:29, 11:], np.broadcast_to(colour(7), (18, 29, 3)))
    tall = letterbox(wide.transpose(1, 0, 2), (40, 40))
    assert not tall[:, :10].any() and tall[20, 20].tolist() == list(colour(7))
    same = frames_of(8, 1, 24, 36)[0]
    np.testing.assert_array_equal(letterbox(same, (24, 36)), same)


def test_rotated_clip_is_stored_upright(tmp_path: Path) -> None:
    write_clip(tmp_path / "x.mp4", 9, 12, 4, 32, 64)
    raw = bytearray((tmp_path / "x.mp4").read_bytes())
    at = raw.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), (0, 1, -1, 0), strict=True):
        raw[at + place : at + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    (tmp_path / "x.mp4").write_bytes(raw)
    (clip,), _ = probed(tmp_path, [{"file": "x.mp4", "caption": "x"}], tmp_path)
    frames = ClipFrameReader(tmp_path, SAMPLING, (64, 64)).read(clip)
    assert frames[:, :, 16:48].any(axis=(1, 3)).all()  # 64 high, 32 wide, in the middle
    assert not frames[:, :, :16].any() and not frames[:, :, 48:].any()
    assert number_of(frames[0]) == 9


def test_cache_of_frames_is_bounded_and_keeps_those_used_last(folder: Path, tmp_path: Path, monkeypatch) -> None:
    rows = [A | {"start": start, "end": start + 2, "caption": f"x {start}"} for start in range(4)]
    some, _ = probed(folder, rows, tmp_path)
    monkeypatch.setattr(frames_module, "CACHE_BYTES", 2 * 4 * 32 * 32 * 3)  # two clips
    reader = ClipFrameReader(folder, SAMPLING, (32, 32))
    frames = reader.concatenate([*some, some[3], some[2], some[3]])
    assert list(reader._cache) == [some[2].id, some[3].id]
    np.testing.assert_array_equal(frames[:4], reader.read(some[0]))
    assert frames.shape == (28, 32, 32, 3) and frames[::4, 0, 0, 0].tolist() == [1, 5, 9, 13, 13, 9, 13]


def test_file_that_changes_after_probing_is_not_used(tmp_path: Path) -> None:
    write_clip(tmp_path / "x.mp4", 1, 24, 4)
    (clip,), _ = probed(tmp_path, [{"file": "x.mp4", "caption": "x"}], tmp_path)
    write_clip(tmp_path / "x.mp4", 2, 24, 4)
    with pytest.raises(DataError, match="x.mp4 has changed since it was probed"):
        ClipFrameReader(tmp_path, SAMPLING, (32, 32)).read(clip)
    (tmp_path / "x.mp4").unlink()
    with pytest.raises(DataError, match="x.mp4 has changed"):
        ClipFrameReader(tmp_path, SAMPLING, (32, 32)).read(clip)


def test_generated_clips_have_the_expected_pixels(folder: Path) -> None:
    frames, times = decode_video(folder / "b" / "c.mp4")
    assert [number_of(frame) for frame in frames] == [2] * 15 and frames[:, 0, 0, 0].tolist() == list(range(15))
    assert times[5] == 1.0
