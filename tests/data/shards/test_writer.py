"""Writing shards: exact, atomic, resumable and reproducible; checking them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from framefold.data.shards import writer as shard_writer
from framefold.data.shards.check import check_shards
from framefold.data.shards.index import read_index
from framefold.data.shards.sample import unpack_sample
from framefold.data.synthetic import write_shards as module
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.generate import generate
from framefold.data.synthetic.recipe import Recipe, pack_sample
from framefold.data.synthetic.write_shards import synth
from framefold.data.video.codec import decode_video
from framefold.errors import DataError
from tests.support.forked_command import ForkedCommand

SETTINGS = dict(videos=22, frames=[16, 20], seed=5, shard_size=8)  # those of the fixture


def content(folder: Path) -> dict[str, bytes]:
    """All files except locks and the sidecars of finished shards."""
    left_out = (".tar.lock", ".tar.json")
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.endswith(left_out)}


# ---- samples --------------------------------------------------------------------------------------------------------


def test_sample_survives_packing():
    video = Recipe((20, 30)).video(4)
    sample = unpack_sample("k", pack_sample(video, crf=0))
    np.testing.assert_array_equal(sample.frames.numpy(), video.frames)
    assert sample.questions == video.questions
    assert sample.times.tolist() == video.times.tolist()


def test_lengths_cover_the_range_and_are_reproducible():
    lengths = [len(Recipe((32, 35)).video(i).frames) for i in range(40)]
    assert set(lengths) == {32, 33, 34, 35}
    assert lengths == [len(Recipe((32, 35)).video(i).frames) for i in range(40)]


def test_damaged_sample_is_a_data_error():
    intact = pack_sample(generate(1, frames=16), crf=18)
    metadata = json.loads(intact["json"])
    for changes, text in (
        ({"json": None}, "has no json"),
        ({"json": b"{"}, "json is damaged"),
        ({"json": json.dumps({**metadata, "schema": 99}).encode()}, "schema 99"),
        ({"json": json.dumps({**metadata, "questions": [{"a": 1}]}).encode()}, "does not follow schema"),
        ({"json": json.dumps({**metadata, "questions": []}).encode()}, "has no questions"),
        ({"json": json.dumps({**metadata, "times": [0.0]}).encode()}, "16 frames"),
        ({"mp4": bytes(len(intact["mp4"]))}, "mp4: cannot decode"),
    ):
        with pytest.raises(DataError, match=f"^k.*{text}"):
            unpack_sample("k", {name: data for name, data in {**intact, **changes}.items() if data is not None})
            pytest.fail(f"no error: {text}")


# ---- shards ---------------------------------------------------------------------------------------------------------


def test_index_and_tars_agree(shards):
    index = read_index(shards).shards
    assert [shard.samples for shard in index] == [8, 8, 6]
    for shard in index:
        with tarfile.open(shard.path) as tar:
            assert len(tar.getnames()) == 2 * shard.samples
    assert check_shards(str(shards)) == 0
    assert {path.name for path in shards.iterdir() if not path.name.startswith(".")} == {
        "index.json", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"
    }  # fmt: skip


def test_same_settings_give_the_same_bytes_with_any_number_of_workers(shards, tmp_path):
    synth(str(tmp_path), **SETTINGS, workers=2)
    assert content(tmp_path) == content(shards)


def test_interrupted_run_continues_where_it_stopped(shards, tmp_path, monkeypatch):
    real, calls = module.pack_sample, []

    def stop(video, crf):
        calls.append(video.key)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return real(video, crf)

    monkeypatch.setattr(module, "pack_sample", stop)
    with pytest.raises(KeyboardInterrupt):
        synth(str(tmp_path), **SETTINGS)
    assert set(content(tmp_path)) == {".started.json", "shard-000000.tar"}  # no partial shard
    with pytest.raises(DataError, match="not finished"):
        read_index(tmp_path)
    for name in (".shard-000001.tar.ab_12345", "..shard-000001.tar.json.ab_12345"):
        (tmp_path / name).write_bytes(b"left behind by a killed process")
    synth(str(tmp_path), **SETTINGS)
    assert len(calls) == 13 + 14  # the finished shard was not written again
    assert content(tmp_path) == content(shards)


def test_run_killed_right_after_the_rename_of_a_shard_does_not_write_it_again(shards, tmp_path, monkeypatch):
    real = os.replace

    def rename_and_stop(source, target):
        real(source, target)
        if str(target).endswith(".tar"):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", rename_and_stop)
    with pytest.raises(KeyboardInterrupt):
        synth(str(tmp_path), **SETTINGS)
    monkeypatch.undo()
    finished = tmp_path / "shard-000000.tar"
    before = finished.stat().st_mtime_ns
    synth(str(tmp_path), **SETTINGS)
    assert finished.stat().st_mtime_ns == before and content(tmp_path) == content(shards)


def test_full_disk_is_an_os_error_and_leaves_no_partial_shard(tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shard_writer.wds.TarWriter, "write", full)
    with pytest.raises(OSError, match="No space left on device.*" + tmp_path.name):
        synth(str(tmp_path), videos=4, frames=[16], shard_size=2)
    assert set(content(tmp_path)) == {".started.json"}


def test_folder_with_other_contents_is_not_changed(shards, tmp_path):
    with pytest.raises(DataError, match="other settings.*seed=5"):
        synth(str(shards), **SETTINGS | {"seed": 6})
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        synth(str(tmp_path), videos=4, frames=[16])
    assert set(content(tmp_path)) == {"mine.txt"}


def test_difficulty_and_style_reach_the_videos_and_are_stored_with_the_shards(tmp_path, capsys):
    for number, difficulty in enumerate(["hard", Difficulty((4, 8), decoys=0.5)]):
        out, look = tmp_path / str(number), dict(difficulty=difficulty, style="held_out")
        settings = dict(videos=1, frames=[16], crf=0, **look)
        synth(str(out), **settings)
        with tarfile.open(out / "shard-000000.tar") as tar:
            (name,) = (name for name in tar.getnames() if name.endswith("mp4"))
            frames, _ = decode_video(tar.extractfile(name).read())
        np.testing.assert_array_equal(frames, generate(0, frames=16, **look).frames)
        capsys.readouterr()
        synth(str(out), **settings)
        assert "complete" in capsys.readouterr().out
        for other in (dict(difficulty="easy"), dict(style="normal")):
            with pytest.raises(DataError, match="other settings.*" + next(iter(other))):
                synth(str(out), **{**settings, **other})


def test_finished_shards_are_not_written_again(shards, capsys):
    before = content(shards)
    synth(str(shards), **SETTINGS)
    assert "complete" in capsys.readouterr().out
    assert content(shards) == before


def test_settings_out_of_range_are_data_errors(tmp_path):
    for wrong in (
        dict(frames=[1, 2]),
        dict(frames=[40, 32]),
        dict(frames=[1, 2, 3]),
        dict(split="dev"),
        dict(difficulty="brutal"),
        dict(style="odd"),
        dict(videos=0),
        dict(seed=-1),
        dict(crf=52),
    ):
        with pytest.raises(DataError):
            synth(str(tmp_path / "out"), **{"videos": 2, "frames": [16], **wrong})
            pytest.fail(f"{wrong} is accepted")
    assert not (tmp_path / "out").exists()


def test_missing_and_damaged_indexes_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="framefold shards synth"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(DataError, match="index.json"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text('{"framefold_shards": 99}')
    with pytest.raises(DataError, match="format"):
        read_index(tmp_path)


def test_check_names_the_damage(shards, tmp_path, capsys):
    folder = shutil.copytree(shards, tmp_path / "copy")
    data = bytearray((folder / "shard-000001.tar").read_bytes())
    at = data.index(b"ftyp")
    data[at : at + 2000] = bytes(2000)  # damages one mp4
    (folder / "shard-000001.tar").write_bytes(data)
    complete = (folder / "shard-000002.tar").read_bytes()
    (folder / "shard-000002.tar").write_bytes(complete[: len(complete) // 2])
    assert check_shards(str(folder)) == 1
    out = capsys.readouterr().out
    assert "train-5-00000008" in out and "shard-000002.tar" in out and "of 22 samples are intact" in out


def test_ctrl_c_ends_with_one_line_and_leaves_no_partial_shard(tmp_path):
    out = tmp_path / "out"
    words = ["shards", "synth", "--out", str(out), "--videos", "4000", "--shard_size", "16"]
    command = ForkedCommand(words, tmp_path / "log")
    command.wait_until(lambda: any(out.glob("shard-*")))
    assert command.interrupt() == 130
    text = (tmp_path / "log").read_text()
    assert text.strip().splitlines()[-1].startswith("framefold: error: interrupted") and "Traceback" not in text
    permitted = r"shard-\d+\.tar|\.shard-\d+\.tar\.(json|lock)|\.started\.json"
    assert [file.name for file in out.iterdir() if not re.fullmatch(permitted, file.name)] == []
