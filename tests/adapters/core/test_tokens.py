"""Video tokens: what they can be built from, and keeping some of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from framefold.adapters.core.tokens import VideoTokens
from framefold.errors import InputError
from tests.support.cases import case


def test_keep_of_kept_tokens_composes() -> None:
    video = VideoTokens.from_grid(torch.arange(24.0).reshape(4, 2, 3, 1))
    once = video.keep(torch.tensor([2, 5, 11, 20])).keep(torch.tensor([1, 3]))
    assert once.index.tolist() == [5, 20] and once.features[:, 0].tolist() == [5.0, 20.0]
    assert (once.assign >= 0).nonzero()[:, 0].tolist() == [5, 20] and once.assign[[5, 20]].tolist() == [0, 1]


def test_features_of_a_wrong_shape_or_type_are_refused() -> None:
    wrong = [
        (torch.zeros(12, 16), r"\(T, H, W, D\)"),
        (torch.zeros(2, 3, 12, 16, 1), r"\(T, H, W, D\)"),
        (torch.zeros(0, 3, 4, 16), "empty"),
        (torch.zeros(2, 3, 4, 8, dtype=torch.long), "floating"),
        (torch.zeros(2, 3, 4, 8, dtype=torch.float8_e4m3fn), "floating"),
        (torch.zeros(2, 3, 4, 8, dtype=torch.complex64), "floating"),
        (np.zeros((2, 3, 4, 8)), "must be a tensor"),
        ([1.0], "must be a tensor"),
    ]
    for features, message in wrong:
        with case(features, message), pytest.raises(InputError, match=message):
            VideoTokens.from_grid(features)  # type: ignore[arg-type]


def test_invalid_times_and_attention_are_refused() -> None:
    x = torch.zeros(2, 3, 4, 8)
    for times, message in [
        (torch.zeros(5), "one entry for each"),
        (torch.tensor([1.0, 0.0]), "ascending"),
        (["a", "b"], "must be seconds"),
        ([None, None], "must be seconds"),
    ]:
        with pytest.raises(InputError, match=message):
            VideoTokens.from_grid(x, times=times)  # type: ignore[arg-type]
    for attention in (
        torch.zeros(5),
        np.ones(24),
        torch.ones(4, 3, 2),  # as many values, in another order
        torch.ones(24, 1),
        torch.full((24,), torch.nan),
    ):
        with case(attention), pytest.raises(InputError, match="attention"):
            VideoTokens.from_grid(x, attention=attention)  # type: ignore[arg-type]


def test_incomplete_tokens_are_no_grid() -> None:
    with pytest.raises(InputError, match="do not fill"):
        VideoTokens.from_grid(torch.zeros(6, 3, 4, 16)).keep(torch.tensor([3])).as_grid()


class Owner:
    pass


def test_a_result_that_questions_share_is_computed_once_per_owner_and_features() -> None:
    video = replace(VideoTokens.from_grid(torch.zeros(2, 2, 2, 3)), cache={})
    calls: list[str] = []

    def once(owner: object, tokens: VideoTokens, value: str) -> str:
        return tokens.once(owner, lambda: calls.append(value) or value)  # type: ignore[func-returns-value]

    first, second = Owner(), Owner()
    assert [once(first, video, "a"), once(first, video, "b"), once(second, video, "c")] == ["a", "a", "c"]
    other = replace(video, features=video.features + 1)
    assert [once(first, other, "d"), once(first, replace(other, times=video.times), "e")] == ["d", "d"]
    assert [once(first, video, "f"), calls] == ["a", ["a", "c", "d"]]
    second.shares_results = False  # type: ignore[attr-defined]
    assert [once(second, video, "i"), once(second, video, "j")] == ["i", "j"]
    alone = replace(video, cache=None)
    assert [once(first, alone, "g"), once(first, alone, "h")] == ["g", "h"]
