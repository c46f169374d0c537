"""Positions ``all_axes``: text behind a video comes after the video's largest position on any axis."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold.adapters.hosts import prepare
from framefold.adapters.hosts.base.mrope import text_behind_time
from framefold.errors import InputError
from tests.support.hosts.bare_hosts import build

# Three frames of 2 x 2 that are 50 positions apart: the example in the Qwen team's code for Qwen2.5-VL.
TIME = [0, 0, 0, 0, 50, 50, 50, 50, 100, 100, 100, 100]
HEIGHT, WIDTH = [0, 0, 1, 1] * 3, [0, 1, 0, 1] * 3


def test_the_example_of_the_qwen_team_is_numbered_as_they_do() -> None:
    text = [2, 3, 4, 5, 6]  # by the larger side of a frame
    host = torch.tensor([[TIME + text], [HEIGHT + text], [WIDTH + text]])
    video = torch.tensor([[True] * 12 + [False] * 5])
    wanted = [101, 102, 103, 104, 105]
    moved = text_behind_time(host, video, torch.ones_like(video))
    assert moved[:, 0].tolist() == [TIME + wanted, HEIGHT + wanted, WIDTH + wanted]


def test_distances_add_up_and_padding_keeps_its_position() -> None:
    long = [[5, 9, 5, 9], [5, 5, 6, 6], [5, 5, 5, 5]]  # two frames, 2 high
    short = [[8, 8], [8, 8], [8, 9]]  # one frame, 2 wide
    rows = [[1, 1, *first, 7, *second, 10, 11] for first, second in zip(long, short, strict=True)]
    video = torch.tensor([[False] * 2 + [True] * 4 + [False] + [True] * 2 + [False] * 2])
    moved = text_behind_time(torch.tensor(rows)[:, None], video, torch.arange(11)[None] > 0)
    assert moved[:, 0].tolist() == [
        [1, 1, *first, 10, *[value + 3 for value in second], 13, 14] for first, second in zip(long, short, strict=True)
    ]


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_text_behind_a_compressed_video_comes_after_all_its_frames(name: str) -> None:
    batch = build(name).batch([5, -8, 6], [3, -4, 2, -6, 4])
    compressor = framefold.build("uniform", budget=0.3)
    host = prepare(batch.host.model, batch.inputs, compressor)
    ours = prepare(batch.host.model, batch.inputs, compressor, positions="all_axes")
    assert torch.equal(host.kwargs["input_ids"], ours.kwargs["input_ids"])
    full = prepare(batch.host.model, batch.inputs, framefold.build("identity"))  # with the frames that are not kept
    kinds, mask = batch.inputs["mm_token_type_ids"], batch.inputs["attention_mask"]
    moved = 0
    for row, videos in enumerate(batch.frames):
        positions = ours.kwargs["position_ids"][-3:, row][:, ours.kwargs["attention_mask"][row] == 1]
        all_positions = full.kwargs["position_ids"][-3:, row][:, mask[row] == 1]
        visual = kinds[row][mask[row] == 1] == 2
        ends = (visual[:-1] & ~visual[1:]).nonzero()[:, 0] + 1
        begins = (~visual[:-1] & visual[1:]).nonzero()[:, 0] + 1
        assert len(ends) == len(videos)
        extents = [
            int((all_positions[:, begin:end].amax() - all_positions[:, begin:end].amin()) + 1)
            for begin, end in zip(begins, ends, strict=True)
        ]
        text = int((~visual).sum())
        assert int(positions[:, -1].max()) == text + sum(extents) - 1
        moved += int(positions[:, -1].max()) - int(all_positions[:, -1].max())
    assert moved > 0  # else the two rules would agree on these videos


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_hosts_with_one_rule_refuse_it(name: str) -> None:
    host = build(name)
    with pytest.raises(InputError, match=f"all_axes.*{name} numbers the text behind a video in one way"):
        framefold.attach(host.model, framefold.build("uniform"), positions="all_axes")
    with pytest.raises(InputError, match="all_axes"):
        prepare(host.model, host.batch([5, -6, 6]).inputs, framefold.build("uniform"), positions="all_axes")
