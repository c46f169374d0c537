"""framefold fit --resume: resume the latest complete checkpoint of the same run exactly, or start a new run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framefold.__main__ import main
from framefold.errors import ConfigError
from framefold.training.checkpoint.class_paths import check_class_paths
from framefold.training.checkpoint.inventory import list_checkpoints
from framefold.training.module import CompressorModule
from tests.support.ranks.fork_server import ForkServer

COMMON = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu", "--data.batch_size", "2"]
COMMON += ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--trainer.max_steps", "9"]
COMMON += ["--last.every", "2", "--data.seed", "3"]
TWO = ["--trainer.devices", "2", "--trainer.strategy"]
Fit = Callable[..., int]


@pytest.fixture(scope="module")
def fit_in(random_host: Path, shards: Path) -> Fit:
    """Call framefold fit in this process."""

    def run(root: Path, *args: str, stop: int = -1) -> int:
        """Run in a folder, interrupted at the step ``stop``; return the exit status."""
        real = CompressorModule.training_step

        def interrupted(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
            if self.global_step == stop:
                raise KeyboardInterrupt
            return real(self, batch, batch_idx)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["framefold"])
            patch.setattr(CompressorModule, "training_step", interrupted)
            folders = ["--model.host", str(random_host), "--data.shards", str(shards)]
            return main(["fit", *COMMON, *folders, "--trainer.default_root_dir", str(root), *args])

    return run


@pytest.fixture
def fit(fit_in: Fit, tmp_path: Path) -> Fit:
    """Call framefold fit with the folder ``run``."""
    return lambda *args, stop=-1: fit_in(tmp_path / "run", *args, stop=stop)


@pytest.fixture(scope="module")
def stopped(fit_in: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was interrupted at step 5, with checkpoints of the steps 2 and 4."""
    root = tmp_path_factory.mktemp("stopped") / "run"
    assert fit_in(root, stop=5) == 130
    return root


@pytest.fixture
def checkpoints(stopped: Path, tmp_path: Path) -> Path:
    """Folder of the checkpoints in a copy of that run in the folder ``run``."""
    return Path(shutil.copytree(stopped, tmp_path / "run")) / "version_0/checkpoints"


def last(root: Path, version: int = 0, name: str = "last.ckpt") -> Any:
    return torch.load(root / f"version_{version}" / "checkpoints" / name, weights_only=True)


