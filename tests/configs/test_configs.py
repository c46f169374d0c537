"""Every packaged training configuration fits the signatures that it configures."""

from __future__ import annotations

import itertools
import sys
import warnings
from inspect import signature

import pytest
import yaml

from framefold.adapters import build
from framefold.configs import config_names, find_config
from framefold.data.synthetic.difficulty import resolve_difficulty
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.ablation.row_methods import methods_of
from framefold.training.fit.lightning_cli import VERBS, FitCLI
from framefold.training.fit.signals import Interruption

TRAINING = ("compressor", "data", "trainer", "stage", "logger", "callback")
PARTS = {kind: [name for name in config_names() if name.startswith(f"{kind}/")] for kind in TRAINING}
PARALLEL = {"trainer/deepspeed", "trainer/deepspeed_zero3", "trainer/deepspeed_offload", "trainer/fsdp"}


class ParseOnly(FitCLI):
    """Stops after parsing."""

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...

    def _set_seed(self) -> None: ...


def parse(monkeypatch: pytest.MonkeyPatch, verb: str, *names: str, options: tuple[str, ...] = ()) -> dict:
    """Return the settings of a verb with some packaged configurations and further options."""
    configs = [word for name in names for word in ("--config", str(find_config(name)))]
    monkeypatch.setattr(sys, "argv", ["framefold", verb, *configs, *options])
    return ParseOnly(verb, Interruption()).config[verb]


def test_every_kind_of_configuration_is_packaged() -> None:
    assert set(config_names()) >= {name for names in PARTS.values() for name in names}
    assert all(PARTS.values()), PARTS
    assert {"compressor/fila", "compressor/scene_mean"} <= set(PARTS["compressor"])
    assert set(PARTS["data"]) == {"data/synthetic", "data/synthetic_hard", "data/synthetic_crowded", "data/shards"}
    assert set(PARTS["trainer"]) == {"trainer/cpu", "trainer/gpu"} | PARALLEL
    assert {name.partition("/")[0] for name in config_names()} == {*TRAINING, "ablation", "tinyhost"}


def test_each_configuration_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {}
    for name in itertools.chain(*PARTS.values()):
        try:
            parse(monkeypatch, "fit", name)
        except SystemExit as error:
            failed[name] = error
    assert not failed


def test_every_stage_combines_with_every_compressor_and_trains_at_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    for compressor in PARTS["compressor"]:
        rates = {}
        for stage in PARTS["stage"]:
            names = (compressor, "data/synthetic_hard", "trainer/cpu", stage)
            config = parse(monkeypatch, "fit", *names, options=("--model.start", "mine"))
            model, data = config["model"], config["data"]
            assert compressor.partition("/")[2].startswith(model["compressor"]) and model["start"] == "mine", names
            assert (model["lora"] is None) == (stage in ("stage/align", "stage/distill")), names
            expected = ([64, 72], 4) if stage == "stage/long" else ([32, 64], 8)
            assert (data["frames"], data["batch_size"]) == expected, names
            rates[stage] = model["lr"], model["lora"]["lr"] if model["lora"] else 0.0
        align, sft, long = rates["stage/align"], rates["stage/sft"], rates["stage/long"]
        assert rates["stage/distill"] == align, compressor
        assert long == (sft[0] / 2, sft[1] / 2) and align[1] == 0, compressor
        assert align[0] > sft[0] or compressor == "compressor/scene_mean", compressor  # which has nothing to train


def test_configurations_are_merged_from_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in VERBS:
        names = ("compressor/fila", "data/shards", "trainer/cpu")
        config = parse(monkeypatch, verb, *names, options=("--model.budget", "7"))
        model, trainer = config["model"], config["trainer"]
        assert model["compressor"] == "fila" and model["params"]["members"] == "cluster"
        assert model["budget"] == 7 and isinstance(model["budget"], int)
        assert trainer["accelerator"] == "cpu" and trainer["max_steps"] > 0  # from two files


def test_a_strategy_by_name_replaces_that_of_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    offload = "trainer/deepspeed_offload"  # a class with arguments; the other strategies are names
    for base, strategy in (
        (offload, "ddp"),
        (offload, "deepspeed_cpu_stage_2"),
        (offload, "fsdp2"),
        ("trainer/deepspeed", "fsdp2"),
        ("trainer/fsdp", "deepspeed_stage_2"),
    ):
        config = parse(monkeypatch, "fit", base, options=("--trainer.strategy", strategy))
        assert config["trainer"]["strategy"] == strategy, base


def test_offloading_and_timeouts_can_be_set_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--trainer.strategy.offload_params_device", "nvme", "--trainer.strategy.timeout", "0:05:00")
    config = parse(monkeypatch, "fit", "trainer/deepspeed_offload", options=options)
    settings = config["trainer"]["strategy"]["init_args"]
    assert settings["offload_params_device"] == "nvme" and settings["offload_optimizer"] is True
    assert settings["timeout"].total_seconds() == 300
    options = (
        "--trainer.strategy",
        "pytorch_lightning.strategies.DDPStrategy",
        "--trainer.strategy.timeout",
        "0:05:00",
    )
    config = parse(monkeypatch, "fit", options=options)
    assert config["trainer"]["strategy"]["init_args"]["timeout"].total_seconds() == 300


def test_weights_of_losses_and_the_teacher_can_be_set_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (('{"kl": 1.0}', {"kl": 1.0}), ("{answer: 0.0, rank: [0.0, 2]}", {"rank": [0.0, 2.0]})):
        losses = parse(monkeypatch, "fit", options=("--model.losses", given))["model"]["losses"]
        assert {name: losses[name] for name in expected} == expected
    options = ("--model.teacher.layers", "[1, 2]", "--model.teacher.heads", "max")
    for names in ((), ("compressor/flex_select",)):
        teacher = parse(monkeypatch, "fit", *names, options=options)["model"]["teacher"]
        assert (teacher["layers"], teacher["heads"]) == ([1, 2], "max")
    for name, heads in (("flex_select", "max"), ("xpool", "mean")):
        teacher = parse(monkeypatch, "fit", f"compressor/{name}", "stage/distill")["model"]["teacher"]
        assert (teacher["answers"], teacher["heads"]) == (False, heads), name
    assert parse(monkeypatch, "fit")["model"]["teacher"] is None
    assert parse(monkeypatch, "fit", "compressor/vision_selector")["model"]["losses"] == {"bce": [0.02, 0.2]}


def test_compressors_of_configurations_can_be_built() -> None:
    for name in PARTS["compressor"]:
        model = yaml.safe_load(find_config(name).read_text())["model"]
        built = build(model["compressor"], model["budget"], **model.get("params", {}))
        assert name.partition("/")[2].startswith(built.name), name


def test_a_configuration_with_a_wrong_key_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("model:\n  budgte: 0.1\n")
    with warnings.catch_warnings(), pytest.raises(SystemExit, match="budgte"):
        warnings.simplefilter("ignore")
        parse(monkeypatch, "fit", str(tmp_path / "mine.yaml"))


def test_options_of_the_packaged_ablations_are_those_of_the_command() -> None:
    for name in (one for one in config_names() if one.startswith("ablation/")):
        options = yaml.safe_load(find_config(name).read_text())
        signature(ablate).bind("out", **options)
        methods_of(options.get("compressors"), [], options.get("params", {}), True, True, [])
        assert resolve_difficulty(options["difficulty"]), name
