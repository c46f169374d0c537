"""sttm against a slow reference written from its docstring, and properties of its rule."""

from __future__ import annotations

import copy
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors import sttm
from framefold.adapters.compressors.sttm import join_links, relaxation
from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.ops.connected_components import boruvka_forest, components_by_propagation
from framefold.adapters.ops.quadtree import (
    make_cells,
    quadtree_levels,
)
from framefold.adapters.reference.sttm import merge_as_released, representatives, unlike_previous
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.hosts.bare_hosts import build
from tests.support.videos import noise
from tests.support.yardstick import median_ratio

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
grids = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
Box = tuple[int, int, int, int]


def blobs(grid: tuple[int, int, int], width: int = 12, seed: int = 0) -> torch.Tensor:
    """Patches of several sizes that drift, with a cut in the middle, so that tokens are merged in every way."""
    t, h, w = grid
    coarse = noise(1, width, max(h // 3, 1), max(w // 3, 1), seed=seed)
    x = torch.nn.functional.interpolate(coarse, size=(h, w))[0].permute(1, 2, 0)
    x = x + 0.3 * noise(h, w, width, seed=seed + 1) + 0.25 * noise(t, h, w, width, seed=seed + 2).cumsum(0)
    x[t // 2 :] += noise(h, w, width, seed=seed + 3)
    return x


def compress(x: torch.Tensor, budget: float | int, **params) -> VideoTokens:
    return framefold.build("sttm", budget, **params)(VideoTokens.from_grid(x)).tokens


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


class Reference:
    """The rule of ``exact``, cell by cell, in fp64. A cell is (level, rows, columns); a node is (frame, cell)."""

    def __init__(self, x: torch.Tensor, tau_s: float, tau_t: float) -> None:
        (self.t, h, w, _), self.slack = x.shape, 1 - tau_t
        self.grid, self.tokens, self.x = (h, w), h * w, x.double()
        self.rows, self.columns = halves(h), halves(w)
        while len(self.rows) != len(self.columns):
            shorter = min(self.rows, self.columns, key=len)
            shorter.append(shorter[-1])
        levels = list(zip(self.rows, self.columns, strict=True))
        self.cells = [(i, a, b) for i, (rows, columns) in enumerate(levels) for a in rows for b in columns]
        self.parts = {c: [p for p in self.cells if p[0] == c[0] - 1 and inside(p, c)] for c in self.cells}
        self.parent = {p: c for c, parts in self.parts.items() for p in parts}
        self.nodes = [(t, c) for t in range(self.t) for c in self.cells]
        self.value = {(t, c): self.x[t, slice(*c[1]), slice(*c[2])].sum((0, 1)) for t, c in self.nodes}
        uniform: dict = {}
        for t, c in sorted(self.nodes, key=lambda node: node[1][0]):
            uniform[t, c] = min((min(self.own(t, p), uniform[t, p]) for p in self.parts[c]), default=1.0)
        self.space = {node: (1 - u) / (1 - tau_s) for node, u in uniform.items()}
        self.time = {(t, c): self.before(t, c) / (1 - tau_t) for t, c in self.nodes}

    def own(self, t: int, cell) -> float:
        return cosine(self.value[t, cell], self.value[t, self.parent[cell]])

    def before(self, t: int, cell) -> float:
        return 1 - cosine(self.value[t, cell], self.value[t - 1, cell]) if t else float("inf")

    def cover(self, merged: set) -> list:
        """The coarsest cells of a set in each frame, in the order of their top-left tokens."""
        whole = [(t, c) for t, c in self.nodes if not c[0] or (t, c) in merged]
        return sorted([(t, c) for t, c in whole if (t, self.parent.get(c)) not in merged], key=self.anchor)

    def anchor(self, node) -> int:
        t, (_, rows, columns) = node
        return t * self.tokens + rows[0] * self.grid[1] + columns[0]

    def relaxation(self, k: int) -> float:
        values = sorted({-1.0, *self.space.values(), *self.time.values()} - {float("inf")})
        for r in values:
            merged = {node for node in self.nodes if node[1][0] and self.space[node] <= r}
            if sum(self.time[node] > r for node in self.cover(merged)) <= k:
                return r
        return values[-1]

    def groups(self, k: int) -> list[int]:
        """The group of each token, numbered by first tokens."""
        r = self.relaxation(k)
        cover = self.cover({node for node in self.nodes if node[1][0] and self.space[node] < r})
        root, count = {node: node for node in cover}, len(cover)
        for a, b in [link for _, *link in sorted(self.links(cover), key=lambda link: link[0])]:
            a, b = find(root, a), find(root, b)
            if a != b and count > k:
                root[max(a, b, key=self.anchor)] = min(a, b, key=self.anchor)
                count -= 1
        owner = {}
        for t, c in cover:
            owner |= {(t, y, x): find(root, (t, c)) for y in range(*c[1]) for x in range(*c[2])}
        first: dict = {}
        tokens = [(t, y, x) for t in range(self.t) for y in range(self.grid[0]) for x in range(self.grid[1])]
        return [first.setdefault(owner[token], len(first)) for token in tokens]

    def links(self, cover: list) -> list:
        """Relaxation and the two nodes of each possible link."""
        following = [(a, b) for a in cover for b in cover if b[0] == a[0] + 1]
        pairs = [(a, b) for a, b in following if inside(a[1], b[1]) or inside(b[1], a[1])]
        links = [((1 - cosine(self.value[a], self.value[b])) / self.slack, a, b) for a, b in pairs]
        for t, c in self.nodes:
            parts = sorted(self.parts[c], key=lambda p: -self.own(t, p))
            at = [next(n for n in cover if n[0] == t and inside(corner(p), n[1])) for p in [c, *parts]]
            links += [(self.space[t, c], at[0], node) for node in at[1:]]
        return links


def halves(n: int) -> list[list[tuple[int, int]]]:
    """Blocks of a side, level by level; of an odd number of blocks, the first one is not paired."""
    out = [[(i, i + 1) for i in range(n)]]
    while len(out[-1]) > 1:
        last, alone = out[-1], len(out[-1]) % 2
        pairs = zip(last[alone::2], last[alone + 1 :: 2], strict=True)
        out.append(last[:alone] + [(a[0], b[1]) for a, b in pairs])
    return out


def inside(a, b) -> bool:
    return all(q[0] <= p[0] and p[1] <= q[1] for p, q in zip(a[1:], b[1:], strict=True))


def corner(cell):
    return (0, *((side[0], side[0] + 1) for side in cell[1:]))


def find(root: dict, node):
    while root[node] != node:
        node = root[node]
    return node


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    seed=st.integers(0, 1000),
    taus=st.sampled_from([(0.9, 0.9), (0.98, 0.5), (0.5, 0.98)]),
    ratio=st.floats(0.0, 1.0),
)
def test_exact_against_the_reference(grid, seed, taus, ratio) -> None:
    x = blobs(grid, seed=seed)
    k = max(1, round(ratio * x.shape[:3].numel()))
    out = compress(x, k, tau_s=taus[0], tau_t=taus[1])
    assert out.assign.tolist() == Reference(x, *taus).groups(k)


def test_exact_against_the_reference_where_space_and_time_compete() -> None:
    for ratio in [0.1, 0.3, 0.6]:
        for grid in [(4, 4, 6), (3, 5, 5)]:
            for seed in range(4):
                with case(ratio, grid, seed):
                    x = blobs(grid, seed=seed)
                    x[1, 0, 3] *= seed % 2  # a zero vector is like nothing
                    assert compress(x, ratio, tau_s=0.7, tau_t=0.9).assign.tolist() == Reference(x, 0.7, 0.9).groups(
                        budget_tokens(ratio, x.shape[:3].numel())
                    )


@settings(quick, max_examples=20)
@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    seed=st.integers(0, 1000),
    ratio=st.floats(0.0, 1.0),
    ties=st.booleans(),
)
def test_relaxation_is_the_least_that_leaves_k_groups(grid, seed, ratio, ties) -> None:
    x = blobs(grid, seed=seed)
    slow, k = Reference(x, 0.9, 0.9), max(1, round(ratio * x.shape[:3].numel()))
    for values in (slow.space, slow.time) if ties else ():
        values.update({node: value if value == float("inf") else round(value) for node, value in values.items()})
    space, time = (
        torch.tensor([[values[t, c] for c in slow.cells] for t in range(slow.t)], dtype=torch.float64)
        for values in (slow.space, slow.time)
    )
    assert max(relaxation(space, time, make_cells(quadtree_levels(*slow.grid)), k), -1) == slow.relaxation(k)


@quick
@given(
    grid=grids,
    budget=st.one_of(st.floats(0.001, 1.0), st.integers(1, 500)),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["blobs", "random", "constant", "zeros", "still"]),
    dtype=st.sampled_from(DTYPES),
)
def test_tokens_are_means_of_what_is_assigned_to_them(grid, budget, seed, kind, dtype) -> None:
    x = {
        "blobs": lambda: blobs(grid, seed=seed),
        "random": lambda: noise(*grid, 12, seed=seed),
        "constant": lambda: noise(12, seed=seed).expand(*grid, 12).clone(),
        "zeros": lambda: torch.zeros(*grid, 12),
        "still": lambda: blobs(grid, seed=seed)[:1].expand(*grid, 12).clone(),
    }[kind]().to(dtype)
    out, n = compress(x, budget), x.shape[:3].numel()
    assert len(out) == budget_tokens(budget, n) == len(out.size) == len(out.index)
    assert out.assign.shape == (n,) and int(out.assign.min()) == 0 and int(out.size.sum()) == n
    assert torch.equal(torch.bincount(out.assign, minlength=len(out)), out.size)
    first = [int((out.assign == row).nonzero()[0]) for row in range(len(out))]
    assert out.index.tolist() == first and all(a < b for a, b in pairwise(first))
    flat = x.flatten(0, 2).double()
    means = torch.stack([flat[out.assign == row].mean(0) for row in range(len(out))])
    atol = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(out.features.double(), means, rtol=0, atol=atol)
    if len(out) == n:
        assert torch.equal(out.features, x.flatten(0, 2))


