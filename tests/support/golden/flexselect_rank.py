"""Golden files of FlexSelect: scores from attention, soft ranks and the rank loss of the release."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from framefold.adapters.layers.cross_attention import RMSNorm
from framefold.adapters.layers.soft_rank import soft_rank
from framefold.adapters.ops.selection import exact_topk
from framefold.adapters.reference.flexselect import TEMPERATURE, attention_scores, released_rank_loss
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    for name, params, arrays in golden_cases(data):
        with case(name):
            values = {key: torch.from_numpy(array) for key, array in arrays.items()}
            check_scores(params, values)
            check_loss(params, values)


def check_scores(params: dict[str, Any], values: dict[str, torch.Tensor]) -> None:
    width = len(values["gain"])
    norm = RMSNorm(width, params["eps"])
    norm.load_state_dict({"weight": values["gain"]})
    query, key = (nn.Linear(width, len(values[f"w.{name}"])) for name in ("q", "k"))
    for name, layer in (("q", query), ("k", key)):
        layer.load_state_dict({"weight": values[f"w.{name}"], "bias": values[f"b.{name}"]})
    video = slice(params["prefix"], params["prefix"] + params["N"])
    heads, kv_heads, base = params["heads"], params["kv_heads"], params["rope_base"]
    with torch.no_grad():
        most, mean = attention_scores(values["hidden"][0], norm, query, key, heads, kv_heads, video, base)
    torch.testing.assert_close(most, values["scores"], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(mean, values["scores_mean"], atol=1e-6, rtol=1e-4)
    np.testing.assert_array_equal(exact_topk(most, len(values["kept_quarter"])), values["kept_quarter"])


def check_loss(params: dict[str, Any], values: dict[str, torch.Tensor]) -> None:
    assert params["temperature"] == TEMPERATURE
    scores = values["pred"].clone().requires_grad_()
    torch.testing.assert_close(soft_rank(scores, TEMPERATURE), values["soft_rank"], atol=1e-3, rtol=1e-4)
    loss = released_rank_loss(scores, values["scores"])
    torch.testing.assert_close(loss, values["loss"], atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(loss, scores)
    expected = values["grad_pred"]
    torch.testing.assert_close(gradient, expected, atol=0.02 * float(expected.abs().max()), rtol=0)
