"""Golden files of VisionSelector: scores, mask, kept tokens, losses and all gradients of the release."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from framefold.adapters.ops.selection import exact_topk
from framefold.adapters.reference.visionselector import hardness_loss, linear_scores, pair_scores, soft_top_k
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    for name, params, arrays in golden_cases(data):
        with case(name):
            check_case(params, {key: torch.from_numpy(array) for key, array in arrays.items()})


def check_case(params: dict[str, Any], values: dict[str, torch.Tensor]) -> None:
    assert params["loss"] == "sum(masked * linspace(-1,1)) + 0.7 * bce"
    x, k = values["x"][0].clone().requires_grad_(), params["k"]
    layers = {}
    for name in ("q_proj", "k_proj"):
        layers[name] = nn.Linear(x.shape[1], params["hidden"])
        layers[name].load_state_dict({part: values[f"w.{name}.{part}"] for part in ("weight", "bias")})
    scores = linear_scores(x, layers["q_proj"], layers["k_proj"])
    torch.testing.assert_close(scores, values["scores"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores, pair_scores(x, layers["q_proj"], layers["k_proj"]), atol=1e-5, rtol=1e-5)
    mask = soft_top_k(scores, k)
    assert abs(float(mask.detach().sum()) - k) < 1e-4
    torch.testing.assert_close(mask, values["soft_mask"], atol=1e-4, rtol=0)
    if params["margin"] > 1e-6:  # else rounding decides which tokens are the highest
        np.testing.assert_array_equal(exact_topk(scores.detach(), k), values["kept"])
    masked, bce = x * mask[:, None], hardness_loss(mask, values["scores"], k)
    torch.testing.assert_close(masked, values["masked"], atol=1e-4, rtol=0)
    torch.testing.assert_close(bce, values["bce"], atol=1e-4, rtol=0)
    loss = (masked * torch.linspace(-1, 1, masked.numel()).view_as(masked)).sum() + 0.7 * bce
    torch.testing.assert_close(loss, values["loss"], atol=1e-3, rtol=1e-4)
    if params["margin"] <= 1e-6:
        return
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, values["grad_x"][0], atol=1e-4, rtol=1e-3)
    for name, layer in layers.items():
        for part, parameter in layer.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, values[f"g.{name}.{part}"], atol=1e-3, rtol=1e-3)
