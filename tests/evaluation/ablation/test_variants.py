"""``framefold bench variants``: exact and official variants with equally many tokens, on small videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import framefold
from framefold import Compressor, VideoTokens
from framefold.__main__ import main
from framefold.adapters.core import registry
from framefold.adapters.core.registry import compressor_class
from framefold.errors import BudgetError, ConfigError, InputError
from framefold.evaluation.ablation.variants import VariantPair, bench_variants, has_official_variant
from tests.support.paths import TINYHOST

SMALL: dict[str, Any] = {"host": str(TINYHOST), "videos": 2, "frames": 16}


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressor whose official variant keeps every second token of its budget, and fails on short videos."""
    monkeypatch.setattr("framefold.adapters.core.registry._CLASSES", dict(registry._CLASSES))

    class Halves(Compressor):
        """Keeps the first tokens; official keeps the last ones, half as many."""

        name = "halves_for_this_test"

        def __init__(self, budget: float = 0.25, *, variant: Literal["exact", "official"] = "exact") -> None:
            super().__init__(budget)
            self.variant, self.exact_budget = variant, variant == "exact"

        def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
            if self.exact_budget:
                return video.keep(torch.arange(k))
            if video.grid[0] < 4:
                raise InputError("it needs 4 frames")
            return video.keep(torch.arange(len(video) - k // 2, len(video)))


def test_every_official_variant_is_compared_with_exact_at_its_own_number_of_tokens(tmp_path: Path) -> None:
    words = ["--host", str(TINYHOST), "--videos", "2", "--frames", "16", "--budgets", "0.25", "--out", str(tmp_path)]
    assert main(["bench", "variants", *words]) == 0
    rows = json.loads((tmp_path / "variants.json").read_text())["rows"]
    names = [n for n in framefold.list_compressors(trainable=False) if framefold.build(n).in_llm is None]
    assert [row["compressor"] for row in rows] == [n for n in names if has_official_variant(compressor_class(n))]
    for row in rows:
        assert row["failed"] in (0, 2), row  # twins are alike to a method
        if not row["failed"]:
            value, low, high = row["recall_difference"]
            assert 0 < row["tokens"] <= 256 and row["questions"] > 4 and low <= value <= high, row
            assert value == pytest.approx(row["recall_exact"] - row["recall_official"]), row


def test_numbers_are_those_of_the_videos(halves: None, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = bench_variants(["halves_for_this_test"], [0.5], **SMALL)
    assert row["tokens"] == 64 and row["failed"] == 0  # half of half of 16 frames of 16 tokens
    assert row["recall_exact"] == row["purity_exact"] and row["recall_official"] == row["purity_official"]
    assert row["recall_exact"] + row["recall_official"] <= 1
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:3] == ["halves_for_this_test", "0.5", "64.0"] and f"{100 * row['recall_exact']:.1f}" in line


def test_videos_that_the_release_refuses_are_left_out(halves: None) -> None:
    pair = VariantPair("halves_for_this_test", 0.5, {})
    assert len(pair(VideoTokens.from_grid(torch.rand(2, 2, 2, 8))).tokens) == 8
    assert pair.kept == [None] and pair.error == "it needs 4 frames"
    assert len(pair(VideoTokens.from_grid(torch.rand(8, 2, 2, 8))).tokens) == 8
    kept = pair.kept[1]
    assert kept is not None and [one.tokens for one in kept] == [8, 8]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"compressors": ["uniform"]},
            ConfigError,
            "uniform has no official variant; those that have one: .*st_simdiff",
        ),
        ({"compressors": ["st_simdiff"], "params": {"st_simdiff": {"sharpness": 1}}}, ConfigError, "sharpness"),
        ({"budgets": [1.5]}, BudgetError, "1.5"),
        ({"videos": 0}, ConfigError, "positive"),
    ],
)
def test_wrong_settings_are_errors_before_any_work(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framefold.training.frozen_host.load.load_host", lambda *_: pytest.fail("the host was loaded"))
    with pytest.raises(error, match=message):
        bench_variants(**SMALL | arguments)
