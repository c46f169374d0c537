"""divprune: the choice against a slow reference, copies, and its parameters."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.errors import ConfigError
from tests.support.videos import kept_rows, noise, synthetic


def slowly(x: torch.Tensor, k: int, norm: str, start: str) -> list[int]:
    points = x.reshape(-1, x.shape[-1]).double()
    first = int(points.norm(dim=-1).argmax())
    points = torch.nn.functional.normalize(points, dim=-1) if norm == "unit" else points
    table = torch.cdist(points, points).fill_diagonal_(torch.inf)
    kept = [int(table.amin(1).argmax()) if start == "isolated" else first]
    while len(kept) < k:
        kept.append(int(table[kept].amin(0).index_fill(0, torch.tensor(kept), -1).argmax()))
    return sorted(kept)


@pytest.mark.parametrize("norm", ["unit", "raw"])
@pytest.mark.parametrize("start", ["isolated", "longest"])
def test_exact_against_the_reference(norm: str, start: str) -> None:
    for kind, seed in (("drift", 0), ("noise", 1)):
        x = synthetic((6, 3, 5), kind, seed)
        for k in (1, 2, 9, 30):
            assert kept_rows("divprune", x, k, norm=norm, start=start) == slowly(x, k, norm, start)


def test_a_scaled_or_reordered_video_keeps_the_same_tokens() -> None:
    x = synthetic((5, 2, 4), "noise", 3)
    kept = kept_rows("divprune", x, 12)
    assert kept_rows("divprune", x * 2.0**40, 12) == kept_rows("divprune", x * 2.0**-90, 12) == kept
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = x.reshape(40, -1)[order].reshape(x.shape)
    assert sorted(order[kept_rows("divprune", shuffled, 12)].tolist()) == kept


def test_copies_are_kept_once_by_official_and_last_by_exact() -> None:
    x = noise(1, 2, 3, 8).repeat(4, 1, 1, 1)
    x[3] *= 2
    assert kept_rows("divprune", x, 6) == [0, 1, 2, 3, 4, 5]
    assert kept_rows("divprune", x, 9) == list(range(9))
    assert kept_rows("divprune", x, 9, variant="official") == list(range(6))
    assert kept_rows("divprune", x, 4, variant="official") == kept_rows("divprune", x, 4)


def test_official_takes_no_other_parameters() -> None:
    for params in ({"norm": "raw"}, {"start": "longest"}):
        with pytest.raises(ConfigError, match="official"):
            framefold.build("divprune", 0.1, variant="official", **params)
    with pytest.raises(ConfigError, match="norm"):
        framefold.build("divprune", 0.1, norm="none")


def test_zero_tokens_are_copies_of_each_other() -> None:
    x = synthetic((3, 2, 2), "noise")
    x[:, 0] = 0
    out = framefold.build("divprune", 7)(VideoTokens.from_grid(x)).tokens
    assert [row for row in out.index.tolist() if row % 4 < 2] == [0]
