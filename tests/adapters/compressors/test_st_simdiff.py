"""st_simdiff against a slow reference written from its docstring, and properties of its rule."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.ops.selection import rank_in_group
from framefold.adapters.ops.similarity import neighbour_similarities
from framefold.errors import ConfigError
from tests.support.cases import case
from tests.support.yardstick import median_ratio


def drifting(grid: tuple[int, int, int], width: int = 16, seed: int = 0, rate: float = 0.15) -> torch.Tensor:
    """Smooth scenes with a cut in the middle and one brief event: communities of many sizes."""
    t, h, w = grid
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1, 1, width, generator=generator) + 0.4 * torch.randn(1, h, w, width, generator=generator)
    x = x + rate * torch.randn(t, h, w, width, generator=generator).cumsum(0)
    x[t // 2 :] += 2 * torch.randn(1, 1, width, generator=generator)
    x[t // 3, h // 2, w // 2] = 3 * torch.randn(width, generator=generator)
    return x


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


class Reference:
    """The graph and the rule, token by token, in fp64."""

    def __init__(self, x: torch.Tensor, tau: float = 0.8, temporal: bool = True, spatial: bool = True) -> None:
        t, h, w, _ = x.shape
        self.x, self.n, self.cells = x.double().reshape(t * h * w, -1), t * h * w, h * w
        self.parent = list(range(self.n))
        self.before = [1.0] * self.n
        for i in range(self.n):
            if i >= self.cells:
                self.before[i] = cosine(self.x[i], self.x[i - self.cells])
                self.join(i - self.cells, i, temporal and self.before[i] >= tau)
            if i % w + 1 < w:
                self.join(i, i + 1, spatial and cosine(self.x[i], self.x[i + 1]) >= tau)
            if i % self.cells + w < self.cells:
                self.join(i, i + w, spatial and cosine(self.x[i], self.x[i + w]) >= tau)
        self.members: dict[int, list[int]] = defaultdict(list)
        for i in range(self.n):
            self.members[self.find(i)].append(i)
        self.turning = [i for i in range(self.n) if self.before[i] < tau and self.x[i].norm() > 0]

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            i = self.parent[i]
        return i

    def join(self, i: int, j: int, linked: bool) -> None:
        a, b = sorted((self.find(i), self.find(j)))
        if linked:
            self.parent[b] = a

    def central(self, root: int) -> list[int]:
        """Members, the most central first."""
        members = self.members[root]
        score = {i: sum(cosine(self.x[i], self.x[j]) for j in members) for i in members}
        return sorted(members, key=lambda i: (-round(score[i], 5), i))

    def select(self, k: int, share: int) -> list[int]:
        kept = sorted(self.turning, key=lambda i: (self.before[i], i))[:share]
        free = [self.central(root) for root, m in self.members.items() if not set(m) & set(kept)]
        kept += [c[0] for c in sorted(free, key=lambda c: (-len(c), c[0]))][: k - len(kept)]
        queue = []
        for root, members in self.members.items():
            have = len(set(members) & set(kept))
            rest = [i for i in self.central(root) if i not in kept]
            queue += [((have + number + 0.5) / len(members), i) for number, i in enumerate(rest)]
        kept += [i for _, i in sorted(queue)][: k - len(kept)]
        return sorted(kept)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 5)),
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    edges=st.sampled_from([(True, True), (True, False), (False, True), (False, False)]),
    ratio=st.floats(0.01, 1.0),
)
def test_against_the_reference(grid, seed, share, edges, ratio) -> None:
    x = drifting(grid, seed=seed)
    temporal, spatial = edges
    compressor = framefold.build("st_simdiff", ratio, event_share=share, temporal=temporal, spatial=spatial)
    video = VideoTokens.from_grid(x)
    graph, slow = compressor.graph(video), Reference(x, temporal=temporal, spatial=spatial)
    assert [slow.find(i) for i in range(slow.n)] == [
        int((graph.labels == label).nonzero()[0]) for label in graph.labels
    ]
    assert graph.turning.nonzero()[:, 0].tolist() == slow.turning
    out = compressor(video).tokens
    k, events = len(out), round(share * len(out))
    if k > 1 and 0 < share < 1:
        events = min(max(events, 1), k - 1)
    assert out.index.tolist() == slow.select(k, events)
    assert torch.equal(out.features, x.flatten(0, 2)[out.index])


def test_every_community_keeps_a_token_if_the_budget_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(8):
        video = VideoTokens.from_grid(drifting((10, 3, 4), seed=seed))
        graph = framefold.build("st_simdiff").graph(video)
        count = int(graph.labels.max()) + 1
        for share in [0.0, 0.2, 0.5, 0.8]:
            compressor = framefold.build("st_simdiff", event_share=share)
            monkeypatch.setattr(compressor, "graph", lambda _, graph=graph: graph)  # it depends on the video alone
            for k in range(1, 120, 7):
                with case(seed, share, k):
                    compressor.budget = k
                    rows = compressor(video).tokens.index
                    kept = torch.bincount(graph.labels[rows], minlength=count)
                    if k - round(share * k) - 1 >= count:
                        assert bool((kept > 0).all())
                    if bool((kept == 0).any()):  # then no community has two, except for turning points
                        others = torch.bincount(graph.labels[rows[~graph.turning[rows]]], minlength=count)
                        assert bool((others <= 1).all())


def test_turning_points_and_representatives_are_both_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        video = VideoTokens.from_grid(drifting((10, 3, 4), seed=seed))
        graph = framefold.build("st_simdiff").graph(video)
        central = rank_in_group(graph.centrality, graph.labels) == 0
        for share in [0.05, 0.5, 0.95]:
            compressor = framefold.build("st_simdiff", 2, event_share=share)
            monkeypatch.setattr(compressor, "graph", lambda _, graph=graph: graph)
            for k in range(2, 120, 3):
                with case(seed, share, k):
                    compressor.budget = k
                    kept = compressor(video).tokens.index
                    assert torch.where(graph.turning, graph.temporal, 9).argmin() in kept  # the sharpest turning point
                    assert central[kept].any()  # and the most central member of a community


def test_a_brief_event_is_kept_at_two_percent() -> None:
    x = drifting((50, 4, 4), rate=0.02)
    x[30:33, 1, 2] = x[0, 0, 0].roll(3) * 2
    kept = framefold.build("st_simdiff", 0.02)(VideoTokens.from_grid(x)).tokens.index
    assert {i // 16 for i in kept.tolist() if i % 16 == 6} & {30, 31, 32}


def test_tokens_are_distributed_in_proportion_to_size() -> None:
    """A still background of 90 tokens and a still foreground of 30 get 9 and 3 of 12."""
    x = torch.zeros(10, 3, 4, 4)
    x[..., 0], x[:, :, 3, 0], x[:, :, 3, 1] = 1, 0, 1
    kept = framefold.build("st_simdiff", 12)(VideoTokens.from_grid(x)).tokens.index
    assert int((kept % 4 == 3).sum()) == 3


def test_zero_vectors_are_isolated_and_are_no_turning_points() -> None:
    x = drifting((6, 3, 4))
    x[2] = 0
    graph = framefold.build("st_simdiff").graph(VideoTokens.from_grid(x))
    black = torch.arange(24, 36)
    assert bool((torch.bincount(graph.labels)[graph.labels[black]] == 1).all())
    assert not graph.turning[black].any() and graph.turning[36:48].all()


def test_a_constant_video_has_no_turning_points() -> None:
    graph = framefold.build("st_simdiff").graph(VideoTokens.from_grid(torch.ones(5, 3, 4, 8)))
    assert not graph.turning.any() and int(graph.labels.max()) == 0


def test_scale_does_not_change_the_selection() -> None:
    for scale in [2.0**-60, 2.0**-10, 2.0**10, 2.0**60, 2.0**100]:
        with case(scale):
            x = drifting((10, 3, 4), seed=5)
            compressor = framefold.build("st_simdiff", 0.2)
            plain = compressor(VideoTokens.from_grid(x)).tokens.index
            assert torch.equal(plain, compressor(VideoTokens.from_grid(x * scale)).tokens.index)
            assert torch.equal(plain, compressor(VideoTokens.from_grid(x.double() * scale**5)).tokens.index)


def test_half_precision_is_compared_in_fp32() -> None:
    for dtype in [torch.float16, torch.bfloat16]:
        for seed in range(5):
            with case(dtype, seed):
                x = drifting((8, 4, 4), width=64, seed=seed).to(dtype)
                half, full = (framefold.build("st_simdiff").graph(VideoTokens.from_grid(y)) for y in (x, x.float()))
                assert torch.equal(half.temporal, full.temporal) and torch.equal(half.centrality, full.centrality)


def test_thresholds() -> None:
    video = VideoTokens.from_grid(drifting((10, 3, 4)))
    free, strict = framefold.build("st_simdiff").graph(video), framefold.build("st_simdiff", tau_event=0.2).graph(video)
    assert strict.turning.sum() < free.turning.sum() and torch.equal(strict.labels, free.labels)
    assert torch.equal(strict.turning, (strict.temporal < 0.2))
    for wrong in ({"tau_sim": 0.0}, {"tau_sim": 1.1}, {"tau_event": -2.0}, {"event_share": 1.5}):
        with pytest.raises(ConfigError, match="st_simdiff"):
            framefold.build("st_simdiff", **wrong)


def released_graph(x: torch.Tensor, tau_sim: float, tau_event: float) -> tuple[set[tuple[int, int]], list[int]]:
    """Edges and events of the specification, token by token."""
    t, h, w, _ = x.shape
    edges, events = set(), []
    for i in range(x[..., 0].numel()):
        frame, row, column = i // (h * w), i // w % h, i % w
        own = x[frame, row, column]
        if frame:
            similarity = float(own @ x[frame - 1, row, column]) / float(own.norm() * x[frame - 1, row, column].norm())
            events += [i] if similarity < tau_event else []
            edges |= {(i - h * w, i)} if similarity >= tau_sim else set()
        for down, right in ((0, 1), (1, 0)):
            if row + down < h and column + right < w:
                other = x[frame, row + down, column + right]
                if float(own @ other) / float(own.norm() * other.norm()) > tau_sim:
                    edges.add((i, i + down * w + right))
    return edges, events


def test_official_takes_the_thresholds_of_the_release() -> None:
    """Thresholds outside of the cosines, too: no events or only events, no edges or all edges."""
    x = drifting((6, 3, 4), seed=2) - 0.5
    video = VideoTokens.from_grid(x)
    for tau_sim, tau_event in ((0.8, -1.5), (0.8, -1e9), (0.8, 1.5), (1.5, 0.2), (0.0, 0.2), (-0.3, 0.2), (-2.0, -2.0)):
        with case(tau_sim, tau_event):
            compressor = framefold.build("st_simdiff", 0.3, variant="official", tau_sim=tau_sim, tau_event=tau_event)
            graph = compressor.graph(video)
            edges, events = released_graph(x.double(), tau_sim, tau_event)
            assert graph.turning.nonzero()[:, 0].tolist() == events
            assert (len(events) == 0) == (tau_event < -1) and (tau_event <= 1 or len(events) == 60)
            neighbours = {i: {i} for i in range(72)}
            for a, b in edges:
                merged = neighbours[a] | neighbours[b]
                for one in merged:
                    neighbours[one] = merged
            assert {frozenset(one) for one in neighbours.values()} == {
                frozenset((graph.labels == label).nonzero()[:, 0].tolist()) for label in graph.labels.unique()
            }
            kept = compressor(video).tokens.index.tolist()
            assert set(events) <= set(kept) and (tau_sim <= 1 or len(kept) == 72)
            assert framefold.build("st_simdiff", **compressor.params()).params() == compressor.params()


def test_official_links_no_zero_vectors_in_time() -> None:
    x = drifting((6, 3, 4))
    x[2] = 0
    graph = framefold.build("st_simdiff", variant="official", tau_sim=-1.0, tau_event=5.0).graph(
        VideoTokens.from_grid(x)
    )
    assert not graph.turning[24:48].any() and graph.turning[12:24].all()
    assert not set(graph.labels[:24].tolist()) & set(graph.labels[24:].tolist())


def test_thresholds_that_are_no_numbers_are_refused() -> None:
    for wrong in ({"tau_sim": math.nan}, {"tau_event": math.inf}):
        for variant in ("exact", "official"):
            with case(wrong, variant), pytest.raises(ConfigError, match="st_simdiff"):
                framefold.build("st_simdiff", variant=variant, **wrong)


def test_time_against_the_yardstick() -> None:
    """Measured: 1.2 passes over the features; the bound leaves room for a busy machine."""
    for kind in ["drifting", "one component", "all isolated"]:
        with case(kind):
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(64, 14, 14, 1024, generator=generator)
            if kind == "drifting":
                x = x.mul_(0.1).cumsum_(0).add_(1)
            if kind == "one component":
                x = x.mul_(0.01).add_(torch.randn(1024, generator=generator))
            assert median_ratio(framefold.build("st_simdiff", 0.1), x) < 8


@given(grid=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_video_played_backwards_has_the_mirrored_graph(grid: tuple[int, int, int], seed: int) -> None:
    kinds = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
    which = torch.randint(0, 3, grid, generator=torch.Generator().manual_seed(seed + 1))
    x = kinds[which] + 0.3 * torch.randn(*grid, 8, generator=torch.Generator().manual_seed(seed + 2))
    compressor = framefold.build("st_simdiff", tau_sim=0.7)
    there, back = (compressor.graph(VideoTokens.from_grid(video)) for video in (x, x.flip(0)))  # type: ignore[operator]
    sim, mirrored = neighbour_similarities(x), neighbour_similarities(x.flip(0).contiguous())
    torch.testing.assert_close(mirrored.temporal[1:], sim.temporal[1:].flip(0))
    torch.testing.assert_close(mirrored.right, sim.right.flip(0))
    torch.testing.assert_close(mirrored.bottom, sim.bottom.flip(0))
    labels = back.labels.reshape(grid).flip(0).reshape(-1)
    pairs = set(zip(there.labels.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == len(there.labels.unique()) == len(labels.unique())  # the same partition
    centrality = back.centrality.reshape(grid).flip(0).reshape(-1)
    torch.testing.assert_close(centrality, there.centrality, atol=1e-5, rtol=1e-5)


def test_more_tokens_enter_for_the_second_stage_and_the_mean_over_the_layers_is_the_budget() -> None:
    video = VideoTokens.from_grid(drifting((8, 4, 5)))
    for budget, expansion, layers in itertools.product((0.1, 0.25, 0.5, 1.0, 40), (1.0, 1.25, 1.5), (4, 28)):
        with case(budget, expansion, layers):
            compressor = framefold.build("st_simdiff", budget, stage_2=True, expansion=expansion)
            assert compressor.in_llm is not None and compressor.query_aware and not compressor.needs_query
            k = budget_tokens(budget, 160)
            tokens = compressor(video).tokens
            assert len(tokens) == min(160, int(expansion * k))
            alone = framefold.build("st_simdiff", len(tokens))(video).tokens
            assert torch.equal(tokens.index, alone.index), "what enters is chosen as without a second stage"
            (left,) = compressor.in_llm.counts(len(tokens), k, layers)
            seen = 2 if layers == 28 else 1
            assert left == min(len(tokens), (layers * k - seen * len(tokens)) // (layers - seen))


def test_the_released_second_stage_needs_what_the_first_one_dropped() -> None:
    """Nothing dropped is not the same as nothing that could be dropped."""
    stage = framefold.build("st_simdiff", 0.3, variant="official", stage_2=True).in_llm
    assert stage is not None
    video = VideoTokens.from_grid(drifting((4, 2, 3)))
    assert stage.begin(video, 28, (0.3, [])) == pytest.approx(0.7)
    assert stage.begin(video, 28, (0.3, [0.0])) == pytest.approx(1 - 7.4 / 27)


def test_parameters_of_the_second_stage_are_checked() -> None:
    for wrong in ({"expansion": 0.9}, {"expansion": math.inf}, {"layer": -1}):
        with case(wrong), pytest.raises(ConfigError, match="st_simdiff: expansion"):
            framefold.build("st_simdiff", stage_2=True, **wrong)
