"""The released ST-SimDiff against loops in fp64, and its edge cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.st_simdiff import STSimDiff
from framefold.adapters.ops import grid_graph as graph
from framefold.adapters.ops.connected_components import components_by_propagation
from framefold.adapters.reference.st_simdiff import drop_ratio, stage_1, stage_2
from framefold.errors import BudgetError, ConfigError, InputError


def scenes(t: int, h: int, w: int, seed: int, noise: float = 0.5, width: int = 12) -> torch.Tensor:
    """Blobs that live for a few frames, with noise: communities of many sizes, some alone, some events."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(4, width, generator=generator)
    which = torch.randint(0, 4, (-(-t // 3), -(-h // 2), -(-w // 2)), generator=generator)
    which = which.repeat_interleave(3, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)[:t, :h, :w]
    return kinds[which] + noise * torch.randn(t, h, w, width, generator=generator)


def by_loops(x: np.ndarray, cost: float, tau: float, tau_event: float, strategy: int, on: dict[str, bool]) -> set[int]:
    """Survivors of stage 1, one token at a time."""
    t, h, w, _ = x.shape
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    number = {cell: i for i, cell in enumerate(np.ndindex(t, h, w))}
    near: dict[int, list[int]] = {i: [] for i in number.values()}
    events = set()
    for (f, y, z), i in number.items():
        for kind, other in (("temporal", (f - 1, y, z)), ("right", (f, y, z + 1)), ("bottom", (f, y + 1, z))):
            if other not in number:
                continue
            cosine = float(unit[f, y, z] @ unit[other])
            if kind == "temporal" and cosine < tau_event:
                events.add(i)
            if on[kind] and (cosine >= tau if kind == "temporal" else cosine > tau):
                near[i].append(number[other])
                near[number[other]].append(i)
    groups, seen = [], set()
    for start in near:
        stack, group = [start], []
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                group.append(node)
                stack += near[node]
        if len(group) > 1:
            groups.append(sorted(group))
    flat = unit.reshape(len(number), -1)
    cosines = {id(group): flat[group] @ flat[group].T for group in groups}

    def score(group: list[int]) -> float:
        n, total = len(group), cosines[id(group)].sum()
        return total / 2 / (n - 1) if strategy == 2 else (total - n) / (n * (n - 1))

    q, dropped, out = 1 - (28 * cost) / 28, 0, set()
    for group in sorted(groups, key=score, reverse=True):
        k = math.ceil(len(group) * q)
        if (dropped + k) / len(number) > q:
            break
        central = cosines[id(group)].mean(1) if len(group) > 2 else np.zeros(2)
        last = [group[i] for i in np.argsort(central, kind="stable")[:k]]
        gone = [i for i in last if i not in events]
        out |= set(gone)
        dropped += len(gone)
    return set(number.values()) - out


def release(cost: float, **params: Any) -> STSimDiff:
    compressor = framefold.build("st_simdiff", cost, variant="official", **params)
    assert isinstance(compressor, STSimDiff)
    return compressor


@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 10_000),
    cost=st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.8]),
    strategy=st.sampled_from([2, 3]),
    on=st.fixed_dictionaries({name: st.booleans() for name in ("temporal", "right", "bottom")}),
)
@settings(max_examples=120, deadline=None)
def test_stage_1_against_loops(
    shape: tuple[int, int, int], seed: int, cost: float, strategy: int, on: dict[str, bool]
) -> None:
    x = scenes(*shape, seed)
    compressor = release(cost, tau_sim=0.7, tau_event=0.1, strategy=strategy, **on)
    kept = compressor(VideoTokens.from_grid(x)).tokens
    assert set(kept.index.tolist()) == by_loops(x.double().numpy(), cost, 0.7, 0.1, strategy, on)
    assert torch.equal(kept.features, x.flatten(0, 2)[kept.index])


def test_the_videos_of_the_test_above_are_thinned_by_different_amounts() -> None:
    sizes = [
        len(release(c, tau_sim=0.7)(VideoTokens.from_grid(scenes(7, 5, 5, s))).tokens)
        for s in range(5)
        for c in (0.1, 0.5)
    ]
    assert len(set(sizes)) > 5 and min(sizes) < 0.9 * 175


