"""Golden files of EVS: scores and masks of the serving engines, and token counts of EVS and VidCom2."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.base.frame_pruner import engine_token_count
from framefold.adapters.compressors import evs

TIE = 1e-6  # a smaller gap at the cut is within the rounding error of fp32 scores of about 1


def check(data: Any) -> None:
    """Check a file: only counts, or fp32 and bf16 runs of a video at several pruning rates."""
    if "features" not in data:
        return check_counts(data)
    params = json.loads(str(data["params"]))
    check_run(data["features"], torch.float32, data["score"], data, params, "mask_q")
    for q in params["q"]:
        np.testing.assert_array_equal(data[f"mask_q{q}"].reshape(-1).nonzero()[0], data[f"kept_q{q}"])
        assert len(data[f"kept_q{q}"]) == params["count"][str(q)]
    if "features_bf16_as_f32" in data:
        x, score = data["features_bf16_as_f32"], data["score_bf16_as_f32"]
        check_run(x, torch.bfloat16, score, data, params, "mask_bf16_q")


def check_run(
    x: np.ndarray, dtype: torch.dtype, score: np.ndarray, data: Any, params: dict[str, Any], masks: str
) -> None:
    """Check scores, masks and counts in one dtype; a stable sort of equal scores gives the same mask."""
    native = dtype != torch.float32
    video = VideoTokens.from_grid(torch.from_numpy(x).to(dtype))
    ours = evs.dissimilarities(video, native)
    np.testing.assert_allclose(ours.reshape(score.shape).float(), score, atol=2**-7 if native else 1e-5)
    same = np.array_equal(ours.reshape(score.shape).float(), score)
    for q in params["q"]:
        mask, rows = data[f"{masks}{q}"], evs.evs_official_rows(ours, q).numpy()
        assert len(rows) == mask.sum() == engine_token_count(ours.numel(), q, ours.shape[1])
        if same or (not native and params["cut_gap"][str(q)] >= TIE):
            np.testing.assert_array_equal(rows, mask.reshape(-1).nonzero()[0])
        kept = np.sort(score.reshape(-1)[rows])
        np.testing.assert_allclose(kept, np.sort(score[mask]), atol=2**-7 if native else 1e-5)
        compressor = framefold.build("evs", 1 - q, variant="official", native=native)
        if compressor.pruning_rate() == q:  # otherwise q has more than 12 decimals, and no ratio gives it
            np.testing.assert_array_equal(compressor(video).tokens.index, rows)


def check_counts(data: Any) -> None:
    rows = zip(data["num_frames"].tolist(), data["tokens_per_frame"].tolist(), data["q"].tolist(), strict=True)
    counts = np.array([(engine_token_count(t * p, q, p), engine_token_count(t * p, q, t)) for t, p, q in rows])
    np.testing.assert_array_equal(counts, np.stack([data["evs"], data["vidcom2"]], axis=1))
