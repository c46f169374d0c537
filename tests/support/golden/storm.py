"""Golden file of STORM: outputs of a stack of bidirectional Mamba-2 layers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from framefold.adapters.layers.bidirectional_mamba import BidirectionalMambaLayer


def check(data: Any) -> None:
    """Check the stack on the raster sequence, and poolings of its output."""
    config = json.loads(str(data["config"]))
    weights = {key.removeprefix("w."): torch.from_numpy(data[key]) for key in data if key.startswith("w.")}
    depth = 1 + max(int(key.split(".")[1]) for key in weights)
    width = config.pop("d_model")
    stack = nn.ModuleDict({"layers": nn.ModuleList([BidirectionalMambaLayer(width, **config) for _ in range(depth)])})
    stack.load_state_dict(weights)
    x = torch.from_numpy(data["x"])
    y = x.flatten(1, 2)
    with torch.no_grad():
        for layer in stack["layers"]:  # type: ignore[union-attr]
            y = layer(y)
    y = y.view_as(x)
    np.testing.assert_allclose(y, data["y"], atol=1e-5, rtol=1e-5)
    frames, places = x.shape[1:3]
    np.testing.assert_allclose(y.unflatten(1, (frames // 2, 2)).mean(2), data["y_tpool2"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(y[:, ::2], data["y_tsample2"], atol=1e-5, rtol=1e-5)
    side = math.isqrt(places)
    square = y.flatten(0, 1).unflatten(1, (side, side)).movedim(-1, 1)
    pooled = nn.functional.avg_pool2d(square, 3).flatten(2).movedim(1, -1).unflatten(0, x.shape[:2])
    np.testing.assert_allclose(pooled, data["y_spool3"], atol=1e-5, rtol=1e-5)
