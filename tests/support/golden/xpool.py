"""Golden files of X-Pool: attention, pooled frames, losses with their gradients, and poolings without parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference import xpool
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    for _, params, arrays in golden_cases(data):
        golden = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        check_module(params, golden)
        check_free(params, golden)


def check_module(params: dict[str, Any], golden: dict[str, torch.Tensor]) -> None:
    """Check the outputs, and the gradients of the weights that the file holds."""
    text, video = (golden[name].clone().requires_grad_() for name in ("text", "video"))
    names = [name.removeprefix("w.") for name in golden if name.startswith("w.")]
    weights = {name: golden[f"w.{name}"].clone().requires_grad_() for name in names}
    out = xpool.pool_frames(text, video, weights, params["h"])
    for name in ("logits", "attention", "pooled"):
        _close(getattr(out, name), golden[name])
    pooled = out.pooled
    loss = (pooled * torch.linspace(-1, 1, pooled.numel()).view_as(pooled)).sum()
    _close(loss, golden["loss"])
    loss.backward()
    _close(text.grad, golden["grad_text"])
    _close(video.grad, golden["grad_video"])
    for name, weight in weights.items():
        _close(weight.grad, golden[f"g.{name}"])
    if "sims" in golden:
        similarity = xpool.similarities(text, pooled)
        _close(similarity, golden["sims"])
        _close(xpool.contrastive_loss(similarity, 1 / 0.07), golden["clip_loss"])


def check_free(params: dict[str, Any], golden: dict[str, torch.Tensor]) -> None:
    """Check the poolings without parameters."""
    text, video = golden["text"], golden["video"]
    _close(xpool.mean_frames(video), golden["base_avg"])
    _close(xpool.best_frames(text, video, params.get("k", 3)), golden["base_topk"])
    temperature = params.get("temp", xpool.TEMPERATURE)
    _close(xpool.attended_frames(text, video, temperature), golden["base_attention"])


def _close(found: torch.Tensor | None, golden: torch.Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found.detach(), golden, rtol=1e-5, atol=ATOL)
