"""fila and its training-free counterpart scene_mean."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.scene_mean import Scenes
from framefold.adapters.ops.partition import split_cells
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import same
from tests.support.videos import DTYPES, noise

BOTH = pytest.mark.parametrize("members", ["similar", "cluster"])
ALL = pytest.mark.parametrize("members", ["similar", "similar_in_cluster", "cluster"])


def scenes_video(lengths: tuple[int, ...], height: int = 2, width: int = 3, dim: int = 8) -> VideoTokens:
    """Scenes of the given lengths, far apart, with a little noise."""
    frames = [
        noise(height, width, dim, seed=i) * 3 + 0.05 * noise(n, height, width, dim, seed=99 + i)
        for i, n in enumerate(lengths)
    ]
    return VideoTokens.from_grid(torch.cat(frames))


@ALL
def test_scenes_are_those_of_the_docstring(members: str) -> None:
    strength = torch.linspace(1, 4, 24).roll(9)[:, None, None, None]  # so that cosines differ from dot products
    video = VideoTokens.from_grid((noise(24, 2, 3, 8) + noise(8, seed=1)) * strength)
    for count in (1, 3, 7, 24):
        with case(count):
            clusters = framefold.build("scene_mean", members="cluster").scenes(video, count).frame_scene.tolist()
            found = framefold.build("scene_mean", members=members, r=4).scenes(video, count)
            means = video.as_grid().double().mean((1, 2))
            alike = torch.nn.functional.cosine_similarity(means[:, None], means[None], dim=-1)
            middle = [means[[c == scene for c in clusters]].mean(0) for scene in range(count)]
            assert sorted(set(clusters)) == list(range(count)) and found.frames.tolist() == [
                *map(clusters.count, range(count))
            ]
            for scene, representative in enumerate(found.representatives.tolist()):
                own = [frame for frame in range(24) if clusters[frame] == scene]
                nearest = min(own, key=lambda frame: float((means[frame] - middle[scene]).norm()))
                assert representative == nearest
                choice = list(range(24)) if members == "similar" else own
                choice.sort(key=lambda frame: -float(alike[representative, frame]))
                r = len(own) if members == "cluster" else min(4, math.ceil(24 / count) - 1)
                assert found.frame[found.scene == scene].tolist() == sorted(choice[: r + 1])  # by time
            assert found.representatives.tolist() == sorted(found.representatives.tolist())


def test_small_clusters_have_fewer_members_if_members_are_limited_to_the_cluster() -> None:
    video = scenes_video((7, 1, 4))
    own, free = (framefold.build("scene_mean", members=m).scenes(video, 3) for m in ("similar_in_cluster", "similar"))
    assert torch.bincount(own.scene).tolist() == [4, 1, 4] and torch.bincount(free.scene).tolist() == [4, 4, 4]
    out = framefold.build("scene_mean", 18, members="similar_in_cluster", scene_goal=1)(video).tokens
    assert torch.equal(out.features[6:12], video.features[7 * 6 : 8 * 6])  # a single frame is unchanged
    assert out.size.tolist() == [4] * 6 + [1] * 6 + [4] * 6


def test_unit_norm_clusters_by_direction_instead_of_strength() -> None:
    looks = noise(2, 2, 3, 8)[[0, 1, 0, 1, 0, 1]]
    strength = torch.tensor([1, 1, 1, 9, 9, 9])[:, None, None, None]
    video = VideoTokens.from_grid(looks * strength)
    scenes = [framefold.build("scene_mean", members="cluster", unit_norm=on).scenes(video, 2) for on in (False, True)]
    assert scenes[0].frame_scene.tolist() != [0, 1, 0, 1, 0, 1] == scenes[1].frame_scene.tolist()


@BOTH
def test_separate_scenes_are_found(members: str) -> None:
    video = scenes_video((7, 4, 5))
    compressor = framefold.build("scene_mean", 3 * 6, members=members)
    found = compressor.scenes(video, 3)
    scene = torch.tensor([0] * 7 + [1] * 4 + [2] * 5)
    assert scene[found.representatives].tolist() == [0, 1, 2] and found.frames.tolist() == [7, 4, 5]
    assert torch.equal(found.scene, scene[found.frame])  # members are of the representative's scene
    expected = [4, 4, 4] if members == "similar" else [7, 4, 5]
    assert torch.bincount(found.scene).tolist() == expected
    kept = found.frame_scene >= 0
    assert torch.equal(found.frame_scene[kept], scene[kept])
    assert int(kept.sum()) == sum(expected)


def reference(video: VideoTokens, scenes: Scenes, logits: torch.Tensor, k: int, per_scene: int) -> torch.Tensor:
    """Output tokens one by one, by the rules of the docstrings."""
    _, height, width = video.grid
    cells, count = height * width, len(scenes.representatives)
    rest = k - (count - 1) * per_scene
    fewest = min(range(count), key=lambda s: (int(scenes.frames[s]), -s))
    rows = []
    for s in range(count):
        groups = split_cells(height, width, rest if s == fewest else per_scene)
        for g in range(int(groups.max()) + 1):
            terms, weights = [], []
            for m in range(len(scenes.frame)):
                for n in range(cells):
                    if scenes.scene[m] == s and groups[n] == g:
                        terms.append(video.features[int(scenes.frame[m]) * cells + n].double())
                        weights.append(logits[m, n].double().expand(video.width))
            rows.append((torch.stack(weights).softmax(0) * torch.stack(terms)).sum(0))
    return torch.stack(rows)


@BOTH
def test_fusion_against_the_reference(members: str) -> None:
    video = scenes_video((7, 4, 5))
    for shape, goal, k in itertools.product(["n1", "nd"], [None, 1, 7], [1, 5, 6, 7, 16, 18, 40, 95, 96]):
        with case(shape, goal, k):
            compressor = framefold.build(
                "fila", k, members=members, weight_shape=shape, scene_goal=goal, dim=8, grid=(2, 3)
            )
            compressor.static.data += noise(*compressor.static.shape, seed=1)
            compressor.score.data += noise(8, seed=2)
            out = compressor(video).tokens
            per_scene = min(6, max(math.ceil(k / (goal or 4)), math.ceil(k / 16)))  # 16 frames of 6 tokens
            scenes = compressor.scenes(video, -(-k // per_scene))
            with torch.no_grad():
                expected = reference(
                    video, scenes, compressor.logits(video, scenes, compressor.content(video)), k, per_scene
                )
            torch.testing.assert_close(
                out.features.detach().double(),
                expected,
                atol=1e-5,
                rtol=1e-5,
                msg=lambda m, c=(shape, goal, k): f"{c}: {m}",
            )
            frames = out.index // 6
            assert set(frames.tolist()) == set(scenes.representatives.tolist())  # anchors are in representatives


@ALL
def test_fresh_fila_equals_scene_mean_bit_by_bit(members: str) -> None:
    settings_of_both = [{}, {"time_weight": 0.5, "unit_norm": True}, {"r": 0}, {"scene_goal": 1}]
    own = [{"weight_shape": "nd"}, {"dynamic": False}]
    cases = [(params, {}, torch.float32) for params in settings_of_both]
    cases += [({}, params, dtype) for params in [{}, *own] for dtype in DTYPES]
    for both, only_fila, dtype in cases:
        video = VideoTokens.from_grid(noise(13, 3, 4, 8).to(dtype))
        for budget in (1, 0.02, 0.1, 0.25, 0.5, 0.77, 1.0):
            fresh = framefold.build("fila", budget, members=members, **both, **only_fila)(video).tokens
            plain = framefold.build("scene_mean", budget, members=members, **both)(video).tokens
            assert same(fresh, plain), (both, only_fila, dtype, budget)


def test_scene_mean_is_a_mean() -> None:
    video = scenes_video((7, 4, 5))
    out = framefold.build("scene_mean", 18, members="cluster", scene_goal=1)(video).tokens
    grid = video.as_grid()
    expected = torch.cat([part.mean(0).flatten(0, 1) for part in grid.split([7, 4, 5])])
    torch.testing.assert_close(out.features, expected)
    assert out.size.tolist() == [7] * 6 + [4] * 6 + [5] * 6


@ALL
def test_a_full_budget_is_the_identity(members: str) -> None:
    video = VideoTokens.from_grid(noise(5, 2, 3, 8))
    out = framefold.build("scene_mean", 1.0, members=members)(video).tokens
    assert torch.equal(out.features, video.features) and torch.equal(out.assign, video.assign)


def test_small_budgets_lose_detail_before_scenes() -> None:
    """Of 64 frames of 6 tokens, the goal is 16 scenes, each of at least one token and at most six."""
    video = VideoTokens.from_grid(noise(64, 2, 3, 8))
    for k, scenes in [(1, 1), (3, 3), (20, 10), (48, 16), (49, 13), (96, 16), (300, 50), (384, 64)]:
        out = framefold.build("scene_mean", k, members="cluster")(video).tokens
        assert len(out) == k and len(set((out.index // 6).tolist())) == scenes, k


def test_static_weights_can_select_a_member() -> None:
    video = scenes_video((4, 4))
    compressor = framefold.build("fila", 12, members="cluster", scene_goal=1, dim=8, grid=(2, 3))
    for rank in range(4):
        compressor.static.data.zero_()[rank] = 200
        out = compressor(video).tokens.features
        torch.testing.assert_close(out, torch.cat([video.as_grid()[i].flatten(0, 1) for i in (rank, rank + 4)]))


def test_the_static_table_is_resized_to_members_and_grids() -> None:
    video = scenes_video((7,), height=4, width=6)
    compressor = framefold.build("fila", 24, members="cluster", r=3, scene_goal=1, dim=8, grid=(2, 3))
    compressor.static.data[:] = torch.arange(4.0)[:, None, None, None] + torch.arange(3.0)
    scenes = compressor.scenes(video, 1)
    table = (compressor.logits(video, scenes, compressor.content(video))).detach().reshape(7, 4, 6)
    torch.testing.assert_close(table[:, 0, 0], torch.arange(7) / 2)  # ranks 0..6 are at positions 0, 0.5 ... 3
    torch.testing.assert_close(table[0, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.0]))  # bilinear over columns
    single = scenes_video((1,))
    logits = compressor.logits(single, compressor.scenes(single, 1)).detach()
    torch.testing.assert_close(logits[0, :, 0], torch.tensor([1.5, 2.5, 3.5] * 2))  # the middle of the table


def test_the_content_score_can_select_a_token() -> None:
    """An event of one frame in a long scene dominates its cell if the score is aligned with its features."""
    video = scenes_video((20,))
    event = noise(8, seed=7)
    video.features[9 * 6 + 4] = event
    compressor = framefold.build("fila", 6, members="cluster", scene_goal=1, dim=8, grid=(2, 3))
    blurred = compressor(video).tokens.features[4]
    compressor.score.data = 30 * torch.nn.functional.layer_norm(event, (8,))
    clear = compressor(video).tokens.features[4]
    assert torch.cosine_similarity(clear, event, dim=0) > 0.99 > 0.5 > torch.cosine_similarity(blurred, event, dim=0)


def test_training_preserves_an_event() -> None:
    """A few optimizer steps from scene_mean towards the features of the event reduce the error."""
    looks = noise(3, 8, seed=1) + 3 * noise(8, seed=2)  # events have a common component
    compressor = framefold.build("fila", 6, members="cluster", scene_goal=1, dim=8, grid=(2, 3))
    optimizer = torch.optim.Adam(compressor.parameters(), lr=0.1)
    losses = []
    for step in range(60):
        video = scenes_video((12,))
        place, look = (7 * step) % 72, looks[step % 3]
        video.features[place] = look
        loss = (compressor(video).tokens.features[place % 6] - look).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-6:]) < 0.3 * sum(losses[:6])


def test_time_weight_gives_scenes_of_consecutive_frames() -> None:
    x = scenes_video((4, 4)).as_grid()
    video = VideoTokens.from_grid(torch.cat([x, x]))  # A B A B
    by_look = framefold.build("scene_mean", 12, members="cluster").scenes(video, 2).frame_scene
    by_time = framefold.build("scene_mean", 12, members="cluster", time_weight=5.0).scenes(video, 2).frame_scene
    assert by_look.tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert by_time.tolist() == [0] * 8 + [1] * 8


def test_frames_of_no_scene_are_dropped_and_others_are_assigned_once() -> None:
    video = VideoTokens.from_grid(noise(40, 2, 3, 8))
    out = framefold.build("scene_mean", 0.1, scene_goal=1)(video).tokens  # 4 scenes of 4 members at most
    used = (out.assign >= 0).reshape(40, 6).all(1)
    assert torch.equal(used, (out.assign >= 0).reshape(40, 6).any(1)) and 4 <= int(used.sum()) <= 16
    assert len(out) == 24 and int(out.size.sum()) == 6 * int(used.sum())


def test_a_representative_belongs_to_its_own_scene() -> None:
    """Also if all frames are equal, or zero and therefore similar to nothing, not even to themselves."""
    for x in (torch.ones(12, 2, 3, 8), torch.zeros(12, 2, 3, 8)):
        video = VideoTokens.from_grid(x)
        found = framefold.build("scene_mean").scenes(video, 5)
        assert found.frame_scene[found.representatives].tolist() == list(range(5))


def test_fusion_weights_stay_in_fp32_under_autocast() -> None:
    video = scenes_video((7, 4, 5))
    compressor = framefold.build("fila", 18, members="cluster", dim=8, grid=(2, 3))
    compressor.score.data = noise(8, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = compressor(video).tokens.features
    assert torch.equal(mixed, compressor(video).tokens.features)


def test_invalid_parameters_are_refused() -> None:
    for wrong in ({"r": -1}, {"time_weight": -0.5}, {"spatial": 0}):
        with pytest.raises(ConfigError, match="scene_mean"):
            framefold.build("scene_mean", **wrong)
    for wrong in ({"dim": 0}, {"grid": (0, 3)}, {"members": "all"}, {"weight_shape": "d"}):
        with pytest.raises(ConfigError, match="fila"):
            framefold.build("fila", **wrong)
    with pytest.raises(InputError, match="width 8, but the video has width 9"):
        framefold.build("fila", dim=8, grid=(2, 3))(VideoTokens.from_grid(noise(3, 2, 3, 9)))


def test_a_config_cannot_ask_for_billions_of_weights() -> None:
    for name in ("scene_mean", "fila"):
        with pytest.raises(ConfigError, match="r=1000000000"):
            framefold.build(name, r=10**9)


def test_it_returns_its_content_scores_and_context_adds_to_them() -> None:
    video = scenes_video((7, 4, 5))
    for params in ({}, {"context": (8, 4)}):
        compressor = framefold.build("fila", 10, dim=8, grid=(2, 3), **params)
        fresh = compressor(video)
        assert fresh.scores is not None and fresh.scores.shape == (96,) and not fresh.scores.any()
        assert torch.equal(fresh.tokens.features, framefold.build("scene_mean", 10)(video).tokens.features)
        fresh.scores.sum().backward()
        assert all(parameter.grad is not None for parameter in compressor.parameters()), params
    compressor.surroundings.out.weight.data += noise(1, 4)
    changed = compressor(video)
    frames = video.features / video.features.square().mean().sqrt()
    with torch.no_grad():
        torch.testing.assert_close(changed.scores, compressor.surroundings(frames.view(16, 2, 3, 8))[:, 0])
    assert not torch.equal(changed.tokens.features, fresh.tokens.features)
    assert framefold.build("fila", 10, dynamic=False)(video).scores is None
    for wrong in ({"context": (-1,)}, {"context": (8,), "dynamic": False}):
        with pytest.raises(ConfigError, match="context"):
            framefold.build("fila", 10, **wrong)
