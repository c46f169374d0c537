"""DPP: the greedy choice against a slow one, copies, quality and more tokens than dimensions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors import dpp
from framefold.errors import ConfigError
from tests.support.videos import noise


def slow_picks(x: Tensor, quality: Tensor, k: int, ridge: float) -> list[int]:
    """The greedy choice by determinants, written from the docstring."""
    unit, r = torch.nn.functional.normalize(x.double(), dim=-1), quality.double()
    kernel = r[:, None] * (unit @ unit.T).fill_diagonal_(1.0) * r
    kernel.diagonal().add_(ridge * r.square())
    picks: list[int] = []
    for _ in range(k):
        rest = [i for i in range(len(x)) if i not in picks]
        gains = torch.stack([torch.logdet(kernel[[*picks, i]][:, [*picks, i]]) for i in rest])
        picks.append(rest[int((gains >= gains.max() - 1e-9).to(torch.uint8).argmax())])
    return picks


@pytest.mark.parametrize("candidates", [3, 768])
def test_choice_is_the_greedy_one(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpp, "CANDIDATES", candidates)
    for width, k in ((24, 20), (6, 14)):  # fewer and more tokens than dimensions
        x = noise(40, width, seed=width)
        unit = torch.nn.functional.normalize(x, dim=-1)
        for quality in (torch.ones(40), x.norm(dim=-1)):
            found = dpp.determinant_picks(unit, quality, k, 1e-2).tolist()
            assert found == slow_picks(x, quality, k, 1e-2)


def test_copies_come_after_everything_else_and_in_their_order() -> None:
    x = noise(1, 3, 3, 32, seed=1).expand(5, 3, 3, 32).clone()
    x[3, 1, 1] = noise(32, seed=2)
    assert framefold.build("dpp", 10)(VideoTokens.from_grid(x)).tokens.index.tolist() == [*range(9), 31]
    constant = torch.ones(50, 2, 2, 16)
    for count in (1, 30, 199):
        assert framefold.build("dpp", count)(VideoTokens.from_grid(constant)).tokens.index.tolist() == list(
            range(count)
        )


def test_copies_are_chosen_in_their_order_at_every_width() -> None:
    for count, width in ((53, 16), (99, 37), (50, 128)):  # products of equal rows differ in their last digits
        unit = torch.nn.functional.normalize(noise(1, width, seed=width), dim=-1).expand(count, width).contiguous()
        assert dpp.determinant_picks(unit, torch.ones(count), 30, 1e-3).tolist() == list(range(30))


def test_tokens_of_quality_zero_come_last() -> None:
    x = noise(4, 2, 2, 8, seed=3)
    x[1] = 0
    video = VideoTokens.from_grid(x)
    others = [*range(4), *range(8, 16)]
    assert framefold.build("dpp", 12, quality="norm")(video).tokens.index.tolist() == others
    assert framefold.build("dpp", 12)(video).tokens.index.tolist() == others


def test_scale_does_not_matter_without_quality_and_length_does_with_it() -> None:
    x = noise(6, 2, 2, 16, seed=4)
    for scale in (1e-25, 1e25):
        for quality in ("uniform", "norm"):
            one, other = (
                framefold.build("dpp", 6, quality=quality)(VideoTokens.from_grid(y)).tokens.index
                for y in (x, scale * x)
            )
            assert torch.equal(one, other), (scale, quality)
    x[5, 1, 1] *= 100
    assert 23 in framefold.build("dpp", 1, quality="norm")(VideoTokens.from_grid(x)).tokens.index


def test_settings_out_of_range_are_refused() -> None:
    for params in ({"ridge": 0.0}, {"ridge": 2.0}, {"quality": "loud"}):
        with pytest.raises(ConfigError):
            framefold.build("dpp", **params)  # type: ignore[arg-type]
