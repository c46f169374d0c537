"""FrameBudget: parts of a video get numbers of tokens, and any training-free compressor fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.base.frame_budget import FrameBudget, power_weights, question_similarities
from framefold.errors import ConfigError, InputError, UnknownCompressorError
from tests.support.cases import case
from tests.support.contract import check_tokens, features, wrap
from tests.support.videos import noise

GRID = (6, 3, 4)


def make(**params: Any) -> FrameBudget:
    compressor = framefold.build("kffocus", 20, **params)
    assert isinstance(compressor, FrameBudget)
    return compressor


def counts(tokens: VideoTokens) -> list[int]:
    """Number of anchors in each frame."""
    return torch.bincount(tokens.index // tokens.per_frame, minlength=tokens.grid[0]).tolist()


def test_given_scores_replace_the_relevance() -> None:
    video, scores = wrap(features(GRID)), torch.tensor([0.0, 1, 0, 2, 0, 1])
    expected = [0, 5, 0, 10, 0, 5]
    compressor = make(empty="drop")
    own = counts(compressor(video).tokens)
    assert counts(compressor.score_with(scores)(video).tokens) == expected
    assert counts(compressor.score_with(lambda given, query: scores[: given.grid[0]])(video).tokens) == expected
    assert counts(compressor.score_with(None)(video).tokens) == own != expected
    pairs = make(empty="drop", segment_frames=2)
    for given in (torch.tensor([1.0, 2, 1]), scores):  # one score for each part, or for each frame
        assert torch.equal(pairs.score_with(given).part_scores(video, None)[0], torch.tensor([1.0, 2, 1]).double())
    for wrong in (scores[:5], torch.full((6,), torch.nan), scores[None]):
        with case(wrong), pytest.raises(InputError, match="one finite score"):
            compressor.score_with(wrong)(video)


def test_a_model_that_scores_is_neither_a_part_of_the_compressor_nor_saved(tmp_path: Path) -> None:
    class Judge(torch.nn.Linear):
        def forward(self, video: VideoTokens, query: torch.Tensor | None) -> torch.Tensor:  # type: ignore[override]
            return video.as_grid().mean((1, 2)) @ self.weight[0]

    compressor = make(fill="random", fill_params={"seed": 3}).score_with(Judge(16, 1))  # type: ignore[arg-type]
    compressor(wrap(features(GRID)))
    assert not list(compressor.parameters()) and not compressor.state_dict()
    compressor.save_pretrained(tmp_path)
    loaded = framefold.load(tmp_path)
    assert loaded.params() == compressor.params() and loaded.params()["fill_params"] == {"seed": 3}


def test_a_selector_keeps_its_best_tokens_of_each_part() -> None:
    video, scores = wrap(features(GRID)), torch.tensor([3.0, 0, 2, 1, 4, 0])
    out = make(fill="random", empty="drop").score_with(scores)(video).tokens
    assert counts(out) == [6, 0, 4, 2, 8, 0]
    score = framefold.build("random").score(video, None).reshape(6, 12)  # type: ignore[attr-defined]
    best = [score[t].sort(descending=True, stable=True).indices[:n] + 12 * t for t, n in enumerate(counts(out))]
    assert out.index.tolist() == torch.cat(best).sort().values.tolist()


def test_any_compressor_fills_parts_as_videos_of_their_own() -> None:
    """Also those that neither select by score nor merge groups; frames without tokens join the part before."""
    x = features(GRID)
    scores = torch.tensor([0.0, 0, 2, 0, 3, 0])
    for fill in ("st_simdiff", "sttm", "scene_mean", "pool"):
        for empty, bounds in (("join", [(0, 4), (4, 6)]), ("drop", [(2, 3), (4, 5)])):
            with case(fill, empty):
                out = make(fill=fill, empty=empty).score_with(scores)(wrap(x)).tokens
                check_tokens(out, GRID)
                parts = [
                    framefold.build(fill, k)(wrap(x[slice(*part)])).tokens
                    for part, k in zip(bounds, (8, 12), strict=True)
                ]
                torch.testing.assert_close(out.features, torch.cat([part.features for part in parts]))
                index = [part.index + 12 * start for part, (start, _) in zip(parts, bounds, strict=True)]
                assert torch.equal(out.index, torch.cat(index))
                assert torch.equal(out.size, torch.cat([part.size for part in parts]))


def test_needs_of_the_compressor_that_fills_are_needs_of_the_whole() -> None:
    compressor, video = make(fill="aot"), wrap(features(GRID))
    assert compressor.needs_attention and not type(compressor).needs_attention and not compressor.query_aware
    chain = framefold.build("uniform+kffocus", 20, kffocus={"fill": "aot"})
    assert chain.needs_attention and not framefold.build("uniform+kffocus", 20).needs_attention
    check_tokens(compressor(video).tokens, GRID)
    with pytest.raises(InputError, match="attention"):
        compressor(VideoTokens.from_grid(features(GRID)))


def test_what_cannot_fill_is_refused() -> None:
    with pytest.raises(UnknownCompressorError, match="did you mean 'pool'"):
        make(fill="pol")
    for params in ({"fill": "storm"}, {"fill": "evs", "fill_params": {"variant": "official"}}):
        with case(params), pytest.raises(ConfigError, match="training-free and meet every budget"):
            make(**params)
    for fill in ("uniform+pool", "at_layer", "fastv"):
        with case(fill), pytest.raises(ConfigError, match="one method that acts before the language model"):
            make(fill=fill)
    for params in ({"segment_frames": 0}, {"empty": "keep"}, {"power": -1.0}, {"fill_params": {"spatial": 0}}):
        with case(params), pytest.raises(ConfigError):
            make(**params)


def test_scores_that_are_no_tensors_are_refused() -> None:
    for scores in ("x", [1] * GRID[0]):
        with case(scores), pytest.raises(InputError, match="must be a tensor, a function or None"):
            make().score_with(scores)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must return a tensor, got NoneType"):
        make().score_with(lambda video, query: None)(wrap(features(GRID)))  # type: ignore[arg-type, return-value]


def test_question_similarities_find_the_frame_of_a_word() -> None:
    x, word = features(GRID), noise(16, seed=40)
    x[4, 1, 2] = 3 * word
    query = torch.stack([noise(16, seed=41), 0.1 * word])
    similarity = question_similarities(wrap(x), query)
    assert similarity.argmax() == 4 and similarity.aminmax() == (0, 1)
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(question_similarities(wrap(x * scale), query * scale), similarity)
    assert not question_similarities(wrap(features(GRID, "constant")), query).any()


def test_weights_are_powers_of_scores_and_an_equal_share() -> None:
    scores = torch.tensor([0.0, 1, 3, -2]).double()
    torch.testing.assert_close(power_weights(scores, 2, 0), torch.tensor([0, 0.1, 0.9, 0]).double())
    torch.testing.assert_close(power_weights(scores, 1, 0.5), torch.tensor([0.125, 0.375, 0.875, 0.125]).double())
    assert len(power_weights(scores, 0, 0).unique()) == 1
    assert not power_weights(torch.zeros(3), 1, 0).any()
