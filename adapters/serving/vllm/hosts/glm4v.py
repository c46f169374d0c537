"""``FramefoldGlm4v``: GLM-4.1V in vLLM, which serves one video in a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import glm4_1v as stock
from vllm.model_executor.models.interfaces import SupportsMultiModalPruning
from vllm.multimodal import MULTIMODAL_REGISTRY

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.serving.vllm.positions import Grid, anchor_mask, framed_positions, position_channels

from .frame_text import TEXT, FrameTextProcessor, VideoText
from .patch_grids import FramedGrids
from .questions import QuestionInfo, QuestionProcessor


class Glm4vInfo(QuestionInfo, stock.Glm4vProcessingInfo):
    """Does not know the question."""


class Glm4vProcessor(QuestionProcessor, FrameTextProcessor, stock.Glm4vMultiModalProcessor):
    """Lays out prompts for the compressor's number of tokens, and passes on the question and the text of a video."""

    def frame_text(self, mm_items: Any, data: Mapping[str, Any], item: int) -> list[int]:
        # The text of a video with one token in each frame.
        side = self.info.get_hf_config().vision_config.spatial_merge_size
        grid = torch.tensor([int(data["video_grid_thw"][item][0]), side, side])
        return self.info._construct_video_placeholder(*mm_items["video"][item], grid)

    def frames_and_tokens(self, fields: Mapping[str, Any]) -> tuple[int, int]:
        t, h, w = fields["video_grid_thw"].tolist()
        return t, h * w // self.info.get_hf_config().vision_config.spatial_merge_size ** 2


@MULTIMODAL_REGISTRY.register_processor(
    Glm4vProcessor,
    info=Glm4vInfo,
    dummy_inputs=stock.Glm4vDummyInputsBuilder,
)
class FramefoldGlm4v(VideoText, FramedGrids, stock.Glm4vForConditionalGeneration, SupportsMultiModalPruning):
    """GLM-4.1V with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.hold_compressor(vllm_config)

    def _process_image_input(self, image_input: Any) -> tuple[Tensor, ...]:
        return self.with_grid_positions(super()._process_image_input(image_input), image_input)

    def _process_video_input(self, video_input: Any) -> tuple[Tensor, ...]:
        videos = super()._process_video_input(video_input)
        grids = map(self.token_grid, video_input["video_grid_thw"].tolist())
        questions = self.questions_of(video_input, len(videos))
        return tuple(map(self._compressed, videos, grids, getattr(video_input, TEXT), questions))

    def _compressed(self, video: Tensor, grid: Grid, text: Tensor, question: Tensor | None) -> Tensor:
        tokens, (features,) = self.compress_video(Encoded.from_grid(video.unflatten(0, grid)), question)
        kept = anchor_mask(tokens.index, len(video))
        rows, starts = self.with_text(text, kept, features)
        relative = framed_positions(grid, kept, starts, len(rows))
        return torch.cat([rows, position_channels(relative, starts[0] + 1, rows)], 1)
