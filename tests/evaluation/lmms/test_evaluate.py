"""``framefold eval``: errors before the work, kill and resume, and the same scores as our own evaluation.

Where lmms-eval is not installed (make lmms), tests/assets/lmms_stub stands in for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from filelock import FileLock

from framefold.__main__ import main
from framefold.errors import EvalError
from framefold.evaluation.lmms import evaluate, worker
from framefold.evaluation.lmms.answer_log import read_answer_log
from framefold.evaluation.lmms.results import finished, read_eval
from tests.support.forked_command import ForkedCommand
from tests.support.limits import HANG
from tests.support.lmms.lmms_fixtures import (
    EVAL,
    REAL,
    STUB,
    VIDEOS,
    environment,
    gone,
    run,
    samples_of,
    wait_for,
    write_task_files,
)
from tests.support.paths import ROOT
from tests.support.processes import needs_torchvision

needs_lmms_eval = pytest.mark.skipif(not REAL, reason="lmms-eval is not installed (make lmms)")
BENCHMARKS = ["videomme", "mlvu_dev", "longvideobench_val_v", "egoschema_subset", "lvbench", "tempcompass"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the local tasks."""
    return write_task_files(tmp_path_factory.mktemp("eval"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--compressor", "st_simdif"], "did you mean 'st_simdiff'"),
        (["--budget", "1.5"], "(0, 1]"),
        (["--frames", "0"], "frames must be at least 1"),
        (["--limit", "0"], "limit must be at least 1"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--tasks", "[]"], "no task"),
        (["--device", "tpu"], "'tpu'"),
        (["--include_path", "nowhere"], "no folder nowhere"),
        (["--host", "no/where"], "hf download no/where"),
    ],
)
def test_wrong_settings_are_errors_of_one_line_before_the_work(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(evaluate, "supervise", lambda *_: pytest.fail("work was begun"))
    monkeypatch.setattr(evaluate, "find_lmms_eval", lambda: None)
    good = ["--host", str(ROOT / "checkpoints/tinyhost"), "--compressor", "uniform", "--tasks", "videomme,mlvu_dev"]
    assert main(["eval", *good, *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and text in err
    assert not (tmp_path / "runs").exists()


def test_untrained_compressors_and_the_embedded_host_are_announced_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claimed = []

    def claim(out: Path, settings: Any) -> None:
        claimed.append(settings.row)
        raise EvalError("stop here")

    monkeypatch.setattr(evaluate, "find_lmms_eval", lambda: None)
    monkeypatch.setattr(evaluate, "claim", claim)
    words = ["eval", "--host", str(ROOT / "checkpoints/tinyhost"), "--tasks", "videomme", "--out", str(tmp_path)]
    assert main([*words, "--compressor", "qtsplus"]) == main([*words, "--compressor", "uniform"]) == 2
    host, untrained, stop, *uniform = capsys.readouterr().err.splitlines()
    assert "knows only framefold's synthetic videos" in host and "qtsplus is UNTRAINED" in untrained
    assert uniform == [host, stop] and claimed == ["qtsplus (untrained)", "uniform"]


def test_folder_is_used_by_one_evaluation_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "find_lmms_eval", lambda: None)
    monkeypatch.setattr(evaluate, "supervise", lambda *_: pytest.fail("it was started"))
    words = ["--host", str(ROOT / "checkpoints/tinyhost"), "--compressor", "uniform", "--tasks", "videomme"]
    with FileLock(tmp_path / ".lock"):
        assert main(["eval", *words, "--out", str(tmp_path)]) == 2
    assert "another framefold eval is running" in capsys.readouterr().err


def test_unknown_task_is_an_error_with_similar_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def supervise(file: Path, log: Path, look: Callable[[], None]) -> int:
        job = json.loads(file.read_text())
        monkeypatch.setattr(worker, "run_job", lambda job: worker._check_tasks(job["tasks"], job["include_path"]))
        monkeypatch.setattr(worker, "follow_parent", lambda: None)
        worker.main(str(file))
        assert json.loads(Path(job["outcome"]).read_text())["done"]
        return 0

    for name in [name for name in sys.modules if name.partition(".")[0] == "lmms_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(STUB)
    monkeypatch.setattr(evaluate, "supervise", supervise)
    words = ["--host", str(ROOT / "checkpoints/tinyhost"), "--compressor", "uniform", "--out", str(tmp_path)]
    words += ["--include_path", str(ROOT / "tests/assets/lmms_tasks"), "--tasks"]
    assert main(["eval", *words, "framefold_toy,mlvu"]) == 2
    out, err = capsys.readouterr()
    assert "lmms-eval has no task 'mlvu'; did you mean mlvu_dev, mlvu_test?" in err and out == ""
    assert main(["eval", *words, "framefold_tyo"]) == 2
    assert "did you mean framefold_toy" in capsys.readouterr().err
    assert main(["eval", *words, "zzz"]) == 2
    assert "it knows 6 others" in capsys.readouterr().err


@needs_torchvision
def test_killed_evaluation_leaves_no_process_and_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "killed, twice"  # lmms-eval splits its arguments at commas
    words = ["--compressor", "st_simdiff", "--budget", "0.1", "--limit", "20", "--out", out.name, "--tasks"]
    log = out / "rows/framefold_toy.jsonl"

    def prepare() -> None:
        os.environ.update(environment(folder, stub=True))
        sys.path.insert(0, str(STUB))
        os.chdir(folder)
        torch.cuda.is_available = lambda: False

    command = ForkedCommand([*EVAL[2:], *words, "framefold_toy"], folder / "log", prepare)
    try:
        command.wait_until(lambda: len(read_answer_log(log)) >= 4)
        children = psutil.Process(command.pid).children(recursive=True)
    finally:
        command.send(signal.SIGKILL)
        command.wait()
    assert len(children) == 2  # lmms-eval's process and one that it has started
    for child in children:
        wait_for(lambda pid=child.pid: gone(pid))
    logged = read_answer_log(log)

    for name, value in environment(folder, stub=True).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(STUB)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*EVAL[2:], *words, "framefold_toy,framefold_damaged,framefold_deadly"]) == 1
    printed, err = capsys.readouterr()
    samples = samples_of(out)
    assert len(samples) == 20 > len(logged) >= 4, err
    assert [sample["prefill"] for sample in samples[: len(logged)]] == [answer["prefill"] for answer in logged]
    assert {sample["visual_after"] for sample in samples} == {51} and len({sample["video"] for sample in samples}) == 2
    right = sum(sample["metrics"]["exact_match"] for sample in samples) / len(samples)
    assert f"framefold_toy  exact_match  {right:.4f}" in printed and "512 -> 51" in printed and right > 0.6
    damaged, deadly = [line for line in err.splitlines() if "error" in line]
    assert "framefold_damaged: document 1 of framefold_damaged: cannot decode toy/none.mp4" in damaged
    assert "lmms-eval was killed by signal 9 in framefold_deadly; run it again to resume" in deadly
    assert not finished(out, "framefold_damaged")

    monkeypatch.setattr(evaluate, "supervise", lambda *_: pytest.fail("finished tasks need no process"))
    assert main([*EVAL[2:], *words, "framefold_toy"]) == 0 and capsys.readouterr().out == printed


@needs_torchvision
@needs_lmms_eval
def test_lmms_eval_scores_as_our_own_evaluation(folder: Path) -> None:
    from framefold.data.synthetic.generate import generate
    from framefold.training.frozen_host.load import load_host
    from framefold.training.tinyhost.evaluate import answer_video, named_view

    host, own = load_host(str(folder / "checkpoints/tinyhost")), []
    for number in range(VIDEOS):
        video = generate(number, split="test", frames=32, difficulty="easy")
        own += answer_video(host, video, host.encode_pixels(host.pixel_values(video.frames)), named_view("full", host))[
            1
        ]
    status, out, err = run(folder, "--compressor", "identity", "--tasks", "framefold_toy", "--out", "full", stub=False)
    assert status == 0, err
    assert [sample["metrics"]["exact_match"] for sample in samples_of(folder / "full")] == own
    row = read_eval(folder / "full")[0]
    assert row.value == pytest.approx(sum(own) / len(own)) and row.value > 0.7 and row.stderr and row.n == len(own)
    assert "all tokens, host checkpoints/tinyhost" in out and "512 -> 512" in out
    theirs = json.loads(next((folder / "full/lmms-eval").glob("*_results.json")).read_text())
    assert theirs["results"]["framefold_toy"]["exact_match,none"] == row.value


@needs_torchvision
@needs_lmms_eval
def test_compressor_changes_the_score_and_the_token_is_not_logged(folder: Path) -> None:
    words = ["--compressor", "uniform", "--budget", "0.02", "--out", "few, not all", "--tasks"]
    token = "hf_" + "secret" * 5
    status, _, err = run(folder, *words, "framefold_toy,framefold_damaged", stub=False, HF_TOKEN=token)
    assert status == 1 and "framefold_damaged: document 1 of framefold_damaged: cannot decode" in err[-1]
    row = read_eval(folder / "few, not all")[0]
    assert row.value < 0.6 and row.efficiency["visual_after"] == 10
    assert list((folder / "few, not all/lmms-eval").glob("*_results.json"))
    log = (folder / "few, not all/lmms-eval.log").read_text()
    assert "Evaluation tracker args" in log and token not in log


@needs_torchvision
@needs_lmms_eval
def test_lmms_eval_finds_the_model_through_the_entry_point_and_knows_the_benchmarks(folder: Path) -> None:
    """Without our command: its registry reads the installed metadata, here those that pyproject.toml asks for."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in of.items()) for group, of in groups.items()
    ]
    metadata = folder / "metadata/framefold_entry-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: framefold-entry\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    code = (
        "import sys; from pathlib import Path; sys.path += ['metadata', str(Path(sys.prefix) / 'lmms-eval')]\n"
        "from framefold.training.frozen_host.torchvision import find_torchvision; find_torchvision()\n"
        "from lmms_eval.models import get_model; print(get_model('framefold').__module__)\n"
        "from framefold.evaluation.lmms.worker import _check_tasks, EvalError\n"
        f"_check_tasks({BENCHMARKS!r}, None)\n"
        "try: _check_tasks(['mlvu'], None)\n"
        "except EvalError as error: print(error)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words, cwd=folder, env=environment(folder, stub=False), capture_output=True, text=True, timeout=HANG
    )
    module, unknown = done.stdout.splitlines()[-2:]
    assert module == "framefold.evaluation.lmms.model", done.stderr[-2000:]
    assert unknown == "lmms-eval has no task 'mlvu'; did you mean mlvu_dev, mlvu_test?"
