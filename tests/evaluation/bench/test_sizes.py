"""``framefold bench size``: parameters and operations of trained compressors, and the prefill that they save."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import framefold
from framefold.errors import ConfigError
from framefold.evaluation.bench.compressors import INPUTS
from framefold.evaluation.bench.sizes import bench_size, saved_flops
from framefold.evaluation.metrics.flops import count_flops

SMALL: dict = {"frames": 8, "grid": (3, 3), "width": 32}


def test_counts_are_those_of_one_call(tmp_path: Path) -> None:
    rows = bench_size(["xpool", "vqtoken"], {"xpool": {"inner": 8}}, **SMALL, budget=0.25, out=str(tmp_path))
    assert [row["name"] for row in rows] == ["xpool, inner=8", "vqtoken"]
    xpool, vqtoken = rows
    # Keys of 72 tokens from 32 channels and 32 features of time, queries of 16 words, and their products.
    assert xpool["flops"] == 2 * 8 * (72 * (32 + 32) + 16 * 32 + 72 * 16)
    assert (xpool["counterpart"], xpool["counterpart_flops"]) == ("pool", 0)
    assert xpool["parameters"] == 2 * 32 * 8 + 32 * 8 + 8
    video = INPUTS["scenes"](8, 3, 3, 32, torch.Generator().manual_seed(0))
    start = framefold.build("vq", 0.25)
    assert vqtoken["counterpart_flops"] == count_flops(lambda: start(framefold.VideoTokens.from_grid(video)))
    assert 0 < vqtoken["counterpart_flops"] < vqtoken["flops"]
    assert json.loads((tmp_path / "size.json").read_text())["rows"] == rows


def test_the_prefill_saved_is_that_of_a_7b_model() -> None:
    """Per layer and token: attention projections, a gated feed-forward part, and scores and values of all tokens."""
    weights = 3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 18944
    prefill = [28 * 2 * (length * weights + 2 * length**2 * 3584) for length in (12544 + 50, 1254 + 50)]
    assert saved_flops(12544, 1254) == pytest.approx(prefill[0] - prefill[1], rel=1e-12)


def test_training_free_compressors_and_empty_videos_are_refused() -> None:
    with pytest.raises(ConfigError, match="counts trained compressors, not pool"):
        bench_size(["xpool", "pool"], **SMALL)
    with pytest.raises(ConfigError, match="at least 1"):
        bench_size(["xpool"], **SMALL | {"frames": 0})
