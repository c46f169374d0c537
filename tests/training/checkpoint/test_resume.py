"""framefold fit --resume: the newest whole checkpoint of the same run, exactly, or a new beginning that is said."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.training.checkpoint.inventory import find_checkpoints
from framefold.training.module import CompressorModule
from tests.support.ranks.fork_server import Ranks

COMMON = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu", "--data.batch_size", "2"]
COMMON += ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--trainer.max_steps", "9"]
COMMON += ["--last.every", "2", "--data.seed", "3"]
Fit = Callable[..., int]


@pytest.fixture
def words(random_host: Path, shards: Path, tmp_path: Path) -> list[str]:
    where = ["--model.host", str(random_host), "--data.shards", str(shards)]
    return ["fit", *COMMON, *where, "--trainer.default_root_dir", str(tmp_path / "run")]


@pytest.fixture
def fit(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Call framefold fit in this process; ``stop`` interrupts it at a step."""
    monkeypatch.setattr(sys, "argv", ["framefold"])
    real = CompressorModule.training_step

    def run(*args: str, stop: int = -1) -> int:
        def interrupted(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
            if self.global_step == stop:
                raise KeyboardInterrupt
            return real(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(CompressorModule, "training_step", interrupted)
            return main([*words, *args])

    return run


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    server = Ranks("deepspeed")
    yield server
    server.close()


def last(root: Path, version: int = 0, name: str = "last.ckpt") -> Any:
    return torch.load(root / f"version_{version}" / "checkpoints" / name, weights_only=True)


def test_auto_starts_anew_and_says_so_then_goes_on_exactly(fit: Fit, tmp_path: Path, capsys: Any) -> None:
    run, whole = tmp_path / "run", ["--trainer.default_root_dir", str(tmp_path / "whole")]
    assert fit("--resume", "auto", *whole) == 0
    assert f"resume: nothing in {tmp_path / 'whole'} yet, starting anew" in capsys.readouterr().out
    assert fit("--resume", "auto", stop=3) == 130
    assert fit("--resume", "auto", stop=6) == 130
    assert f"resume: from {run}/version_0/checkpoints/last.ckpt, step 2" in capsys.readouterr().out
    assert fit("--resume", "auto") == 0
    assert f"resume: from {run}/version_1/checkpoints/last.ckpt, step 6" in capsys.readouterr().out
    expected, found = last(tmp_path / "whole"), last(run, 2)
    assert found["global_step"] == 9 and expected["state_dict"].keys() == found["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        assert value.equal(found["state_dict"][name]) and bool(value.any())
    assert "FRAMEFOLD_RESUME" not in os.environ


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(fit: Fit, tmp_path: Path, capsys: Any) -> None:
    assert fit(stop=5) == 130
    place = tmp_path / "run/version_0/checkpoints"
    assert last(tmp_path / "run")["global_step"] == 4
    data = bytearray((place / "last.ckpt").read_bytes())
    data[len(data) // 2] ^= 4
    (place / "last.ckpt").write_bytes(data)
    with pytest.warns(UserWarning, match="damaged checkpoint left out: .*last.ckpt"):
        assert fit("--resume", "auto", stop=5) == 130
    assert f"resume: from {place}/previous.ckpt, step 2" in capsys.readouterr().out
    assert fit("--resume", str(place / "last.ckpt")) == 2
    assert "cannot go on from" in capsys.readouterr().err
    assert fit("--ckpt_path", str(place / "last.ckpt")) == 2
    assert "cannot go on from" in capsys.readouterr().err


def test_a_leftover_of_a_kill_that_is_whole_is_taken(fit: Fit, tmp_path: Path, capsys: Any) -> None:
    assert fit(stop=5) == 130
    place = tmp_path / "run/version_0/checkpoints"
    (place / "last.ckpt").rename(place / ".last.ckpt.part")
    assert fit("--resume", "auto", stop=5) == 130
    assert f"resume: from {place}/.last.ckpt.part, step 4" in capsys.readouterr().out


def test_a_folder_or_a_checkpoint_can_be_named(fit: Fit, tmp_path: Path, capsys: Any) -> None:
    assert fit(stop=5) == 130
    place = tmp_path / "run/version_0/checkpoints"
    new = ["--trainer.default_root_dir", str(tmp_path / "new")]
    for path, step in ((tmp_path / "run", 4), (place / "previous.ckpt", 2)):
        capsys.readouterr()
        assert fit("--resume", str(path), *new, stop=step) == 130
        assert f"step {step}" in capsys.readouterr().out
    assert fit("--resume", str(tmp_path / "nothing"), *new) == 2
    assert "no whole checkpoint" in capsys.readouterr().err
    assert fit("--resume", "auto", "--ckpt_path", str(place / "last.ckpt")) == 2
    assert "give one of them" in capsys.readouterr().err


def test_another_compressors_run_is_not_gone_on_with(fit: Fit, capsys: Any) -> None:
    assert fit(stop=3) == 130
    assert fit("--resume", "auto", "--config", "compressor/storm", "--trainer.max_steps", "9") == 2
    error = capsys.readouterr().err
    assert "is of fila, this run trains storm" in error and "default_root_dir" in error
    assert fit("--resume", "auto", "--model.lora.r", "2") == 2
    assert "has no LoRA" in capsys.readouterr().err


def test_what_was_best_stays_the_measure_after_resuming(fit: Fit, tmp_path: Path, monkeypatch: Any) -> None:
    scores = iter([0.9, 0.5, 0.6, 0.95])
    monkeypatch.setattr(
        CompressorModule, "on_validation_epoch_end", lambda self: self.log("val/accuracy", next(scores))
    )
    steps = [
        "--trainer.val_check_interval",
        "2",
        "--trainer.check_val_every_n_epoch",
        "null",
    ]
    steps += ["--trainer.limit_val_batches", "1", "--data.val_frames", "16", "--data.val_videos", "2"]
    assert fit(*steps, stop=3) == 130
    assert fit(*steps, "--resume", "auto", stop=7) == 130  # 0.5 and 0.6: the 0.9 of the first part stays the best
    run = tmp_path / "run"
    assert last(run, 0, "best.ckpt")["global_step"] == 2 and not (run / "version_1/checkpoints/best.ckpt").exists()
    assert fit(*steps, "--resume", "auto") == 0
    assert next(scores, None) is None  # no validation was repeated
    assert last(run, 2, "best.ckpt")["global_step"] == 8 and last(run, 0, "best.ckpt")["global_step"] == 2


def test_nothing_is_saved_in_the_middle_of_accumulated_batches(fit: Fit, tmp_path: Path) -> None:
    twice = ["--trainer.accumulate_grad_batches", "2"]
    assert fit(*twice, stop=3) == 130
    assert fit(*twice, "--resume", "auto", stop=3) == 130
    assert not (tmp_path / "run/version_1/checkpoints").exists()


TWO = ["--trainer.devices", "2", "--trainer.strategy"]


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_cpu_stage_2"])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_rank_that_cannot_write_ends_all_of_them(
    ranks: Ranks, words: list[str], tmp_path: Path, strategy: str, broken: int
) -> None:
    if strategy == "ddp" and broken:
        pytest.skip("only rank 0 writes")
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
    steps = {found.path.name: (found.step, found.problem) for found in find_checkpoints(tmp_path / "run")}
    written = 4 if strategy == "ddp" or broken else 2  # rank 0 writes two files of a DeepSpeed folder
    assert steps["last.ckpt"] == (written, "")


def test_what_another_strategy_wrote_is_refused(ranks: Ranks, words: list[str], tmp_path: Path) -> None:
    zero = ranks.run([*words, *TWO, "deepspeed_cpu_stage_2"], tmp_path / "zero")
    assert zero.statuses == [0, 0], zero.text()
    more = ["--resume", "auto", "--trainer.max_steps", "11", "--trainer.devices"]
    ddp = ranks.run([*words, *more, "2", "--trainer.strategy", "ddp"], tmp_path / "ddp")
    assert ddp.statuses == [2, 2], ddp.text()
    for rank in (0, 1):
        text = ddp.text(rank).splitlines()[-1]
        assert "written by deepspeed_cpu_stage_2, this run is of ddp" in text and "framefold export" in text
    file = ["--resume", "auto", "--trainer.default_root_dir", str(tmp_path / "file")]
    assert ranks.run([*words, *file], tmp_path / "alone", world=1).statuses == [0]
    after = ranks.run([*words, *file, *TWO, "deepspeed_cpu_stage_2"], tmp_path / "after")
    assert after.statuses == [2, 2] and "written by SingleDeviceStrategy" in after.text()


def test_ranks_that_start_by_themselves_take_the_same_checkpoint_and_go_on_exactly(
    ranks: Ranks, words: list[str], tmp_path: Path
) -> None:
    zero = [*words, *TWO, "deepspeed_cpu_stage_2", "--resume", "auto"]
    whole = [*zero, "--trainer.default_root_dir", str(tmp_path / "whole")]
    assert ranks.run(whole, tmp_path / "l0").statuses == [0, 0]
    stop = "from framefold.training.module import CompressorModule as M\nimport os\nreal = M.training_step\n"
    stop += "def step(self, batch, i):\n    if self.global_step == 5: os._exit(7)\n    return real(self, batch, i)\n"
    stop += "M.training_step = step"
    assert ranks.run(zero, tmp_path / "l1", code=stop).statuses == [7, 7]
    again = ranks.run(zero, tmp_path / "l2")
    assert again.statuses == [0, 0] and "last.ckpt, step 4" in again.text(), again.text()
    assert "resume" not in again.text(1)
    from framefold.training.checkpoint.read import weights

    expected = weights(tmp_path / "whole/version_0/checkpoints/last.ckpt")
    found = weights(tmp_path / "run/version_1/checkpoints/last.ckpt")
    assert expected.keys() == found.keys() and len(found) == 2
    assert all(value.equal(found[name]) and bool(value.any()) for name, value in expected.items())


def test_ranks_that_find_different_checkpoints_take_rank_0s_or_end(
    ranks: Ranks, words: list[str], tmp_path: Path
) -> None:
    ddp = [*words, *TWO, "ddp"]
    assert ranks.run(ddp, tmp_path / "l0").statuses == [0, 0]
    place = tmp_path / "run/version_0/checkpoints"
    late = """
from pathlib import Path
from framefold.training import resume
real = resume.newest
def newest(root, **more):
    found = real(root, **more)
    return NEWEST if rank else found
resume.newest = newest
"""
    older = late.replace("NEWEST", f"resume.peek(Path({str(place / 'previous.ckpt')!r}))")
    more = ["--resume", "auto", "--trainer.max_steps", "10", "--last.every", "20"]
    taken = ranks.run([*ddp, *more], tmp_path / "l1", code=older)
    assert taken.statuses == [0, 0] and "step 9" in taken.text(), taken.text()
    none = ranks.run([*ddp, *more], tmp_path / "l2", code=late.replace("NEWEST", "None"))
    assert none.statuses == [2, 2], none.text()
    assert all("the ranks have found different checkpoints" in none.text(rank) for rank in (0, 1))
