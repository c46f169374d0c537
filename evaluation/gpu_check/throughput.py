"""Requests per second of a host with random weights, alone and with a compressor, for batches of several requests."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from framefold.adapters.base.build import build
from framefold.adapters.hosts.hooks.attach import attach
from framefold.evaluation.bench.attach import SIZES, random_host, random_inputs
from framefold.evaluation.metrics.timing import Stopwatch

NEW = 8  # tokens of an answer


@torch.no_grad()
def measure_throughput(rehearsal: bool, device: str, dtype: str) -> dict[str, Any]:
    """Answer batches of 1, 8 and 32 requests about videos of 16 frames, from pixels on.

    Args:
        rehearsal: tiny sizes.
        device: cpu or cuda.
        dtype: of the host.

    Returns:
        Requests per second by "<budget> x <requests>"; "out of memory" where they do not fit together.
    """
    size, layers = ("small", 1) if rehearsal else ("7b", SIZES["7b"]["qwen2_5_vl"][0][1])
    frames, side = (2, 2) if rehearsal else (16, 14)
    model = random_host(SIZES[size]["qwen2_5_vl"], "qwen2_5_vl", layers, device, dtype, "sdpa", 0)
    one = random_inputs(model, frames, side, 0)
    found: dict[str, Any] = {}
    for requests in (1, 2) if rehearsal else (1, 8, 32):
        batch = {name: value.repeat(requests, *[1] * (value.ndim - 1)) for name, value in one.items()}
        for budget in (1.0, 0.1):
            compressor = attach(model, build("st_simdiff", budget)) if budget < 1 else contextlib.nullcontext()
            with compressor:
                found[f"{budget} x {requests}"] = _requests_per_second(model, batch, requests)
    return found


def _requests_per_second(model: Any, batch: dict[str, Any], requests: int) -> float | str:
    try:
        for _ in range(2):  # the first one is a warm-up
            with Stopwatch(model.device) as watch:
                model.generate(**batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"
    return requests / watch.seconds
