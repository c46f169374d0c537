"""Videos of shards that are damaged, or that the host refuses, are left out, counted and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framefold.errors import ConfigError, DataError
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.results.result_files import FOLDER
from tests.support.own_shards import BAD_SAMPLES, write_own_shards

SMALL = dict(compressors=["uniform"], budgets=[0.5], oracle=True, drill=0, batch_size=2)


def test_damaged_videos_of_shards_are_left_out_counted_and_named(random_host: Path, tmp_path: Path, capsys) -> None:
    bad = dict(zip((1, 3, 4, 6, 7), BAD_SAMPLES.values(), strict=True))
    shards = str(write_own_shards(tmp_path / "shards", 10, bad))
    call = dict(host=str(random_host), data=shards, cache=str(tmp_path / "cache"), **SMALL)
    capsys.readouterr()
    ablate(str(tmp_path / "out"), max_damaged=0.5, **call)
    text = capsys.readouterr().out
    assert "5 damaged videos are left out" in text
    for number, field in zip(bad, BAD_SAMPLES, strict=True):
        assert f"own-{number}.json" in text and field in text
    (result,) = [json.loads(file.read_text()) for file in (tmp_path / "out" / FOLDER).glob("uniform*.json")]
    assert result["damaged"] == 5
    with pytest.raises(DataError, match=r"5 of 10 videos are damaged, more than --max_damaged 0\.05 allows; .*own-1\."):
        ablate(str(tmp_path / "other"), **call)
    with pytest.raises(ConfigError, match="max_damaged"):
        ablate(str(tmp_path / "other"), max_damaged=2.0, **call)
