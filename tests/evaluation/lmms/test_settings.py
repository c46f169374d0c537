"""Settings of an evaluation: what they identify, and which of them may share a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from framefold.adapters.base.build import load_or_build
from framefold.errors import ConfigError
from framefold.evaluation.lmms import settings as eval_settings
from framefold.evaluation.lmms.settings import (
    EvalSettings,
    claim,
    host_revision,
    json_value,
    resolve_settings,
    settings_of,
)
from framefold.files import file_digest
from tests.support.lmms.lmms_fixtures import SETTINGS
from tests.support.paths import ROOT


def test_numbers_of_metrics_become_plain_json() -> None:
    value = {"a": np.float32(0.5), "b": float("nan"), 3: [np.int64(2), True, None], "c": {"x"}, "d": np.array([1.5, 2])}
    text = json.dumps(json_value(value | {"e": len}), allow_nan=False)
    assert json.loads(text)["a"] == 0.5 and json.loads(text)["b"] is None and json.loads(text)["3"] == [2, True, None]


def test_folder_with_results_of_other_settings_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, SETTINGS)
    given = json.loads(SETTINGS.text)
    for name, value in {
        "budget": 0.5, "host_revision": "other", "limit": 3, "adapter": "x", "params": {"a": 1}, "tasks": "t",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"results with {name} .*another --out"):
            claim(tmp_path, settings_of(given | {name: value}))
    claim(tmp_path, settings_of(given | {"device": "cuda"}))  # makes no difference


def test_host_is_identified_by_the_contents_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_settings, "DIGEST_LIMIT", 10)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    revisions = set()
    for content in (b"head" + b"x" * 30, b"Head" + b"x" * 30, b"head" + b"x" * 29 + b"y", b"head" + b"x" * 31):
        weights.write_bytes(content)
        revisions.add(host_revision(str(tmp_path)))
    assert len(revisions) == 4
    (tmp_path / "notes.md").write_text("of no effect")
    assert host_revision(str(tmp_path)) in revisions


def test_settings_contain_the_hub_id_and_the_digest_of_the_adapter() -> None:
    fila, host = str(ROOT / "checkpoints/fila"), str(ROOT / "checkpoints/tinyhost")
    settings = resolve_settings(EvalSettings(host, "someone/fila"), load_or_build(fila, 0.1), fila, None)
    assert (settings.compressor, settings.row, settings.budget) == ("someone/fila", "fila", 0.1)
    assert settings.adapter == file_digest(Path(fila) / "model.safetensors") and settings.params["r"] == 3
    tasks = str(ROOT / "tests/assets/lmms_tasks")
    named = resolve_settings(EvalSettings(host, "uniform"), load_or_build("uniform", 7), "uniform", tasks)
    assert (named.adapter, named.row, named.budget) == (None, "uniform", 7) and len(named.tasks) == 64
