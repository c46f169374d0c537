"""``framefold shards splice``: exact frames, reproducible bytes, resumable runs, and refusal of unusable input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
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
from framefold.data.shards.index import read_index
from framefold.data.shards.sample import Sample, unpack_sample
from framefold.data.shards.sources import index_shards
from framefold.data.spliced import write_shards as module
from framefold.data.spliced.answer_check import correct_answers
from framefold.data.spliced.probe import CACHE_FILE
from framefold.data.spliced.questions import TYPES
from framefold.data.spliced.write_shards import splice
from framefold.errors import DataError
from tests.support.coloured_clips import caption, number_of, write_clips
from tests.support.forked_command import ForkedCommand
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
    """Folder of five videos of these clips; do not change it."""
    folder = tmp_path_factory.mktemp("spliced") / "train"
    splice(str(clips), str(folder), **SETTINGS)
    return folder


@pytest.fixture
def out(spliced: Path, tmp_path: Path) -> Path:
    """Folder to write to; it has only the results of probing the clips."""
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(spliced / CACHE_FILE, folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Shards and index."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.startswith(".")}


def samples(folder: Path) -> list[tuple[Sample, dict[str, Any]]]:
    """Every video of a folder, read as in training, and its json."""
    found = []
    for shard in read_index(folder).shards:
        with tarfile.open(shard.path) as tar:
            files = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        for key in sorted({name.partition(".")[0] for name in files}):
            raw = {"mp4": files[f"{key}.mp4"], "json": files[f"{key}.json"]}
            found.append((unpack_sample(key, raw), json.loads(raw["json"])))
    return found


# ---- contents -------------------------------------------------------------------------------------------------------


def test_every_frame_is_the_right_frame_of_the_right_clip(spliced: Path, clips: Path) -> None:
    files = {row["id"]: row for row in json.loads((clips / "annotations.json").read_text())}
    for sample, metadata in samples(spliced):
        assert len(sample.frames) == len(metadata["times"]) == metadata["captions"][-1]["frames"][1]
        for one in metadata["captions"]:
            number = int(one["clip"].split()[1])
            assert (one["text"], one["label"]) == (files[one["clip"]]["caption"], files[one["clip"]]["label"])
            shown = sample.frames[one["frames"][0] : one["frames"][1]].numpy()
            assert {number_of(frame) for frame in shown} == {number}
            fps, (height, width) = (4, 5, 8)[number % 3], ((32, 32), (32, 48), (64, 32))[number % 3]
            assert len(shown) == 2 * (3 + number % 4)
            if (height, width) == (32, 32):  # frames that are not resized contain their number
                midpoints = [int((i + 0.5) / 2 * fps) for i in range(len(shown))]
                assert shown[:, 0, 0, 0].tolist() == midpoints
            else:  # black bars
                assert not shown[:, 0, 0].any() and not shown[:, -1, -1].any()


def test_captions_cuts_and_times_are_consistent_and_without_gaps(spliced: Path) -> None:
    for sample, metadata in samples(spliced):
        captions = metadata["captions"]
        assert captions[0]["frames"][0] == 0 and len(captions) >= 3
        for one, after in zip(captions, captions[1:], strict=False):
            assert one["frames"][1] == after["frames"][0] and one["seconds"][1] == after["seconds"][0]
        assert [(b["frame"], b["seconds"]) for b in metadata["boundaries"]] == [
            (one["frames"][0], one["seconds"][0]) for one in captions[1:]
        ]
        for one in captions:
            assert [frame / 2 for frame in one["frames"]] == one["seconds"]
        np.testing.assert_array_equal(sample.times.numpy(), np.arange(len(sample.frames)) / 2)
        assert 24 <= len(sample.frames) / 2 <= 48
        # The colour changes at every cut, and only there.
        colours = sample.frames[:, 16, 16].numpy()
        changes = np.flatnonzero((colours[1:] != colours[:-1]).any(axis=1)) + 1
        assert changes.tolist() == [b["frame"] for b in metadata["boundaries"]]


def test_samples_record_their_clips_and_settings(spliced: Path, clips: Path) -> None:
    settings = read_index(spliced).settings
    assert len(settings["clips"]) == 64 and settings["fps"] == 2 and settings["splice"] == module.VERSION
    for sample, metadata in samples(spliced):
        assert metadata["splice"] == settings and metadata["key"] == [3, "train", int(sample.key[-8:])]
        assert {one["id"] for one in metadata["clips"]} == {one["clip"] for one in metadata["captions"]}
        for one in metadata["clips"]:
            assert one["sha256"] == hashlib.sha256((clips / one["file"]).read_bytes()).hexdigest()
            assert one["start"] == 0 and one["end"] == pytest.approx(3 + int(one["id"].split()[1]) % 4, abs=0.01)


def test_stored_questions_follow_from_the_stored_metadata(spliced: Path) -> None:
    kinds: Counter[str] = Counter()
    for sample, metadata in samples(spliced):
        assert len(sample.questions) == len(metadata["questions"]) >= 6
        for question in sample.questions:
            kinds[question.type] += 1
            assert correct_answers(question, metadata) == [question.answer] and question.answer in question.choices
            assert all(0 <= box[0] < len(sample.frames) for box in question.evidence)
    assert set(kinds) == set(TYPES) - {"clip_qa"}


def test_check_and_index_accept_the_shards(spliced: Path, tmp_path: Path) -> None:
    assert check_shards(str(spliced)) == 0
    copy = shutil.copytree(spliced, tmp_path / "copy")
    known = [(shard.samples, shard.lengths) for shard in read_index(copy).shards]
    (copy / "index.json").unlink()
    index_shards(str(copy))
    assert [(shard.samples, shard.lengths) for shard in read_index(copy).shards] == known
    assert sum(known[0][1]) == sum(len(sample.frames) for sample, _ in samples(copy)[:2])


def test_no_clip_is_in_two_splits(clips: Path, spliced: Path, tmp_path: Path) -> None:
    used = {"train": {one["id"] for _, metadata in samples(spliced) for one in metadata["clips"]}}
    for split in ("val", "test"):
        out = tmp_path / split
        out.mkdir()
        shutil.copy(spliced / CACHE_FILE, out)
        splice(str(clips), str(out), **SETTINGS | {"split": split, "minutes": [0.1, 0.5], "videos": 8})
        used[split] = {one["id"] for _, metadata in samples(out) for one in metadata["clips"]}
    assert all(used.values())
    assert not used["train"] & used["val"] and not used["train"] & used["test"] and not used["val"] & used["test"]


def test_questions_in_csv_annotations_are_stored(clips: Path, out: Path, tmp_path: Path) -> None:
    own = json.dumps([{"question": 'what, "exactly"?', "answer": "this", "choices": ["this", "that"], "start": 1}])
    quoted = own.replace('"', '""')
    rows = [f'clip{number:03d}.mp4,"{caption(number)}","{quoted}"' for number in range(0, 60, 2)]
    file = tmp_path / "own.csv"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["file,caption,qa", *rows]).encode())
    splice(str(clips), str(out), **SETTINGS | {"videos": 1}, annotations=str(file))
    ((sample, metadata),) = samples(out)
    questions = [question for question in sample.questions if question.type == "clip_qa"]
    assert len(questions) == len(metadata["clips"]) and len(questions) >= 3
    for question in questions:
        assert 'what, "exactly"?' in question.text and f"{question.answer}. this" in question.text


# ---- reproducible and resumable -------------------------------------------------------------------------------------


def test_same_call_gives_the_same_bytes_with_any_number_of_workers(
    spliced: Path, clips: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splice(str(clips), str(tmp_path / "two"), **SETTINGS, workers=2)
    before = content(spliced)
    assert content(tmp_path / "two") == before
    splice(str(clips), str(spliced), **SETTINGS)
    assert "is complete: 5 videos in 3 shards" in capsys.readouterr().out and content(spliced) == before
    splice(str(clips), str(out), **SETTINGS | {"seed": 4, "videos": 2})
    assert content(out)["shard-000000.tar"] != before["shard-000000.tar"]


def encode_slowly() -> None:
    real = module.encode_video
    module.encode_video = lambda *video: time.sleep(0.3) or real(*video)  # type: ignore[assignment,func-returns-value]


def test_killed_run_continues_to_the_same_bytes(spliced: Path, clips: Path, out: Path, tmp_path: Path) -> None:
    words = ["shards", "splice", "--clips", str(clips), "--out", str(out), "--workers", "2"]
    for name, value in SETTINGS.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    command = ForkedCommand(words, tmp_path / "log", encode_slowly)
    command.wait_until(lambda: any(out.glob("*.tar")))
    command.send(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.tar")}
    assert 0 < len(before) < 3 and not (out / "index.json").exists()
    assert main(words) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before  # not written again
    assert content(out) == content(spliced)
    assert {file.name for file in out.iterdir()} == {*content(spliced), CACHE_FILE}  # nothing of the killed run is left


def test_changed_clips_never_continue_an_unfinished_folder(
    spliced: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, out = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "out"
    real = module.encode_video

    def stop(*arguments: Any) -> bytes:
        if (out / "shard-000000.tar").exists():
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "encode_video", stop)
    with pytest.raises(KeyboardInterrupt):
        splice(str(mine), str(out), **SETTINGS)
    monkeypatch.undo()
    unfinished = content(out)
    assert set(unfinished) == {"shard-000000.tar"}
    first = samples(spliced)[0][1]
    victim = mine / first["clips"][0]["file"]
    stat, original = victim.stat(), victim.read_bytes()
    changed = original.replace(b"isomiso2", b"iso2isom")  # still a video, with the same size and modification time
    assert changed != original
    victim.write_bytes(changed)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match="has shards of other settings .*clips="):
        splice(str(mine), str(out), **SETTINGS)
    victim.write_bytes(original)
    annotations = (mine / "annotations.json").read_text()
    (mine / "annotations.json").write_text(annotations.replace(first["captions"][0]["text"], "a whale dives"))
    with pytest.raises(DataError, match="other settings .*clips="):
        splice(str(mine), str(out), **SETTINGS)
    assert content(out) == unfinished
    (mine / "annotations.json").write_text(annotations)
    splice(str(mine), str(out), **SETTINGS)
    assert len(samples(out)) == 5


# ---- unusable input -------------------------------------------------------------------------------------------------


def test_damaged_clip_is_named_and_left_out_and_too_many_are_an_error(clips: Path, tmp_path: Path) -> None:
    mine, out = shutil.copytree(clips, tmp_path / "clips"), tmp_path / "out"
    intact = (mine / "clip004.mp4").read_bytes()
    (mine / "clip004.mp4").write_bytes(intact[: len(intact) // 2])
    with pytest.warns(UserWarning, match=r"1 of 60 annotations are left out:\n.*entry 5: .*clip004.mp4"):
        splice(str(mine), str(out), **SETTINGS)
    assert len(samples(out)) == 5
    assert not any(one["id"] == "clip 4" for _, metadata in samples(out) for one in metadata["clips"])
    (tmp_path / "strict").mkdir()
    shutil.copy(out / CACHE_FILE, tmp_path / "strict")
    with pytest.raises(DataError, match="1 of 60 annotations cannot be used, more than max_damaged = 0.01.*clip004"):
        splice(str(mine), str(tmp_path / "strict"), **SETTINGS, max_damaged=0.01)
    assert not content(tmp_path / "strict")


def test_too_few_clips_are_an_error_before_anything_is_written(clips: Path, out: Path, tmp_path: Path) -> None:
    rows = json.loads((clips / "annotations.json").read_text())[:4]
    (tmp_path / "few.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"clips of split train have \d+ seconds in total.* 60 to 600 seconds"):
        splice(str(clips), str(out), annotations=str(tmp_path / "few.json"), size=[32])
    assert not content(out)
    splice(str(clips), str(out), **SETTINGS | {"videos": 1})  # the folder can still be used


def test_clips_with_the_same_caption_are_an_error(clips: Path, out: Path, tmp_path: Path) -> None:
    rows = [{"file": f"clip{number:03d}.mp4", "caption": "the same"} for number in range(0, 60, 2)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="no question is possible about video 0"):
        splice(str(clips), str(out), **SETTINGS, annotations=str(tmp_path / "x.json"))
    assert not content(out)


WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    (dict(minutes=[0, 1]), "minutes"),
    (dict(minutes=[2, 1]), "minutes"),
    (dict(minutes=[1, 2, 3]), "minutes must be one number or two"),
    (dict(minutes=[float("nan"), 1]), "minutes"),
    (dict(minutes=[1.001, 1.002]), "no number of frames"),
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
]


def test_settings_out_of_range_are_data_errors(clips: Path, tmp_path: Path) -> None:
    for wrong, text in WRONG_SETTINGS:
        with pytest.raises(DataError, match=text):
            splice(**{"clips": str(clips), "out": str(tmp_path / "out"), **SETTINGS, **wrong})
            pytest.fail(f"{wrong} is accepted")
    assert not (tmp_path / "out").exists()


def test_folder_with_other_contents_is_not_changed(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="not empty and has no shards"):
        splice(str(clips), str(tmp_path), **SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="is not a folder"):
        splice(str(clips), str(tmp_path / "mine.txt"), **SETTINGS)


def test_unknown_columns_are_a_warning(clips: Path, out: Path, tmp_path: Path) -> None:
    rows = json.loads((clips / "annotations.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps([row | {"captoin": "x"} for row in rows]))
    other = shutil.copytree(out, tmp_path / "other")
    with pytest.warns(UserWarning, match="the columns captoin of the annotations are not used"):
        splice(str(clips), str(out), **SETTINGS | {"videos": 1}, annotations=str(tmp_path / "x.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splice(str(clips), str(other), **SETTINGS | {"videos": 1})


def test_command_line_reports_one_line(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("file,caption\n../../etc/secret.mp4,x\n")
    words = ["shards", "splice", "--clips", str(clips), "--out", str(tmp_path / "out")]
    assert main([*words, "--annotations", str(tmp_path / "x.csv")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.match(r"framefold: error: .*x.csv, line 2: '../../etc/secret.mp4' must be a path inside", line)
    assert not (tmp_path / "out").exists()
    assert main([*words, "--size", "32", "--minutes", "0.4", "0.8", "--videos", "1", "--clip-seconds", "1", "5"]) == 0
    assert read_index(tmp_path / "out").settings["clip_seconds"] == [1, 5]


# ---- real videos, and the guide -------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT.parent / "shared" / "videos").is_dir(), reason="there are no real videos here")
def test_real_videos_are_spliced(tmp_path: Path) -> None:
    # mp4 and mkv, 176 to 1280 pixels wide, 25, 29.97 and 30 frames per second, parts of files
    spans = {"bigbuckbunny.mp4": (0, 5), "bikes.mp4": (0, 10), "carphone_pristine.mp4": (0.5, 3.5)}
    spans |= {"flipping_a_pancake.mkv": (2, 10)}
    rows = [
        {"file": name, "caption": f"{name.split('_')[0][:4]} part {part}", "start": start, "end": start + 2}
        for name, (low, high) in spans.items()
        for part, start in enumerate(np.arange(low, high - 1.9, 2).tolist())
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    settings = dict(videos=1, minutes=[0.05, 0.3], size=[64, 96], annotations=str(tmp_path / "x.json"))
    splice(str(ROOT.parent / "shared" / "videos"), str(tmp_path / "train"), **settings)  # type: ignore[arg-type]
    ((sample, metadata),) = samples(tmp_path / "train")
    assert sample.frames.shape[1:] == (64, 96, 3) and all(one["frames"][1] for one in metadata["captions"])
    assert sample.frames.float().std(dim=(1, 2, 3)).min() > 5  # no black frame


def test_examples_of_the_guide_work(clips: Path, tmp_path: Path, monkeypatch) -> None:
    """The Python code and the commands of data/README.md; the spliced videos are smaller."""
    text = (ROOT / "data" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "data/README.md", "exec"), {})
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    words = [line.partition("  #")[0].split()[1:] for line in commands if line.startswith("framefold shards ")]
    assert [call[1] for call in words] == ["index", "check", "splice", "splice"]
    (tmp_path / "my_clips").symlink_to(clips)
    for call in words:
        smaller = ["--videos", "1", "--minutes", "0.1", "0.5", "--size", "32", "--workers", "1"]
        assert main([*call, *(smaller if call[1] == "splice" else [])]) == 0
    ((sample, metadata), *_) = samples(tmp_path / "runs" / "own")
    assert isinstance(sample.questions[0], Question) and len(sample.frames) == len(metadata["times"])
