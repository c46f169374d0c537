"""``framefold list`` and ``framefold help``: every name, described from where it is defined."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from framefold.__main__ import main
from framefold.adapters import Compressor, list_compressors
from framefold.adapters.core.registry import _CLASSES, compressor_class
from framefold.adapters.hosts import list_families
from framefold.cli.names import compressor_kind, list_entries
from framefold.configs import config_names
from framefold.training.losses import LOSSES

Capture = pytest.CaptureFixture[str]


def output(capsys: Capture, *words: str) -> str:
    assert main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_lists_are_complete_and_every_name_has_a_description(capsys: Capture) -> None:
    known = {
        "compressors": list_compressors(),
        "hosts": list_families(),
        "configs": config_names(),
        "losses": list(LOSSES),
    }
    for kind, names in known.items():
        lines = output(capsys, "list", kind).splitlines()
        assert [line.split()[0] for line in lines] == names
        assert all(len(line.split()) > 1 for line in lines), f"{kind}: a name without a description"
        for name in names:
            assert output(capsys, "help", name).startswith(name), name


def test_help_of_a_compressor_names_kind_source_cost_and_every_parameter(capsys: Capture) -> None:
    for name in list_compressors():
        text, cls = output(capsys, "help", name), compressor_class(name)
        assert compressor_kind(cls) in text and cls.paper in text and cls.cost and cls.cost in text, name
        for parameter in inspect.signature(cls).parameters.values():
            line = next((line for line in text.splitlines() if line.startswith(f"  {parameter.name} (")), "")
            assert f"default {parameter.default!r})" in line, f"{name}: {parameter.name}: {line}"
    text = output(capsys, "help", "fila")
    assert "equal to scene_mean before training" in text and "'similar' | 'similar_in_cluster' | 'cluster'" in text
    assert "number of further members" in text  # taken from the parent class to which the docstring refers
    assert ":class:" not in text and "``" not in text


def test_new_compressor_is_listed_and_described(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefold.adapters.core.registry._CLASSES", dict(_CLASSES))
    type("Mine", (Compressor,), {"name": "mine", "paper": "Mine, arXiv 1", "__doc__": "Keeps mine. More."})
    lines = [line.split() for line in output(capsys, "list", "compressors").splitlines()]
    assert ["mine", "training-free", "Mine,", "arXiv", "1", "Keeps", "mine"] in lines
    assert output(capsys, "help", "mine").startswith("mine: Keeps mine\n")


def test_chain_is_described_stage_by_stage(capsys: Capture) -> None:
    text = output(capsys, "help", "storm+st_simdiff")
    assert text.startswith("storm: ") and "\n\nst_simdiff: " in text


def test_unknown_names_are_one_line_with_the_nearest(capsys: Capture) -> None:
    for words, expected in (
        (["help", "st_simdif"], "nothing is called 'st_simdif'; did you mean 'st_simdiff'"),
        (["help", "storm+nothing"], "nothing is called 'storm+nothing'"),
        (["help", "trainer/cpus"], "did you mean 'trainer/cpu'"),
        (["list", "compressor"], "compressors"),
        (["help"], "name"),
    ):
        assert main(words) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line, line


def test_reader_that_ends_early_is_no_error() -> None:
    program = [sys.executable, "-m", "framefold", "list", "configs"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(120) == 0


def test_entries_are_available_from_python() -> None:
    assert [entry.name for entry in list_entries("losses")] == list(LOSSES)
