"""Rows that are no compressors: equal tokens, encodings of their own, and names that mean nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold import VideoTokens
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.evaluation.ablation import feature_cache
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.ablation.feature_cache import FeatureCache
from framefold.evaluation.ablation.heldout import SyntheticVideos
from framefold.evaluation.ablation.row_methods import methods_of
from framefold.evaluation.results.left_out import read_left_out
from framefold.evaluation.results.result_files import read_results
from framefold.evaluation.rows.detail import reduce_detail
from framefold.evaluation.rows.resized import Resized
from framefold.training.frozen_host.load import load_host
from tests.support.paths import TINYHOST

ALL_ROWS = ["resize", "grid", "reinvest:pool", "one_frame", "blind"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.evaluation.ablation.runner.VIDEOS", 2)
        patch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
        some = {"host": str(TINYHOST), "compressors": ["uniform", "pool"], "rows": ALL_ROWS, "oracle": False}
        ablate(str(out), budgets=[0.25, 32], videos=4, frames=16, **some)
    yield out


def by_method(out: Path) -> dict[tuple[str, Any], dict[str, Any]]:
    return {(result["compressor"], result["budget"]): result for result in read_results(out)}


def test_rows_keep_exactly_the_tokens_of_the_budget(results: Path) -> None:
    tokens = {key: set(result["answers"]["tokens"]) for key, result in by_method(results).items()}
    resized = {("resize", 0.25), ("resize", 32), ("resize (side 0.5)", 0.25), ("resize (side 0.75)", 32)}
    reinvested = {("pool (2x frames)", 0.25), ("pool (2x frames)", 32), ("pool (4x frames)", 32)}
    assert resized | reinvested < set(tokens)
    for (name, budget), found in tokens.items():
        if name not in ("identity", "one frame", "blind"):
            assert found == {64 if budget == 0.25 else 32}, (name, budget)
    assert tokens["one frame", 1.0] == {16} and tokens["blind", 1.0] == {1}


def test_budgets_that_need_more_frames_than_a_video_has_are_left_out(results: Path) -> None:
    left_out = {(one.method, one.budget): one.reason for one in read_left_out(results)}
    reason = "16 frames of 1 x 1 tokens have 16, fewer than the budget's"
    assert left_out == {("resize (side 0.25)", 0.25): f"{reason} 64", ("resize (side 0.25)", 32): f"{reason} 32"}


def test_each_size_of_frames_has_encodings_of_its_own(results: Path) -> None:
    keys = [json.loads(file.read_text()) for file in (results / "features").glob("*/key.json")]
    assert sorted(key.pop("pixels", None) or [] for key in keys) == [[], [32, 32], [48, 48]]
    assert all(key == keys[0] for key in keys), "nothing else differs"
    answers = {name: result["answers"] for name, result in by_method(results).items()}
    assert answers["resize", 0.25]["correct"] == answers["resize (side 0.5)", 0.25]["correct"], "both are 2 x 2"
    losses = {name: answers[name]["said"] for name in (("resize", 32), ("resize (side 0.75)", 32))}
    assert losses["resize", 32] != losses["resize (side 0.75)", 32]


def test_a_cache_of_smaller_frames_does_not_reuse_the_features_of_large_ones(tmp_path: Path) -> None:
    large = FeatureCache(tmp_path, load_host(TINYHOST), SyntheticVideos(Recipe((16, 16)), 1), {})
    small = large.with_detail({(4, 4): (16, 16)})
    assert large.folder != small.folder and large.folder == FeatureCache(*large._common).folder
    for cache in (large, small):
        cache.fill()
    one, other = (next(cache.read()).sample.features for cache in (large, small))
    assert one.shape == other.shape and not torch.allclose(one, other, atol=0.1)


def test_frames_of_each_aspect_get_the_smaller_size_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = {0: (16, 4, 4), 1: (16, 2, 8)}
    large = FeatureCache(tmp_path, load_host(TINYHOST), SyntheticVideos(Recipe((16, 16)), 2), {})
    large.fill()
    monkeypatch.setattr(large, "_grid", grids.get)
    shown = []
    monkeypatch.setattr(feature_cache, "reduce_detail", lambda frames, pixels: shown.append(pixels) or frames)
    resize = next(one for one in methods_of(["uniform"], [], {}, False, False, ["resize"]) if one.name == "resize")
    rows = resize.rows(0.25, grids.values())
    assert rows == {(4, 4): 2, (2, 8): 1}
    cells = {grid[1:]: Resized(0.25, rows).cells(grid) for grid in grids.values()}
    assert cells == {(4, 4): (2, 2), (2, 8): (1, 4)}
    small = large.with_detail({size: (16 * down, 16 * across) for size, (down, across) in cells.items()})
    small.fill()
    assert shown == [(32, 32), (16, 64)] and small.key["pixels"] == [[2, 8, 16, 64], [4, 4, 32, 32]]
    for height, width in ((4, 4), (2, 8)):
        video = VideoTokens.from_grid(torch.rand(16, height, width, 3))
        assert len(Resized(0.25, rows)(video).tokens) == len(video) // 4


def test_detail_is_that_of_the_smaller_size() -> None:
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = reduce_detail(frames, (16, 16))
    assert out.shape == frames.shape and out.dtype == torch.uint8
    assert out.float().std() < 0.5 * frames.float().std(), "noise is averaged away"
    assert abs(out.float().mean() - frames.float().mean()) < 3
    assert torch.equal(reduce_detail(frames, (64, 64)), frames) and torch.equal(reduce_detail(frames, (99, 70)), frames)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("resise", "no row 'resise'.*did you mean 'resize'"),
        ("reinvest", "no row 'reinvest'.*reinvest:NAME"),
        ("blind:uniform", "no row 'blind:uniform'"),
        ("reinvest:filla", "no method 'filla'"),
        ("reinvest:identity", "cannot be reinvested"),
        ("reinvest:fastv", "cannot be reinvested"),
    ],
)
def test_unknown_rows_are_errors_that_name_the_known_ones(row: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        methods_of(["uniform", "fastv"], [], {}, oracle=False, events=False, rows=[row])


@pytest.mark.parametrize(
    ("names", "params", "message"),
    [
        (["pool", "pool (2x frames)"], {}, r"'pool \(2x frames\)', a row that 'reinvest:pool' adds: give it in rows"),
        (["pool", "pool (a)"], {}, r"'pool \(a\)': labels belong to params"),
        (["pool"], {"pool (2x frames)": {}}, r"'pool \(2x frames\)', .* 'reinvest:pool' adds: choose another label"),
    ],
)
def test_names_of_rows_cannot_be_given_as_compressors(
    names: list[str], params: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        methods_of(names, [], params, oracle=False, events=False, rows=["reinvest:pool"])


def test_reinvested_compressor_that_is_not_compared_adds_no_row_and_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [one.name for one in methods_of(["uniform"], [], {}, oracle=False, events=False, rows=["reinvest:pool"])]
    assert names == [one.name for one in methods_of(["uniform"], [], {}, oracle=False, events=False, rows=[])]
    assert "pool is not compared" in capsys.readouterr().out
