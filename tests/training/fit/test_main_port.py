"""The port of ranks that Lightning starts is none that the system gives to outgoing connections."""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer

from framefold.__main__ import main
from framefold.training.fit import main_port
from framefold.training.fit.lightning_cli import FitCLI
from framefold.training.fit.main_port import choose_main_port, free_port, quiet_ports

VARIABLES = ("MASTER_PORT", "STANDALONE_PORT", "LOCAL_RANK")
RANK_0 = {"TORCHELASTIC_RUN_ID": "tests", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.setenv(name, "0")  # so that what the product sets is removed afterwards
        monkeypatch.delenv(name)
    return monkeypatch


def trainer(**more: Any) -> Trainer:
    settings = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False, "enable_checkpointing": False}
    return Trainer(**settings | {"enable_progress_bar": False, "enable_model_summary": False} | more)


def first_outgoing() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the range that Linux shows")
def test_fit_on_two_devices_meets_below_the_ports_of_outgoing_connections(
    variables: pytest.MonkeyPatch, shards: Path, random_host: Path, tmp_path: Path
) -> None:
    found = []

    def record(self: FitCLI, verb: str) -> None:
        found.append(self.trainer.strategy.cluster_environment.main_port)

    variables.setattr(FitCLI, "_run_subcommand", record)
    variables.setattr(sys, "argv", ["framefold"])
    words = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    words += ["--model.host", str(random_host), "--data.shards", str(shards), "--trainer.devices", "2"]
    assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path)]) == 0
    (port,) = found
    assert main_port.FIRST <= port < first_outgoing()
    with socket.socket() as rank_0:
        rank_0.bind(("", port))


def test_a_port_on_which_something_listens_is_not_taken(variables: pytest.MonkeyPatch) -> None:
    port = free_port(quiet_ports())
    assert port is not None
    with socket.socket() as other:
        other.bind(("", port))
        other.listen()
        assert free_port([port]) is None
        variables.setattr(random.SystemRandom, "sample", lambda self, ports, k: list(ports))
        assert free_port([port, port + 1, port + 2]) in (port + 1, port + 2)
    assert free_port([port]) == port


@pytest.mark.parametrize("text", [None, "unreadable", ""])
def test_the_usual_range_counts_where_the_system_shows_none(
    text: str | None, variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "range"
    if text is not None:
        file.write_text(text)
    variables.setattr(main_port, "RANGE_FILE", file)
    assert quiet_ports() == range(main_port.FIRST, main_port.USUAL_FIRST)


@pytest.mark.parametrize("case", ["MASTER_PORT", "STANDALONE_PORT", "LOCAL_RANK", "one device", "machines", "torchrun"])
def test_other_launches_choose_their_own_port(case: str, variables: pytest.MonkeyPatch) -> None:
    if case in VARIABLES:
        variables.setenv(case, "1")
    more: dict[str, dict[str, Any]] = {
        "one device": {"devices": 1, "strategy": "auto"},
        "machines": {"num_nodes": 2},
    }
    with variables.context() as patch:
        for name, value in (RANK_0 if case == "torchrun" else {}).items():
            patch.setenv(name, value)
        other = trainer(**more.get(case, {}))
        choose_main_port(other)
    assert main_port.os.environ.get("MASTER_PORT") == ("1" if case == "MASTER_PORT" else None)


def test_nothing_is_set_where_outgoing_connections_use_all_ports(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    variables.setattr(main_port, "RANGE_FILE", tmp_path / "range")
    assert len(quiet_ports()) == 0
    choose_main_port(trainer())
    assert "MASTER_PORT" not in main_port.os.environ
