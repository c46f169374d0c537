"""flashvid: its steps against slow references, budgets, persisting tokens, and the release as a compressor."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.flashvid import select_and_match
from framefold.adapters.ops.allocation import even_counts, share
from framefold.adapters.ops.segments import segment_mean
from framefold.errors import BudgetError, ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import check_tokens
from tests.support.videos import noise, synthetic

grids = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5))
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def compress(x: torch.Tensor, budget: float | int, attention: torch.Tensor | None = None, **params) -> VideoTokens:
    if attention is None:
        attention = noise(*x.shape[:3], seed=3).abs()
    return framefold.build("flashvid", budget, **params)(VideoTokens.from_grid(x, attention=attention)).tokens


def slow_selection(x: torch.Tensor, weight: torch.Tensor, count: int) -> list[int]:
    """Step 1 of the docstring in one frame, in fp64, one token at a time."""
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    distance = ((1 - unit @ unit.T).clamp(min=0) * weight.double()).tolist()  # from each row to each candidate
    chosen: list[int] = []
    while len(chosen) < count:
        free = [j for j in range(len(x)) if j not in chosen]
        value = {j: min((distance[i][j] for i in chosen or range(len(x)) if i != j), default=0) for j in free}
        chosen.append(max(free, key=lambda j: (value[j], -j)))
    return sorted(chosen)


@examples
@given(grid=grids, seed=st.integers(0, 999), share=st.floats(0, 1))
def test_selection_and_matches_against_the_reference(grid, seed, share) -> None:
    x = synthetic(grid, "noise", seed).flatten(1, 2)
    t, p, _ = x.shape
    counts = (share * p * noise(t, seed=seed).abs()).long().clamp(max=p)
    weight = noise(t, p, seed=seed + 1).abs() + 0.1
    chosen, parent, similarity = select_and_match(x, counts, weight, match=True)
    for i in range(t):
        assert chosen[i].nonzero()[:, 0].tolist() == slow_selection(x[i], weight[i], int(counts[i]))
    cosine = torch.cosine_similarity(x[1:, :, None].double(), x[:-1, None].double(), dim=-1)
    cosine = cosine.masked_fill(chosen[1:, :, None] | chosen[:-1, None], -2)
    torch.testing.assert_close(similarity[1:].double(), cosine.amax(-1), atol=3e-6, rtol=0)
    found = cosine.gather(-1, (parent[1:] % p)[..., None])[..., 0]
    torch.testing.assert_close(found, cosine.amax(-1), atol=3e-6, rtol=0)
    assert bool((similarity[0] == -2).all()) and bool((parent[1:] // p == torch.arange(t - 1)[:, None]).all())


def slow_clusters(points: torch.Tensor, count: int) -> list[int]:
    """DPC-kNN in fp64; the centres are the highest products of density and distance to a denser point."""
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[1] ** 0.5
    near = distance.sort(1).values[:, : min(count, 7)]
    density = (-near.square().mean(1)).exp()
    denser = torch.where(density > density[:, None], distance, distance.max())
    centres = (denser.amin(1) * density).sort(descending=True, stable=True).indices[:count].sort().values
    label = distance[:, centres].argmin(1)
    label[centres] = torch.arange(count)
    return label.tolist()


def slow_groups(x: torch.Tensor, attention: torch.Tensor, k: int, alpha: float, cut: float) -> list[int]:
    """The rule of the docstring in fp64, one token and one frame at a time."""
    t, p, _ = x.shape
    unit, mean = torch.nn.functional.normalize(x, dim=-1), torch.nn.functional.normalize(x.mean(1), dim=-1)
    counts = even_counts(round(alpha * k), t).tolist()
    chosen = [i * p + row for i in range(t) for row in slow_selection(x[i], attention[i], counts[i])]
    best: dict[int, tuple[float, int]] = {}
    for i in range(1, t):
        free = [j for j in range(p) if (i - 1) * p + j not in chosen]
        for row in range(p):
            if i * p + row not in chosen and free and float(mean[i] @ mean[i - 1]) >= cut:
                best[i * p + row] = max((float(unit[i, row] @ unit[i - 1, j]), -((i - 1) * p + j)) for j in free)
    links = sorted((row for row in best if best[row][0] > 0.8), key=lambda row: (-best[row][0], row))[: t * p - k]
    root = list(range(t * p))
    for row in sorted(links):
        root[row] = root[-best[row][1]]
    label = {row: n for n, row in enumerate(chosen)}
    rows = [[row for row in range(i * p, i * p + p) if root[row] == row and row not in chosen] for i in range(t)]
    sizes, total = torch.tensor([len(one) for one in rows]), k - len(chosen)
    least = sizes.clamp(max=1) if int(sizes.clamp(max=1).sum()) <= total else 0 * sizes
    shares = least + share(total - int(least.sum()), sizes, sizes - least) if int(sizes.sum()) > total else sizes
    flat = x.flatten(0, 1)
    for one, count in zip(rows, shares.tolist(), strict=True):
        means = torch.stack([flat[[i for i in range(t * p) if root[i] == row]].mean(0) for row in one] or [flat[0]])
        groups = list(range(count)) if count == len(one) else slow_clusters(means, count) if count else []
        label |= {row: len(label) + group for row, group in zip(one, groups, strict=False)}
    return [label.get(row, -1) for row in root]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    grid=grids, seed=st.integers(0, 999), share_kept=st.floats(0, 1), alpha=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    cut=st.sampled_from([0.9, 0.5, -1.0]),
)  # fmt: skip
def test_exact_against_the_reference(grid, seed, share_kept, alpha, cut) -> None:
    n = grid[0] * grid[1] * grid[2]
    x, k = noise(*grid, 12, seed=seed), max(1, int(share_kept * n))
    still = noise(*grid, 1, seed=seed + 1) < 0.3
    x, attention = torch.where(still, x[:1] + 0.4 * x, x), noise(*grid, seed=seed + 2).abs() + 0.01
    if k == n:
        return
    found = compress(x, k, attention, alpha=alpha, cut=cut).assign
    expected = torch.tensor(slow_groups(x.flatten(1, 2).double(), attention.flatten(1, 2), k, alpha, cut))
    assert torch.equal(found < 0, expected < 0)
    assert torch.equal(found[:, None] == found, expected[:, None] == expected)


def test_every_parameter_keeps_the_budget() -> None:
    for grid in ((1, 1, 1), (1, 4, 5), (5, 3, 4), (17, 2, 3)):
        x, n = synthetic(grid, "drift"), grid[0] * grid[1] * grid[2]
        for alpha in (0.0, 0.3, 1.0):
            for params in ({}, {"tau": 1.0}, {"tau": -1.0, "cut": -1.0}, {"selection": "attn_div_v2"}):
                for k in sorted({1, 2, grid[0], n // 2, n - 1, n} - {0}):
                    with case(grid, alpha, params, k):
                        out = compress(x, k, alpha=alpha, **params)
                        assert len(out) == min(k, n)


def test_the_selected_tokens_are_unchanged_and_spread_over_the_frames() -> None:
    x = synthetic((10, 4, 4), "drift")
    out = compress(x, 40, alpha=0.5)
    same = (out.features == x.flatten(0, 2)[out.index]).all(1) & (out.size == 1)
    per_frame = torch.bincount(out.index[same] // 16, minlength=10)
    assert int(per_frame.sum()) >= 20 and bool((per_frame >= 2).all())
    only = compress(x, 40, alpha=1.0)
    assert torch.equal(only.features, x.flatten(0, 2)[only.index]) and bool((only.size == 1).all())


def test_a_still_video_is_linked_place_by_place_and_no_norm_grows() -> None:
    x = noise(1, 3, 4, 16).expand(8, 3, 4, 16).clone()
    out = compress(x, 12, alpha=0.0)
    assert torch.equal(out.assign.reshape(8, 12), torch.arange(12).expand(8, 12)) and bool((out.size == 8).all())
    torch.testing.assert_close(out.features, x[0].flatten(0, 1), atol=1e-5, rtol=0)


def test_outputs_are_means_of_their_tokens_and_no_group_crosses_a_cut() -> None:
    x = torch.cat([synthetic((5, 3, 4), "still", seed) for seed in (4, 5)])
    out = compress(x, 30, alpha=0.2)
    mean = segment_mean(x.flatten(0, 2), torch.ones(120), out.assign, 30)
    torch.testing.assert_close(out.features, mean, atol=1e-5, rtol=0)
    rows = [set(half.tolist()) - {-1} for half in out.assign.chunk(2)]
    assert rows[0].isdisjoint(rows[1])


def test_no_frame_loses_all_its_tokens_if_there_is_a_group_for_each() -> None:
    x = synthetic((10, 4, 4), "drift")
    x[1:, 0, 0] = x[0, 0, 0] * torch.arange(1, 10)[:, None]  # one token is linked over all frames
    for k, alpha in ((60, 0.5), (20, 0.5), (10, 0.0)):
        assert bool((compress(x, k, alpha=alpha, tau=0.99).assign >= 0).all())


def test_attention_of_zeros_and_constant_videos_go_to_the_lower_index() -> None:
    x = noise(2, 3, 3, 8)
    out = compress(x, 6, torch.zeros(2, 3, 3), alpha=1.0)
    assert out.index.tolist() == [0, 1, 2, 9, 10, 11]
    constant = torch.ones(2, 3, 3, 8)
    assert compress(constant, 6, alpha=1.0).index.tolist() == [0, 1, 2, 9, 10, 11]


def test_more_attended_tokens_are_selected() -> None:
    x, attention = noise(4, 4, 4, 32), torch.full((4, 4, 4), 0.01)
    attention[:, 1, 2] = 1.0
    assert set(compress(x, 4, attention, alpha=1.0).index.tolist()) == {6, 22, 38, 54}


def test_distances_alone_need_no_attention() -> None:
    x = synthetic((5, 3, 4), "drift")
    for params in ({"selection": "div"}, {"alpha": 0.0}):
        compressor = framefold.build("flashvid", 0.25, **params)
        assert not compressor.needs_attention and len(compressor(VideoTokens.from_grid(x)).tokens) == 15
    with pytest.raises(InputError, match="attention"):
        framefold.build("flashvid")(VideoTokens.from_grid(x))


def test_official_returns_unique_positions_near_the_count_of_the_release() -> None:
    x = synthetic((9, 6, 6), "drift", width=16).requires_grad_()
    for params in ({}, {"min_segments": 4}, {"min_segments": 1, "selection": "attn_div_v2"}, {"alpha": 1.0}):
        out = compress(x, 0.25, variant="official", **params)
        assert 60 <= len(out) <= 9 * 14
        check_tokens(out, (9, 6, 6))
        (gradient,) = torch.autograd.grad(out.features.square().sum(), x)
        assert torch.isfinite(gradient).all() and bool((gradient != 0).any())
    assert len(compress(x, 0.25, variant="official", expansion=0.5)) < len(out)
    with pytest.raises(InputError, match="threshold"):
        compress(x, 0.25, variant="official", tau=1.0)


def test_parameters_out_of_range() -> None:
    for params in ({"alpha": 1.1}, {"tau": 2.0}, {"cut": -2.0}, {"selection": "attn"}, {"min_segments": 0}):
        with pytest.raises(ConfigError, match="flashvid"):
            framefold.build("flashvid", **params)


def test_more_tokens_enter_than_the_budget_and_the_second_stage_makes_up_for_it() -> None:
    video = VideoTokens.from_grid(synthetic((8, 4, 5), "drift", 0), attention=torch.rand(160, generator=seeded(0)))
    for budget, expansion, layers in itertools.product((0.05, 0.1, 0.25, 0.5, 1.0), (1.0, 1.25), (4, 28, 80)):
        with case(budget, expansion, layers):
            compressor = framefold.build("flashvid", budget, stage_2=True, expansion=expansion)
            stage, tokens, k = compressor.in_llm, compressor(video).tokens, round(budget * 160)
            assert stage is not None and compressor.query_aware and not compressor.needs_query
            assert len(tokens) == min(160, int(expansion * k))
            alone = framefold.build("flashvid", len(tokens))(video).tokens
            assert torch.equal(tokens.index, alone.index) and torch.equal(tokens.features, alone.features)
            (left,) = stage.counts(len(tokens), k, layers)
            seen = stage.spans(layers)[0]
            assert seen == (3 if layers == 4 else 20)
            assert left == min(len(tokens), (layers * k - seen * len(tokens)) // (layers - seen))


def test_every_budget_is_possible_with_the_published_expansion() -> None:
    stage = framefold.build("flashvid", stage_2=True).in_llm
    assert stage is not None
    for k, layers in itertools.product(range(1, 300), (4, 24, 28, 32, 80)):
        with case(k, layers):
            assert min(stage.counts(stage.entering(k, 10_000), k, layers)) >= 1
    wide = framefold.build("flashvid", stage_2=True, expansion=1.6).in_llm
    assert wide is not None and wide.smallest_budget(1000, 28) == math.ceil((20 * 1000 + 8) / 28)  # all tokens enter
    with pytest.raises(BudgetError, match="a mean of 100 tokens over 28 layers is not possible"):
        wide.counts(wide.entering(100, 1000), 100, 28)


def test_the_released_second_stage_keeps_a_fraction() -> None:
    video = VideoTokens.from_grid(synthetic((8, 4, 5), "drift", 0), attention=torch.rand(160, generator=seeded(0)))
    compressor = framefold.build("flashvid", 0.25, variant="official", stage_2=True, keep_ratio=0.3)
    tokens = compressor(video).tokens
    assert torch.equal(tokens.index, framefold.build("flashvid", 0.25, variant="official")(video).tokens.index)
    stage = compressor.in_llm
    assert stage is not None and not compressor.exact_budget
    (count,) = stage.counts(len(tokens), 40, 28)
    received = torch.rand(len(tokens), generator=seeded(1))
    best = received.argsort(descending=True)[: math.ceil(0.3 * len(tokens))].sort().values
    assert torch.equal(stage.decide(tokens, received, 19, count, None).rows, best)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_parameters_of_the_second_stage_are_checked() -> None:
    for wrong in ({"expansion": 0.9}, {"layer": -1}, {"keep_ratio": 0.0}, {"keep_ratio": 1.1}):
        with case(wrong), pytest.raises(ConfigError, match="flashvid: out of range"):
            framefold.build("flashvid", stage_2=True, **wrong)