@settings(quick, max_examples=30)
@given(grid=grids, seed=st.integers(0, 1000), exponent=st.integers(-6, 6), ratio=st.floats(0.05, 0.9))
def test_powers_of_two_and_half_precision_change_no_group(grid, seed, exponent, ratio) -> None:
    x = blobs(grid, seed=seed).half()
    plain = compress(x.float(), ratio).assign
    assert torch.equal(compress(x.float() * 2.0**exponent, ratio).assign, plain)
    assert torch.equal(compress(x, ratio).assign, plain)
    assert torch.equal(compress(x.double() * 2.0 ** (4 * exponent), ratio).assign, plain)


def test_extreme_magnitudes_change_no_group() -> None:
    for scale in [2.0**-60, 2.0**60, 2.0**100]:
        with case(scale):
            x = blobs((6, 5, 6))
            plain = compress(x, 0.2).assign
            assert torch.equal(compress(x * scale, 0.2).assign, plain)
            assert torch.equal(compress(x.double() * scale**5, 0.2).assign, plain)


def test_a_still_video_is_merged_over_time() -> None:
    x = noise(1, 5, 6, 16).expand(7, 5, 6, 16).clone()
    assert compress(x, 30).assign.tolist() == list(range(30)) * 7


def test_a_uniform_frame_of_any_shape_becomes_one_token() -> None:
    """Frames are orthogonal, so that merging is in space only; a padded cell would differ from its real parts."""
    for side in [(4, 4), (5, 7), (1, 6), (3, 1), (14, 9)]:
        with case(side):
            x = torch.eye(6)[:, None, None].expand(6, *side, 6).clone()
            out = compress(x, 6)
            assert out.assign.tolist() == [t for t in range(6) for _ in range(side[0] * side[1])]
            assert torch.equal(out.features, torch.eye(6))


