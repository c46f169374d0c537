"""Mixins for hosts with 1-D positions, and for those whose videos are one run of placeholders; frames of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig

from framefold.adapters.serving.vllm.compression import VideoCompression
from framefold.adapters.serving.vllm.positions import MediaPositions, line_positions, position_channels

from .questions import VideoQuestions

FRAMES = "framefold_frames"

# Of the video with which the engine measures its memory. Its own rule increases the number until the tokens no longer
# fit, but a budget in tokens always fits.
DUMMY_FRAMES = 8

TOWER, SAVED_LEVEL = "vision_tower.", "vision_model."


class FrameCounts:
    """Mixin for a processor: passes on the numbers of frames; the engine drops the pixels of a cached video."""

    def _apply_hf_processor_main(self, *args: Any, **kwargs: Any) -> Any:
        data = super()._apply_hf_processor_main(*args, **kwargs)  # type: ignore[misc]
        if data.get("pixel_values_videos") is not None:
            data[FRAMES] = torch.tensor([len(video) for video in data["pixel_values_videos"]])
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        return fields | {FRAMES: MultiModalFieldConfig.batched("video", keep_on_cpu=True)}


class Line(VideoQuestions, MediaPositions, VideoCompression):
    """Mixin for a model class with 1-D positions, before its own base.

    Positions with gaps go through M-RoPE with three equal axes, see
    :class:`~framefold.adapters.serving.vllm.configure.LineConfiguration`.

    Attributes:
        side: height and width of the grid of a frame.
        has_gaps: whether positions are kept.
    """

    side: int
    has_gaps: bool

    def with_rows(self, features: Tensor, rows: Tensor, lead: int = 0) -> Tensor:
        """Return the features with the channels of their positions, if positions are kept.

        Args:
            features: (N, D).
            rows: (N,) positions relative to the start of the medium.
            lead: rows before the first placeholder of the medium.
        """
        if not self.has_gaps:
            return features
        return torch.cat([features, position_channels(line_positions(rows), lead, features)], 1)


class FrameRuns(Line):
    """Mixin for a model class whose videos are one run of placeholders, before its own base.

    Attributes:
        text_rows: rows of a video that are no tokens of its grid, as a newline.
    """

    text_rows = 0

    def placeholder_ids(self) -> tuple[int, ...]:
        return self.config.image_token_index, self.config.video_token_index

    def advance(self, feature: Any) -> int:
        if feature.modality == "image":
            return feature.mm_position.length
        return int(feature.data[FRAMES].data) * self.side**2 + self.text_rows

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return super().load_weights(_rename_tower(weights))  # type: ignore[misc]


def _rename_tower(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Add a level to the names of the tower, which transformers 5 does not save and the engine's class still has."""
    for name, value in weights:
        head, tower, tail = name.partition(TOWER)
        yield (head + tower + SAVED_LEVEL + tail if tower and not tail.startswith(SAVED_LEVEL) else name), value
