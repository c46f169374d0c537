"""Losses of scores: the rank loss, its gradients, and which tokens it ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framefold.adapters.layers.soft_rank import correlation, soft_rank, tied_rank
from framefold.errors import ConfigError
from framefold.training.score_losses import RANKED, listwise_loss, rank_loss, ranked_rows


def values(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rank_loss_is_0_for_equal_and_2_for_reversed_order() -> None:
    order = torch.linspace(-1, 1, 64, dtype=torch.float64) ** 3
    assert float(rank_loss([order], [order.exp()])) == pytest.approx(0, abs=0.01)  # close values share their ranks
    assert float(rank_loss([-order], [order.exp()])) == pytest.approx(2, abs=0.01)
    assert float(rank_loss([order, -order], [order, order])) == pytest.approx(1, abs=1e-6)  # a mean over questions


def test_soft_ranks_approach_ranks_and_equal_values_share_theirs() -> None:
    x = torch.tensor([3.0, -1.0, 7.0, -1.0, 5.0], dtype=torch.float64)
    assert tied_rank(x).tolist() == [2.0, 0.5, 4.0, 0.5, 3.0]
    torch.testing.assert_close(soft_rank(x, 1e-3), tied_rank(x))
    assert float(correlation(x, torch.ones_like(x))) == 0
    ranks = [torch.tensor([float((y < one).sum()) for one in y]) for y in (values(40), values(40, 1))]
    expected = torch.corrcoef(torch.stack(ranks))[0, 1]
    assert float(correlation(tied_rank(values(40)), tied_rank(values(40, 1)))) == pytest.approx(float(expected))


def test_neither_the_scale_of_scores_nor_that_of_the_teacher_matters() -> None:
    x, teacher = values(50), values(50, 1).exp()
    found = []
    for factor, shift in ((1.0, 0.0), (1e-6, 0.0), (1e6, -3e6)):
        scores = (factor * x + shift).requires_grad_()
        loss = rank_loss([scores], [(teacher * 7).sqrt()])
        loss.backward()
        assert scores.grad is not None
        found.append((float(loss), scores.grad * factor))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-6, rtol=1e-4)
    assert float(found[0][1].abs().max()) > 1e-3


def test_gradients_are_those_of_finite_differences() -> None:
    teacher = values(20, 1)
    torch.autograd.gradcheck(lambda x: rank_loss([x], [teacher]), values(20).requires_grad_(), eps=1e-6, atol=1e-5)


def test_equal_scores_and_equal_targets_have_finite_gradients() -> None:
    for scores, teacher in ((torch.zeros(9), values(9)), (values(9), torch.zeros(9)), (torch.zeros(1), torch.ones(1))):
        scores = scores.float().requires_grad_()
        loss = rank_loss([scores], [teacher])
        loss.backward()
        assert math.isfinite(float(loss)) and scores.grad is not None and bool(torch.isfinite(scores.grad).all())
        assert float(loss) == pytest.approx(1)  # nothing is ordered


def test_bf16_scores_are_ranked_in_fp32() -> None:
    x, teacher = values(300).bfloat16(), values(300, 1)
    torch.testing.assert_close(rank_loss([x], [teacher]), rank_loss([x.float()], [teacher]))


def test_of_many_tokens_the_highest_and_evenly_spaced_others_are_ranked() -> None:
    target = values(5000)
    rows, order = ranked_rows(target), target.sort(descending=True).indices
    assert len(rows) == len(rows.unique()) == RANKED
    assert torch.equal(rows[: RANKED // 2], order[: RANKED // 2])
    places = torch.isin(order, rows[RANKED // 2 :]).nonzero()[:, 0]
    assert int(places.diff().max()) - int(places.diff().min()) <= 1 and int(places[-1]) > 4990
    assert torch.equal(ranked_rows(target[:RANKED]), torch.arange(RANKED))
    scores = torch.zeros(5000, dtype=torch.float64, requires_grad=True)
    rank_loss([scores], [target]).backward()
    assert scores.grad is not None and int((scores.grad != 0).sum()) <= RANKED


def test_descending_the_loss_learns_the_order() -> None:
    scores, teacher = values(64).requires_grad_(), values(64, 1)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = rank_loss([scores], [teacher])
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.05
    assert len(set(scores.topk(16).indices.tolist()) & set(teacher.topk(16).indices.tolist())) >= 14


def test_a_compressor_without_scores_is_refused() -> None:
    for loss in (rank_loss, listwise_loss):
        with pytest.raises(ConfigError, match="has none"):
            loss([torch.zeros(3), None], [torch.ones(3), torch.ones(3)])