def test_one_different_token_keeps_its_surroundings_fine_and_the_rest_coarse() -> None:
    """A uniform frame of 8 x 8 with one other token: it and its three siblings, and the uniform cells around them."""
    x = torch.zeros(1, 8, 8, 2)
    x[..., 0] = 1
    x[0, 0, 0] = torch.tensor([-1.0, 1.0])
    assert compress(x, 10).size.tolist() == [1, 1, 4, 16, 1, 1, 4, 4, 16, 16]


def test_a_still_region_is_one_token_and_changes_are_kept() -> None:
    """A uniform still quarter of random frames is one token at every budget, and no other token is merged into it."""
    x = noise(6, 4, 4, 32)
    x[:, :2, 2:] = noise(32, seed=1)
    for k in (73, 60, 50):
        out = compress(x, k)
        still = out.assign.view(6, 4, 4)[:, :2, 2:]
        assert bool((still == still[0, 0, 0]).all()) and int(out.size[still[0, 0, 0]]) == 24


def test_components_are_complete_where_the_release_stops_early() -> None:
    """In the chain 0 - 3 - 1 - 4 - 2, one round gives every node the least of its neighbours, which is idempotent."""
    links = torch.tensor([[0, 3], [1, 3], [1, 4], [2, 4]])
    assert representatives(links, 5).tolist() == [0, 1, 2, 0, 1]
    assert join_links(links, 5, 1).tolist() == [0, 0, 0, 0, 0]


