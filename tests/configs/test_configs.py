"""Every packaged training configuration fits the signatures it is for."""

from __future__ import annotations

import itertools
import sys
import warnings

import pytest
import yaml

from framefold.adapters import build
from framefold.configs import find_config, names
from framefold.training.fit.lightning_cli import CLI, VERBS

TRAINING = ("compressor", "data", "trainer", "stage", "logger", "callbacks")
PARTS = {kind: [name for name in names() if name.startswith(f"{kind}/")] for kind in TRAINING}


class Parsed(CLI):
    """Stops after parsing."""

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...

    def _set_seed(self) -> None: ...


def parse(monkeypatch, verb: str, *args: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["framefold", verb, *args])
    return Parsed(verb).config[verb]


def test_there_are_some():
    assert {"compressor/fila", "compressor/scene_mean"} <= set(PARTS["compressor"])
    assert set(PARTS["data"]) == {"data/synthetic", "data/synthetic_hard", "data/shards"}
    several = {"trainer/deepspeed", "trainer/deepspeed_zero3", "trainer/deepspeed_offload", "trainer/fsdp"}
    assert set(PARTS["trainer"]) == {"trainer/cpu", "trainer/gpu"} | several


@pytest.mark.parametrize("name", sorted(itertools.chain(*PARTS.values())))
def test_each_parses(monkeypatch, name):
    parse(monkeypatch, "fit", "--config", str(find_config(name)))


@pytest.mark.parametrize("stage", PARTS["stage"])
@pytest.mark.parametrize("compressor", PARTS["compressor"])
def test_every_stage_goes_with_every_compressor(monkeypatch, compressor, stage):
    files = [str(find_config(name)) for name in (compressor, "data/synthetic_hard", "trainer/cpu", stage)]
    config = parse(monkeypatch, "fit", *[arg for file in files for arg in ("--config", file)], "--model.start", "mine")
    model = config["model"]
    assert model["compressor"] == compressor.partition("/")[2] and model["start"] == "mine"
    assert (model["lora"] is None) == (stage == "stage/align")
    long = stage == "stage/long"
    assert (config["data"]["frames"], config["data"]["batch_size"]) == (([64, 72], 4) if long else ([32, 64], 8))


def test_later_stages_train_at_lower_rates(monkeypatch):
    def rates(*files: str) -> tuple[float, float]:
        model = parse(monkeypatch, "fit", *[arg for file in files for arg in ("--config", str(find_config(file)))])[
            "model"
        ]
        return model["lr"], model["lora"]["lr"] if model["lora"] else 0.0

    for compressor in ("compressor/fila", "compressor/storm", "compressor/qtsplus"):
        align, sft, long = (rates(compressor, f"stage/{stage}") for stage in ("align", "sft", "long"))
        assert align[0] > sft[0] and align[1] == 0 and (long[0], long[1]) == (sft[0] / 2, sft[1] / 2)


@pytest.mark.parametrize("verb", VERBS)
def test_they_merge_from_left_to_right(monkeypatch, verb):
    files = [str(find_config(name)) for name in ("compressor/fila", "data/shards", "trainer/cpu")]
    config = parse(monkeypatch, verb, *[arg for file in files for arg in ("--config", file)], "--model.budget", "7")
    assert config["model"]["compressor"] == "fila" and config["model"]["budget"] == 7
    assert config["model"]["params"]["members"] == "cluster"
    assert config["trainer"]["accelerator"] == "cpu" and config["trainer"]["max_steps"] > 0  # of two files
    assert isinstance(config["model"]["budget"], int)


@pytest.mark.parametrize("base", ["trainer/deepspeed", "trainer/deepspeed_offload", "trainer/fsdp"])
@pytest.mark.parametrize("name", ["ddp", "deepspeed_stage_2", "deepspeed_cpu_stage_2", "fsdp2"])
def test_a_strategy_by_name_replaces_that_of_a_configuration(monkeypatch, base, name):
    config = parse(monkeypatch, "fit", "--config", str(find_config(base)), "--trainer.strategy", name)
    assert config["trainer"]["strategy"] == name


def test_offloading_and_timeouts_can_be_set_from_the_command_line(monkeypatch):
    words = ["--trainer.strategy.offload_params_device", "nvme", "--trainer.strategy.timeout", "0:05:00"]
    config = parse(monkeypatch, "fit", "--config", str(find_config("trainer/deepspeed_offload")), *words)
    settings = config["trainer"]["strategy"]["init_args"]
    assert settings["offload_params_device"] == "nvme" and settings["offload_optimizer"] is True
    assert settings["timeout"].total_seconds() == 300
    words = ["--trainer.strategy", "pytorch_lightning.strategies.DDPStrategy", "--trainer.strategy.timeout", "0:05:00"]
    assert parse(monkeypatch, "fit", *words)["trainer"]["strategy"]["init_args"]["timeout"].total_seconds() == 300


@pytest.mark.parametrize("name", PARTS["compressor"])
def test_compressors_of_configurations_can_be_built(name):
    model = yaml.safe_load(find_config(name).read_text())["model"]
    assert build(model["compressor"], model["budget"], **model.get("params", {})).name == name.partition("/")[2]


def test_a_configuration_with_a_wrong_key_is_refused(monkeypatch, tmp_path):
    (tmp_path / "mine.yaml").write_text("model:\n  budgte: 0.1\n")
    with warnings.catch_warnings(), pytest.raises(SystemExit, match="budgte"):
        warnings.simplefilter("ignore")
        parse(monkeypatch, "fit", "--config", str(tmp_path / "mine.yaml"))
