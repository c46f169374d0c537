"""``FramefoldQwen3_5``: Qwen3.5 in vLLM, whose language model has recurrent layers."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import qwen3_5 as stock
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from .questions import QuestionInfo
from .qwen3_vl import FramedVideos, Qwen3VLProcessor


class Qwen3_5Info(QuestionInfo, stock.Qwen3_5ProcessingInfo):
    """Does not know the question."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor,
    info=Qwen3_5Info,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class FramefoldQwen3_5(FramedVideos, stock.Qwen3_5ForConditionalGeneration):
    """Qwen3.5 with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "model") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.hold_compressor(vllm_config)
