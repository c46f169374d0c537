"""The demo runs missing stages, resumes interrupted ones, and repeats those whose inputs have changed."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import framefold
from framefold.cli import demo as demo_module
from framefold.cli.demo import StageError, demo
from framefold.errors import HostError
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.formats import percent
from framefold.evaluation.results.result_files import read_results
from tests.support.pages.results_folders import fill_results

FOLDERS = {"shards": "--out", "fit": "--trainer.default_root_dir", "export": "--out", "ablate": "--out"}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that the demo would have run; each leaves a file in its output folder."""
    recorded: list[list[str]] = []

    def record(command: list[str]) -> int:
        recorded.append(command)
        folder = Path(command[command.index(FOLDERS[command[0]]) + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"output-{len(recorded)}").touch()
        return 0

    monkeypatch.setattr(demo_module, "_run", record)
    monkeypatch.setattr(demo_module, "load", lambda folder: framefold.build(Path(folder).name))
    monkeypatch.setattr(demo_module, "verdict", lambda results: f"verdict of {results}")
    return recorded


def verbs(calls: list[list[str]]) -> list[str]:
    first_words = [command[0] for command in calls]
    calls.clear()
    return first_words


def test_a_second_run_reuses_stages_and_a_change_repeats_those_that_depend_on_it(
    calls: list[list[str]], tmp_path: Path, random_host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host, out = shutil.copytree(random_host, tmp_path / "host"), str(tmp_path / "out")
    own = tmp_path / "fila.yaml"
    own.write_text("model: {}\n")
    args = {"out": out, "host": str(host), "train": [str(own)]}
    demo(**args)
    assert verbs(calls) == ["shards", "fit", "export", "ablate"]
    printed = capsys.readouterr().out
    assert f"verdict of {out}/ablation" in printed and f"page: {out}/ablation/report.html" in printed
    assert "next: framefold show --video YOUR_CLIP.mp4" in printed
    demo(**args)
    assert verbs(calls) == ["ablate"], "the table must be printed again"
    demo(**args, max_steps=3)
    assert verbs(calls) == ["fit", "export", "ablate"], "an adapter of another training was reused"
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["shards", "fit", "export", "ablate"]
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 1, "shards of other settings were kept"
    own.write_text("model: {budget: 0.5}\n")
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["fit", "export", "ablate"], "the configuration has the same name but other content"
    (host / "config.json").write_text((host / "config.json").read_text() + " ")
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["fit", "export", "ablate"]
    shutil.rmtree(tmp_path / "out" / "adapters" / "fila")
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["export", "ablate"]


def test_an_interrupted_training_resumes_from_its_checkpoint(
    calls: list[list[str]], tmp_path: Path, random_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, args = demo_module._run, {"out": str(tmp_path / "out"), "host": str(random_host)}
    checkpoint = tmp_path / "out" / "fit" / "fila" / "version_0" / "checkpoints" / "last.ckpt"

    def killed(command: list[str]) -> int:
        record(command)
        if command[0] != "fit":
            return 0
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        return 137

    monkeypatch.setattr(demo_module, "_run", killed)
    with pytest.raises(StageError, match="2/4 training failed with status 137"):
        demo(**args)
    assert verbs(calls) == ["shards", "fit"]
    monkeypatch.setattr(demo_module, "_run", record)
    demo(**args)
    assert calls[0][-2:] == ["--ckpt_path", str(checkpoint)]
    assert verbs(calls) == ["fit", "export", "ablate"]
    demo(**args, max_steps=2)
    assert "--ckpt_path" not in calls[0], "another training resumed from the old checkpoint"


def test_files_that_the_demo_did_not_write_are_not_removed(
    calls: list[list[str]], tmp_path: Path, random_host: Path
) -> None:
    precious = tmp_path / "out" / "fit" / "fila" / "precious"
    precious.parent.mkdir(parents=True)
    precious.touch()
    demo(out=str(tmp_path / "out"), host=str(random_host))
    assert precious.exists()


def test_trained_compressors_are_compared_with_their_starts_and_a_few_others(
    calls: list[list[str]], tmp_path: Path, random_host: Path
) -> None:
    out = tmp_path / "out"

    def option(name: str) -> list[str]:
        words = calls[-1][calls[-1].index(name) + 1 :]
        return words[: next((i for i, word in enumerate(words) if word.startswith("--")), len(words))]

    demo(out=str(out), host=str(random_host))
    assert verbs(calls[:]) == ["shards", "fit", "export", "ablate"]
    assert "hard" in calls[0] and "hard" in calls[1]
    assert option("--adapters") == [str(out / "adapters" / "fila")]
    assert option("--compressors") == ["identity", "st_simdiff", "sttm", "uniform", "scene_mean"]
    demo(out=str(out), host=str(random_host), retrain=True)
    assert [command[2] for command in calls if command[0] == "fit"][-2:] == ["compressor/storm", "compressor/qtsplus"]
    assert option("--adapters") == [str(out / "adapters" / name) for name in demo_module.TRAINABLE]
    assert option("--compressors")[-2:] == ["pool", "scene_mean"], "qtsplus has no training-free start"


def test_verdict_gives_the_differences_with_intervals(tmp_path: Path) -> None:
    table = ResultTable(read_results(fill_results(tmp_path)))
    head, *lines = demo_module.verdict(tmp_path).splitlines()
    assert "95 % intervals" in head
    gains = [percent(table.difference("fila", "st_simdiff", budget), sign=True) for budget in ("10 %", "25 %")]
    assert lines == [f"  fila - st_simdiff (the best training-free row): {gains[0]} at 10 %, {gains[1]} at 25 %"]


def test_a_missing_host_is_reported_before_anything_is_written(calls: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nowhere"):
        demo(out=str(tmp_path / "out"), host="nowhere")
    assert not calls and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_stage_outlives_the_demo_and_each_can_clean_up(number: int, tmp_path: Path) -> None:
    package = tmp_path / "framefold"  # a stage; a complete package, which PYTHONPATH cannot hide
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(1)\n"
        "    pathlib.Path('clean').touch()\n"
        "    sys.exit(130)\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, stop)\n"
        "pathlib.Path('begun').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )

    def run_stage() -> None:
        os.setsid()
        os.chdir(tmp_path)
        demo_module._run([])

    parent = multiprocessing.get_context("fork").Process(target=run_stage)
    parent.start()
    begun = tmp_path / "begun"
    while not (begun.exists() and begun.read_text()):
        assert parent.is_alive()
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # like a terminal
    else:
        os.kill(parent.pid, number)
    parent.join(60)
    assert (tmp_path / "clean").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
