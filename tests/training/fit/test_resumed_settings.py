"""What the command of a resumed run changes takes effect, or is refused with the name of the setting."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framefold.__main__ import main
from framefold.training.module import CompressorModule

Fit = Callable[..., int]


@pytest.fixture(scope="module")
def fit(random_host: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Call framefold fit in a folder, interrupted at the step ``stop``; return the exit status."""
    config = tmp_path_factory.mktemp("config") / "model.yaml"
    config.write_text(yaml.safe_dump({"model": {"compressor": "fila", "lr": 0.01, "train_budgets": [0.1]}}))

    def run(root: Path, *args: str, stop: int = -1, given: str = "") -> int:
        real = CompressorModule.training_step

        def interrupted(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
            if self.global_step == stop:
                raise KeyboardInterrupt
            return real(self, batch, batch_idx)

        words = ["fit", "--config", given or str(config), "--config", "data/shards", "--config", "trainer/cpu"]
        words += ["--model.host", str(random_host), "--data.shards", str(shards), "--data.batch_size", "2"]
        words += ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"]
        words += ["--trainer.max_steps", "6", "--trainer.default_root_dir", str(root), "--last.every", "1"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["framefold"])
            patch.setattr(CompressorModule, "training_step", interrupted)
            return main([*words, *args])

    return run


@pytest.fixture(scope="module")
def stopped(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was interrupted at step 4; tests must not change it."""
    root = tmp_path_factory.mktemp("stopped") / "run"
    assert fit(root, stop=4) == 130
    return root


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def last(root: Path) -> dict[str, Any]:
    """The last checkpoint of the resumed run."""
    return torch.load(root / "version_1" / "checkpoints" / "last.ckpt", weights_only=True)


def test_rates_that_are_given_train_the_run_and_are_recorded(fit: Fit, run: Path, tmp_path: Path, capsys: Any) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump({"model": {"compressor": "fila", "lr": 0.3, "train_budgets": [0.1]}}))
    options = ["--resume", "auto", "--model.weight_decay", "0.25", "--model.lr_end", "1", "--model.warmup", "0"]
    assert fit(run, *options, given=str(changed)) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resume: changed")]
    assert "model.lr 0.01 -> 0.3" in line and "model.weight_decay 0.0 -> 0.25" in line, line
    saved = last(run)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert {group["lr"] for group in groups} == {group["initial_lr"] for group in groups} == {0.3}
    assert {group["weight_decay"] for group in groups} <= {0.25, 0.0} and groups[0]["weight_decay"] == 0.25
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.3] * len(groups)
    assert (saved["hyper_parameters"]["lr"], saved["hyper_parameters"]["weight_decay"]) == (0.3, 0.25)
    config = yaml.safe_load((run / "version_1" / "config.yaml").read_text())
    assert config["model"]["lr"] == 0.3


def test_the_same_command_changes_nothing(fit: Fit, run: Path, tmp_path: Path, capsys: Any) -> None:
    assert fit(tmp_path / "whole") == 0
    capsys.readouterr()
    assert fit(run, "--resume", "auto") == 0
    assert "resume: changed" not in capsys.readouterr().out
    whole = torch.load(tmp_path / "whole" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.equal(last(run)["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert whole["lr_schedulers"] == last(run)["lr_schedulers"]
    assert whole["callbacks"]["Resume"] == last(run)["callbacks"]["Resume"]


def test_the_configuration_of_a_resumed_run_resumes_it_again(fit: Fit, run: Path, tmp_path: Path) -> None:
    assert fit(run, "--resume", "auto", "--trainer.max_steps", "5") == 0
    changed = yaml.safe_load((run / "version_1" / "config.yaml").read_text())
    changed["model"]["lr"] = 0.3
    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(changed))
    assert fit(run, "--resume", "auto", given=str(given)) == 0
    saved = torch.load(run / "version_2" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6 and saved["hyper_parameters"]["lr"] == 0.3
    assert fit(run, "--resume", "auto", "--ckpt_path", str(run / "version_0" / "checkpoints" / "last.ckpt")) == 2


def test_settings_that_cannot_take_effect_are_refused_by_name(fit: Fit, run: Path, capsys: Any) -> None:
    for args, words in (
        (["--model.start", "runs/other"], ["model.start", "cannot take effect"]),
        (["--model.init_from_host", "true"], ["model.init_from_host", "cannot take effect"]),
        (["--model.compressor", "storm"], ["contains fila", "trains storm"]),
        (["--model.params.weight_shape", "nd"], ["model.params", "does not fit"]),
        (["--trainer.fast_dev_run", "1"], ["trainer.fast_dev_run"]),
        (["--trainer.max_steps", "3"], ["trainer.max_steps is 3", "nothing is left to train"]),
        (["--trainer.max_steps", "4", "--model.lr", "0.5"], ["model.lr would train nothing", "trainer.max_steps"]),
        (["--trainer.strategy", "deepspeed_cpu_stage_2"], ["trainer.strategy"]),
    ):
        assert fit(run, "--resume", "auto", *args) == 2, args
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("framefold: error: ") and all(word in error for word in words), (args, error)
    assert not list(run.glob("version_*/checkpoints/last.ckpt"))[1:]  # nothing was trained


def test_changed_data_start_at_the_next_epoch_and_are_named(
    fit: Fit, run: Path, shards: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[tuple[int, int]] = []
    real = CompressorModule.on_train_batch_end
    monkeypatch.setattr(
        CompressorModule,
        "on_train_batch_end",
        lambda self, outputs, batch, index: (places.append((self.current_epoch, index)), real(self))[1],
    )
    fewer = Path(shutil.copytree(shards, tmp_path / "fewer"))
    (fewer / "index.json").unlink()
    (fewer / "shard-000002.tar").unlink()
    assert main(["shards", "index", "--shards", str(fewer)]) == 0
    for key, value in (("data.batch_size", "4"), ("data.seed", "9"), ("data.shards", str(fewer)), ("data.lanes", "2")):
        root = Path(shutil.copytree(run, tmp_path / key))
        places.clear()
        capsys.readouterr()
        assert fit(root, "--resume", "auto", f"--{key}", value) == 0
        assert places == [(1, 0), (1, 1)], key
        printed = capsys.readouterr()
        assert f"resume: changed: {key}" in printed.out, key
        (warning,) = [line for line in printed.err.splitlines() if line.startswith("framefold: warning: ")]
        assert "changed" in warning and warning.endswith("resuming at the next epoch"), warning
    moved = Path(shutil.copytree(shards, tmp_path / "moved"))
    places.clear()
    assert fit(run, "--resume", "auto", "--data.shards", str(moved)) == 0
    assert places == [(0, 4), (0, 5)]  # the same data elsewhere


def test_the_settings_of_an_older_checkpoint_are_those_in_its_run_folder(fit: Fit, run: Path, capsys: Any) -> None:
    file = run / "version_0" / "checkpoints" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    del saved["callbacks"]["Resume"]
    torch.save(saved, file)
    (file.parent / "previous.ckpt").unlink()
    assert fit(run, "--resume", "auto", "--trainer.gradient_clip_val", "0.5") == 0
    assert "resume: changed: trainer.gradient_clip_val 1.0 -> 0.5" in capsys.readouterr().out