def test_auto_starts_a_new_run_and_later_resumes_exactly(fit: Fit, tmp_path: Path, capsys: Any) -> None:
    run, other = tmp_path / "run", ["--trainer.default_root_dir", str(tmp_path / "uninterrupted")]
    assert fit("--resume", "auto", *other) == 0
    assert f"resume: no checkpoint in {tmp_path / 'uninterrupted'} yet, starting a new run" in capsys.readouterr().out
    assert fit("--resume", "auto", stop=3) == 130
    assert fit("--resume", "auto", stop=6) == 130
    assert f"resume: from {run}/version_0/checkpoints/last.ckpt, step 2" in capsys.readouterr().out
    assert fit("--resume", "auto") == 0
    assert f"resume: from {run}/version_1/checkpoints/last.ckpt, step 6" in capsys.readouterr().out
    expected, found = last(tmp_path / "uninterrupted"), last(run, 2)
    assert found["global_step"] == 9 and expected["state_dict"].keys() == found["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        assert value.equal(found["state_dict"][name]) and bool(value.any())
    assert "FRAMEFOLD_RESUME" not in os.environ


def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(fit: Fit, checkpoints: Path, capsys: Any) -> None:
    damaged = checkpoints / "last.ckpt"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged checkpoint left out: .*last.ckpt"):
        assert fit("--resume", "auto", stop=3) == 130
    assert f"resume: from {checkpoints}/previous.ckpt, step 2" in capsys.readouterr().out
    for option in ("--resume", "--ckpt_path"):
        assert fit(option, str(damaged)) == 2
        assert "cannot resume from" in capsys.readouterr().err, option


def test_a_complete_leftover_of_a_kill_is_used(fit: Fit, checkpoints: Path, capsys: Any) -> None:
    (checkpoints / "last.ckpt").rename(checkpoints / ".last.ckpt.part")
    assert fit("--resume", "auto", stop=5) == 130
    assert f"resume: from {checkpoints}/.last.ckpt.part, step 4" in capsys.readouterr().out


def test_a_folder_or_a_checkpoint_can_be_given(fit: Fit, checkpoints: Path, tmp_path: Path, capsys: Any) -> None:
    new = ["--trainer.default_root_dir", str(tmp_path / "new")]
    for path, step in ((tmp_path / "run", 4), (checkpoints / "previous.ckpt", 2)):
        capsys.readouterr()
        assert fit("--resume", str(path), *new, stop=step) == 130
        assert f"step {step}" in capsys.readouterr().out
    assert fit("--resume", str(tmp_path / "nothing"), *new) == 2
    assert "no complete checkpoint" in capsys.readouterr().err
    assert fit("--resume", "auto", "--ckpt_path", str(checkpoints / "last.ckpt")) == 2
    assert "give only one of them" in capsys.readouterr().err


def test_the_run_of_another_compressor_is_not_resumed(fit: Fit, checkpoints: Path, capsys: Any) -> None:
    assert fit("--resume", "auto", "--config", "compressor/storm", "--trainer.max_steps", "9") == 2
    error = capsys.readouterr().err
    assert "contains fila, this run trains storm" in error and "default_root_dir" in error
    assert fit("--resume", "auto", "--model.lora.r", "2") == 2
    assert "has no LoRA" in capsys.readouterr().err


def test_the_run_of_a_version_with_another_layout_is_not_resumed(fit: Fit, checkpoints: Path, capsys: Any) -> None:
    """The configuration of such a run names classes where they were before."""
    file, old = checkpoints.parent / "config.yaml", "framefold.training.loggers.CSV"
    config = yaml.safe_load(file.read_text())
    config["trainer"]["logger"] = [{"class_path": old, "init_args": {"flush_logs_every_n_steps": 1}}]
    file.write_text(yaml.safe_dump(config))
    for args in (["--resume", "auto"], ["--config", str(file)]):
        assert fit(*args) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"framefold: error: {file} names {old}, which this version of framefold does not have")
        assert "started by a version with another layout, resume it with that version" in line
    with pytest.raises(ConfigError, match="framefold.adapters.fila.Fila"):
        check_class_paths({"compressor": "framefold.adapters.fila.Fila"}, file)
    known = ["framefold.training.fit.loggers.CSV", "torch.no.Such", "framefold.yaml", 3, None]
    check_class_paths({"trainer": {"logger": known}}, file)


def test_the_best_validation_stays_the_measure_after_resuming(fit: Fit, tmp_path: Path, monkeypatch: Any) -> None:
    scores = iter([0.9, 0.5, 0.6, 0.95])
    monkeypatch.setattr(
        CompressorModule, "on_validation_epoch_end", lambda self: self.log("val/accuracy", next(scores))
    )
    steps = ["--trainer.val_check_interval", "2", "--trainer.check_val_every_n_epoch", "null"]
    steps += ["--trainer.limit_val_batches", "1", "--data.val_frames", "16", "--data.val_videos", "2"]
    assert fit(*steps, stop=3) == 130
    assert fit(*steps, "--resume", "auto", stop=7) == 130  # 0.5 and 0.6: the 0.9 of the first part stays the best
    run = tmp_path / "run"
    assert last(run, 0, "best.ckpt")["global_step"] == 2 and not (run / "version_1/checkpoints/best.ckpt").exists()
    assert fit(*steps, "--resume", "auto") == 0
    assert next(scores, None) is None  # no validation was repeated
    assert last(run, 2, "best.ckpt")["global_step"] == 8 and last(run, 0, "best.ckpt")["global_step"] == 2


def test_nothing_is_saved_between_accumulated_batches(fit: Fit, tmp_path: Path) -> None:
    twice = ["--trainer.accumulate_grad_batches", "2"]
    assert fit(*twice, stop=3) == 130
    assert fit(*twice, "--resume", "auto", stop=3) == 130
    assert not (tmp_path / "run/version_1/checkpoints").exists()


