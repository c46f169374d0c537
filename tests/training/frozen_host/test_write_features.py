"""Features of videos as shards: content, writing, damaged files, and training on them."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load, save
from webdataset.tariterators import tarfile_samples

from framefold.__main__ import main
from framefold.adapters import Compressor, VideoTokens
from framefold.adapters.ops.selection import exact_topk
from framefold.data.evidence import evidence_mask
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards.check import check_shards
from framefold.data.shards.encoded import EncodedSample, pack_encoded
from framefold.data.shards.index import read_index
from framefold.data.shards.sample import unpack_sample
from framefold.data.synthetic.write_shards import synth
from framefold.errors import DataError, HostError
from framefold.training.frozen_host import write_features
from framefold.training.frozen_host.batch import answer_questions, encode_batch
from framefold.training.frozen_host.feature_encoder import FeatureEncoder
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.write_features import LOCAL_RANK, _devices, features
from framefold.training.module import CompressorModule
from framefold.training.tinyhost.build import Architecture, build_host, save_host
from tests.support.limits import HANG
from tests.support.own_shards import BAD_SAMPLES, write_own_shards

VIDEOS = 10
SMALL: Any = dict(vision_width=16, vision_layers=1, vision_heads=2, vision_ff=32, text_layers=1, text_heads=2)


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losslessly coded videos in four shards; tests must not change them."""
    folder = tmp_path_factory.mktemp("lossless") / "videos"
    synth(str(folder), videos=VIDEOS, frames=[16, 20], seed=7, shard_size=3, crf=0)
    return folder


