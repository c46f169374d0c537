"""SIGTERM and Ctrl-C save the run between two steps and end it; what resumes ends like an uninterrupted run."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.data.loading import shard_stream
from framefold.training.fit import signals
from framefold.training.module import CompressorModule
from tests.support.forked_command import ForkedCommand
from tests.support.ranks.fork_server import ForkServer

Fit = Callable[..., int]


@pytest.fixture(scope="module")
def words(random_host: Path, shards: Path) -> list[str]:
    settings = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    settings += ["--model.host", str(random_host), "--data.shards", str(shards), "--data.batch_size", "2"]
    settings += ["--trainer.enable_progress_bar", "false", "--trainer.accumulate_grad_batches", "2"]
    settings += ["--data.val_videos", "4", "--data.val_frames", "16", "--data.val_batch_size", "2"]
    settings += [
        "--trainer.limit_train_batches",
        "4",
        "--trainer.val_check_interval",
        "4",
        "--trainer.max_steps",
        "5",
        "--last.every",
        "1000",
    ]
    return ["fit", *settings]


@pytest.fixture(scope="module")
def fit(words: list[str]) -> Fit:
    def run(root: Path, *args: str) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["framefold"])
            status = main([*words, "--trainer.default_root_dir", str(root), *args])
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers  # restored
        return status

    return run


@pytest.fixture(scope="module")
def uninterrupted(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("uninterrupted")
    assert fit(root) == 0
    return last(root)


def last(root: Path, version: int = 0) -> dict[str, Any]:
    return torch.load(root / f"version_{version}" / "checkpoints" / "last.ckpt", weights_only=True)


def signalled(patch: pytest.MonkeyPatch, place: Any, name: str, nth: int, number: int) -> None:
    """Send a signal to this process in the nth call of a function, counted from 0."""
    real, calls = getattr(place, name), iter(range(100_000))

    def hit(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == nth:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    patch.setattr(place, name, hit)


@pytest.mark.parametrize(
    ("number", "place", "name", "nth", "step"),
    [
        (signal.SIGTERM, CompressorModule, "training_step", 4, 3),  # the first of the two batches of step 3
        (signal.SIGINT, CompressorModule, "on_after_backward", 3, 2),
        (signal.SIGTERM, CompressorModule, "validation_step", 1, 2),
        (signal.SIGINT, CompressorModule, "on_validation_epoch_end", 0, 2),
        (
            signal.SIGTERM,
            shard_stream,
            "unpack_sample",
            8,
            2,
        ),  # while the first batch of step 3 and of an epoch is read
        (signal.SIGINT, shard_stream, "unpack_sample", 6, 2),  # while the second batch of step 2 is read
    ],
)
def test_a_signal_saves_the_run_between_two_steps(
    fit: Fit,
    uninterrupted: dict[str, Any],
    tmp_path: Path,
    capsys: Any,
    number: int,
    place: Any,
    name: str,
    nth: int,
    step: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        signalled(patch, place, name, nth, number)
        assert fit(tmp_path) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert f"step {step} is saved in {tmp_path}/version_0/checkpoints/last.ckpt" in capsys.readouterr().err
    assert last(tmp_path)["global_step"] == step
    assert fit(tmp_path, "--resume", "auto") == 0
    validated = [line for line in capsys.readouterr().out.splitlines() if "validated at step" in line]
    resumed = last(tmp_path, 1)
    assert not validated and resumed["global_step"] == 5
    assert all(value.equal(resumed["state_dict"][key]) for key, value in uninterrupted["state_dict"].items())
    best = [saved["callbacks"][key]["best_model_score"] for saved in (uninterrupted, resumed) for key in _best(saved)]
    assert best[0] == best[1]  # the validation that was interrupted has been made up for


def _best(saved: dict[str, Any]) -> list[str]:
    return [key for key in saved["callbacks"] if key.startswith("BestCheckpoint")]


def test_a_signal_before_the_first_step_says_that_there_is_no_checkpoint(
    fit: Fit, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled(monkeypatch, CompressorModule, "configure_model", 0, signal.SIGTERM)
    assert fit(tmp_path) == 143
    assert "fit: SIGTERM: there is no checkpoint yet" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_the_step(fit: Fit, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CompressorModule.training_step

    def twice(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
        for _ in range(2 * (self.global_step == 1)):
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(CompressorModule, "training_step", twice)
    assert fit(tmp_path) == 130
    assert "fit: Ctrl-C: there is no checkpoint yet" in capsys.readouterr().err


@pytest.mark.parametrize("stuck", ["step", "worker"])
def test_a_run_that_does_not_react_is_ended(words: list[str], shards: Path, tmp_path: Path, stuck: str) -> None:
    reached, pids = tmp_path / "reached", tmp_path / "pids"
    pids.mkdir()

    def stop(*args: Any, **kwargs: Any) -> Any:
        (pids / str(os.getpid())).touch()
        reached.touch()
        threading.Event().wait(600)

    def prepare() -> None:
        signals.SECONDS = 0.5
        if stuck == "step":
            CompressorModule.training_step = stop  # type: ignore[method-assign]
        else:
            shard_stream.unpack_sample = stop

    run = [*words, "--trainer.default_root_dir", str(tmp_path / "run"), "--data.workers", "2"]
    command = ForkedCommand(run, tmp_path / "log", prepare)
    command.wait_until(reached.exists)
    command.send(signal.SIGTERM)
    assert command.wait() == 143
    log = (tmp_path / "log").read_text()
    assert "fit: SIGTERM" in log and "there is no checkpoint yet" in log
    assert not [pid.name for pid in pids.iterdir() if Path(f"/proc/{pid.name}/fd").exists() and _is_running(pid.name)]


def _is_running(pid: str) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_sigterm_to_the_whole_process_group_leaves_the_step_its_workers(words: list[str], tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    real = CompressorModule.training_step

    def noted(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 2 and not batch_idx % 2:
            reached.touch()
            while not self.trainer.callbacks or not _received(self.trainer):
                threading.Event().wait(0.01)
        return real(self, batch, batch_idx)

    def prepare() -> None:
        CompressorModule.training_step = noted  # type: ignore[method-assign]

    options = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.workers", "1"]
    command = ForkedCommand([*words, *options], tmp_path / "log", prepare)
    command.wait_until(reached.exists)
    os.killpg(command.pid, signal.SIGTERM)
    assert command.wait() == 143
    assert "step 3 is saved" in (tmp_path / "log").read_text(), (tmp_path / "log").read_text()


def _received(trainer: Any) -> bool:
    (callback,) = [each for each in trainer.callbacks if isinstance(each, signals.SaveOnInterrupt)]
    return bool(callback.interruption.number)


def test_a_signal_to_one_rank_saves_and_ends_all(ranks: ForkServer, words: list[str], tmp_path: Path) -> None:
    root = ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "100000"]
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "1", "--last.every", "3"]
    run = ranks.start([*words, *options, *root], tmp_path / "logs")
    try:
        while not list((tmp_path / "run").rglob("last.ckpt")):
            assert "error" not in run.text(), run.text()
            threading.Event().wait(0.05)
    finally:
        run.kill(1, number=signal.SIGTERM)
        statuses = ranks.wait(run, 60)
    assert statuses == [143, 143], run.text() + run.text(1)
    step = last(tmp_path / "run")["global_step"]
    assert f"step {step} is saved in" in run.text()


def test_too_few_open_files_are_named(words: list[str], tmp_path: Path) -> None:
    def prepare() -> None:
        opened = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 28, opened + 28))

    options = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.workers", "2", "--trainer.logger", "false"]
    command = ForkedCommand([*words, *options, "--data.batch_size", "8"], tmp_path / "log", prepare)
    assert command.wait() == 2, (tmp_path / "log").read_text()
    line = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert all(text in line for text in ("too many open files", "ulimit -n", "data.workers 2", "data.batch_size")), line