@pytest.fixture
def words(random_host: Path, shards: Path, tmp_path: Path) -> list[str]:
    folders = ["--model.host", str(random_host), "--data.shards", str(shards)]
    return ["fit", *COMMON, *folders, "--trainer.default_root_dir", str(tmp_path / "run")]


@pytest.mark.parametrize(
    ("strategy", "broken"), [("ddp", 0), ("deepspeed_cpu_stage_2", 0), ("deepspeed_cpu_stage_2", 1)]
)  # under DDP, only rank 0 writes
def test_a_rank_that_cannot_write_ends_all_ranks(
    ranks: ForkServer, words: list[str], tmp_path: Path, strategy: str, broken: int
) -> None:
    code = f"""
import torch
real, calls = torch.save, []
def save(content, file, **more):
    calls.append(file)
    if rank == {broken} and len(calls) > 2:
        raise OSError(28, "No space left on device")
    real(content, file, **more)
torch.save = save
"""
    run = ranks.run([*words, *TWO, strategy], tmp_path / "log", code=code)
    assert run.statuses == [1, 1], run.text()
    for rank in (0, 1):
        assert "No space left on device" in run.text(rank).splitlines()[-1]
        assert "last.ckpt" in run.text(rank).splitlines()[-1]
    steps = {found.path.name: (found.step, found.problem) for found in list_checkpoints(tmp_path / "run")}
    written = 4 if strategy == "ddp" or broken else 2  # rank 0 writes two files of a DeepSpeed folder
    assert steps["last.ckpt"] == (written, "")


def test_ranks_of_an_external_launcher_choose_the_same_checkpoint_or_refuse_it(
    ranks: ForkServer, words: list[str], tmp_path: Path
) -> None:
    zero = [*words, *TWO, "deepspeed_cpu_stage_2", "--resume", "auto"]
    stop = "from framefold.training.module import CompressorModule as M\nimport os\nreal = M.training_step\n"
    stop += "def step(self, batch, i):\n    if self.global_step == 5: os._exit(7)\n    return real(self, batch, i)\n"
    stop += "M.training_step = step"
    assert ranks.run(zero, tmp_path / "stopped", code=stop).statuses == [7, 7]
    resumed = ranks.run([*zero, "--trainer.max_steps", "5"], tmp_path / "resumed")
    assert resumed.statuses == [0, 0] and "last.ckpt, step 4" in resumed.text(), resumed.text()
    assert "resume" not in resumed.text(1)
    assert [found.step for found in list_checkpoints(tmp_path / "run/version_1")] == [5]
    ddp = ranks.run([*words, "--resume", "auto", *TWO, "ddp"], tmp_path / "refused")
    assert ddp.statuses == [2, 2], ddp.text()
    for rank in (0, 1):
        line = ddp.text(rank).splitlines()[-1]
        assert "written by deepspeed_cpu_stage_2, this run uses ddp" in line and "framefold export" in line


def test_ranks_that_find_different_checkpoints_use_that_of_rank_0_or_end(
    ranks: ForkServer, words: list[str], checkpoints: Path, tmp_path: Path
) -> None:
    code = """
from pathlib import Path
from framefold.training.checkpoint import resume
real = resume.latest_checkpoint
def latest_checkpoint(root, **more):
    found = real(root, **more)
    return FOUND if rank else found
resume.latest_checkpoint = latest_checkpoint
"""
    ddp = [*words, *TWO, "ddp", "--resume", "auto", "--trainer.max_steps", "5", "--last.every", "20"]
    older = code.replace("FOUND", f"resume.read_header(Path({str(checkpoints / 'previous.ckpt')!r}))")
    same = ranks.run(ddp, tmp_path / "same", code=older)
    assert same.statuses == [0, 0] and "step 4" in same.text(), same.text()
    nothing = ranks.run(ddp, tmp_path / "nothing", code=code.replace("FOUND", "None"))
    assert nothing.statuses == [2, 2], nothing.text()
    assert all("the ranks have found different checkpoints" in nothing.text(rank) for rank in (0, 1))