@pytest.fixture(scope="module")
def encoded(lossless: Path, random_host: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Features of these videos, written once for each choice of settings; tests must not change them."""
    folders: dict[str, Path] = {}

    def encode(**settings: Any) -> Path:
        name = json.dumps(settings, sort_keys=True)
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("features") / "out"
            features(str(lossless), str(random_host), str(folders[name]), **settings)
        return folders[name]

    return encode


def raws(folder: Path) -> list[dict[str, Any]]:
    return [raw for shard in read_index(folder).shards for raw in tarfile_samples([{"url": shard.path}])]


def samples(folder: Path) -> list[Any]:
    return [unpack_sample(raw["__key__"], raw) for raw in raws(folder)]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.endswith(".lock")}


# ---- content --------------------------------------------------------------------------------------------------------


def test_features_equal_those_of_the_host_on_the_video(lossless, random_host, encoded):
    host, folder = load_host(random_host), encoded(store="float32", attention=True)
    index = read_index(folder)
    assert index.kind == "features" and [shard.samples for shard in index.shards] == [3, 3, 3, 1]
    for video, stored in zip(samples(lossless), samples(folder), strict=True):
        direct = host.encode_sample(video, attention=True)
        assert isinstance(stored, EncodedSample) and stored.key == video.key and stored.features.dtype == torch.float32
        assert (
            stored.questions == video.questions
            and stored.prompts == direct.prompts
            and stored.replies == direct.replies
        )
        assert stored.start == direct.start == len(stored.columns["input_ids"])
        for name, tensor in direct.tensors().items():
            assert torch.equal(stored.tensors()[name], tensor), name
        again = host.encode_sample(stored, attention=True)
        assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in direct.tensors().items())
    assert [length for shard in index.shards for length in shard.lengths] == [
        len(v.frames) * 16 for v in samples(lossless)
    ]
    assert check_shards(str(folder)) == 0


def test_features_record_host_videos_and_settings(lossless, random_host, encoded):
    settings = read_index(encoded()).settings
    found = find_host(random_host)
    assert settings["host"] == found.base_model(32) and len(settings["host"]["weights"]) == 64
    assert settings["host"]["kind"] == "llava_onevision" and settings["host"]["name"] == str(random_host)
    assert settings["source"]["settings"]["seed"] == 7 and settings["source"]["samples"] == VIDEOS
    assert (settings["store"], settings["dtype"], settings["frames"]) == ("bfloat16", "auto", None)
    for raw in raws(encoded()):
        notes = json.loads(raw["json"])
        assert notes["encoded"]["host"] == settings["host"] | {"dtype": "float32"}
        assert notes["made"] == {name: value for name, value in settings.items() if name != "host"}
        assert notes["events"] and notes["scenes"] and "times" not in notes  # other metadata stays
    assert all(sample.features.dtype == torch.bfloat16 for sample in samples(encoded()))


def test_with_fewer_frames_evidence_is_in_steps_of_these_frames(lossless, encoded):
    folder = encoded(frames=6, store="float32")
    for video, stored, raw in zip(samples(lossless), samples(folder), raws(folder), strict=True):
        total = len(video.frames)
        shown = [(2 * i + 1) * total // 12 for i in range(6)]
        assert json.loads(raw["json"])["shown"] == shown and stored.features.shape[:3] == (6, 4, 4)
        assert stored.times.tolist() == video.times[shown].tolist()
        for original, thinned in zip(video.questions, stored.questions, strict=True):
            expected = evidence_mask([box for box in original.evidence if box[0] in shown], (total, 4, 4))[shown]
            assert (evidence_mask(thinned.evidence, (6, 4, 4)) == expected).all()
            assert replace(thinned, evidence=original.evidence) == original


def test_host_encodes_the_same_frames_without_features(lossless, random_host, encoded):
    host = load_host(random_host, frames=6)
    for video, stored in zip(samples(lossless), samples(encoded(frames=6, store="float32")), strict=True):
        direct = host.encode_sample(video)
        assert torch.equal(direct.features, stored.features) and direct.questions == stored.questions


def test_chunks_of_frames_change_neither_features_nor_settings(lossless, random_host, encoded):
    folder, chunked = encoded(store="float32"), encoded(store="float32", vision_chunk=5)
    assert chunked != folder and read_index(chunked).settings == read_index(folder).settings
    for one, other in zip(samples(folder), samples(chunked), strict=True):
        assert len(one.times) > 5 and torch.equal(one.features, other.features)


# ---- writing --------------------------------------------------------------------------------------------------------


def start(lossless: Path, host: Path, out: Path, log: Path, die_at: int = 0) -> Any:
    """Run the command in a fork of this process; it kills itself at one of its videos."""
    words = ["shards", "features", "--shards", str(lossless), "--host", str(host), "--out", str(out)]
    process = multiprocessing.get_context("fork").Process(target=run_command, args=(words, log, die_at), daemon=True)
    process.start()
    return process


def run_command(words: list[str], log: Path, die_at: int) -> None:
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    real, keys = FeatureEncoder._encode, list[str]()

    def dying(self: FeatureEncoder, key: str, content: dict[str, Any]) -> Any:
        keys.append(key)
        if len(keys) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, key, content)

    FeatureEncoder._encode = dying  # type: ignore[method-assign]
    os._exit(main(words))


def end(process: Any) -> int:
    """Return the status of a process; it is killed if it takes too long."""
    process.join(timeout=HANG)
    process.kill()
    process.join()
    return process.exitcode


def test_killed_run_resumes_and_writes_the_same_bytes(lossless, random_host, encoded, tmp_path):
    assert end(start(lossless, random_host, tmp_path / "out", tmp_path / "log", die_at=6)) == -signal.SIGKILL
    killed = files(tmp_path / "out")
    assert "shard-000000.tar" in killed and any(name.startswith(".shard-000001.tar.") for name in killed)
    assert not {"index.json", "shard-000001.tar"} & killed.keys()
    with pytest.raises(DataError, match="not finished"):
        read_index(tmp_path / "out")
    features(str(lossless), str(random_host), str(tmp_path / "out"))
    assert files(tmp_path / "out") == files(encoded())


def test_processes_share_the_work(lossless, random_host, encoded, tmp_path):
    logs = [tmp_path / name for name in ("first", "second")]
    processes = [start(lossless, random_host, tmp_path / "out", log) for log in logs]
    assert [end(process) for process in processes] == [0, 0], [log.read_text() for log in logs]
    assert any("is complete" in log.read_text() for log in logs)
    assert files(tmp_path / "out") == files(encoded())


def test_worker_processes_write_the_same_bytes(lossless, random_host, encoded, tmp_path, capsys):
    features(str(lossless), str(random_host), str(tmp_path / "out"), workers=2)
    assert files(tmp_path / "out") == files(encoded())
    features(str(lossless), str(random_host), str(tmp_path / "out"))  # nothing left to do
    assert capsys.readouterr().out.count("is complete: features of 10 videos") == 2


def test_shard_that_another_process_encodes_is_left_to_it(lossless, random_host, encoded, tmp_path, capsys):
    call = (str(lossless), str(random_host), str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".shard-000001.tar.lock"):
        features(*call)
    assert "other processes are still writing" in capsys.readouterr().out
    assert {name for name in files(tmp_path / "out") if name.endswith(".tar")} == {
        f"shard-00000{number}.tar" for number in (0, 2, 3)
    }
    before = (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns
    features(*call)
    assert files(tmp_path / "out") == files(encoded())
    assert (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns == before  # not written again


def test_worker_process_that_fails_or_dies_is_an_error(lossless, random_host, tmp_path, monkeypatch):
    fork = multiprocessing.get_context("fork")  # faster than a new interpreter
    monkeypatch.setattr(write_features.multiprocessing, "get_context", lambda kind: fork)
    monkeypatch.setattr(write_features, "_work", fail)
    with pytest.raises(DataError, match="of a worker"):
        features(str(lossless), str(random_host), str(tmp_path / "a"), workers=2)
    monkeypatch.setattr(write_features, "_work", die)
    with pytest.raises(DataError, match="worker process ended with status 3"):
        features(str(lossless), str(random_host), str(tmp_path / "b"), workers=2)


def fail(sender: Any, job: Any, device: str) -> None:
    sender.send(DataError("of a worker"))


def die(sender: Any, job: Any, device: str) -> None:
    os._exit(3)


def spoiled(lossless: Path, folder: Path, spoil: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy shards, with some files changed or removed."""
    shutil.copytree(lossless, folder)
    for tar in folder.glob("*.tar"):
        with tarfile.open(lossless / tar.name) as old, tarfile.open(tar, "w") as new:
            for member in old.getmembers():
                stream: Any = old.extractfile(member)
                content = spoil(member.name, stream.read())
                if content is None:
                    continue
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return folder


def test_damaged_videos_are_skipped_counted_and_named(lossless, random_host, tmp_path, capsys):
    def spoil(name: str, content: bytes) -> bytes | None:
        if name == "train-7-00000004.mp4":
            return bytes(len(content))
        if name == "train-7-00000005.json":
            return content.replace(b'"schema":2', b'"schema":9')
        return None if name == "train-7-00000009.mp4" else content

    source = spoiled(lossless, tmp_path / "videos", spoil)
    cut = source / "shard-000000.tar"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    common = (str(source), str(random_host), str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"2 videos cannot be encoded.*max_damaged"):
        features(*common, max_damaged=0.1)
    features(*common, max_damaged=0.6)
    out = capsys.readouterr()
    skipped = VIDEOS - read_index(tmp_path / "out").samples
    assert (
        skipped >= 5 and f"features of {VIDEOS - skipped} videos" in out.out and f"{skipped} videos skipped" in out.out
    )
    for text in ("00000004.mp4", "00000005.json has schema 9", "00000009 has no mp4", "shard-000000.tar ends early"):
        assert text in out.err
    assert check_shards(str(tmp_path / "out")) == 0
    with pytest.raises(DataError, match=f"{skipped} of {VIDEOS} videos were skipped"):
        features(*common, max_damaged=0.1)


@pytest.mark.filterwarnings("ignore")
def test_samples_that_schema_or_host_refuse_are_skipped_counted_and_named(random_host, tmp_path, capsys):
    bad = dict(zip((1, 3, 4, 6, 7), BAD_SAMPLES.values(), strict=True))
    shards = write_own_shards(tmp_path / "shards", 10, bad)
    features(str(shards), str(random_host), str(tmp_path / "out"), max_damaged=0.5)
    out = capsys.readouterr()
    assert "features of 5 videos" in out.out and "5 videos skipped" in out.out
    for number, field in zip(bad, BAD_SAMPLES, strict=True):
        assert any(f"own-{number}.json" in line and field in line for line in out.err.splitlines()), out.err
    assert check_shards(str(tmp_path / "out")) == 0


def test_shard_without_any_usable_video_is_accepted(lossless, random_host, tmp_path):
    lost = {f"train-7-0000000{i}.mp4" for i in (3, 4, 5)}
    source = spoiled(lossless, tmp_path / "videos", lambda name, content: b"" if name in lost else content)
    features(str(source), str(random_host), str(tmp_path / "out"), max_damaged=0.5)
    index = read_index(tmp_path / "out")
    assert [shard.samples for shard in index.shards] == [3, 0, 3, 1] and check_shards(str(tmp_path / "out")) == 0
    batches = [batch.samples for batch in ShardStream(str(tmp_path / "out"), 2, seed=1)]
    assert len({sample.key for some in batches for sample in some}) == 7


def test_processes_are_distributed_over_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for variable in LOCAL_RANK:
        monkeypatch.delenv(variable, raising=False)
    assert _devices(None, 6) == [f"cuda:{i % 4}" for i in range(6)]
    assert _devices("cuda:2", 2) == ["cuda:2", "cuda:2"] and _devices("cpu", 1) == ["cpu"]
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert _devices(None, 1) == ["cuda:3"] and _devices(None, 2) == ["cuda:2", "cuda:3"]
    monkeypatch.setenv("LOCAL_RANK", "1")  # torchrun inside a SLURM task
    assert _devices(None, 1) == ["cuda:1"]


def test_wrong_arguments_are_refused_before_any_work(lossless, random_host, encoded, tmp_path):
    call: dict[str, Any] = {"shards": str(lossless), "host": str(random_host), "out": str(tmp_path / "out")}
    for change, error, text in [
        ({"frames": 0}, DataError, "must be positive"),
        ({"vision_chunk": 0}, DataError, "must be positive"),
        ({"workers": 0}, DataError, "must be positive"),
        ({"max_damaged": 2.0}, DataError, "a fraction"),
        ({"shards": str(tmp_path / "none")}, DataError, "none"),
        ({"shards": str(encoded())}, DataError, "already holds features"),
        ({"host": str(tmp_path / "none")}, HostError, "no host in"),
        ({"host": "some/host"}, HostError, "hf download some/host"),
        ({"revision": "main"}, HostError, "has no revisions"),
        ({"out": str(lossless)}, DataError, "other settings"),
    ]:
        with pytest.raises(error, match=text):
            features(**call | change)
    assert not (tmp_path / "out").exists()
    features(**call | {"out": str(tmp_path / "few"), "frames": 4})
    with pytest.raises(DataError, match="other settings.*frames=4"):
        features(**call | {"out": str(tmp_path / "few"), "frames": 5})


# ---- damaged and hostile files --------------------------------------------------------------------------------------


def changed(**tensors: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        content = load(raw["safetensors"])
        for name, new in tensors.items():
            value = new(content[name.split("__")[0]]) if callable(new) else new
            content = {key: old for key, old in content.items() if key != name} | (
                {} if value is None else {name: value}
            )
        raw["safetensors"] = save(content)

    return change


def edited(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        notes = json.loads(raw["json"])
        notes["encoded"] |= {name: value for name, value in fields.items() if name in ("format", "start", "host")}
        for question in notes["questions"]:
            question |= {name: value for name, value in fields.items() if name in ("prompt", "reply", "evidence")}
        raw["json"] = json.dumps(notes).encode()

    return change


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no json": (lambda raw: raw.pop("json"), "has no json"),
    "cut": (lambda raw: raw.update(safetensors=raw["safetensors"][:-9]), "damaged"),
    "empty": (lambda raw: raw.update(safetensors=b""), "damaged"),
    "garbage": (lambda raw: raw.update(safetensors=b"\xff" * 99), "damaged"),
    "huge header": (lambda raw: raw.update(safetensors=b"\xff" * 7 + b"\x00" + raw["safetensors"]), "damaged"),
    "NaN": (changed(features=lambda f: f * float("nan")), "NaN"),
    "infinite": (changed(extra=lambda f: f / 0), "infinite"),
    "flat": (changed(features=lambda f: f.flatten(0, 2)), "features must be"),
    "whole numbers": (changed(features=lambda f: f.int()), "features must be"),
    "empty grid": (changed(features=lambda f: f[:0]), "features must be"),
    "no features": (changed(features=None), "there is no features"),
    "no prefix": (changed(**{"columns.input_ids": None}), "there is no columns.input_ids"),
    "another width": (changed(extra=lambda e: e[:, :-1]), "extra has shape"),
    "another dtype": (changed(extra=lambda e: e.float()), "extra has shape"),
    "fewer places": (changed(on_grid=lambda g: g[1:]), "on_grid has shape"),
    "other places": (changed(on_grid=lambda g: ~g), "placeholders do not fit a grid"),
    "fewer times": (changed(times=lambda t: t[1:]), "times has shape"),
    "times back": (changed(times=lambda t: t.flip(0)), "do not ascend"),
    "fewer positions": (changed(positions=lambda p: p[1:]), "positions has shape"),
    "negative ids": (changed(**{"columns.input_ids": lambda i: -i}), "contains -"),
    "wild column": (changed(**{"columns.other": torch.zeros(3, dtype=torch.int32)}), "columns.other has shape"),
    "another layer": (changed(**{"deepstack.1": torch.zeros(1)}), "deepstack.1"),
    "odd name": (changed(__class__=torch.zeros(1)), "__class__"),
    "attention of another grid": (changed(attention=torch.zeros(1, 2, 3)), "attention has shape"),
    "format": (edited(format=99), "format 99"),
    "start": (edited(start=-1), "format 1 of features"),
    "huge start": (edited(start=1 << 70), "format 1 of features"),
    "host": (edited(host=[1]), "format 1 of features"),
    "prompt of text": (edited(prompt="what"), "format 1 of features"),
    "prompt of nothing": (edited(prompt=[]), "format 1 of features"),
    "reply of truth": (edited(reply=[True]), "format 1 of features"),
    "evidence of text": (edited(evidence=[[0, "a", 0, 1, 1]]), "schema"),
}


def test_damaged_and_hostile_features_are_a_data_error_that_names_the_sample(encoded):
    original = raws(encoded())[0]
    for name, (change, text) in HOSTILE.items():
        raw = dict(original)
        change(raw)
        with pytest.raises(DataError, match=rf"train-7-00000000.*{re.escape(text)}"):
            unpack_sample(raw["__key__"], raw)
            pytest.fail(f"{name}: accepted")


def test_features_out_of_range_of_their_dtype_are_not_written(random_host, lossless):
    encoded = load_host(random_host).encode_sample(samples(lossless)[0])
    wide = replace(encoded, features=encoded.features + 3.4e38)
    notes = json.loads(raws(lossless)[0]["json"])
    with pytest.raises(DataError, match="infinite"):
        pack_encoded(wide, notes, torch.bfloat16)


def test_samples_that_do_not_fit_the_host_are_refused_by_name(random_host, encoded):
    sample = samples(encoded(attention=True, store="float32"))[0]
    host = load_host(random_host)
    host.encode_sample(sample, attention=True)
    ids = sample.columns["input_ids"]
    for changes, text in [
        ({"prompts": ((9999,), *sample.prompts[1:])}, "token 9999, this host knows"),
        ({"columns": {"input_ids": ids * 0}}, "for 0 placeholders"),
        ({"prompts": ((int(ids[-1]),), *sample.prompts[1:])}, "a placeholder of this host in a question"),
        ({"replies": ((), *sample.replies[1:])}, r"an answer without tokens.*questions\[0\]\.answer"),
        ({"columns": {**sample.columns, "use_cache": ids}}, "use_cache"),
        ({"attention": None}, "--attention"),
    ]:
        with pytest.raises(DataError, match=f"train-7-00000000 .*{text}"):
            host.encode_sample(replace(sample, **changes), attention=True)
            pytest.fail(f"accepted without {text}")


# ---- training -------------------------------------------------------------------------------------------------------

FIT = [
    "--config",
    "trainer/cpu",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.max_steps",
    "3",
    "--data.batch_size",
    "2",
    "--data.val_batch_size",
    "2",
    "--data.seed",
    "3",
]  # fmt: skip; after the configurations of compressors, which set steps as well
NO_VAL = ["--trainer.limit_val_batches", "0"]


@pytest.fixture
def fit(random_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that trains on shards and returns the weights."""
    monkeypatch.setattr(sys, "argv", ["framefold"])
    runs = iter(range(99))

    def run(shards: Path | str, *args: str, host: Path = random_host, status: int = 0) -> dict[str, Any]:
        root = tmp_path / f"run-{next(runs)}"
        where = ["--data.shards", str(shards), "--model.host", str(host), "--trainer.default_root_dir", str(root)]
        assert main(["fit", *args, *FIT, *where]) == status
        if status:
            assert not list(root.rglob("*.ckpt"))
            return {}
        return torch.load(root / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    return run


def test_training_on_features_equals_training_on_their_videos(lossless, encoded, fit):
    model = ["--config", "compressor/qtsplus", "--model.losses", "{kl: 1.0, attention: 1.0, evidence: 1.0}", *NO_VAL]
    videos = fit(lossless, *model)
    stored = fit(encoded(store="float32", attention=True), *model)
    assert len(videos) > 1 and videos.keys() == stored.keys()
    assert all(torch.equal(videos[name], stored[name]) for name in videos)
    rounded = fit(encoded(), *model)
    difference = max(float((rounded[name] - videos[name]).abs().max()) for name in videos)
    assert 0 < difference < 0.02


def test_loader_workers_deliver_the_same_features(encoded, fit):
    words = ["--config", "compressor/fila", *NO_VAL]
    alone, with_worker = fit(encoded(), *words), fit(encoded(), *words, "--data.workers", "1")
    assert all(torch.equal(alone[name], with_worker[name]) for name in alone)


def test_vision_encoder_is_dropped_unless_there_are_videos(encoded, fit, monkeypatch, capsys):
    sizes: list[int] = []
    real = CompressorModule.training_step

    def record(self: Any, batch: Any, batch_idx: int) -> Any:
        sizes.append(sum(p.numel() for p in self.model.base_model.vision_tower.parameters()))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(CompressorModule, "training_step", record)
    every = ["--config", "compressor/fila", "--trainer.val_check_interval", "2"]
    fit(encoded(), "--config", "compressor/fila", *NO_VAL)
    fit(encoded(), *every, "--data.val_shards", str(encoded(frames=6, store="float32")))
    fit(encoded(), *every, "--data.val_videos", "2", "--data.val_frames", "16")
    assert sizes[:6] == [0] * 6 and min(sizes[6:]) > 1000
    assert capsys.readouterr().out.count("validation accuracy") == 2


def test_host_without_its_vision_encoder_refuses_videos(random_host, lossless):
    host = load_host(random_host)
    host.check_videos()
    host.drop_vision()
    with pytest.raises(HostError, match="dropped"):
        host.check_videos()


@pytest.fixture(scope="module")
def other_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_host(build_host(Architecture(**SMALL, text_width=32, text_ff=32), seed=4), tmp_path_factory.mktemp("o"))


def test_features_of_another_host_are_refused_before_training(
    lossless, encoded, fit, other_host, random_host, tmp_path, capsys
):
    copy = shutil.copytree(random_host, tmp_path / "copy")
    fit(encoded(), "--config", "compressor/fila", *NO_VAL, host=copy)  # the same weights in another folder
    wide = save_host(build_host(Architecture(**SMALL, text_width=16, text_ff=32), seed=4), tmp_path / "wide")
    for host, shards, more, why in (
        (other_host, encoded(), NO_VAL, "other weights"),
        (wide, lossless, ["--data.val_shards", str(encoded())], "width 32, not 16"),
    ):
        capsys.readouterr()
        fit(shards, "--config", "compressor/fila", *more, host=host, status=2)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        for text in (str(encoded()), str(random_host), str(host), why, "framefold shards features"):
            assert text in error, error


def test_samples_without_an_index_record_their_host(encoded, other_host, random_host):
    host = load_host(other_host)
    sample = samples(encoded())[0]
    with pytest.raises(HostError, match=r"train-7-00000000 holds features encoded by .*other weights"):
        encode_batch(host, [sample])
    with pytest.raises(HostError, match="unknown weights"):
        encode_batch(load_host(random_host), [replace(sample, host={"kind": "llava_onevision", "width": 32})])
    with pytest.raises(HostError, match="kind None"):
        encode_batch(load_host(random_host), [replace(sample, host={})])


class ByAttention(Compressor):
    """Keeps the tokens that received most attention; without a class attribute ``name`` it is not registered."""

    needs_attention: ClassVar[bool] = True

    def __init__(self, budget: float | int = 0.25) -> None:
        super().__init__(budget)
        self.name = "by_attention"

    def compress(self, video: VideoTokens, k: int, query: Any) -> VideoTokens:
        assert video.attention is not None
        return video.keep(exact_topk(video.attention, k))


def test_compressors_get_the_stored_attention(random_host, lossless, encoded):
    host, compressor = load_host(random_host), ByAttention(9)
    videos, stored = samples(lossless)[:2], samples(encoded(attention=True, store="float32"))[:2]
    kept = []
    for group in (videos, stored):
        batch = encode_batch(host, group, compressor.needs_attention)
        kept.append([tokens.index for tokens in answer_questions(host, compressor, batch).prepared.tokens])
    assert all(map(torch.equal, *kept)) and not torch.equal(kept[0][0], torch.arange(9))
    with pytest.raises(DataError, match="--attention"):
        encode_batch(host, samples(encoded())[:2], compressor.needs_attention)


def test_batches_of_features_respect_a_token_limit(encoded):
    stream = ShardStream(str(encoded()), max_tokens=640, seed=1)
    batches = [batch.samples for batch in stream]
    sizes = [len(batch) * max(sample.length for sample in batch) for batch in batches]
    assert max(sizes) <= 640 and max(map(len, batches)) == 2
    assert sorted(sample.key for batch in batches for sample in batch) == [f"train-7-{i:08d}" for i in range(VIDEOS)]


# ---- hosts from the Hub ---------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(random_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub with the host in it, and no network."""
    cache = tmp_path / "cache"
    shutil.copytree(random_host, cache / "models--some--host" / "snapshots" / COMMIT)
    for ref in ("main", "v1"):
        (cache / "models--some--host" / "refs").mkdir(exist_ok=True)
        (cache / "models--some--host" / "refs" / ref).write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was used"))
    return cache


def test_host_comes_from_the_cache_of_the_hub(hub, lossless, random_host, encoded, fit, tmp_path):
    features(str(lossless), "some/host", str(tmp_path / "out"), revision="v1")
    record = read_index(tmp_path / "out").settings["host"]
    assert (record["name"], record["revision"]) == ("some/host", COMMIT)
    for one, other in zip(samples(tmp_path / "out"), samples(encoded()), strict=True):
        assert torch.equal(one.features, other.features)
    args = ["--config", "compressor/fila", *NO_VAL, "--model.host_revision"]
    assert fit(tmp_path / "out", *args, "v1", host=Path("some/host"))
    assert fit(encoded(), *args, COMMIT, host=Path("some/host"))  # of a folder with the same weights
    for revision, name in (("v2", "some/host"), ("null", "no/host"), ("null", "/no/../host")):
        fit(tmp_path / "out", *args, revision, host=Path(name), status=2)


def test_equal_commits_need_no_digest_of_the_weights(hub, random_host, monkeypatch):
    found = find_host("some/host")
    record = found.base_model(32)
    monkeypatch.setattr("framefold.training.frozen_host.locate.weights_digest", lambda folder: pytest.fail("read"))
    found.check_features_host(record, 32, "x")
    monkeypatch.setattr("framefold.training.frozen_host.locate.weights_digest", lambda folder: "another")
    with pytest.raises(HostError, match=f"some/host' at '{COMMIT}"):
        find_host(random_host).check_features_host(record, 32, "x")


def test_features_keep_what_a_question_follows(random_host: Path, tmp_path: Path) -> None:
    folder = write_own_shards(tmp_path / "videos", 1, {}, per_shard=1)
    questions = json.loads(raws(folder)[0]["json"])["questions"]
    questions[1]["follows"] = 0
    write_own_shards(folder, 1, {0: {"questions": questions}}, per_shard=1)
    features(str(folder), str(random_host), str(tmp_path / "features"), store="float32")
    (video,), (stored,) = samples(folder), samples(tmp_path / "features")
    assert stored.questions[1].history == ((questions[0]["text"], questions[0]["answer"]),)
    assert stored.prompts == load_host(random_host).encode_sample(video).prompts
    assert len(stored.prompts[1]) > len(stored.prompts[0]) + 3  # the turn before is in the prompt
