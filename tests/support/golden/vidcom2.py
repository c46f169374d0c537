"""Golden files of VidCom2: channels, similarities, frame budgets and masks of the engines and the authors' code."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.base.frame_pruner import engine_token_count
from framefold.adapters.compressors import vidcom2
from framefold.adapters.ops.similarity import Frames, steady_channels

TIE = 1e-6  # a smaller gap is within the rounding error, or depends on the unspecified order of a top-k


def check(data: Any) -> None:
    """Check one video at several pruning rates."""
    params = json.loads(str(data["params"]))
    video = VideoTokens.from_grid(torch.from_numpy(data["features"]))
    frames = Frames(video)
    variance = vidcom2.channel_variances(frames)
    np.testing.assert_allclose(variance, data["variance"], rtol=1e-5, atol=1e-7)
    similarity = vidcom2.mean_similarities(frames)
    if params["channel_gap"] >= TIE:  # otherwise other channels may have been selected
        np.testing.assert_array_equal(steady_channels(variance), data["channel_idx"])
        np.testing.assert_allclose(similarity.to_video, data["v_score"], atol=1e-5)
        np.testing.assert_allclose(similarity.to_frame, data["f_score"], atol=1e-5)
        np.testing.assert_allclose(similarity.weights, data["frame_prob"], atol=1e-3)  # 1e-5 over a temperature of 0.01
    for q in params["q"]:
        check_rate(data, params, video, similarity, q)


def check_rate(data: Any, params: dict[str, Any], video: VideoTokens, similarity: Any, q: float) -> None:
    kept, authors, budgets = data[f"kept_q{q}"], data[f"ref_kept_q{q}"], data[f"frame_budget_q{q}"]
    p = video.per_frame
    np.testing.assert_array_equal(vidcom2.frame_budgets(similarity.weights, 1 - q, p), budgets)
    rows, reference = (f(similarity, q).numpy() for f in (vidcom2.vidcom2_official_rows, vidcom2.authors_rows))
    assert len(rows) == len(kept) == engine_token_count(len(video), q, video.grid[0]) == params["count"][str(q)]
    assert len(reference) == len(authors) == budgets.sum()
    sure_in_frame = min(params["channel_gap"], params["cut_gap_frame_min"][str(q)]) >= TIE
    sure = sure_in_frame and params["cut_gap_reconcile"][str(q)] >= TIE
    if sure:
        np.testing.assert_array_equal(rows, kept)
        np.testing.assert_array_equal(data[f"mask_q{q}"].reshape(-1).nonzero()[0], kept)
        assert sorted(set(range(video.grid[0])) - {i // p for i in rows.tolist()}) == params["empty_frames"][str(q)]
    if sure_in_frame:
        np.testing.assert_array_equal(reference, authors)
    if params["channel_gap"] >= TIE:
        redundancy = (data["v_score"] + data["f_score"]).reshape(-1)
        for ours, theirs in ((rows, kept), (reference, authors)):
            np.testing.assert_allclose(np.sort(redundancy[ours]), np.sort(redundancy[theirs]), atol=1e-5)
    compressor = framefold.build("vidcom2", 1 - q, variant="official")
    if compressor.pruning_rate() == q:  # otherwise q has more than 12 decimals, and no ratio gives it
        np.testing.assert_array_equal(compressor(video).tokens.index, rows)