def test_a_community_that_spans_the_video_is_not_thinned() -> None:
    x = torch.ones(3, 3, 4, 16) + 0.01 * torch.randn(3, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    kept, dropped = release(0.3).official_stage_1(VideoTokens.from_grid(x), 0.3)
    assert kept.all() and dropped == [0.0]  # ceil(36 * 0.7) / 36 > 0.7


def test_without_edges_no_fraction_is_recorded_for_stage_2() -> None:
    x = torch.eye(8).reshape(2, 2, 2, 8)
    kept, dropped = release(0.3).official_stage_1(VideoTokens.from_grid(x), 0.3)
    assert kept.all() and dropped == []


def test_the_token_after_a_zero_vector_is_no_event() -> None:
    x = torch.ones(2, 1, 2, 3)
    x[0, 0, 0] = 0
    x[1, 0, 1] = torch.tensor([1.0, -1.0, 0.0])
    assert release(0.3).graph(VideoTokens.from_grid(x)).turning.tolist() == [False, False, False, True]


def test_a_cost_of_one_keeps_everything_and_a_number_of_tokens_becomes_a_ratio() -> None:
    video = VideoTokens.from_grid(scenes(6, 4, 4, 3))
    assert len(release(1.0)(video).tokens) == 96
    assert torch.equal(release(24)(video).tokens.index, release(0.25)(video).tokens.index)


def test_stage_2_keeps_the_most_attended_video_tokens_and_all_text() -> None:
    attention = torch.tensor([[0.0, 0.5, 0.1, 0.3, 0.2, 0.0], [0.0, 0.1, 0.1, 0.5, 0.5, 0.0]])
    video = torch.tensor([False, True, True, True, True, False])
    # 28 layers at 0.5: the first has processed 0.8, so the others get (14 - 0.8) / 27 of all, out of the remaining 0.8
    share = (28 * 0.5 - 0.8) / (27 * 0.8)
    assert drop_ratio([0.2], 0.5) == pytest.approx(1 - share)
    assert round(4 * share) == 2
    assert stage_2(attention, video, 0.5, [0.2]).tolist() == [True, False, False, True, True, True]
    assert stage_2(attention, video, 0.5, []).sum() == 4


def test_ties_of_attention_go_to_the_lower_index() -> None:
    assert stage_2(torch.ones(1, 40), torch.ones(40, dtype=torch.bool), 0.5, []).nonzero()[:, 0].tolist() == list(
        range(20)
    )


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(BudgetError, match="0.02 is too small"):
        drop_ratio([0.0], 0.02)
    with pytest.raises(InputError, match=r"\(heads, L\)"):
        stage_2(torch.ones(4), torch.ones(4, dtype=torch.bool), 0.5, [])
    with pytest.raises(ConfigError, match="strategy must be one of 2, 3"):
        framefold.build("st_simdiff", strategy=1)
    with pytest.raises(ConfigError):
        framefold.build("st_simdiff", variant="paper")


def test_the_device_implementation_selects_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in ["exact", "official"]:
        compressor = framefold.build("st_simdiff", 0.3, variant=variant, tau_sim=0.7)
        videos = [VideoTokens.from_grid(scenes(6, 5, 4, seed)) for seed in range(6)]
        expected = [compressor(video).tokens.index for video in videos]
        monkeypatch.setattr(graph, "connected_components", components_by_propagation)
        for video, index in zip(videos, expected, strict=True):
            assert torch.equal(compressor(video).tokens.index, index)


def test_stage_1_of_components_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    central = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.6, 1.0])
    total = torch.tensor([8.0, 3.0, 1.0])
    none = torch.zeros(6, dtype=torch.bool)
    kept, dropped = stage_1(labels, total, central, none, 0.5)  # ceil(3 / 2) = 2 of the first, then 1 of the second
    assert kept.tolist() == [True, False, False, False, True, True] and dropped == [0.5]
    event = none.clone()
    event[2] = True  # survives, and is not replaced
    kept, dropped = stage_1(labels, total, central, event, 0.5)
    assert kept.tolist() == [True, False, True, False, True, True] and dropped == [2 / 6]


def test_the_first_community_that_does_not_fit_ends_stage_1() -> None:
    labels = torch.tensor([0] * 9 + [1] * 2)
    total, central = torch.tensor([81.0, 3.0]), torch.ones(11)  # the large one is more similar
    event = labels == 0  # it would lose nothing, but its quota counts: ceil(9 / 4) / 11 > 1 / 4
    kept, dropped = stage_1(labels, total, central, event, 0.75)
    assert kept.all() and dropped == [0.0]
    kept, _ = stage_1(labels, total - torch.tensor([80.0, 0.0]), central, event, 0.75)
    assert kept.nonzero()[:, 0].tolist() == [*range(9), 10]  # the small one comes first now