def test_components_are_linked_in_order_until_they_are_k() -> None:
    links = torch.tensor([[3, 4], [0, 2], [0, 4], [0, 3], [2, 4], [1, 2]])  # the fourth and fifth close cycles
    found = [join_links(links, 5, k).tolist() for k in (5, 4, 3, 2, 1)]
    assert found == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 3], [0, 1, 0, 2, 2], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_thresholds_of_one_cannot_be_relaxed() -> None:
    for tau_s, tau_t in [(1.0, 0.5), (0.5, 1.2)]:
        with case(tau_s, tau_t):
            with pytest.raises(ConfigError, match="sttm"):
                framefold.build("sttm", tau_s=tau_s, tau_t=tau_t)
            framefold.build("sttm", variant="official", tau_s=tau_s, tau_t=tau_t)


def test_thresholds_determine_what_is_merged_first() -> None:
    x = blobs((6, 8, 8))
    frames = []
    for tau_s, tau_t in [(0.5, 0.99), (0.99, 0.5)]:
        out = compress(x, 0.3, tau_s=tau_s, tau_t=tau_t)
        lasting = torch.stack([out.assign.view(6, 64) == row for row in range(len(out))]).any(-1).sum(-1)
        frames.append(float(lasting.double().mean()))
    assert frames[0] < frames[1]
    scaled = compress(x, 0.3, tau_s=0.98, tau_t=0.96)
    assert torch.equal(scaled.assign, compress(x, 0.3, tau_s=0.9, tau_t=0.8).assign)


def test_official_assigns_every_token_and_ignores_the_budget() -> None:
    for grid in [(3, 8, 8), (4, 5, 6), (1, 14, 14), (3, 9, 7), (2, 1, 1), (3, 5, 1), (3, 2, 7)]:
        with case(grid):
            x = blobs(grid)
            out = compress(x, 0.5, variant="official", tau_s=0.8, tau_t=0.6)
            n = x.shape[:3].numel()
            assert int(out.size.sum()) == n and torch.equal(torch.bincount(out.assign), out.size)
            assert torch.equal(out.assign[out.index], torch.arange(len(out)))
            assert len(out) == len(compress(x, 1, variant="official", tau_s=0.8, tau_t=0.6))


def test_official_averages_nodes_and_not_tokens() -> None:
    """Two frames of a uniform 2 x 2 video whose second frame is merged into the first, and one that differs."""
    x = torch.ones(2, 4, 4, 2)
    x[1] = torch.tensor([3.0, 3.0])
    x[0, :2, :2, 1] = torch.tensor([[1.0, 1.2], [1.1, 1.0]])
    out = compress(x, 1, variant="official", tau_s=0.9999, tau_t=0.5)
    assert len(out) < 32 and int(out.size[0]) == 5  # its own token, and the four of the cell above it in time
    torch.testing.assert_close(out.features[0], torch.tensor([2.0, 2.0]))


