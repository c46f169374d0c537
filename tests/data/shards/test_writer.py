"""Writing shards: exact, atomic, resumable, the same bytes again; and checking them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from framefold.data.shards import writer as shard_writer
from framefold.data.shards.check import check_shards
from framefold.data.shards.index import read_index
from framefold.data.shards.sample import unpack
from framefold.data.synthetic import write_shards as module
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.generate import generate
from framefold.data.synthetic.recipe import Recipe, pack_sample
from framefold.data.synthetic.write_shards import synth
from framefold.data.video.codec import decode, encode_video
from framefold.errors import DataError


def content(folder: Path) -> dict[str, bytes]:
    """All files but locks, and the notes on finished shards that go into the index."""
    left_out = (".tar.lock", ".tar.json")
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.endswith(left_out)}


# ---- video ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
@pytest.mark.parametrize(("crf", "worst_mean"), [(0, 0.0), (18, 4.2), (23, 5.5)])
def test_frames_and_times_survive_the_codec(crf, worst_mean, difficulty):
    video = generate(0, frames=40, difficulty=difficulty)
    frames, times = decode(encode_video(video.frames, video.times, crf))
    assert frames.shape == video.frames.shape and frames.dtype == np.uint8
    np.testing.assert_array_equal(times, video.times)
    assert np.abs(frames.astype(int) - video.frames).mean() <= worst_mean  # of 255; the videos' own noise is 4.0


def test_uneven_timestamps_survive():
    times = np.array([0.0, 0.1, 0.7, 0.701, 9.5], np.float32)
    np.testing.assert_allclose(decode(encode_video(generate(0, frames=16).frames[:5], times))[1], times, atol=5e-4)


def test_equal_frames_give_equal_bytes():
    video = generate(3, frames=50)
    assert len({encode_video(video.frames, video.times) for _ in range(8)}) == 1


@pytest.mark.parametrize(
    "data", [b"", b"no video", bytes(5000), encode_video(np.zeros((16, 32, 32, 3), np.uint8), np.arange(16))[:700]]
)
def test_damaged_bytes_are_a_data_error(data):
    with pytest.raises(DataError, match="cannot decode|no frame"):
        decode(data)


def test_wrong_input_of_encode_is_a_data_error():
    frames = generate(0, frames=16).frames
    for bad in (
        lambda: encode_video(frames.astype(np.float32), np.arange(16)),
        lambda: encode_video(frames, np.arange(15)),
        lambda: encode_video(frames, np.zeros(16)),
        lambda: encode_video(frames, np.arange(16), crf=60),
        lambda: decode("/does/not/exist.mp4"),
    ):
        with pytest.raises(DataError):
            bad()


# ---- samples --------------------------------------------------------------------------------------------------------


def test_a_sample_comes_back_as_it_went_in():
    video = Recipe((20, 30)).video(4)
    sample = unpack("k", pack_sample(video, crf=0))
    np.testing.assert_array_equal(sample.frames.numpy(), video.frames)
    assert sample.questions == video.questions
    assert sample.times.tolist() == video.times.tolist()


def test_lengths_cover_the_range_and_are_reproducible():
    lengths = [len(Recipe((32, 35)).video(i).frames) for i in range(40)]
    assert set(lengths) == {32, 33, 34, 35}
    assert lengths == [len(Recipe((32, 35)).video(i).frames) for i in range(40)]


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.pop("json"),
        lambda files: files.update(json=b"{"),
        lambda files: files.update(json=json.dumps({"schema": 99}).encode()),
        lambda files: files.update(json=json.dumps({**json.loads(files["json"]), "questions": [{"a": 1}]}).encode()),
        lambda files: files.update(json=json.dumps({**json.loads(files["json"]), "times": [0.0]}).encode()),
        lambda files: files.update(mp4=bytes(len(files["mp4"]))),
    ],
)
def test_a_damaged_sample_is_a_data_error(change):
    files = pack_sample(generate(1, frames=16), crf=18)
    change(files)
    with pytest.raises(DataError):
        unpack("k", files)


# ---- shards ---------------------------------------------------------------------------------------------------------


def test_index_and_tars_agree(shards):
    index = read_index(shards)
    assert [shard.samples for shard in index] == [8, 8, 6]
    for shard in index:
        with tarfile.open(shard.path) as tar:
            assert len(tar.getnames()) == 2 * shard.samples
    assert check_shards(str(shards)) == 0
    assert {path.name for path in shards.iterdir() if not path.name.startswith(".")} == {
        "index.json", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"
    }  # fmt: skip


def test_same_settings_give_the_same_bytes_with_any_number_of_workers(shards, tmp_path):
    synth(str(tmp_path), videos=22, frames=[16, 20], seed=5, shard_size=8, workers=2)
    assert content(tmp_path) == content(shards)


def test_an_interrupted_run_goes_on_where_it_stopped(shards, tmp_path, monkeypatch):
    real, calls = module.pack, []

    def stop(video, crf):
        calls.append(video.key)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return real(video, crf)

    monkeypatch.setattr(module, "pack", stop)
    settings = dict(videos=22, frames=[16, 20], seed=5, shard_size=8)
    with pytest.raises(KeyboardInterrupt):
        synth(str(tmp_path), **settings)
    assert set(content(tmp_path)) == {".started.json", "shard-000000.tar"}  # no half shard
    with pytest.raises(DataError, match="not finished"):
        read_index(tmp_path)
    synth(str(tmp_path), **settings)
    assert len(calls) == 13 + 14  # the finished shard was not made again
    assert content(tmp_path) == content(shards)


def test_a_full_disk_is_an_os_error_and_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shard_writer.wds.TarWriter, "write", full)
    with pytest.raises(OSError, match="No space left on device.*" + tmp_path.name):
        synth(str(tmp_path), videos=4, frames=[16], shard_size=2)
    assert set(content(tmp_path)) == {".started.json"}


def test_a_folder_with_something_else_is_left_alone(shards, tmp_path):
    with pytest.raises(DataError, match="other settings.*seed=5"):
        synth(str(shards), videos=22, frames=[16, 20], seed=6, shard_size=8)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        synth(str(tmp_path), videos=4, frames=[16])
    assert set(content(tmp_path)) == {"mine.txt"}


@pytest.mark.parametrize("difficulty", ["hard", Difficulty((4, 8), decoys=0.5)])
def test_difficulty_and_style_reach_the_videos_and_are_kept_with_the_shards(tmp_path, capsys, difficulty):
    settings = dict(videos=1, frames=[16], difficulty=difficulty, style="held_out", crf=0)
    synth(str(tmp_path), **settings)
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        (name,) = (name for name in tar.getnames() if name.endswith("mp4"))
        frames, _ = decode(tar.extractfile(name).read())
    np.testing.assert_array_equal(frames, generate(0, frames=16, difficulty=difficulty, style="held_out").frames)
    synth(str(tmp_path), **settings)
    assert "complete" in capsys.readouterr().out
    for other in (dict(difficulty="easy"), dict(style="normal")):
        with pytest.raises(DataError, match="other settings.*" + next(iter(other))):
            synth(str(tmp_path), **{**settings, **other})


def test_finished_shards_are_not_made_again(shards, capsys):
    before = content(shards)
    synth(str(shards), videos=22, frames=[16, 20], seed=5, shard_size=8)
    assert "complete" in capsys.readouterr().out
    assert content(shards) == before


@pytest.mark.parametrize(
    "wrong",
    [
        dict(frames=[1, 2]),
        dict(frames=[40, 32]),
        dict(frames=[1, 2, 3]),
        dict(split="dev"),
        dict(difficulty="brutal"),
        dict(style="odd"),
        dict(videos=0),
        dict(seed=-1),
    ],
)
def test_settings_out_of_range_are_data_errors(tmp_path, wrong):
    with pytest.raises(DataError):
        synth(str(tmp_path / "out"), **{"videos": 2, "frames": [16], **wrong})
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
    data[at : at + 2000] = bytes(2000)  # one mp4 spoilt
    (folder / "shard-000001.tar").write_bytes(data)
    whole = (folder / "shard-000002.tar").read_bytes()
    (folder / "shard-000002.tar").write_bytes(whole[: len(whole) // 2])
    assert check_shards(str(folder)) == 1
    out = capsys.readouterr().out
    assert "train-5-00000008" in out and "shard-000002.tar" in out and "of 22 samples are whole" in out


def test_ctrl_c_ends_with_one_line(tmp_path):
    command = [sys.executable, "-m", "framefold", "shards", "synth", "--out", str(tmp_path / "out"), "--videos", "4000"]
    run = subprocess.Popen([*command, "--shard_size", "16"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("shard-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(run.pid, signal.SIGINT)
        _, err = run.communicate(timeout=30)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 130
    assert err.strip().splitlines()[-1].startswith("framefold: error: interrupted") and "Traceback" not in err
    assert not list((tmp_path / "out").glob(".*.part"))
