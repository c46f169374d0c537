"""``framefold eval``: what is asked through lmms-eval, what is measured, and that nothing is lost or left running.

Where lmms-eval is not installed (make lmms), tests/assets/lmms_stub stands in for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock

from framefold.__main__ import main
from framefold.adapters import list_compressors
from framefold.adapters.base.build import load_or_build
from framefold.errors import ConfigError, EvalError, MissingExtraError
from framefold.evaluation.lmms import evaluate as eval_module
from framefold.evaluation.lmms import process as lmms_process
from framefold.evaluation.lmms import settings as eval_settings
from framefold.evaluation.lmms import worker as lmms_run
from framefold.evaluation.lmms.answer_log import RowFile, efficiency, notes, read_answer_log
from framefold.evaluation.lmms.results import file_of, finished, read_eval, write_task
from framefold.evaluation.lmms.settings import EvalSettings, claim, host_revision, json_value, resolve_settings
from framefold.evaluation.lmms.table import markdown_table
from framefold.evaluation.metrics import memory as high_water_module
from framefold.evaluation.metrics.memory import resident_peak_memory
from framefold.files import file_digest
from tests.support.lmms.lmms_fixtures import EVAL, REAL, STUB, VIDEOS, environment, furnish, gone, run, start, wait_for
from tests.support.processes import ROOT, needs_torchvision

needs_lmms_eval = pytest.mark.skipif(not REAL, reason="lmms-eval is not installed (make lmms)")
BENCHMARKS = ["videomme", "mlvu_dev", "longvideobench_val_v", "egoschema_subset", "lvbench", "tempcompass"]
SETTINGS = EvalSettings("host", "uniform", 0.25, row="uniform", host_revision="abc")
ROW = {
    "key": "k", "task": "toy", "split": "test", "doc_id": 0, "video": "v.mp4", "text": "red", "frames": 8,
    "visual_before": 100, "visual_after": 10, "prompt": 20, "over_context": False, "new_tokens": 2, "prefill": 0.1,
    "decode": 0.01, "compressor": 0.002, "memory": 2**20, "sampled": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("eval"))


def samples_of(out: Path, task: str = "framefold_toy") -> list[dict[str, Any]]:
    return json.loads((out / "eval.json").read_text())["tasks"][task]["samples"]


# --- what is measured -------------------------------------------------------------------------------------------------


def test_times_are_medians_tokens_means_and_memory_the_most() -> None:
    rows = [ROW, ROW | {"visual_after": 30, "prefill": 0.5, "memory": 3 * 2**20, "decode": None}, ROW | {"prompt": 50}]
    took = efficiency(rows)
    assert took["n"] == 3 and took["visual_before"] == 100 and took["visual_after"] == pytest.approx(50 / 3)
    assert took["retention"] == pytest.approx(50 / 300) and took["prompt"] == 30 and took["new_tokens"] == 2
    assert (took["prefill_ms"], took["compressor_ms"], took["decode_ms"]) == (100, 2, 10)
    assert took["memory_mib"] == 3
    assert efficiency([ROW | {"decode": None}])["decode_ms"] is None and efficiency([]) == {"n": 0}


def test_what_makes_figures_doubtful_is_noted() -> None:
    assert notes([ROW]) == []
    over, sampled = notes([ROW, ROW | {"over_context": True, "sampled": True}])
    assert over.startswith("1 of 2 full prompts are longer") and "all of them are greedy" in sampled


def test_a_row_that_a_kill_cut_off_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "rows/toy.jsonl"
    log = RowFile(file)
    log.add(ROW)
    log.add(ROW | {"key": "l"})
    file.write_text(file.read_text()[:-9])
    log = RowFile(file)
    assert list(log.rows) == ["k"]
    log.add(ROW | {"key": "m"})
    assert [row["key"] for row in read_answer_log(file)] == ["k", "m"] and len(file.read_text().splitlines()) == 2


def test_memory_is_what_a_call_needs_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    held = np.ones(8 * 2**20, np.uint8)
    grown = resident_peak_memory(lambda: (np.ones(48 * 2**20, np.uint8), None)[1], torch.device("cpu"))
    assert 40 * 2**20 < grown < 60 * 2**20 and held.all()
    assert resident_peak_memory(lambda: None, torch.device("cpu")) < 4 * 2**20  # the last call's peak is forgotten
    monkeypatch.setattr(high_water_module, "RESET", Path("/proc/none/clear_refs"))
    monkeypatch.setattr(high_water_module, "peak_memory", lambda run, device: 7)
    assert resident_peak_memory(lambda: None, torch.device("cpu")) == 7  # where the kernel does not tell


def test_numbers_of_a_metric_become_plain() -> None:
    value = {"a": np.float32(0.5), "b": float("nan"), 3: [np.int64(2), True, None], "c": {"x"}, "d": np.array([1.5, 2])}
    text = json.dumps(json_value(value | {"e": len}), allow_nan=False)
    assert json.loads(text)["a"] == 0.5 and json.loads(text)["b"] is None and json.loads(text)["3"] == [2, True, None]


# --- the files --------------------------------------------------------------------------------------------------------


def write(out: Path, task: str = "toy", settings: EvalSettings = SETTINGS, both: float = 0.75, **values: Any) -> None:
    """Results as lmms-eval returns them: a group of two tasks, one of which has values of its own."""
    claim(out, settings)
    reported = {
        "results": {
            "toy": {
                "alias": "toy",
                "acc,none": 0.5,
                "acc_stderr,none": 0.1,
                "acc_stderr_clustered,none": "N/A",
                **values,
            },
            "both": {"acc,none": both, "acc_stderr,none": "N/A", " ": " "},
        },
        "higher_is_better": {"toy": {"acc": True}, "both": {"acc": False}},
        "date": object(),
    }
    logged = {"doc_id": 0, "target": "red", "filtered_resps": ["red"], "doc_hash": "x", "acc": np.float64(1)}
    samples = {"toy": [logged], "other": [logged | {"doc_id": 7}]}
    rows = [ROW, ROW | {"task": "other", "doc_id": 7, "visual_after": 20}]
    write_task(out, task, settings, reported, samples, rows, 12.5)


def test_a_report_gets_metrics_with_their_errors_and_what_the_answers_took(tmp_path: Path) -> None:
    write(tmp_path, **{"f1,strict": 0.25, "f1_stderr,strict": 0.2, "f1_stderr_clustered,strict": np.float64(0.3)})
    toy, f1, both = read_eval(tmp_path)
    assert (toy.compressor, toy.budget, toy.host, toy.task, toy.metric) == ("uniform", 0.25, "host", "toy", "acc")
    assert (toy.value, toy.stderr, toy.better, toy.n) == (0.5, 0.1, "higher", 1)
    assert (f1.metric, f1.value, f1.stderr, f1.better) == ("f1", 0.25, 0.3, "")  # that by clusters is the wider one
    assert (both.task, both.value, both.stderr, both.better, both.n) == ("both", 0.75, None, "lower", 2)
    assert toy.efficiency["visual_after"] == 10 and both.efficiency["visual_after"] == 15
    sample = samples_of(tmp_path, "toy")[0]
    assert sample["answer"] == sample["target"] == "red" and sample["metrics"] == {"acc": 1}
    assert sample["visual_before"] == 100 and sample["prefill"] == 0.1


def test_evaluations_stand_side_by_side_the_best_first(tmp_path: Path) -> None:
    few = eval_settings.settings_of(json.loads(SETTINGS.text) | {"budget": 20})
    whole = eval_settings.settings_of(json.loads(SETTINGS.text) | {"row": "identity"})
    write(tmp_path / "few", settings=few, both=0.9, **{"acc,none": 0.25})
    write(tmp_path / "many", **{"acc,none": 0.75})
    write(tmp_path / "whole", settings=whole, both=0.1, **{"acc,none": 0.5})
    lines = markdown_table([tmp_path / name for name in ("few", "many", "whole")]).splitlines()
    assert (
        lines[2]
        == "| toy | acc | uniform, budget 0.25 | 0.7500 | 0.1000 | 1 | 100 -> 10 | 100.0 ms | 2.0 ms | 1.0 MiB |"
    )
    assert [line.split(" | ")[2] for line in lines[2:5]] == ["uniform, budget 0.25", "all tokens", "uniform, budget 20"]
    assert [line.split(" | ")[3] for line in lines[5:]] == ["0.1000", "0.7500", "0.9000"]  # lower is better
    assert markdown_table([]) == ""
    with pytest.raises(EvalError, match="no results in"):
        markdown_table([tmp_path])


def test_finished_tasks_are_joined(tmp_path: Path) -> None:
    write(tmp_path, "one")
    write(tmp_path, "a/b")
    joined = json.loads((tmp_path / "eval.json").read_text())
    assert set(joined["tasks"]) == {"one", "a/b"} and joined["settings"]["host_revision"] == "abc"
    assert joined["tasks"]["one"]["seconds"] == 12.5 and joined["tasks"]["one"]["versions"]["torch"]
    assert finished(tmp_path, "a/b") and not finished(tmp_path, "b") and len(read_eval(tmp_path)) == 4


def test_an_answer_that_nobody_was_asked_for_is_an_error(tmp_path: Path) -> None:
    claim(tmp_path, SETTINGS)
    sample = {"doc_id": 3, "target": "red", "filtered_resps": ["red"]}
    with pytest.raises(EvalError, match="document 3 of toy"):
        write_task(tmp_path, "toy", SETTINGS, {"results": {"toy": {}}}, {"toy": [sample]}, [ROW], 1.0)
    assert not finished(tmp_path, "toy") and not (tmp_path / "eval.json").exists()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda out: file_of(out, "toy").write_text("{"), "toy.json is damaged"),
        (lambda out: file_of(out, "toy").write_text('{"schema": 99}'), "schema 99"),
        (lambda out: file_of(out, "toy").unlink(), "no finished task"),
        (lambda out: (out / "settings.json").write_text("[]"), "settings.json is damaged"),
        (lambda out: (out / "settings.json").unlink(), "no results in"),
        (lambda out: claim_again(out, frames=3), "another frames than"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, spoil: Callable[[Path], object], text: str) -> None:
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(EvalError, match=text):
        read_eval(tmp_path)


def claim_again(out: Path, **changed: Any) -> None:
    settings = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps(settings | changed))


@pytest.mark.parametrize(
    "changed",
    [{"budget": 0.5}, {"host_revision": "other"}, {"limit": 3}, {"adapter": "x"}, {"params": {"a": 1}}, {"tasks": "t"}],
)
def test_a_folder_with_results_of_other_settings_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    claim(tmp_path, SETTINGS)
    other = eval_settings.settings_of(json.loads(SETTINGS.text) | changed)
    with pytest.raises(ConfigError, match=f"results with {next(iter(changed))} .*another --out"):
        claim(tmp_path, other)
    claim(tmp_path, eval_settings.settings_of(json.loads(SETTINGS.text) | {"device": "cuda"}))  # makes no difference


def test_a_host_is_known_by_what_is_in_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_settings, "WHOLE", 10)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    seen = set()
    for content in (b"head" + b"x" * 30, b"Head" + b"x" * 30, b"head" + b"x" * 29 + b"y", b"head" + b"x" * 31):
        weights.write_bytes(content)
        seen.add(host_revision(str(tmp_path)))
    assert len(seen) == 4
    (tmp_path / "notes.md").write_text("of no effect")
    assert host_revision(str(tmp_path)) in seen


def test_settings_tell_a_hub_id_and_the_digest_of_its_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    fila, host = str(ROOT / "checkpoints/fila"), str(ROOT / "checkpoints/tinyhost")
    asked = EvalSettings(host, "someone/fila")
    settings = resolve_settings(asked, load_or_build(fila, 0.1), fila, None)
    assert (settings.compressor, settings.row, settings.budget) == ("someone/fila", "fila", 0.1)
    assert settings.adapter == file_digest(Path(fila) / "model.safetensors") and settings.params["r"] == 3
    named = resolve_settings(
        EvalSettings(host, "uniform"), load_or_build("uniform", 7), "uniform", str(ROOT / "tests/assets/lmms_tasks")
    )
    assert (named.adapter, named.row, named.budget) == (None, "uniform", 7) and len(named.tasks) == 64


# --- errors before work -----------------------------------------------------------------------------------------------


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
        (["--host", "no/where"], "no host to load in 'no/where'"),
    ],
)
def test_wrong_settings_are_one_line_before_anything_starts(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(eval_module, "supervise", started)
    monkeypatch.setattr(eval_module, "find_lmms_eval", lambda: None)
    good = ["--host", str(ROOT / "checkpoints/tinyhost"), "--compressor", "uniform", "--tasks", "videomme,mlvu_dev"]
    assert main(["eval", *good, *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and text in err
    assert not (tmp_path / "runs").exists()


def test_two_evaluations_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_module, "find_lmms_eval", lambda: None)
    monkeypatch.setattr(eval_module, "supervise", lambda *_: pytest.fail("it was started"))
    words = ["--host", str(ROOT / "checkpoints/tinyhost"), "--compressor", "uniform", "--tasks", "videomme"]
    with FileLock(tmp_path / ".lock"):
        assert main(["eval", *words, "--out", str(tmp_path)]) == 2
    assert "another framefold eval is at work" in capsys.readouterr().err


def test_without_lmms_eval_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmms_process, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"'make lmms' .* pip install 'framefold\[lmms\]'"):
        lmms_process.find_lmms_eval()
    (tmp_path / "lmms-eval/lmms_eval").mkdir(parents=True)
    (tmp_path / "lmms-eval/lmms_eval/__init__.py").touch()
    assert lmms_process.find_lmms_eval() == tmp_path / "lmms-eval"


def test_what_is_installed_beside_hides_nothing_of_the_environment() -> None:
    def names(file: str) -> set[str]:
        lines = (line.partition("==") for line in (ROOT / file).read_text().splitlines() if not line.startswith("#"))
        pinned = [(name.lower().replace("_", "-"), version) for name, _, version in lines]
        assert all(version for _, version in pinned)
        return {name for name, _ in pinned}

    beside = names("constraints-lmms.txt")
    assert "lmms-eval" in beside and beside & names("constraints.txt") == set()
    assert beside.isdisjoint({"torch", "torchvision", "triton"}) and not any("nvidia" in name for name in beside)


# --- the process of its own -------------------------------------------------------------------------------------------


def sleeping(folder: Path) -> tuple[int, int]:
    """Ids of a process that sleeps for ever and of one that it started."""
    wait_for((folder / "pids").exists)
    ours, workers = (folder / "pids").read_text().split()
    return int(ours), int(workers)


def test_an_interrupt_ends_the_process_and_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmms_process, "MODULE", "tests.support.lmms.sleeper")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def look() -> None:
        if (tmp_path / "pids").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lmms_process.supervise(tmp_path / "pids", tmp_path / "log", look)
    for pid in sleeping(tmp_path):
        wait_for(lambda pid=pid: gone(pid), 10)


def test_the_process_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from framefold.training import lmms_process as p;"
        "p.MODULE = 'tests.support.lmms.sleeper'; p.supervise(Path(sys.argv[1]), Path(sys.argv[2]), lambda: None)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "pids"), str(tmp_path / "log")]
    parent = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)})
    pids = sleeping(tmp_path)
    assert not any(map(gone, pids))
    parent.kill()
    parent.wait()
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid), 10)


# --- the model that lmms-eval gets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrapper(desk: Path) -> dict[str, Any]:
    (desk / "wrapper").mkdir()
    words = [sys.executable, "-m", "tests.support.lmms.wrapper", "wrapper"]
    done = subprocess.run(
        words, cwd=desk, env=environment(desk, stub=True), capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((desk / "wrapper/results.json").read_text())


@needs_torchvision
def test_the_entry_point_is_the_model(wrapper: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"framefold": "framefold.evaluation.lmms.model:manifest"}
    assert wrapper["manifest"] == ["framefold", "framefold.evaluation.lmms.model.Framefold"]


@needs_torchvision
def test_an_answer_is_that_of_framefold_answer_and_ends_where_the_task_says(wrapper: dict[str, Any]) -> None:
    answers, own = wrapper["answers"], wrapper["answers"]["own"]
    first, sampled, until = answers["text"]
    assert first == sampled == own["text"] and until == own["text"].partition("i")[0] != first
    row = answers["rows"][0]
    assert [row["visual_before"], row["visual_after"], row["prompt"]] == [own["before"], own["after"], own["prompt"]]
    assert row["frames"] == 32 and own["after"] == round(0.1 * own["before"]) and row["text"] == own["text"]
    assert 0 < row["compressor"] < row["prefill"] < 60 and row["decode"] > 0 and row["memory"] >= 0
    assert wrapper["cut"] == ["a", "a", "ab", "ab", "ab"]


@needs_torchvision
def test_sampling_and_long_prompts_are_remembered(wrapper: dict[str, Any]) -> None:
    *three, long, compact = wrapper["answers"]["rows"]
    assert [row["sampled"] for row in three] == [False, True, False]
    assert [row["over_context"] for row in (*three, long, compact)] == [False, False, False, True, False]


@needs_torchvision
def test_an_answer_on_disk_is_not_asked_for_again(wrapper: dict[str, Any]) -> None:
    first, second = wrapper["answers"]["resumed"]
    assert first == second == [wrapper["answers"]["own"]["text"]]
    assert wrapper["answers"]["progress"] == {"task": "toy", "done": 0, "total": 1}


@needs_torchvision
@pytest.mark.parametrize(
    ("case", "kind", "text"),
    [
        ("images", "EvalError", "document 0 of toy: a question comes with one video file, this one with 2 (object)"),
        ("no visual", "EvalError", "this one with 0 (nothing)"),
        ("two videos", "EvalError", "this one with 2 (str)"),
        ("missing video", "EvalError", "document 2 of toy: cannot decode none.mp4"),
        ("placeholder", "EvalError", "'<video>'"),
        ("likelihood", "EvalError", "toy compares likelihoods"),
        ("rounds", "EvalError", "toy asks in several rounds"),
        ("batch", "ConfigError", "batch size must be 1"),
        ("unknown option", "ConfigError", "no setting 'budgt'; known: adapter, budget"),
        ("no host", "HostError", "no host to load in 'nowhere'"),
        ("changed adapter", "ConfigError", "checkpoints/fila was changed meanwhile"),
        ("adapter of another host", "WrongHostError", "allow_other_host=True takes it"),
        ("unknown compressor", "UnknownCompressorError", "st_simdiff"),
    ],
)
def test_what_cannot_be_asked_is_a_typed_error(wrapper: dict[str, Any], case: str, kind: str, text: str) -> None:
    got = wrapper["refusals"][case]
    assert got[0] == kind and text in got[1], got
    assert wrapper["refusals"]["the same, wanted"] == "taken"


@needs_torchvision
def test_every_compressor_and_adapter_keeps_its_budget(wrapper: dict[str, Any]) -> None:
    kept = wrapper["compressors"]
    assert set(kept) == {*list_compressors(), "adapter", "chain", "hub"}
    for name, (before, after, seconds) in kept.items():
        assert before == 512 and after == (512 if name == "identity" else 20) and 0 < seconds < 60, name


@needs_torchvision
def test_lora_of_an_adapter_is_in_the_host(wrapper: dict[str, Any]) -> None:
    session, itself, without = wrapper["lora"]
    assert session == itself != without


@needs_torchvision
def test_every_host_family_is_asked_through_its_own_processor(wrapper: dict[str, Any]) -> None:
    from tests.support.hosts.tiny_processors import FAMILIES

    assert set(wrapper["families"]) == set(FAMILIES)
    assert all(kept == [6, 5, 2] or kept == [6, 5, 1] for kept in wrapper["families"].values()), wrapper["families"]


# --- the whole verb ---------------------------------------------------------------------------------------------------


def test_an_unknown_task_is_one_line_with_near_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def supervise(file: Path, log: Path, look: Callable[[], None]) -> int:
        job = json.loads(file.read_text())
        monkeypatch.setattr(lmms_run, "run_job", lambda job: lmms_run._check_tasks(job["tasks"], job["include_path"]))
        monkeypatch.setattr(lmms_run, "follow_parent", lambda: None)
        lmms_run.main(str(file))
        assert json.loads(Path(job["outcome"]).read_text())["done"]
        return 0

    for name in [name for name in sys.modules if name.partition(".")[0] == "lmms_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(STUB)
    monkeypatch.setattr(eval_module, "supervise", supervise)
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
def test_a_killed_evaluation_leaves_no_process_and_goes_on_where_it_was(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = desk / "killed, twice"  # lmms-eval cuts its arguments at commas
    words = ["--compressor", "st_simdiff", "--budget", "0.1", "--limit", "20", "--out", folder.name, "--tasks"]
    rows = folder / "rows/framefold_toy.jsonl"
    process = start(desk, *words, "framefold_toy", stub=True)
    try:
        wait_for(lambda: len(read_answer_log(rows)) >= 4)
        below = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.communicate()
    assert len(below) == 2  # that of lmms-eval, and what it had started
    for child in below:
        wait_for(lambda pid=child.pid: gone(pid), 10)
    kept = read_answer_log(rows)

    status, out, err = run(desk, *words, "framefold_toy,framefold_damaged,framefold_deadly", stub=True)
    samples = samples_of(folder)
    assert status == 1 and len(samples) == 20 > len(kept) >= 4, err
    assert [sample["prefill"] for sample in samples[: len(kept)]] == [row["prefill"] for row in kept]
    assert {sample["visual_after"] for sample in samples} == {51} and len({sample["video"] for sample in samples}) == 2
    right = sum(sample["metrics"]["exact_match"] for sample in samples) / len(samples)
    assert f"framefold_toy  exact_match  {right:.4f}" in out and "512 -> 51" in out and right > 0.6
    damaged, deadly = [line for line in err if "error" in line]
    assert "framefold_damaged: document 1 of framefold_damaged: cannot decode toy/none.mp4" in damaged
    assert "lmms-eval was killed by signal 9 in framefold_deadly; run it again to go on" in deadly
    assert not finished(folder, "framefold_damaged")

    monkeypatch.chdir(desk)  # what is finished is shown again, without a process
    monkeypatch.setattr(eval_module, "supervise", lambda *_: pytest.fail("it was started"))
    monkeypatch.setattr(eval_module, "find_lmms_eval", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*EVAL[2:], *words, "framefold_toy"]) == 0 and capsys.readouterr().out == out


@needs_torchvision
@needs_lmms_eval
def test_lmms_eval_itself_scores_as_our_own_evaluation(desk: Path) -> None:
    from framefold.data.synthetic.generate import generate
    from framefold.training.frozen_host.load import load_host
    from framefold.training.tinyhost.evaluate import _answer, _way

    host, own = load_host(str(desk / "checkpoints/tinyhost")), []
    for number in range(VIDEOS):
        video = generate(number, split="test", frames=32, difficulty="easy")
        own += _answer(host, video, host.encode(host.pixel_values(video.frames)), _way("full", host))[1]
    status, out, err = run(desk, "--compressor", "identity", "--tasks", "framefold_toy", "--out", "full", stub=False)
    assert status == 0, err
    assert [sample["metrics"]["exact_match"] for sample in samples_of(desk / "full")] == own
    row = read_eval(desk / "full")[0]
    assert row.value == pytest.approx(sum(own) / len(own)) and row.value > 0.7 and row.stderr and row.n == len(own)
    assert "all tokens, host checkpoints/tinyhost" in out and "512 -> 512" in out
    theirs = json.loads(next((desk / "full/lmms-eval").glob("*_results.json")).read_text())
    assert theirs["results"]["framefold_toy"]["exact_match,none"] == row.value


@needs_torchvision
@needs_lmms_eval
def test_with_lmms_eval_a_compressor_has_another_score_and_secrets_are_kept(desk: Path) -> None:
    words = ["--compressor", "uniform", "--budget", "0.02", "--out", "few, not all", "--tasks"]
    token = "hf_" + "secret" * 5
    status, _, err = run(desk, *words, "framefold_toy,framefold_damaged", stub=False, HF_TOKEN=token)
    assert status == 1 and "framefold_damaged: document 1 of framefold_damaged: cannot decode" in err[-1]
    row = read_eval(desk / "few, not all")[0]
    assert row.value < 0.6 and row.efficiency["visual_after"] == 10
    assert list((desk / "few, not all/lmms-eval").glob("*_results.json"))
    log = (desk / "few, not all/lmms-eval.log").read_text()
    assert "Evaluation tracker args" in log and token not in log


@needs_torchvision
@needs_lmms_eval
def test_lmms_eval_finds_the_model_through_the_entry_point_and_knows_the_benchmarks(desk: Path) -> None:
    """Without our command: its registry reads the installed metadata, here those that pyproject.toml asks for."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in of.items()) for group, of in groups.items()
    ]
    metadata = desk / "metadata/framefold_entry-1.0.dist-info"
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
        words, cwd=desk, env=environment(desk, stub=False), capture_output=True, text=True, timeout=120
    )
    module, unknown = done.stdout.splitlines()[-2:]
    assert module == "framefold.evaluation.lmms.model", done.stderr[-2000:]
    assert unknown == "lmms-eval has no task 'mlvu'; did you mean mlvu_dev, mlvu_test?"


def test_the_stub_stands_in_for_what_is_tested(desk: Path) -> None:
    code = "import lmms_eval; print(lmms_eval.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(desk, stub=True), capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).is_relative_to(STUB)
