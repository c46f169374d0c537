"""``FramefoldLlavaNextVideo``: LLaVA-NeXT-Video in vLLM, which serves one video and no images in a prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models import llava_next_video as stock
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModalPruning
from vllm.multimodal import MULTIMODAL_REGISTRY

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.serving.vllm.settings import ServingSettings

from .frame_runs import DUMMY_FRAMES, FrameCounts, FrameRuns
from .questions import QuestionInfo, QuestionProcessor


class LlavaNextVideoInfo(QuestionInfo, stock.LlavaNextVideoProcessingInfo):
    """Counts the tokens that the compressor keeps."""

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        per_frame = self._get_num_frame_tokens(image_width=image_width, image_height=image_height)
        return ServingSettings.of(self.get_hf_config()).count(per_frame, num_frames)

    def _get_max_video_frames(self, max_tokens: int) -> int:
        return DUMMY_FRAMES


class LlavaNextVideoProcessor(QuestionProcessor, FrameCounts, stock.LlavaNextVideoMultiModalProcessor):
    """Passes on the number of frames and the question."""


@MULTIMODAL_REGISTRY.register_processor(
    LlavaNextVideoProcessor,
    info=LlavaNextVideoInfo,
    dummy_inputs=stock.LlavaNextVideoDummyInputsBuilder,
)
class FramefoldLlavaNextVideo(
    FrameRuns, stock.LlavaNextVideoForConditionalGeneration, SupportsMRoPE, SupportsMultiModalPruning
):
    """LLaVA-NeXT-Video with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        vision = self.config.vision_config
        self.side = vision.image_size // vision.patch_size // self.config.spatial_pool_stride
        self.has_gaps = vllm_config.model_config.uses_mrope
        self.hold_compressor(vllm_config, (self.side, self.side))

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        given = self._parse_and_validate_video_input(**kwargs)
        if given is None:
            return ()
        videos = list(self._process_video_pixels(given))
        return tuple(map(self._compressed, videos, self.questions_of(given, len(videos))))

    def _compressed(self, video: Tensor, question: Tensor | None) -> Tensor:
        clip = Encoded.from_grid(video.unflatten(0, (-1, self.side, self.side)))
        tokens, (features,) = self.compress_video(clip, question)
        return self.with_rows(features, tokens.index)
