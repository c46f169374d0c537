"""stc: the exact rule against a slow reference, causality, and the number of tokens of the release."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.stc import redundancies
from framefold.adapters.ops.similarity import Frames
from tests.support.videos import kept_rows, synthetic

grids = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6))
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def redundancies_of(x: torch.Tensor) -> torch.Tensor:
    return redundancies(Frames(VideoTokens.from_grid(x), rescale=True))


def plain(x: torch.Tensor) -> torch.Tensor:
    """Redundancies in fp64, frame by frame."""
    out = []
    for t, frame in enumerate(x.flatten(1, 2)):
        channels = frame.var(0, correction=0).argsort(stable=True)[: max(1, x.shape[-1] // 2)]
        unit = torch.nn.functional.normalize(frame[:, channels], dim=-1)
        memory = torch.nn.functional.normalize(x[: t + 1].flatten(0, 2).mean(0)[channels], dim=0)
        out.append(torch.zeros(len(unit), dtype=x.dtype))
        for centre in (unit.mean(0), memory):
            distance = (unit - centre).square().sum(-1)
            out[-1] += sum(torch.exp(-distance / 2 ** (power + 1)) for power in (-3, -2, -1, 0, 1))
    return torch.stack(out)


@examples
@given(grid=grids, kind=st.sampled_from(["drift", "noise"]), seed=st.integers(0, 999), width=st.integers(2, 9))
def test_redundancies_in_fp64(grid, kind, seed, width) -> None:
    x = synthetic(grid, kind, seed, width) + 0.1
    gaps = x.flatten(1, 2).var(1, correction=0).sort(1).values.diff(dim=1)
    if gaps.min() < 1e-6:
        return  # rounding decides which channels
    torch.testing.assert_close(redundancies_of(x).double(), plain(x.double()), atol=1e-5, rtol=0)


@examples
@given(grid=grids, kind=st.sampled_from(["drift", "constant"]), seed=st.integers(0, 999), k=st.integers(1, 270))
def test_every_frame_keeps_its_share_and_the_rest_goes_to_novel_tokens(grid, kind, seed, k) -> None:
    x = synthetic(grid, kind, seed)
    cost = redundancies_of(x).tolist()
    frames, p = len(cost), len(cost[0])
    k = min(k, frames * p)
    order = [sorted(range(p), key=lambda place: (frame[place], place)) for frame in cost]
    kept = [t * p + place for t in range(frames) for place in order[t][: k // frames]]
    following = [(t, places[k // frames]) for t, places in enumerate(order) if k % frames]
    following.sort(key=lambda token: (cost[token[0]][token[1]], token))
    kept += [t * p + place for t, place in following[: k % frames]]
    assert kept_rows("stc", x, k) == sorted(kept)


def test_later_frames_do_not_change_what_is_kept() -> None:
    x = synthetic((9, 4, 4), "drift")
    assert torch.equal(redundancies_of(x)[:5], redundancies_of(x[:5]))
    assert kept_rows("stc", x, 36)[:20] == kept_rows("stc", x[:5], 20)


def test_a_new_thing_is_kept_and_becomes_less_novel() -> None:
    x = synthetic((8, 4, 4), "constant", width=16)
    x[5:, 2, 1] = synthetic((1, 1, 1), "noise", seed=9, width=16)[0, 0, 0]
    assert {5 * 16 + 9, 6 * 16 + 9, 7 * 16 + 9} <= set(kept_rows("stc", x, 8))
    assert 5 * 16 + 9 in kept_rows("stc", x, 1)
    novel = redundancies_of(x)[5:, 9]
    assert novel[0] < novel[1] < novel[2]


def test_official_keeps_a_fixed_number_of_each_frame() -> None:
    x = synthetic((7, 4, 4), "drift")
    for budget, per_frame in ((0.25, 4), (30, 4), (3, 1), (1.0, 16)):
        for chunk in (1, 3):
            rows = kept_rows("stc", x, budget, variant="official", chunk=chunk)
            assert [sum(row // 16 == t for row in rows) for t in range(7)] == [per_frame] * 7
    assert not framefold.build("stc", variant="official").exact_budget
