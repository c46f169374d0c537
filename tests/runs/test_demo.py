"""The demo runs what is not there yet, goes on where it stopped, and makes anew what its inputs have changed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import framefold
from framefold.cli import demo as demo_module
from framefold.cli.demo import StageError, demo

FOLDERS = {"shards": "--out", "fit": "--trainer.default_root_dir", "export": "--out", "ablate": "--out"}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that the demo would have run; each leaves a file in the folder that it is to make."""
    run: list[list[str]] = []

    def pretend(command: list[str]) -> int:
        run.append(command)
        folder = Path(command[command.index(FOLDERS[command[0]]) + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"made-{len(run)}").touch()
        return 0

    monkeypatch.setattr(demo_module, "_run", pretend)
    monkeypatch.setattr(demo_module, "load", lambda folder: framefold.build(Path(folder).name))
    return run


def verbs(calls: list[list[str]]) -> list[str]:
    made = [command[0] for command in calls]
    calls.clear()
    return made


def test_a_second_run_reuses_and_a_change_redoes_what_depends_on_it(
    calls: list[list[str]], tmp_path: Path, random_host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host, out = shutil.copytree(random_host, tmp_path / "host"), str(tmp_path / "out")
    own = tmp_path / "fila.yaml"
    own.write_text("model: {}\n")
    args = {"out": out, "host": str(host), "train": [str(own)]}
    demo(**args)
    assert verbs(calls) == ["shards", "fit", "export", "ablate"]
    assert capsys.readouterr().out.strip().endswith(f"{out}/ablation/report.html")
    demo(**args)
    assert verbs(calls) == ["ablate"], "the table is shown again"
    demo(**args, max_steps=3)
    assert verbs(calls) == ["fit", "export", "ablate"], "the adapter of another training"
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["shards", "fit", "export", "ablate"]
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 1, "shards of other settings stayed"
    own.write_text("model: {budget: 0.5}\n")
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["fit", "export", "ablate"], "the same name, another content"
    (host / "config.json").write_text((host / "config.json").read_text() + " ")
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["fit", "export", "ablate"]
    shutil.rmtree(tmp_path / "out" / "adapters" / "fila")
    demo(**args, max_steps=3, videos=7)
    assert verbs(calls) == ["export", "ablate"]


def test_an_interrupted_training_goes_on_from_its_checkpoint(
    calls: list[list[str]], tmp_path: Path, random_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend, args = demo_module._run, {"out": str(tmp_path / "out"), "host": str(random_host)}
    checkpoint = tmp_path / "out" / "fit" / "fila" / "version_0" / "checkpoints" / "last.ckpt"

    def killed(command: list[str]) -> int:
        pretend(command)
        if command[0] != "fit":
            return 0
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        return 137

    monkeypatch.setattr(demo_module, "_run", killed)
    with pytest.raises(StageError, match="2/4 training failed with status 137"):
        demo(**args)
    assert verbs(calls) == ["shards", "fit"]
    monkeypatch.setattr(demo_module, "_run", pretend)
    demo(**args)
    assert calls[0][-2:] == ["--ckpt_path", str(checkpoint)]
    assert verbs(calls) == ["fit", "export", "ablate"]
    demo(**args, max_steps=2)
    assert "--ckpt_path" not in calls[0], "another training began at the checkpoint of the old one"


def test_files_of_somebody_else_are_not_removed(calls: list[list[str]], tmp_path: Path, random_host: Path) -> None:
    precious = tmp_path / "out" / "fit" / "fila" / "precious"
    precious.parent.mkdir(parents=True)
    precious.touch()
    demo(out=str(tmp_path / "out"), host=str(random_host))
    assert precious.exists()


def test_shipped_adapters_take_part_unless_they_are_trained_anew(
    calls: list[list[str]], tmp_path: Path, random_host: Path
) -> None:
    host = shutil.copytree(random_host, tmp_path / "host")
    for name in demo_module.SHIPPED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    out = tmp_path / "out"

    def compared() -> list[str]:
        words = calls[-1][calls[-1].index("--adapters") + 1 :]
        return [str(Path(word).relative_to(tmp_path)) for word in words]

    demo(out=str(out), host=str(host))
    assert verbs(calls[:4]) == ["shards", "fit", "export", "ablate"]
    assert compared() == ["out/adapters/fila", "storm", "qtsplus"]
    demo(out=str(out), host=str(host), retrain=True)
    assert [command[2] for command in calls if command[0] == "fit"][-2:] == ["compressor/storm", "compressor/qtsplus"]
    assert compared() == [f"out/adapters/{name}" for name in demo_module.SHIPPED]


def test_a_missing_host_is_found_before_anything_is_written(calls: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="nowhere"):
        demo(out=str(tmp_path / "out"), host="nowhere")
    assert not calls and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_stage_outlives_the_demo_and_each_may_clean_up(number: int, tmp_path: Path) -> None:
    package = tmp_path / "framefold"  # stands in for the stage
    package.mkdir()
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
    code = "from framefold.cli.demo import _run; import os, sys; os.chdir(sys.argv[1]); sys.path[:] = ['']; _run([])"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], start_new_session=True, stderr=subprocess.DEVNULL
    )
    begun = tmp_path / "begun"
    while not (begun.exists() and begun.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does
    else:
        parent.terminate()
    parent.wait(30)
    assert (tmp_path / "clean").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
