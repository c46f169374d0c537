"""Differentiable ranks, and Spearman's correlation with them (FlexSelect, arXiv 2506.00993)."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12  # of variances, small because ranks of two tokens vary by 1/4


def soft_rank(values: Tensor, temperature: float) -> Tensor:
    """Return the (N,) number of lower values of each value, where a difference counts by its sigmoid.

    Args:
        values: (N,) fp32 or wider.
        temperature: of the sigmoid, in units of the values.
    """
    # The sum contains the value itself with 1/2.
    return torch.sigmoid((values[:, None] - values) / temperature).sum(-1) - 0.5


def tied_rank(values: Tensor) -> Tensor:
    """Return the (N,) number of lower values of each value, in fp64; equal values count one half each."""
    order = values.sort().values
    low, high = (torch.searchsorted(order, values.contiguous(), right=right) for right in (False, True))
    return (low + high - 1).double() / 2


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of two (N,) tensors, a scalar; 0 if one of them is constant."""
    a, b = (values - values.mean() for values in (a, b))
    return (a * b).mean() * (a.square().mean() + EPS).rsqrt() * (b.square().mean() + EPS).rsqrt()