def test_official_refuses_grids_on_which_the_release_fails() -> None:
    for side, root in [((2, 2), 1), ((1, 5), 0), ((1, 1), 1), ((8, 8), 3), ((8, 8), -4)]:
        with pytest.raises(InputError, match="sttm"):
            compress(noise(2, *side, 8), 1, variant="official", root_level=root)
    with pytest.raises(InputError, match="odd"):
        merge_as_released(noise(2, 5, 6, 8), 0.8, 0.6, 0, weighted_avg=True)


def test_official_never_pools_a_single_column() -> None:
    assert len(compress(torch.ones(1, 6, 1, 8), 1, variant="official")) == 6
    assert len(compress(torch.ones(1, 6, 3, 8), 1, variant="official")) == 6  # 3 x 2 cells


def test_slow_version_compares_a_source_with_the_previous_pair_only() -> None:
    pairs = torch.tensor([[0, 4], [0, 5], [0, 6], [1, 6], [4, 8], [4, 9]])
    similarity = torch.tensor([0.6, 0.9, 0.8, 0.7, 0.95, 0.99])
    frame = torch.tensor([0, 0, 0, 0, 1, 1])
    assert unlike_previous(pairs, frame, similarity).tolist() == [1, 3, 0, 5]


def test_official_merges_nothing_at_thresholds_above_one() -> None:
    assert len(compress(torch.ones(3, 4, 4, 8), 1, variant="official", tau_s=1.1, tau_t=1.1)) == 48


def test_one_prefill_of_the_video_serves_many_questions() -> None:
    """Logits and answers equal those of prompt and question together; the compressor runs once."""
    host = build("qwen2_vl", "sdpa")
    compressor, runs = framefold.build("sttm", 0.25), []
    compressor.register_forward_hook(lambda *_: runs.append(1))
    prompt = host.batch([5, -6, 2])
    with framefold.attach(host.model, compressor), torch.no_grad():
        prefill = host.model(**prompt.attached_inputs, use_cache=True).past_key_values
        first = []
        for question in ([7, 8, 9], [30], [12, 40, 21, 5]):
            cache, asked, ids = copy.deepcopy(prefill), prompt, torch.tensor([question])
            for step in range(4):
                asked = asked.with_tokens(ids)
                before = len(runs)
                logits = host.model(input_ids=ids, past_key_values=cache).logits[:, -1]
                assert len(runs) == before
                assert (logits - host.model(**asked.attached_inputs).logits[:, -1]).abs().max() < 2e-5
                ids = logits.argmax(-1, keepdim=True)
                first += [logits] if step == 0 else []
    assert all((a - b).abs().max() > 0.01 for a, b in combinations(first, 2))  # the question matters


def test_time_against_the_yardstick() -> None:
    """The bound leaves room for a busy machine."""
    for kind in ["smooth", "all alike"]:
        with case(kind):
            x = noise(64, 14, 14, 1024)
            x = x.mul_(0.1).cumsum_(0).add_(1) if kind == "smooth" else x.mul_(0.01).add_(noise(1024, seed=1))
            assert median_ratio(framefold.build("sttm", 0.25), x) < 12


def test_groups_of_the_device_implementation_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [
        VideoTokens.from_grid(torch.randn(5, 4, 3, 6, generator=torch.Generator().manual_seed(s))) for s in range(4)
    ]
    compressor = framefold.build("sttm", 13)
    expected = [compressor(video).tokens.assign for video in videos]
    monkeypatch.setattr(sttm, "spanning_forest", boruvka_forest)
    monkeypatch.setattr(sttm, "connected_components", components_by_propagation)
    for video, assign in zip(videos, expected, strict=True):
        assert torch.equal(compressor(video).tokens.assign, assign)
