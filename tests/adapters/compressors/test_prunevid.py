"""PruneVid: windows of similar frames, still positions and clusters of the exact rule; the released counts."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.prunevid import alike_positions, refine_runs, run_windows
from framefold.errors import ConfigError, InputError
from tests.support.videos import noise, synthetic


def scenes(lengths: tuple[int, ...], grid: tuple[int, int] = (3, 4), width: int = 64) -> torch.Tensor:
    """Scenes of the given lengths; in each, the left half is still and the right half is noise."""
    x = noise(sum(lengths), *grid, width)
    half, end = grid[1] // 2, 0
    for number, length in enumerate(lengths):
        picture = noise(*grid, width, seed=10 + number)
        scene = x[end : end + length]
        scene += 2 * picture
        scene[:, :, :half] = picture[:, :half] + 0.05 * scene[:, :, :half]
        end += length
    return x


def test_windows_are_the_scenes_and_the_halves_are_still_or_clustered() -> None:
    x = scenes((6, 6))
    out = framefold.build("prunevid", 30, segment_ratio=0.17, tau=0.9)(VideoTokens.from_grid(x)).tokens
    assert len(out) == 30 and int(out.size.sum()) == 144
    joined = out.assign.reshape(12, 3, 4)
    for first, last in ((0, 6), (6, 12)):
        still = joined[first:last, :, :2]
        assert (still == still[:1]).all() and (joined[first, :, :2] >= 0).all()
    assert not set(joined[:6].unique().tolist()) & set(joined[6:].unique().tolist())
    moving = [set(frame[:, 2:].unique().tolist()) for frame in joined]
    assert sum(len(one) for one in moving) == len(set().union(*moving))  # clusters of one frame only
    for row in range(30):
        members = out.assign == row
        assert torch.allclose(out.features[row], x.reshape(144, -1)[members].mean(0), atol=1e-5)


def test_alike_positions_have_a_mean_pairwise_cosine_above_the_threshold() -> None:
    x = scenes((4, 3)).flatten(1, 2)
    windows = torch.tensor([[0, 3], [4, 4], [5, 6]])
    unit = torch.nn.functional.normalize(x, dim=-1)
    for tau in (0.2, 0.6, 0.95):
        alike = alike_positions(x, windows, tau)
        for row, (first, last) in enumerate(windows.tolist()):
            for place in range(12):
                cosines = unit[first : last + 1, place] @ unit[first : last + 1, place].T
                pairs = cosines[~torch.eye(last - first + 1, dtype=torch.bool)]
                assert bool(alike[row, place]) == (len(pairs) > 0 and float(pairs.mean()) > tau)


def test_short_runs_and_repeated_clusters_become_parts_of_their_neighbours() -> None:
    assert refine_runs([0, 0, 0, 1, 0, 0, 2, 2, 2, 2]) == [(0, 3), (2, 7)]
    assert refine_runs([0, 1, 2]) == [(0, 3)]
    assert refine_runs([3, 1, 1, 4, 2, 2]) == [(1, 4), (2, 2)]
    assert refine_runs([1, 1, 0, 1, 1]) == [(1, 5)]
    assert run_windows([(0, 3), (2, 1), (1, 2)]).tolist() == [[0, 2], [3, 3], [4, 5]]


def test_a_still_video_spends_its_budget() -> None:
    x = synthetic((9, 2, 3), "still")
    for k in (1, 5, 6, 7, 29, 53):
        out = framefold.build("prunevid", k)(VideoTokens.from_grid(x)).tokens
        assert len(out) == k and (k < 6 or int(out.size.sum()) == 54)


def test_the_release_ignores_the_budget_and_needs_seven_frames() -> None:
    video = VideoTokens.from_grid(scenes((6, 6), (6, 6)))
    settings = dict(variant="official", tau=0.9, segment_ratio=0.17)
    few, many = (framefold.build("prunevid", budget, **settings)(video).tokens for budget in (0.05, 0.5))
    assert len(few) == len(many) == (12 + 2) * 9 and torch.equal(few.index, many.index)  # half of each set of 18
    assert int(few.size.sum()) == len(video)
    with pytest.raises(InputError, match="release fails"):
        framefold.build("prunevid", variant="official")(VideoTokens.from_grid(scenes((3, 3))))
    with pytest.raises(InputError, match="release fails"):
        framefold.build("prunevid", variant="official", cluster_ratio=0.05)(VideoTokens.from_grid(noise(8, 4, 4, 8)))


@pytest.mark.parametrize("params", [{"segment_ratio": 0.0}, {"cluster_ratio": 1.5}, {"neighbours": 0}])
def test_parameters_out_of_range_are_refused(params: dict) -> None:
    with pytest.raises(ConfigError, match="prunevid"):
        framefold.build("prunevid", 0.1, **params)
