"""Every registered compressor as the last stage of a chain, after frames were dropped, merged and encoded."""

from __future__ import annotations

import pytest
import torch

import framefold
from tests.support.cases import case
from tests.support.contract import check_tokens, expected_count, features, make, run, same, wrap

GRID = (6, 3, 4)
BEFORE = ("uniform", "pool", "storm")


@pytest.mark.parametrize("name", framefold.list_compressors())
def test_compressor_is_the_last_stage_of_a_chain(name: str) -> None:
    x = features(GRID)
    for first in BEFORE:
        with case(first):
            chain = make(f"{first}+{name}", 0.2)
            with torch.no_grad():
                out = run(chain, x)
            assert len(out) == expected_count(chain, 72, 0.2) or not chain.exact_budget
            check_tokens(out, GRID)
            assert same(out, run(chain, x))


def video_with_cuts() -> torch.Tensor:
    """12 frames of 3 x 4 tokens with cuts before the frames 5 and 9, and else still but for noise."""
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(3, 1, 3, 4, 16, generator=generator).repeat_interleave(torch.tensor([5, 4, 3]), 0).squeeze(1)
    return scenes + 1e-3 * torch.randn(scenes.shape, generator=generator)


@pytest.mark.parametrize("name", framefold.list_compressors())
def test_events_are_where_scenes_change(name: str) -> None:
    """Most tokens after a cut are events, and hardly any other one is: of the compressor, and of a chain with it."""
    for compressor in (make(name, 0.5), make(f"identity+{name}", 0.5)):
        events = compressor.events(wrap(video_with_cuts()))
        if events is None:
            return
        assert events.dtype == torch.bool and events.shape == (144,)
        share = events.view(12, 12).float().mean(1)
        cut = torch.zeros(12, dtype=torch.bool)
        cut[[5, 9]] = True
        assert share[cut].min() > 0.5 and share[~cut].max() < 0.2, share.tolist()
        assert not compressor.events(wrap(torch.ones(6, 3, 4, 16))).any()
