"""Output of a fit: loggers, throughput, learning rate, progress, early stopping, and errors without a GPU."""

from __future__ import annotations

import csv
import json
import math
import os
import pty
import re
import sys
import termios
import threading
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from framefold.__main__ import main
from framefold.training import datamodule
from framefold.training.fit import callbacks, progress
from framefold.training.fit.loggers import WandB
from framefold.training.module import CompressorModule
from tests.support.paths import ROOT
from tests.support.ranks.fork_server import ForkServer

FEW = ["--data.batch_size", "2", "--data.val_videos", "2", "--data.val_frames", "16", "--data.val_batch_size", "2"]
OFTEN = ["--trainer.val_check_interval", "2", "--trainer.check_val_every_n_epoch", "null"]
BARE = ["--trainer.limit_val_batches", "0"]
WANDB = '''
"""Stand-in for wandb that records its calls."""
import json, os

class Error(Exception): ...

run = None

def record(**call):
    with open(os.environ["WANDB_CALLS"], "a") as file:
        print(json.dumps({"rank": os.environ.get("LOCAL_RANK", "0"), **call}, default=str), file=file)

class Config(dict):
    def update(self, params, allow_val_change=False):
        record(call="config", **{key: params[key] for key in ("compressor", "budget")})

class Run:
    def __init__(self, id):
        self.id, self.name, self.config = id, "name", Config()
    def define_metric(self, *args, **kwargs): ...
    def log(self, metrics):
        record(call="log", metrics=metrics)

def init(**settings):
    if os.environ.get("WANDB_MODE") == "refuse":
        raise Error("No API key configured.")
    record(call="init", mode=os.environ.get("WANDB_MODE"), there=os.path.isdir(settings["dir"]), **settings)
    return Run(settings["id"] or "run4you")
'''


@pytest.fixture
def words(random_host: Path, shards: Path, tmp_path: Path) -> list[str]:
    """``fit`` with the settings of all runs."""
    settings = ["--config", "compressor/fila", "--config", "data/shards", "--data.shards", str(shards), *FEW]
    where = ["--model.host", str(random_host), "--trainer.default_root_dir", str(tmp_path / "run")]
    return ["fit", *settings, "--config", "trainer/cpu", "--model.budget", "0.1", *where]


