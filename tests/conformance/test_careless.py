"""What a careless caller passes to an attached host is a typed error that names the argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.hosts import prepare
from framefold.errors import InputError
from tests.support.hosts.tiny_families import HOSTS

SHARED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a number for a query": ({}, {"query": 5}, "query must be text"),
    "a list of numbers for queries": ({}, {"query": [5]}, "each query must be text or a tensor"),
    "a number for times": ({}, {"times": 5}, "times must be a list"),
    "words for times": ({}, {"times": ["a"]}, "times must be seconds"),
    "ids in a list": ({"input_ids": [[1, 2]]}, {}, "input_ids must be a tensor.*list"),
}
PIXELS: dict[str, Any] = {"numbers": [1, 2], "text": "a", "an array": torch.zeros(1, 4, 3, 16, 16).numpy()}


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("family", HOSTS)
def test_arguments_of_a_wrong_kind_are_named(family: str, case: str) -> None:
    changed, more, message = SHARED[case]
    inputs = HOSTS[family].inputs([5, -4, 6]) | changed
    with pytest.raises(InputError, match=message):
        prepare(HOSTS[family].build(), inputs, framefold.build("uniform", 0.5), **more)


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("family", HOSTS)
def test_pixels_that_are_no_tensor_are_named(family: str, kind: str) -> None:
    inputs = HOSTS[family].inputs([5, -4, 6])
    name = "pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"
    with pytest.raises(InputError, match=f"{name} must be a tensor"):
        prepare(HOSTS[family].build(), inputs | {name: PIXELS[kind]}, framefold.build("uniform", 0.5))


@pytest.mark.parametrize("clips", ["abcd", 5, [0.5] * 4])
@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_clips_are_whole_numbers(family: str, clips: Any) -> None:
    inputs = HOSTS[family].inputs([5, -4, 6]) | {"clips": clips}
    with pytest.raises(InputError, match="clips must be whole numbers"):
        prepare(HOSTS[family].build(), inputs, framefold.build("uniform", 0.5))


@pytest.mark.parametrize("seconds", [["a"], 3 + 4j, torch.tensor([float("nan")])])
def test_seconds_of_a_step_are_numbers(seconds: Any) -> None:
    inputs = HOSTS["qwen2_5_vl"].inputs([5, -4, 6]) | {"second_per_grid_ts": seconds}
    with pytest.raises(InputError, match="seconds"):
        prepare(HOSTS["qwen2_5_vl"].build(), inputs, framefold.build("uniform", 0.5))


def test_grids_are_whole_numbers() -> None:
    inputs = HOSTS["qwen3_vl"].inputs([5, -4, 6])
    inputs["video_grid_thw"] = inputs["video_grid_thw"].float()
    with pytest.raises(InputError, match="video_grid_thw must be whole numbers"):
        prepare(HOSTS["qwen3_vl"].build(), inputs, framefold.build("uniform", 0.5))
