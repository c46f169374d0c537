"""HoliTom: windows, links, shares and clusters of the exact rule; the released counts."""

from __future__ import annotations

import math

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.ops.allocation import rounded_shares
from framefold.adapters.ops.similarity import temporal_similarities
from framefold.adapters.ops.windows import still_windows
from framefold.errors import ConfigError, InputError
from tests.support.videos import noise, synthetic


def video_of(x: torch.Tensor, seed: int = 5) -> VideoTokens:
    return VideoTokens.from_grid(x, attention=torch.rand(x.shape[:3], generator=torch.Generator().manual_seed(seed)))


def half_still(frames: int = 8) -> torch.Tensor:
    """Frames of 3 x 4 tokens with a cut; the left half is still, the right half is noise."""
    x = synthetic((frames, 3, 4), "noise")
    x[: frames // 2, :, :2] = x[0, :, :2] + 0.05 * x[: frames // 2, :, :2]
    x[frames // 2 :, :, :2] = x[-1, :, :2] + 0.05 * x[frames // 2 :, :, :2]
    return x


def test_still_positions_are_joined_and_attention_selects_the_rest() -> None:
    video = video_of(half_still())
    out = framefold.build("holitom", 24, tau=0.8, beta=None)(video).tokens
    x = video.features.reshape(8, 12, -1)
    similar = temporal_similarities(x) > 0.8
    windows = still_windows(similar)[0].tolist()
    assert windows == [[0, 3], [4, 7]]
    still = [torch.tensor([0, 1, 4, 5, 8, 9])] * 2
    moving = torch.tensor([2, 3, 6, 7, 10, 11])
    rounding = torch.tensor([0.5, 1, 1, 1, 1] * 2)  # sets: still, 4 frames, still, 4 frames
    counts = rounded_shares(24, torch.full((10,), 6), rounding).tolist()
    kept = set()
    for t in range(8):
        attention = video.attention.reshape(8, 12)[t, moving]
        best = torch.sort(attention, descending=True, stable=True).indices[: counts[1 + t + t // 4]]
        kept |= {t * 12 + int(p) for p in moving[best]}
    single = out.index[out.size == 1].tolist()
    assert set(single) == kept and len(out) == 24
    assert torch.equal(out.features[out.size == 1], video.features[single])
    for window, positions, count in zip(windows, still, (counts[0], counts[5]), strict=True):
        rows = torch.arange(window[0], window[1] + 1)[:, None] * 12 + positions
        joined = out.assign[rows]
        assert (joined == joined[:1]).all() and len(joined.unique()) == count
        for row in joined.unique().tolist():
            members = (out.assign == row).nonzero()[:, 0]
            assert torch.allclose(out.features[row], video.features[members].mean(0), atol=1e-6)
            assert int(out.size[row]) == len(members) and int(out.index[row]) // 12 == window[0]


def test_beta_weights_the_centre_against_the_mean_of_the_others() -> None:
    video = video_of(half_still())
    blend, mean = (framefold.build("holitom", 24, tau=0.8, beta=beta)(video).tokens for beta in (0.6, None))
    assert torch.equal(blend.assign, mean.assign) and torch.equal(blend.index, mean.index)
    row = int(mean.size.argmax())
    members = (blend.assign == row).nonzero()[:, 0]
    frame = int(blend.index[row]) // 12
    centre = members[members % 12 == blend.index[row] % 12]
    others = members[members % 12 != blend.index[row] % 12]
    assert len(others) and int(centre[0]) // 12 == frame
    expected = 0.6 * video.features[centre].mean(0) + 0.4 * video.features[others].mean(0)
    assert torch.allclose(blend.features[row], expected, atol=1e-6)


def test_a_still_video_spends_its_budget_on_the_most_similar_links() -> None:
    x = synthetic((6, 2, 3), "still")
    for k in (7, 20, 35):
        out = framefold.build("holitom", k)(video_of(x)).tokens
        assert len(out) == k and int(out.size.sum()) == 36
        joined = out.assign.reshape(6, 6)[1:] == out.assign.reshape(6, 6)[:-1]
        similarity = temporal_similarities(x.flatten(1, 2))
        assert int(joined.sum()) == 36 - k and similarity[joined].min() >= similarity[~joined].max()


def test_tokens_are_never_joined_over_a_cut() -> None:
    x = synthetic((10, 3, 4), "still")
    x[5:] = synthetic((5, 3, 4), "still", seed=3)
    for k in (2, 5, 24, 60):
        out = framefold.build("holitom", k, attention_share=0.0)(video_of(x)).tokens
        before, after = out.assign[:60], out.assign[60:]
        assert not set(before[before >= 0].tolist()) & set(after[after >= 0].tolist())


def test_attention_is_needed_only_if_it_selects() -> None:
    video = VideoTokens.from_grid(synthetic((6, 3, 4), "noise", width=64))
    out = framefold.build("holitom", 0.3, attention_share=0.0)(video).tokens
    assert int(out.size.sum()) == 72  # clusters drop nothing where every set has a share
    with pytest.raises(InputError, match="attention"):
        framefold.build("holitom", 0.3)(video)
    mixed = framefold.build("holitom", 0.5, attention_share=0.5)(video_of(video.as_grid())).tokens
    assert len(mixed) == 36 and int(mixed.size.sum()) == 72


def test_the_release_rounds_up_in_each_frame_and_misses_its_budget() -> None:
    video = video_of(half_still())
    compressor = framefold.build("holitom", 0.2, variant="official", tau=0.8)
    out = compressor(video).tokens
    left = 0.2 / ((96 - 2 * 3 * 6) / 96)
    assert not compressor.exact_budget and len(out) == 2 * round(6 * left) + 8 * math.ceil(6 * left) != round(96 * 0.2)
    assert len(framefold.build("holitom", 0.2, tau=0.8)(video).tokens) == round(96 * 0.2)
    with pytest.raises(InputError, match="release fails"):
        framefold.build("holitom", 0.2, variant="official", attention_share=0.6)(video)


def test_exact_equals_the_release_at_its_number_of_tokens() -> None:
    for seed in range(3):
        video = video_of(half_still() + 0.3 * noise(8, 3, 4, 8, seed=seed), seed)
        for budget in (0.1, 0.2, 0.35):
            official = framefold.build("holitom", budget, variant="official", tau=0.7)(video).tokens
            exact = framefold.build("holitom", len(official), tau=0.7)(video).tokens
            assert torch.equal(exact.index, official.index) and torch.equal(exact.assign, official.assign)
            assert torch.allclose(exact.features, official.features, atol=1e-6)


def test_small_budgets_are_spread_over_the_video() -> None:
    out = framefold.build("holitom", 4, tau=0.99)(video_of(synthetic((16, 3, 4), "noise"))).tokens
    assert (out.index // 12).tolist() == [2, 6, 10, 14]


def test_the_threshold_follows_the_scripts_of_the_release() -> None:
    x = noise(1, 2, 2, 64).expand(4, 2, 2, 64) + 0.6 * noise(4, 2, 2, 64, seed=1)  # cosines of about 0.73
    video = video_of(x)
    for budget, tau in ((2, 0.65), (3, 0.8), (0.14, 0.65), (0.15, 0.8)):
        out, same = framefold.build("holitom", budget)(video), framefold.build("holitom", budget, tau=tau)(video)
        assert torch.equal(out.tokens.assign, same.tokens.assign)


@pytest.mark.parametrize("params", [{"attention_share": 1.5}, {"beta": -0.1}, {"neighbours": 0}, {"variant": "fast"}])
def test_parameters_out_of_range_are_refused(params: dict) -> None:
    with pytest.raises(ConfigError, match="holitom"):
        framefold.build("holitom", 0.1, **params)
