"""Positions in the serving engine equal those of ``prepare``, wherever the prompt is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts import prepare
from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.serving.vllm.positions import (
    CHANNELS,
    LARGEST,
    Medium,
    anchor_mask,
    framed_positions,
    framed_rows,
    initial_positions,
    line_positions,
    media_grid_positions,
    position_channels,
    read_channels,
    write_positions,
)
from framefold.errors import ContractError, InputError
from tests.support.hosts.bare_hosts import Batch, build
from tests.support.hosts.images import image_arguments
from tests.support.hosts.tiny_families import IMAGE, START, TIME, VIDEO

WIDTH = 2  # of the features beside the positions
FRAME_TEXT = {"qwen3_vl": [TIME, START], "glm4v": [START], "internvl": [TIME, START]}  # before the tokens of a frame
PROMPTS = {"one video": [5, -6, 6], "video first": [-4, 3], "two videos": [3, -6, 2, -4, 5]}


@dataclass
class EnginePrompt:
    """A prompt as the engine sees it: which rows are placeholders, and the media with their position channels."""

    placeholders: Tensor
    media: list[Medium] = field(default_factory=list)
    channels: list[Tensor] = field(default_factory=list)

    def add(self, offset: int, relative: Tensor, advance: int, lead: int = 0, tokens: int | None = None) -> None:
        """Add a medium; the engine puts all placeholders of its tokens behind the text that leads it."""
        first = offset + lead
        self.placeholders[offset : offset + len(relative)] = False
        self.placeholders[first : first + (len(relative) if tokens is None else tokens)] = True
        self.media.append(Medium(offset, len(relative), advance))
        self.channels.append(position_channels(relative, lead, torch.zeros((), dtype=torch.bfloat16)))

    def positions(self, *cuts: int) -> tuple[Tensor, int]:
        """Number the prompt in steps that end at these rows and at its end."""
        positions, delta = initial_positions(len(self.placeholders), self.media)
        computed = 0
        for end in (*cuts, len(self.placeholders)):
            pieces = list(self.pieces(computed, end))
            features, positions, delta = write_positions(self.placeholders, pieces, positions, computed)
            assert all(part.shape[1] == WIDTH for part in features)
            computed = end
        return positions, delta

    def pieces(self, start: int, end: int) -> Iterator[Tensor]:
        """Return the features of a step, as the runner of the engine gathers them."""
        for medium, channels in zip(self.media, self.channels, strict=True):
            first, last = max(start - medium.offset, 0), min(end - medium.offset, medium.rows)
            if first < last:
                yield torch.cat([channels.new_zeros(len(channels), WIDTH), channels], 1)[first:last]


def engine_prompt(
    name: str, batch: Batch, ids: Tensor, videos: list[VideoTokens], rule: Positions = "preserve"
) -> EnginePrompt:
    """Lay out a compressed prompt as the engine does."""
    prompt = EnginePrompt(torch.zeros(len(ids), dtype=torch.bool))
    seconds = batch.inputs.get("second_per_grid_ts", torch.ones(len(videos)))
    row = 0
    for video, second in zip(videos, seconds, strict=True):
        t, h, w = video.grid
        text = FRAME_TEXT.get(name, [VIDEO])
        offset = row + int((ids[row:] == text[0]).nonzero()[0])
        if name in FRAME_TEXT:
            lead, rows = len(text), len(video) + (len(text) + 1) * t
            kept = anchor_mask(video.index, t * h * w)
            counts = kept.unflatten(0, (t, -1)).sum(1).cumsum(0).tolist()
            starts = [lead - 1 + (lead + 1) * frame + count for frame, count in enumerate([0, *counts[:-1]])]
            if name == "internvl":
                relative, frame = line_positions(framed_rows(kept, starts, rows)), h * w
            else:
                relative, frame = framed_positions(video.grid, kept, starts, rows), max(h, w)
            prompt.add(offset, relative, (lead + 1 + frame) * t, lead, len(video))
        elif name == "llava_onevision":
            relative = line_positions(torch.cat([video.index, torch.tensor([t * h * w])]))
            prompt.add(offset, relative, t * h * w + 1)
        else:
            interval = 2 * second if name == "qwen2_5_vl" else 1  # tokens_per_second of the tiny host
            grid = media_grid_positions(video.grid, interval)
            prompt.add(offset, grid[video.index], max(h, w) if rule == "preserve" else int(grid.max()) + 1)
        row = offset + prompt.media[-1].rows
    return prompt


def compressed(
    name: str, row: list[int], compressor: str, rule: Positions = "preserve"
) -> tuple[EnginePrompt, Tensor, int]:
    """Return the prompt of the engine, and the positions and the next position that ``prepare`` gives it."""
    batch = build(name).batch(row)
    prepared = prepare(batch.host.model, batch.attached_inputs, framefold.build(compressor, budget=0.4), positions=rule)
    assert prepared.prompt is not None
    positions = prepared.kwargs["position_ids"]
    positions = positions[-3:, 0] if positions.ndim == 3 else positions.expand(3, -1)
    prompt = engine_prompt(name, batch, prepared.kwargs["input_ids"][0], prepared.tokens, rule)
    return prompt, positions, int(prepared.prompt.next_position)


RULES: dict[Positions, list[str]] = {
    "preserve": ["llava_onevision", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"],
    "all_axes": ["qwen2_vl", "qwen2_5_vl"],
}


@pytest.mark.parametrize("compressor", ["random", "sttm", "identity"])
@pytest.mark.parametrize("row", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize(("name", "rule"), [(name, rule) for rule, names in RULES.items() for name in names])
def test_positions_equal_those_of_prepare_wherever_the_prompt_is_cut(
    name: str, rule: Positions, row: list[int], compressor: str
) -> None:
    prompt, wanted, next_position = compressed(name, row, compressor, rule)
    length = wanted.shape[1]
    for cuts in [(), *((end,) for end in range(1, length)), range(3, length, 3), range(1, length)]:
        positions, delta = prompt.positions(*cuts)
        assert positions.tolist() == wanted.tolist(), cuts
        assert delta == next_position - length


def test_a_step_that_is_repeated_or_begins_in_a_cached_medium_changes_nothing() -> None:
    prompt, wanted, _ = compressed("qwen2_5_vl", [3, -6, 2, -4, 5], "random")
    positions, _ = prompt.positions()
    again = write_positions(prompt.placeholders, list(prompt.pieces(0, wanted.shape[1])), positions, 0)[1]
    assert torch.equal(again, positions) and positions.tolist() == wanted.tolist()
    second = prompt.media[1].offset
    cached = second + 1  # everything before is in the prefix cache, so the first video is never encoded
    fresh, delta = initial_positions(wanted.shape[1], prompt.media)
    pieces = list(prompt.pieces(cached, wanted.shape[1]))
    # The engine keeps no positions of cached rows inside a medium, and attention does not need them.
    _, fresh, delta = write_positions(prompt.placeholders, pieces, fresh, cached)
    assert fresh[:, cached:].tolist() == wanted[:, cached:].tolist()
    outside = ~prompt.placeholders
    assert fresh[:, outside].tolist() == wanted[:, outside].tolist()


def test_an_image_beside_a_video_has_the_positions_of_the_host() -> None:
    host = build("qwen2_5_vl")
    inputs = dict(host.batch([5, -6, 6]).inputs)
    image = 4  # tokens of a square of 2 x 2
    for key, value in (("input_ids", IMAGE), ("mm_token_type_ids", 1), ("attention_mask", 1)):
        inserted = torch.full((1, image), value, dtype=inputs[key].dtype)
        inputs[key] = torch.cat([inputs[key][:, :2], inserted, inputs[key][:, 2:]], 1)
    inputs |= image_arguments(host)
    prepared = prepare(host.model, inputs, framefold.build("random", budget=0.4))
    ids, wanted = prepared.kwargs["input_ids"][0], prepared.kwargs["position_ids"][-3:, 0]
    prompt = engine_prompt("qwen2_5_vl", Batch(host, [], "left", inputs, 0), ids, prepared.tokens)
    prompt.add(2, media_grid_positions((1, 2, 2)), 2)
    prompt.media.reverse(), prompt.channels.reverse()
    for cut in range(1, len(ids)):
        assert prompt.positions(cut)[0].tolist() == wanted.tolist(), cut


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_channels_hold_large_numbers_in_every_dtype_of_the_engine(dtype: torch.dtype) -> None:
    relative = torch.tensor([[0, 257, LARGEST], [255, 256, 65_537]])
    channels = position_channels(relative, 70_000, torch.zeros((), dtype=dtype))
    assert channels.dtype == dtype and channels.shape == (2, CHANNELS)
    assert read_channels(channels).tolist() == [[0, 257, LARGEST, 0, 70_000], [255, 256, 65_537, 1, 70_000]]


@pytest.mark.parametrize("wrong", [-1, LARGEST + 1])
def test_positions_that_the_channels_cannot_represent_are_refused(wrong: int) -> None:
    with pytest.raises(InputError, match=f"from 0 to {LARGEST}"):
        position_channels(torch.tensor([[0, wrong, 0]]), 0, torch.zeros(()))


def test_features_without_a_place_in_the_prompt_are_refused() -> None:
    prompt = EnginePrompt(torch.zeros(9, dtype=torch.bool))
    prompt.add(3, media_grid_positions((1, 2, 2)), 2)
    piece = next(prompt.pieces(0, 9))
    positions, _ = initial_positions(9, prompt.media)
    with pytest.raises(ContractError, match="no placeholder at or behind row 7"):
        write_positions(prompt.placeholders, [piece, piece], positions, 0)
