"""Runs validate on the user's own samples, on synthetic videos if these were trained on, or on nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.data.shards.index import read_index
from framefold.errors import DataError
from framefold.training.datamodule import VideoData
from framefold.training.module import CompressorModule

Call = Callable[..., int]


@pytest.fixture(scope="module")
def own(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shards as a user would have indexed them: nothing says that they are synthetic."""
    folder = Path(shutil.copytree(shards, tmp_path_factory.mktemp("own") / "shards"))
    content = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(content | {"settings": {}}))
    return folder


@pytest.fixture
def call(random_host: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call framefold fit or validate; return the exit status."""
    monkeypatch.setattr(sys, "argv", ["framefold"])
    words = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    words += ["--model.host", str(random_host), "--data.shards", str(own), "--data.batch_size", "2"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path / "run")]
    steps = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    return lambda verb, *args: main([verb, *words, *(steps if verb == "fit" else []), *args])


def checkpoints(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run").rglob("*.ckpt"))


def test_without_validation_samples_there_is_no_validation(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fit") == 0
    out = capsys.readouterr().out
    assert "22 samples of" in out.splitlines()[0] and "no validation (data.val_share" in out.splitlines()[0]
    assert "validated" not in out and "accuracy" not in out and checkpoints(tmp_path) == ["last.ckpt"]
    assert call("fit", "--early_stop.patience", "1") == 2
    assert "data.val_share" in capsys.readouterr().err
    assert call("validate") == 2
    assert "nothing to validate on" in capsys.readouterr().err


def test_a_share_is_held_out_and_stated_in_the_first_line(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fit", "--data.val_share", "0.2") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "18 samples of" in first and "4 samples held out of them by key (data.val_share 0.2)" in first
    assert checkpoints(tmp_path) == ["best.ckpt", "last.ckpt"]
    last = str(next((tmp_path / "run").rglob("last.ckpt")))
    assert call("validate", "--data.val_share", "0.2", "--ckpt_path", last) == 0
    assert "val/accuracy" in capsys.readouterr().out


def test_synthetic_training_videos_are_validated_on_synthetic_ones(shards: Path, own: Path) -> None:
    for data, text in (
        (VideoData(str(shards), val_videos=3), "validation: 3 synthetic videos"),
        (VideoData(videos=5, val_videos=3), "5 synthetic videos an epoch; validation: 3 synthetic videos"),
        (VideoData(str(own), str(shards)), f"validation: 22 samples of {shards}"),
    ):
        assert data.validates and text in data.description
    assert VideoData(str(own)).val_dataloader() == []
    assert read_index(shards).is_synthetic and not read_index(own).is_synthetic


def test_the_first_line_names_local_shards_whatever_they_are_called(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("exp-12:30", "a::b", "pipe:cat", "c://d"):
        shutil.copytree(shards, name)
        assert f"22 samples of {name};" in VideoData(name).description, name
    assert "44 samples of a::b::exp-12:30/*.tar;" in VideoData("a::b::exp-12:30/*.tar").description
    secret = VideoData(f"pipe:cat {shards}/shard-000000.tar #token", index=str(first_of(shards, tmp_path)))
    assert "8 samples of remote shards;" in secret.description


def first_of(shards: Path, folder: Path) -> Path:
    """Write an index of the first shard only."""
    content = json.loads((shards / "index.json").read_text())
    content["shards"] = content["shards"][:1]
    (folder / "first.json").write_text(json.dumps(content))
    return folder / "first.json"


def test_a_share_needs_training_shards_and_excludes_validation_shards(own: Path) -> None:
    for settings in ({"val_share": 0.1}, {"shards": str(own), "val_shards": str(own), "val_share": 0.1}):
        with pytest.raises(DataError, match="val_share holds out samples of data.shards"):
            VideoData(**settings)  # type: ignore[arg-type]


def test_trainers_that_cannot_train_are_refused(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    for args, words in (
        (["--trainer.barebones", "true"], ["trainer.barebones", "drop it", "--trainer.enable_checkpointing false"]),
        (["--trainer.precision", "16-true"], ["trainer.precision 16-true", "NaN", "bf16-mixed"]),
    ):
        assert call("fit", *args) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("framefold: error: ") and all(word in error for word in words), error


def test_weights_that_became_nan_are_told_and_not_saved(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CompressorModule.training_step

    def broken(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
        return real(self, batch, batch_idx) * (float("nan") if self.global_step == 2 else 1)

    monkeypatch.setattr(CompressorModule, "training_step", broken)
    assert call("fit", "--trainer.max_steps", "5", "--last.every", "1") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the weights became NaN or infinite in step 3" in error and "model.lr 0.02" in error
    saved = torch.load(next((tmp_path / "run").rglob("last.ckpt")), weights_only=True)
    assert saved["global_step"] == 2 and all(value.isfinite().all() for value in saved["state_dict"].values())


def test_overfitting_repeats_the_same_batches(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, tuple[str, ...]]] = []
    real = CompressorModule.training_step

    def noted(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
        seen.append((self.current_epoch, tuple(sample.key for sample in batch.samples)))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(CompressorModule, "training_step", noted)
    assert call("fit", "--trainer.overfit_batches", "2", "--trainer.max_steps", "4") == 0
    assert [epoch for epoch, _ in seen] == [0, 0, 1, 1]
    assert [keys for _, keys in seen[:2]] == [keys for _, keys in seen[2:]] and seen[0][1] != seen[1][1]
