"""Golden files of one Mamba-2 block: outputs and gradients of the reference implementation in mamba-ssm."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from framefold.adapters.layers.mamba2 import Mamba2


def check(data: Any) -> None:
    """Check output and gradients; the state dict must load strictly."""
    block = Mamba2(**json.loads(str(data["config"])))
    block.load_state_dict({key[2:]: torch.from_numpy(data[key]) for key in data if key.startswith("w.")})
    u = torch.from_numpy(data["u"]).requires_grad_()
    y = block(u)
    np.testing.assert_allclose(y.detach(), data["y"], atol=5e-6, rtol=1e-5)
    np.testing.assert_allclose(y.detach(), data["y64"], atol=5e-6, rtol=1e-5)
    (y * torch.from_numpy(data["gy"])).sum().backward()
    assert u.grad is not None
    found = {"gu": u.grad} | {f"g.{name}": parameter.grad for name, parameter in block.named_parameters()}
    for key in data:
        if key == "gu" or key.startswith("g."):
            scale = max(1.0, float(np.abs(data[key]).max()))  # rounding errors grow with the sums over all steps
            np.testing.assert_allclose(found[key], data[key], atol=5e-6 * scale, rtol=1e-5, err_msg=key)
