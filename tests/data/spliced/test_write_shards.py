"""``framefold shards splice``: clips in, long videos out; exact, the same bytes again, and nothing lost or let in."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framefold.__main__ import main
from framefold.data.question import Question
from framefold.data.shards.check import check_shards
from framefold.data.shards.index import read_folder, read_index
from framefold.data.shards.sample import Sample, unpack
from framefold.data.shards.sources import index
from framefold.data.spliced import write_shards as module
from framefold.data.spliced.answer_check import right_answers
from framefold.data.spliced.questions import TYPES
from framefold.data.spliced.write_shards import splice
from framefold.errors import DataError
from tests.support.coloured_clips import caption, number_of, write_clips
from tests.support.paths import ROOT

SETTINGS: dict[str, Any] = dict(videos=5, minutes=[0.4, 0.8], size=[32], shard_size=2, crf=0, seed=3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 60 coloured clips; do not change it."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 60, labels=True)
    return folder


@pytest.fixture(scope="module")
def spliced(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of five videos made of them; do not change it."""
    folder = tmp_path_factory.mktemp("spliced") / "train"
    splice(str(clips), str(folder), **SETTINGS)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Shards and index."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.startswith(".")}


def samples(folder: Path) -> list[tuple[Sample, dict[str, Any]]]:
    """Every video of a folder, read as training reads it, and its json."""
    out = []
    for shard in read_index(folder):
        with tarfile.open(shard.path) as tar:
            files = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        for key in sorted({name.partition(".")[0] for name in files}):
            raw = {"mp4": files[f"{key}.mp4"], "json": files[f"{key}.json"]}
            out.append((unpack(key, raw), json.loads(raw["json"])))
    return out


# ---- what is in it --------------------------------------------------------------------------------------------------


def test_every_frame_is_the_right_frame_of_the_right_clip(spliced: Path, clips: Path) -> None:
    files = {row["id"]: row for row in json.loads((clips / "annotations.json").read_text())}
    for sample, notes in samples(spliced):
        assert len(sample.frames) == len(notes["times"]) == notes["captions"][-1]["frames"][1]
        for one in notes["captions"]:
            number = int(one["clip"].split()[1])
            assert (one["text"], one["label"]) == (files[one["clip"]]["caption"], files[one["clip"]]["label"])
            shown = sample.frames[one["frames"][0] : one["frames"][1]].numpy()
            assert {number_of(frame) for frame in shown} == {number}
            fps, (height, width) = (4, 5, 8)[number % 3], ((32, 32), (32, 48), (64, 32))[number % 3]
            assert len(shown) == 2 * (3 + number % 4)
            if (height, width) == (32, 32):  # where no pixel was resized, the frame says which it is
                middles = [int((at + 0.5) / 2 * fps) for at in range(len(shown))]
                assert shown[:, 0, 0, 0].tolist() == middles
            else:  # what is wider or higher than the canvas has black beside it
                assert not shown[:, 0, 0].any() and not shown[:, -1, -1].any()


def test_captions_cuts_and_times_fit_together_without_gaps(spliced: Path) -> None:
    for sample, notes in samples(spliced):
        captions = notes["captions"]
        assert captions[0]["frames"][0] == 0 and len(captions) >= 3
        for one, after in zip(captions, captions[1:], strict=False):
            assert one["frames"][1] == after["frames"][0] and one["seconds"][1] == after["seconds"][0]
        assert [(b["frame"], b["seconds"]) for b in notes["boundaries"]] == [
            (one["frames"][0], one["seconds"][0]) for one in captions[1:]
        ]
        for one in captions:
            assert [frame / 2 for frame in one["frames"]] == one["seconds"]
        np.testing.assert_array_equal(sample.times.numpy(), np.arange(len(sample.frames)) / 2)
        assert 24 <= len(sample.frames) / 2 <= 48
        # At every cut, and only there, the colour changes.
        colours = sample.frames[:, 16, 16].numpy()
        changes = np.flatnonzero((colours[1:] != colours[:-1]).any(axis=1)) + 1
        assert changes.tolist() == [b["frame"] for b in notes["boundaries"]]


