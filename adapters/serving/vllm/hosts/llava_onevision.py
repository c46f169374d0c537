"""``FramefoldLlavaOnevision``: LLaVA-OneVision in vLLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import llava_onevision as stock
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModalPruning
from vllm.multimodal import MULTIMODAL_REGISTRY

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.serving.vllm.settings import ServingSettings

from .frame_runs import DUMMY_FRAMES, FrameCounts, FrameRuns
from .questions import QuestionInfo, QuestionProcessor


class LlavaOnevisionInfo(QuestionInfo, stock.LlavaOnevisionProcessingInfo):
    """Counts the tokens that the compressor keeps, and the newline behind them."""

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        per_frame = self._get_num_frame_tokens(image_width=image_width, image_height=image_height)
        return ServingSettings.of(self.get_hf_config()).count(per_frame, num_frames) + 1

    def _get_max_video_frames(self, max_tokens: int) -> int:
        return DUMMY_FRAMES


class LlavaOnevisionProcessor(QuestionProcessor, FrameCounts, stock.LlavaOnevisionMultiModalProcessor):
    """Passes on the number of frames and the question."""


@MULTIMODAL_REGISTRY.register_processor(
    LlavaOnevisionProcessor,
    info=LlavaOnevisionInfo,
    dummy_inputs=stock.LlavaOnevisionDummyInputsBuilder,
)
class FramefoldLlavaOnevision(
    FrameRuns, stock.LlavaOnevisionForConditionalGeneration, SupportsMRoPE, SupportsMultiModalPruning
):
    """LLaVA-OneVision with a compressor behind its vision encoder."""

    text_rows = 1  # the newline

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        vision = self.config.vision_config
        self.side = -(-(vision.image_size // vision.patch_size) // 2)  # pooled 2 x 2, rounding up
        self.has_gaps = vllm_config.model_config.uses_mrope
        self.hold_compressor(vllm_config, (self.side, self.side))

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        media: list[Tensor] = []
        for modality, given in self._parse_and_validate_multimodal_inputs(**kwargs).items():
            if modality == "image":
                images = (image.flatten(0, -2) for image in self._process_image_input(given))
                media += [self.with_rows(image, torch.arange(len(image))) for image in images]
            else:
                videos = [video.flatten(0, -2) for video in self._process_video_pixels(given)]
                media += map(self._compressed, videos, self.questions_of(given, len(videos)))
        return tuple(media)

    def _compressed(self, video: Tensor, question: Tensor | None) -> Tensor:
        on_grid = torch.arange(len(video), device=video.device) < len(video) - 1
        clip = Encoded(video[:-1].unflatten(0, (-1, self.side, self.side)), video[-1:], on_grid)
        tokens, (features,) = self.compress_video(clip, question)
        return self.with_rows(features, clip.kept_placeholders(tokens).sort().values)
