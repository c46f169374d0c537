"""``FramefoldQwen2VL``: Qwen2-VL in vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from vllm.model_executor.models import qwen2_vl as stock
from vllm.model_executor.models.interfaces import SupportsMultiModalPruning
from vllm.multimodal import MULTIMODAL_REGISTRY

from framefold.adapters.serving.vllm.settings import ServingSettings

from .patch_grids import PatchRuns
from .questions import QuestionInfo, QuestionProcessor


class Qwen2VLInfo(QuestionInfo, stock.Qwen2VLProcessingInfo):
    """Does not know the question."""


class Qwen2VLProcessor(QuestionProcessor, stock.Qwen2VLMultiModalProcessor):
    """Lays out prompts for the compressor's number of tokens, and passes on the question."""

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        settings = ServingSettings.of(self.info.get_hf_config())
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)

        def shortened(update: Any) -> Any:
            def replacement(item: int) -> Any:
                placeholders = update.replacement(item)
                return placeholders[: settings.count(len(placeholders), 1)]

            return replace(update, replacement=replacement)

        return [shortened(update) if update.modality == "video" else update for update in updates]


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor,
    info=Qwen2VLInfo,
    dummy_inputs=stock.Qwen2VLDummyInputsBuilder,
)
class FramefoldQwen2VL(PatchRuns, stock.Qwen2VLForConditionalGeneration, SupportsMultiModalPruning):
    """Qwen2-VL with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.hold_compressor(vllm_config)

    def get_encoder_cudagraph_config(self) -> Any:
        """Leave no medium to graphs of the encoder, which would bypass the compressor."""
        config = super().get_encoder_cudagraph_config()
        config.modalities = []
        return config

    def _process_image_input(self, image_input: Any) -> tuple[Tensor, ...]:
        return self.with_grid_positions(super()._process_image_input(image_input), image_input)

    def _process_video_input(self, video_input: Any) -> tuple[Tensor, ...]:
        videos = super()._process_video_input(video_input)
        grids = map(self.token_grid, video_input["video_grid_thw"].tolist())
        return tuple(map(self.compress_run, videos, grids, self.questions_of(video_input, len(videos))))