def test_samples_say_what_they_are_made_of(spliced: Path, clips: Path) -> None:
    settings = read_folder(spliced).settings
    assert len(settings["clips"]) == 64 and settings["fps"] == 2 and settings["splice"] == module.VERSION
    for sample, notes in samples(spliced):
        assert notes["splice"] == settings and notes["key"] == [3, "train", int(sample.key[-8:])]
        assert {one["id"] for one in notes["clips"]} == {one["clip"] for one in notes["captions"]}
        for one in notes["clips"]:
            assert one["sha256"] == hashlib.sha256((clips / one["file"]).read_bytes()).hexdigest()
            assert one["start"] == 0 and one["end"] == pytest.approx(3 + int(one["id"].split()[1]) % 4, abs=0.01)


def test_stored_questions_are_answered_by_the_stored_annotations(spliced: Path) -> None:
    kinds: Counter[str] = Counter()
    for sample, notes in samples(spliced):
        assert len(sample.questions) == len(notes["questions"]) >= 6
        for question in sample.questions:
            kinds[question.type] += 1
            assert right_answers(question, notes) == [question.answer] and question.answer in question.choices
            assert all(0 <= box[0] < len(sample.frames) for box in question.evidence)
    assert set(kinds) == set(TYPES) - {"clip_qa"}


def test_check_and_index_take_it_for_ordinary_shards(spliced: Path, tmp_path: Path) -> None:
    assert check_shards(str(spliced)) == 0
    copy = shutil.copytree(spliced, tmp_path / "copy")
    known = [(shard.samples, shard.lengths) for shard in read_index(copy)]
    (copy / "index.json").unlink()
    index(str(copy))
    assert [(shard.samples, shard.lengths) for shard in read_index(copy)] == known
    assert sum(known[0][1]) == sum(len(sample.frames) for sample, _ in samples(copy)[:2])


def test_no_clip_is_in_two_splits(clips: Path, spliced: Path, tmp_path: Path) -> None:
    used = {"train": {one["id"] for _, notes in samples(spliced) for one in notes["clips"]}}
    for split, minutes in (("val", [0.1, 0.5]), ("test", [0.1, 0.5])):
        splice(str(clips), str(tmp_path / split), **SETTINGS | {"split": split, "minutes": minutes, "videos": 8})
        used[split] = {one["id"] for _, notes in samples(tmp_path / split) for one in notes["clips"]}
    assert all(used.values())
    assert not used["train"] & used["val"] and not used["train"] & used["test"] and not used["val"] & used["test"]


