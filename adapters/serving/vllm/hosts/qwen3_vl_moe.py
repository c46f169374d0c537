"""``FramefoldQwen3VLMoe``: Qwen3-VL with a mixture of experts in vLLM."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import qwen3_vl_moe as stock
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from .questions import QuestionInfo
from .qwen3_vl import FramedVideos, Qwen3VLProcessor


class Qwen3VLMoeInfo(QuestionInfo, stock.Qwen3VLMoeProcessingInfo):
    """Does not know the question."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor,
    info=Qwen3VLMoeInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class FramefoldQwen3VLMoe(FramedVideos, stock.Qwen3VLMoeForConditionalGeneration):
    """Qwen3-VL-MoE with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.hold_compressor(vllm_config)
