"""Which parameters of a compressor training reaches."""

from __future__ import annotations

from typing import Any

import torch

from framefold import Compressor
from tests.support.videos import noise


def check_gradients_within_two_steps(compressor: Compressor, *inputs: Any) -> None:
    """Assert that each parameter has a gradient in both of two steps, and one that is not zero in one of them.

    Args:
        compressor: untrained; layers that start at zero keep those before them from a gradient in the first step.
        inputs: what it is called with, a video and perhaps a question.
    """
    optimizer, seen = torch.optim.SGD(compressor.train().parameters(), lr=0.1), set()
    for _ in range(2):
        optimizer.zero_grad()
        out = compressor(*inputs)
        target = noise(*out.tokens.features.shape, seed=77)
        ((out.tokens.features - target).square().mean() + sum(out.losses.values())).backward()
        assert all(p.grad is not None for p in compressor.parameters())
        seen |= {name for name, p in compressor.named_parameters() if bool((p.grad != 0).any())}
        optimizer.step()
    assert seen == dict(compressor.named_parameters()).keys()
