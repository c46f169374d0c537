"""Golden files of the Slow-Fast architecture: fast and slow tokens of several videos with several parameters."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch

from framefold.adapters.reference.slow_fast import fast_tokens


def check(data: Any) -> None:
    """Check every video with all parameters, whose order the file states."""
    short = {"temporal_sampling_stride": "sampling", "spatial_stride": "spatial", "temporal_stride": "temporal"}
    names = [short[name] for name in data["param_names"].tolist()]
    for key in data:
        if not key.startswith("fast_"):
            continue
        _, case, number = key.split("_")
        video = torch.from_numpy(data[f"vid_{number}"])
        params = dict(zip(names, data[f"params_{case}"].tolist(), strict=True))
        fast = fast_tokens(
            video.unflatten(1, (isqrt(video.shape[1]), -1)), least=int(data["min_fast_frames"]), **params
        )
        torch.testing.assert_close(fast, torch.from_numpy(data[key]), rtol=0, atol=1e-5)
        assert torch.equal(video.flatten(0, 1), torch.from_numpy(data[f"slow_{case}_{number}"]))