@pytest.fixture
def fit(words, monkeypatch):
    """Call framefold fit in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["framefold"])
    return lambda *args: main([*words, *args])


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """Make the stand-in importable; return a function that returns the recorded calls."""
    folder, record = tmp_path / "site", tmp_path / "calls"
    for name, text in {
        "wandb/__init__.py": WANDB,
        "wandb/wandb_run.py": "from . import Run",
        "wandb/sdk/__init__.py": "",
        "wandb/sdk/lib/__init__.py": "class RunDisabled: ...",
        "wandb-0.99.dist-info/METADATA": "Metadata-Version: 2.1\nName: wandb\nVersion: 0.99\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CALLS", str(record))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", True)  # set when it was imported
    yield lambda: [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        del sys.modules[name]


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def column(folder: Path, name: str) -> dict[int, float]:
    """Values of a metric by step."""
    return {int(row["step"]): float(row[name]) for row in rows(folder) if row[name]}


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "expected"), [("csv", {"metrics.csv"}), ("tensorboard", {"events"}), (None, {"metrics.csv", "events"})]
)
def test_each_logger_writes_next_to_the_checkpoints(fit, tmp_path, name, expected):
    chosen = ["--config", f"logger/{name}"] if name else []
    for _ in range(2):
        assert fit("--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1", *BARE, *chosen) == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["version_0", "version_1"]
    for run in (tmp_path / "run").iterdir():
        files = {"events" if "tfevents" in path.name else path.name for path in run.iterdir()}
        assert files == {"checkpoints", "config.yaml", "hparams.yaml", *expected}
        assert "metrics.csv" not in files or len(column(run, "train/loss")) == 2


def test_wandb_gets_the_metrics_and_a_resumed_run_continues_there(fit, wandb, tmp_path):
    args = ["--config", "logger/wandb", "--trainer.log_every_n_steps", "1", *OFTEN, "--resume", "auto"]
    assert fit(*args, "--trainer.max_steps", "2") == 0
    (init,) = [call for call in wandb() if call["call"] == "init"]
    assert (init["project"], init["id"], init["mode"], init["there"]) == ("framefold", None, None, True)
    assert init["dir"] == str(tmp_path / "run" / "version_0") and init["resume"] == "allow"
    assert {"rank": "0", "call": "config", "compressor": "fila", "budget": 0.1} in wandb()
    logged = [call["metrics"] for call in wandb() if call["call"] == "log"]
    losses = {int(each["trainer/global_step"]): float(each["train/loss"]) for each in logged if "train/loss" in each}
    assert losses.keys() == {0, 1} and all(map(math.isfinite, losses.values()))
    names = set().union(*logged)
    assert {"val/accuracy", "lr-AdamW/pg1", "train/step_seconds", "train/tokens_per_second"} <= names
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"version_0"}
    assert {"checkpoints", "config.yaml"} <= {path.name for path in (tmp_path / "run" / "version_0").iterdir()}
    assert last(tmp_path / "run" / "version_0")["global_step"] == 2

    offline = ["--trainer.logger.init_args.offline", "true", "--trainer.logger.init_args.project", "mine"]
    assert fit(*args, "--trainer.max_steps", "3", *offline) == 0
    again = [call for call in wandb() if call["call"] == "init"][1]
    assert (again["id"], again["project"], again["mode"]) == ("run4you", "mine", "dryrun")
    assert again["dir"] == str(tmp_path / "run" / "version_1")
    assert fit(*args, "--trainer.max_steps", "4", "--trainer.logger.init_args.id", "own") == 0
    assert [call["id"] for call in wandb() if call["call"] == "init"] == [None, "run4you", "own"]
    assert last(tmp_path / "run" / "version_2")["global_step"] == 4


def test_of_two_ranks_only_one_uses_wandb(ranks: ForkServer, words, wandb, tmp_path):
    args = ["--config", "logger/wandb", "--trainer.devices", "2", "--trainer.strategy", "ddp", *BARE]
    args += ["--trainer.max_steps", "2", "--trainer.log_every_n_steps", "2"]
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    code += "import pytorch_lightning.loggers.wandb as wandb; wandb._WANDB_AVAILABLE = True"
    env = {"WANDB_CALLS": os.environ["WANDB_CALLS"], "WANDB_MODE": "offline"}
    run = ranks.run([*words, *args], tmp_path / "logs", code=code, **env)
    assert run.statuses == [0, 0], run.text()[-3000:]
    assert {call["rank"] for call in wandb()} == {"0"} and [call["call"] for call in wandb()].count("init") == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"version_0"}
    assert (tmp_path / "run" / "version_0" / "wandb_run_id").read_text() == "run4you\n"
    (speed,) = [call["metrics"] for call in wandb() if "train/step_seconds" in call.get("metrics", ())]
    tokens = 2 * float(speed["train/step_seconds"]) * float(speed["train/tokens_per_second"])
    assert 8 * (16 * 16 + 1) <= tokens <= 8 * (20 * 16 + 1)  # two steps, two ranks, two videos each


def test_other_ranks_write_nothing(wandb, monkeypatch, tmp_path):
    logger = WandB()
    logger.set_run_folder(str(tmp_path / "run"), 0, None)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger.experiment.log({"x": 1})
    assert not wandb() and not (tmp_path / "run").exists()
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    logger.experiment.log({"x": 1})
    assert [call["call"] for call in wandb()] == ["init", "log"] and (tmp_path / "run").exists()


def test_a_missing_wandb_is_one_line_with_the_command_that_installs_it(fit, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(CompressorModule, "setup", lambda *args: pytest.fail("training started"))
    assert fit("--config", "logger/wandb") == 2
    assert (
        capsys.readouterr().err
        == f"framefold: error: wandb is not installed (extra 'wandb'): pip install -e '{ROOT}[wandb]'\n"
    )
    assert not (tmp_path / "run").exists()


def test_an_error_of_wandb_is_one_line(fit, wandb, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "refuse")
    monkeypatch.setattr(CompressorModule, "setup", lambda *args: pytest.fail("training started"))
    assert fit("--config", "logger/wandb") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No API key configured." in line and "offline true" in line


def test_learning_rate_and_speed_are_logged(fit, monkeypatch, tmp_path):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(callbacks, "time", clock)
    train, validate, seen = CompressorModule.training_step, CompressorModule.validation_step, []

    def training_step(self, batch, batch_idx):
        clock.now += 2.0
        seen.append(sum(16 * len(sample.frames) + 1 for sample in batch.samples))  # 16 per frame, and a newline
        return train(self, batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        clock.now += 100.0
        return validate(self, batch, batch_idx)

    monkeypatch.setattr(CompressorModule, "training_step", training_step)
    monkeypatch.setattr(CompressorModule, "validation_step", validation_step)
    rates = ["--model.lr", "0.01", "--model.warmup", "0.25", "--model.lr_end", "0.1"]
    args = ["--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "6", *OFTEN[2:]]
    args += ["--data.batch_size", "1"]  # 16 of the epoch's 22 batches
    assert fit("--trainer.max_steps", "8", "--trainer.log_every_n_steps", "2", *rates, *args) == 0
    folder = tmp_path / "run" / "version_0"
    seconds, speed = (column(folder, f"train/{name}") for name in ("step_seconds", "tokens_per_second"))
    assert seconds == {1: 4.0, 3: 4.0, 5: 4.0, 7: 4.0}  # two batches per step; validations do not count
    assert len(seen) == 16
    for step, value in speed.items():
        assert value == pytest.approx(sum(seen[2 * (step - 1) : 2 * (step + 1)]) / 8.0)
    for group in ("pg1", "pg2"):
        for step, rate in column(folder, f"lr-AdamW/{group}").items():
            factor = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 2) / 6)) / 2
            assert rate == pytest.approx(0.01 * ((step + 1) / 2 if step < 2 else factor))
    assert column(folder, "lr-AdamW/pg1").keys() == seconds.keys()


def test_without_a_logger_nothing_is_logged(fit, tmp_path):
    assert fit("--trainer.max_steps", "1", "--trainer.logger", "false", *BARE) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoints", "config.yaml"}


@pytest.fixture
def scores(monkeypatch):
    """Return a function that sets the validation accuracy by step."""

    def script(values: dict[int, float]) -> None:
        monkeypatch.setattr(
            CompressorModule, "on_validation_epoch_end", lambda self: self.log("val/accuracy", values[self.global_step])
        )

    return script


STOP = ["--config", "callback/early_stop", "--early_stop.patience", "2", *OFTEN]


def test_a_fit_ends_when_validation_stops_improving(fit, scores, tmp_path, capsys):
    scores({2: 0.1, 4: 0.3, 6: 0.2, 8: 0.3, 10: 0.4, 12: 0.5})
    assert fit("--config", "stage/align", *STOP, "--trainer.max_steps", "12") == 0
    assert last(tmp_path / "run" / "version_0")["global_step"] == 8
    assert "fit: early stop at step 8: best of val/accuracy 0.3, 2 validations ago" in capsys.readouterr().out
    best = torch.load(tmp_path / "run" / "version_0" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 4


def test_a_resumed_fit_continues_the_count(fit, scores, tmp_path, capsys):
    scores({2: 0.1, 4: 0.3, 6: 0.2, 8: 0.3, 10: 0.2, 12: 0.2})
    assert fit(*STOP, "--trainer.max_steps", "6") == 0
    assert fit(*STOP, "--trainer.max_steps", "12", "--resume", "auto") == 0
    assert last(tmp_path / "run" / "version_1")["global_step"] == 8
    capsys.readouterr()
    assert fit(*STOP, "--trainer.max_steps", "12", "--resume", "auto") == 0  # it ends at once
    assert "early stop at step 8" in capsys.readouterr().out
    assert last(tmp_path / "run" / "version_2")["global_step"] == 8
    assert fit(*STOP, "--early_stop.patience", "3", "--trainer.max_steps", "12", "--resume", "auto") == 0
    assert last(tmp_path / "run" / "version_3")["global_step"] == 10


def test_the_loss_can_be_monitored(fit, tmp_path):
    args = [*STOP, "--early_stop.monitor", "val/loss@0.1", "--early_stop.mode", "min", "--early_stop.min_delta", "9"]
    assert fit(*args, "--trainer.max_steps", "12", "--last.every", "1000") == 0
    assert last(tmp_path / "run" / "version_0")["global_step"] == 6  # the first is the best: no other falls by 9


def test_wrong_monitors_are_refused_before_training(fit, monkeypatch, capsys):
    monkeypatch.setattr(CompressorModule, "setup", lambda *args: pytest.fail("training started"))
    cases = [
        ([*STOP, "--early_stop.monitor", "val/acuracy"], "no 'val/acuracy'; there are val/accuracy, val/accuracy@0.1,"),
        (["--best.monitor", "val/loss"], "best.monitor: validation logs no 'val/loss'; there are val/accuracy"),
        ([*STOP, *BARE], "limit_val_batches is 0"),
        (["--early_stop.patience", "0"], "patience"),
        (["--early_stop.mode", "up"], "early_stop.mode"),
    ]
    for args, text in cases:
        assert fit("--trainer.max_steps", "2", *args) == 2, args
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("framefold: error: ") and text in line, args


def test_a_question_type_without_questions_cannot_be_monitored(fit, capsys):
    assert fit(*STOP, "--early_stop.monitor", "val/other@0.1", "--trainer.max_steps", "4") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "no 'val/other@0.1'; there are val/accuracy, " in line and "val/loss@0.1" in line


def test_a_terminal_shows_steps_metrics_and_the_remaining_time(fit, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Tqdm, "__init__", partialmethod(Tqdm.__init__, mininterval=0.0))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 150))
    chunks: list[bytes] = []

    def read() -> None:
        while True:
            try:
                chunks.append(os.read(ours, 65536))
            except OSError:  # the other end is closed
                return

    def interrupt(self) -> None:
        if self.global_step == 1:
            raise KeyboardInterrupt

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with monkeypatch.context() as patch, os.fdopen(theirs, "w") as terminal:
            patch.setattr(sys, "stdout", terminal)
            assert fit("--trainer.max_steps", "4", *OFTEN) == 0
            assert fit("--trainer.max_steps", "6", *OFTEN, "--resume", "auto") == 0
            patch.setattr(CompressorModule, "on_after_backward", interrupt)
            assert fit("--trainer.max_steps", "8", *BARE) == 130
    finally:
        reader.join(timeout=20)
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(chunks).decode())
    lines = re.split(r"[\r\n]+", text)
    assert "| 1/8 " in text and text.endswith("\n")  # the error message starts on a line of its own
    bars = [line for line in lines if re.match(r"step: .*[█▏▎▍▌▋▊▉ ]+\|", line)]
    first, second = ([step for step in range(8) if any(f"| {step}/{n} " in bar for bar in bars)] for n in (4, 6))
    assert first == list(range(5)) and second == [4, 5, 6]
    assert any(re.search(r"\| 3/4 \[\d\d:\d\d<\d\d:\d\d, .*train/loss=\d\.\d+", bar) for bar in bars)
    assert any(re.search(r"\| 6/6 .*train/loss=\d\.\d+, val/accuracy=", bar) for bar in bars)
    assert any(re.match(r"Validation.*\| 1/1 ", line) for line in lines)
    assert sum(line.startswith("fit: 4 steps done") or line.startswith("fit: 6 steps done") for line in lines) == 2


def test_a_log_gets_few_lines(fit, capsys):
    assert fit("--trainer.max_steps", "8", "--trainer.val_check_interval", "4", *OFTEN[2:]) == 0
    out = capsys.readouterr().out
    assert "\r" not in out and "\x1b" not in out
    lines = [re.sub(r"[\d.]+ s a step, \d:\d\d:\d\d left", "N", line) for line in out.splitlines()[1:-1]]
    number = r"\d\.\d+"
    expected = [
        rf"fit: step 1/8, train/loss {number}, N",
        rf"fit: validated at step 4: train/loss {number}, val/accuracy \S+",
        rf"fit: step 8/8, train/loss {number}, val/accuracy \S+, N",
        rf"fit: validated at step 8: train/loss {number}, val/accuracy \S+",
    ]
    assert len(lines) == len(expected) and all(map(re.fullmatch, expected, lines))


def test_a_line_follows_when_the_latest_is_a_minute_old(fit, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    assert fit("--trainer.max_steps", "4", *BARE) == 0
    assert re.findall(r"fit: step (\d)/4", capsys.readouterr().out) == ["1", "2", "3", "4"]


CLUSTER = ["--config", "trainer/deepspeed", "--config", "compressor/storm", "--config", "data/shards"]
CLUSTER += ["--trainer.devices", "8", "--trainer.num_nodes", "4", "--trainer.strategy", "deepspeed_stage_2"]


def test_the_command_of_a_cluster_parses(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["framefold"])
    assert main(["fit", *CLUSTER, "--print_config"]) == 0
    out = capsys.readouterr().out
    assert "strategy: deepspeed_stage_2" in out and "num_nodes: 4" in out and "compressor: storm" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_one_line_before_anything_is_read(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["framefold"])
    monkeypatch.setattr(datamodule, "resolve_shards", lambda *args: pytest.fail("data was read"))
    assert main(["fit", *CLUSTER]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("framefold: error: trainer.accelerator is gpu, and torch finds no GPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_strategy_that_needs_gpus_is_one_line(fit, capsys):
    assert fit("--trainer.strategy", "deepspeed_stage_2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("framefold: error: deepspeed_stage_2 needs GPUs")
