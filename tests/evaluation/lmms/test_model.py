"""The model that lmms-eval gets: its answers, their costs, and what it refuses.

All calls run in one process of their own, see tests/support/lmms/wrapper.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.support.limits import HANG
from tests.support.lmms.lmms_fixtures import environment, write_task_files
from tests.support.paths import ROOT
from tests.support.processes import needs_torchvision

pytestmark = needs_torchvision


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_task_files(tmp_path_factory.mktemp("model"), videos=1)
    (folder / "wrapper").mkdir()
    words = [sys.executable, "-m", "tests.support.lmms.wrapper", "wrapper"]
    env = environment(folder, stub=True)
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "wrapper/results.json").read_text())


def test_entry_point_names_the_model(wrapper: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"framefold": "framefold.evaluation.lmms.model:manifest"}
    assert wrapper["manifest"] == ["framefold", "framefold.evaluation.lmms.model.Framefold"]


def test_answer_is_that_of_framefold_answer_and_ends_where_the_task_says(wrapper: dict[str, Any]) -> None:
    answers, own = wrapper["answers"], wrapper["answers"]["own"]
    first, sampled, until = answers["text"]
    assert first == sampled == own["text"] and until == own["text"].partition("i")[0] != first
    logged = answers["logged"][0]
    tokens = [logged["visual_before"], logged["visual_after"], logged["prompt"]]
    assert tokens == [own["before"], own["after"], own["prompt"]]
    assert logged["frames"] == 32 and own["after"] == round(0.1 * own["before"]) and logged["text"] == own["text"]
    assert 0 < logged["compressor"] < logged["prefill"] < 60 and logged["decode"] > 0 and logged["memory"] >= 0
    assert wrapper["cut"] == ["a", "a", "ab", "ab", "ab"]


def test_sampling_and_long_prompts_are_logged(wrapper: dict[str, Any]) -> None:
    *three, long, compact = wrapper["answers"]["logged"]
    assert [answer["sampled"] for answer in three] == [False, True, False]
    assert [answer["over_context"] for answer in (*three, long, compact)] == [False, False, False, True, False]


def test_logged_answer_is_not_computed_again(wrapper: dict[str, Any]) -> None:
    first, second = wrapper["answers"]["resumed"]
    assert first == second == [wrapper["answers"]["own"]["text"]]
    assert wrapper["answers"]["progress"] == {"task": "toy", "done": 0, "total": 1}


REFUSED = {
    "images": ("EvalError", "document 0 of toy: a question needs exactly one video file, this one has 2"),
    "no visual": ("EvalError", "this one has 0 visuals (nothing)"),
    "two videos": ("EvalError", "this one has 2 visuals (str)"),
    "missing video": ("EvalError", "document 2 of toy: cannot decode none.mp4"),
    "placeholder": ("EvalError", "'<video>'"),
    "likelihood": ("EvalError", "toy compares likelihoods"),
    "rounds": ("EvalError", "toy asks in several rounds"),
    "batch": ("ConfigError", "batch size must be 1"),
    "unknown option": ("ConfigError", "no setting 'budgt'; known: adapter, allow_other_host, budget"),
    "no host": ("HostError", "no host in nowhere"),
    "changed adapter": ("ConfigError", "checkpoints/fila has changed since the evaluation began"),
    "adapter of another host": ("WrongHostError", "allow_other_host=True to load it"),
    "unknown compressor": ("UnknownCompressorError", "st_simdiff"),
}  # fmt: skip


def test_unusable_requests_and_options_are_typed_errors(wrapper: dict[str, Any]) -> None:
    for case, (kind, text) in REFUSED.items():
        error, message = wrapper["refused"][case]
        assert error == kind and text in message, (case, message)
    assert wrapper["refused"]["other host allowed"] == "loaded"


def test_names_adapters_and_chains_keep_their_budget(wrapper: dict[str, Any]) -> None:
    kept = wrapper["compressors"]
    assert set(kept) == {"uniform", "pool", "identity", "qtsplus", "fastv", "adapter", "chain", "hub"}
    for name, (before, after, mean, seconds) in kept.items():
        assert before == 512 and after == (512 if name in ("identity", "fastv") else 20) and seconds > 0, name
        assert 299 < mean <= 300 if name == "fastv" else mean == after, name


def test_lora_of_an_adapter_is_added_to_the_host(wrapper: dict[str, Any]) -> None:
    session, direct, without = wrapper["lora"]
    assert session == direct != without


def test_hosts_are_asked_through_their_own_processors(wrapper: dict[str, Any]) -> None:
    assert len(wrapper["families"]) == 2
    for name, kept in wrapper["families"].items():
        assert kept in ([6, 5, 2, 16 * 16], [6, 5, 1, 16 * 16]), (name, kept)  # the tiny processors resize to 16 x 16