def test_own_questions_of_csv_annotations_come_along(clips: Path, tmp_path: Path) -> None:
    own = json.dumps([{"question": 'what, "exactly"?', "answer": "this", "choices": ["this", "that"], "start": 1}])
    quoted = own.replace('"', '""')
    rows = [f'clip{number:03d}.mp4,"{caption(number)}","{quoted}"' for number in range(0, 60, 2)]
    file = tmp_path / "own.csv"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["file,caption,qa", *rows]).encode())
    out = tmp_path / "out"
    splice(str(clips), str(out), **SETTINGS | {"videos": 1}, annotations=str(file))
    ((sample, notes),) = samples(out)
    asked = [question for question in sample.questions if question.type == "clip_qa"]
    assert len(asked) == len(notes["clips"]) and len(asked) >= 3
    for question in asked:
        assert 'what, "exactly"?' in question.text and f"{question.answer}. this" in question.text


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_bytes_with_any_number_of_workers(
    spliced: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splice(str(clips), str(tmp_path / "two"), **SETTINGS, workers=2)
    assert content(tmp_path / "two") == content(spliced)
    before = content(spliced)
    splice(str(clips), str(spliced), **SETTINGS)
    assert "is complete: 5 videos in 3 shards" in capsys.readouterr().out and content(spliced) == before
    splice(str(clips), str(tmp_path / "other"), **SETTINGS | {"seed": 4, "videos": 2})
    assert content(tmp_path / "other")["shard-000000.tar"] != before["shard-000000.tar"]


SLOW = """
import sys, time
from framefold.__main__ import main
from framefold.data import splice
real = splice.encode
splice.encode = lambda *video: time.sleep(0.3) or real(*video)
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_to_the_same_bytes(spliced: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["shards", "splice", "--clips", str(clips), "--out", str(out), "--workers", "2"]
    for name, value in SETTINGS.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    call = [sys.executable, "-c", SLOW, *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(call, cwd=tmp_path, env=env, stdout=-3, stderr=-3, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not any(out.glob("*.tar")) and killed.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait(10)
    assert killed.returncode == -signal.SIGKILL
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.tar")}
    assert 0 < len(before) < 3 and not (out / "index.json").exists()
    assert main(words) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before  # not made again
    assert content(out) == content(spliced) and not any(out.glob(".*.part"))


def test_other_clips_never_go_on_an_old_folder(
    spliced: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, out = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "out"
    real = module.encode

    def stopped(*arguments: Any) -> bytes:
        if (out / "shard-000000.tar").exists():
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        splice(str(mine), str(out), **SETTINGS)
    monkeypatch.undo()
    whole = content(out)
    assert set(whole) == {"shard-000000.tar"}
    victim = mine / samples(spliced)[0][1]["clips"][0]["file"]
    stat, original = victim.stat(), victim.read_bytes()
    changed = original.replace(b"isomiso2", b"iso2isom")  # still a video, of the same size and age
    assert changed != original
    victim.write_bytes(changed)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match="holds shards of other settings .*clips="):
        splice(str(mine), str(out), **SETTINGS)
    victim.write_bytes(original)
    annotations = (mine / "annotations.json").read_text()
    (mine / "annotations.json").write_text(
        annotations.replace(samples(spliced)[0][1]["captions"][0]["text"], "a whale dives")
    )
    with pytest.raises(DataError, match="other settings .*clips="):
        splice(str(mine), str(out), **SETTINGS)
    assert content(out) == whole
    (mine / "annotations.json").write_text(annotations)
    splice(str(mine), str(out), **SETTINGS)
    assert len(samples(out)) == 5


# ---- what cannot be used --------------------------------------------------------------------------------------------


def test_a_damaged_clip_is_named_and_left_out_and_too_many_are_an_error(clips: Path, tmp_path: Path) -> None:
    mine, out = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "out"
    whole = (mine / "clip004.mp4").read_bytes()
    (mine / "clip004.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"1 of 60 annotations are left out:\n.*entry 5: .*clip004.mp4"):
        splice(str(mine), str(out), **SETTINGS)
    assert len(samples(out)) == 5
    assert not any(one["id"] == "clip 4" for _, notes in samples(out) for one in notes["clips"])
    with pytest.raises(DataError, match="1 of 60 annotations cannot be used, more than max_damaged = 0.01.*clip004"):
        splice(str(mine), str(tmp_path / "strict"), **SETTINGS, max_damaged=0.01)
    assert not content(tmp_path / "strict")


def test_clips_that_are_too_few_are_an_error_before_anything_is_written(clips: Path, tmp_path: Path) -> None:
    rows = json.loads((clips / "annotations.json").read_text())[:4]
    (tmp_path / "few.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"clips of split train have \d+ seconds in all.* 60 to 600 seconds"):
        splice(str(clips), str(tmp_path / "out"), annotations=str(tmp_path / "few.json"), size=[32])
    assert not content(tmp_path / "out")
    splice(str(clips), str(tmp_path / "out"), **SETTINGS)  # and nothing is in the way of another call


def test_clips_of_one_caption_that_nothing_can_be_asked_about_are_an_error(clips: Path, tmp_path: Path) -> None:
    rows = [{"file": f"clip{number:03d}.mp4", "caption": "the same"} for number in range(0, 60, 2)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="nothing can be asked about video 0"):
        splice(str(clips), str(tmp_path / "out"), **SETTINGS, annotations=str(tmp_path / "x.json"))
    assert not content(tmp_path / "out")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (dict(minutes=[0, 1]), "minutes"),
        (dict(minutes=[2, 1]), "minutes"),
        (dict(minutes=[1, 2, 3]), "minutes takes one number or two"),
        (dict(minutes=[float("nan"), 1]), "minutes"),
        (dict(minutes=[1.001, 1.002]), "no whole frame"),
        (dict(fps=0), "fps"),
        (dict(fps=float("nan")), "fps"),
        (dict(size=[16]), "size"),
        (dict(size=[2048], minutes=[1, 60]), "GB of memory"),
        (dict(clip_seconds=[5, 2]), "clip_seconds"),
        (dict(questions=0), "questions"),
        (dict(crf=52), "crf"),
        (dict(split="dev"), "split"),
        (dict(seed=-1), "seed"),
        (dict(videos=0), "positive"),
        (dict(max_damaged=1.5), "max_damaged"),
        (dict(clips="nowhere"), "no folder of clips"),
    ],
)
def test_a_setting_out_of_range_is_a_data_error(clips: Path, tmp_path: Path, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        splice(**{"clips": str(clips), "out": str(tmp_path / "out"), **SETTINGS, **wrong})
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="not empty and holds no shards"):
        splice(str(clips), str(tmp_path), **SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="is no folder"):
        splice(str(clips), str(tmp_path / "mine.txt"), **SETTINGS)


def test_unknown_columns_are_a_warning(clips: Path, tmp_path: Path) -> None:
    rows = json.loads((clips / "annotations.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps([row | {"captoin": "x"} for row in rows]))
    with pytest.warns(UserWarning, match="nothing is done with the columns captoin"):
        splice(str(clips), str(tmp_path / "out"), **SETTINGS | {"videos": 1}, annotations=str(tmp_path / "x.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splice(str(clips), str(tmp_path / "other"), **SETTINGS | {"videos": 1})


def test_the_verb_reports_one_line(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("file,caption\n../../etc/secret.mp4,x\n")
    words = ["shards", "splice", "--clips", str(clips), "--out", str(tmp_path / "out")]
    assert main([*words, "--annotations", str(tmp_path / "x.csv")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.match(r"framefold: error: .*x.csv, line 2: '../../etc/secret.mp4' must be a path inside", line)
    assert not (tmp_path / "out").exists()
    assert main([*words, "--size", "32", "--minutes", "0.4", "0.8", "--videos", "1", "--clip-seconds", "1", "5"]) == 0
    assert read_folder(tmp_path / "out").settings["clip_seconds"] == [1, 5]


# ---- others' files --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT.parent / "shared" / "videos").is_dir(), reason="there are no real videos here")
def test_real_videos_are_spliced(tmp_path: Path) -> None:
    folder = ROOT.parent / "shared" / "videos"
    # mp4 and mkv, 176 to 1280 pixels wide, 25, 29.97 and 30 frames a second, parts of files
    spans = {"bigbuckbunny.mp4": (0, 5), "bikes.mp4": (0, 10), "carphone_pristine.mp4": (0.5, 3.5)}
    spans |= {"flipping_a_pancake.mkv": (2, 10)}
    rows = [
        {"file": name, "caption": f"{name.split('_')[0][:4]} part {part}", "start": start, "end": start + 2}
        for name, (low, high) in spans.items()
        for part, start in enumerate(np.arange(low, high - 1.9, 2).tolist())
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    splits: dict[str, int] = Counter()
    for split in ("train", "val", "test"):
        settings = dict(split=split, videos=1, minutes=[0.05, 0.3], size=[64, 96], annotations=str(tmp_path / "x.json"))
        try:
            splice(str(folder), str(tmp_path / split), **settings)  # type: ignore[arg-type]
        except DataError as error:  # the files of one split may be too few
            assert "seconds in all" in str(error)
            continue
        ((sample, notes),) = samples(tmp_path / split)
        splits[split] += 1
        assert sample.frames.shape[1:] == (64, 96, 3) and all(one["frames"][1] for one in notes["captions"])
        assert sample.frames.float().std(dim=(1, 2, 3)).min() > 5  # no black frame
    assert splits["train"]


def test_the_example_for_own_data_makes_shards_that_can_be_checked(clips: Path, tmp_path: Path, monkeypatch) -> None:
    """The Python and the commands of data/README.md, spliced videos in miniature."""
    text = (ROOT / "data" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "data/README.md", "exec"), {})
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    words = [line.partition("  #")[0].split()[1:] for line in commands if line.startswith("framefold shards ")]
    assert [some[1] for some in words] == ["index", "check", "splice", "splice"]
    (tmp_path / "my_clips").symlink_to(clips)
    for some in words:
        smaller = ["--videos", "1", "--minutes", "0.1", "0.5", "--size", "32", "--workers", "1"]
        assert main([*some, *(smaller if some[1] == "splice" else [])]) == 0
    ((sample, notes), *_) = samples(tmp_path / "runs" / "own")
    assert isinstance(sample.questions[0], Question) and len(sample.frames) == len(notes["times"])
