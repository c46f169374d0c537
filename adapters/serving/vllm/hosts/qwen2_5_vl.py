"""``FramefoldQwen2_5_VL``: Qwen2.5-VL in vLLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import qwen2_5_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig

from framefold.adapters.serving.vllm.positions import Grid
from framefold.adapters.serving.vllm.settings import ServingSettings

from .patch_grids import PatchRuns
from .questions import QuestionInfo, QuestionProcessor

SECONDS = "framefold_second_bits"  # of a step of the grid in time, as the bits of a float32


class Qwen2_5VLInfo(QuestionInfo, stock.Qwen2_5_VLProcessingInfo):
    """Does not know the question."""


class Qwen2_5VLProcessor(QuestionProcessor, stock.Qwen2_5_VLMultiModalProcessor):
    """Lays out prompts for the compressor's number of tokens, and passes on the question and exact times of frames."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        # The engine looks this name up whenever it lays out a prompt. A process serves one model.
        stock.compute_retained_tokens_count = ServingSettings.of(info.get_hf_config()).count

    def _postprocess_hf_mm_data(self, mm_inputs: Any, hf_processor_mm_kwargs: Any, processed_data: Any) -> Any:
        """Add the seconds as integers: the engine casts floating fields to the dtype of the model, which moves frames.

        Seconds that were rounded by then are computed again from the metadata of the video.
        """
        data = super()._postprocess_hf_mm_data(mm_inputs, hf_processor_mm_kwargs, processed_data)
        if data.get("second_per_grid_ts") is not None and mm_inputs.get("video_metadata"):
            frames = self.info.get_hf_processor().video_processor.temporal_patch_size
            exact = torch.tensor(
                [frames / meta.sampled_fps for meta in mm_inputs["video_metadata"]], dtype=torch.float32
            )
            given = torch.as_tensor(data["second_per_grid_ts"]).float().reshape(-1)
            data[SECONDS] = torch.where(torch.isclose(exact, given, rtol=0.01), exact, given).view(torch.int32)
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        return fields | {SECONDS: MultiModalFieldConfig.batched("video", keep_on_cpu=True)}


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2_5VLProcessor,
    info=Qwen2_5VLInfo,
    dummy_inputs=stock.Qwen2_5_VLDummyInputsBuilder,
)
class FramefoldQwen2_5_VL(PatchRuns, stock.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.hold_compressor(vllm_config)

    def step(self, fields: Any) -> Tensor:
        if SECONDS in fields:
            return self._step(fields[SECONDS].data.reshape(()).view(torch.float32))
        return self._step(fields["second_per_grid_ts"].data.reshape(()).float())

    def _step(self, second: Tensor) -> Tensor:
        return self.config.vision_config.tokens_per_second * second

    def _parse_and_validate_video_input(self, **kwargs: Any) -> Any:
        bits = kwargs.pop(SECONDS, None)
        video_input = super()._parse_and_validate_video_input(**kwargs)
        if video_input is not None and bits is not None:
            video_input.second_per_grid_ts = torch.as_tensor(bits).reshape(-1).view(torch.float32)
        return video_input

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> tuple[Tensor, ...]:
        grids = [self.token_grid(patches) for patches in video_input["video_grid_thw"].tolist()]
        seconds = [one.reshape(()).float().cpu() for one in video_input["second_per_grid_ts"]]
        questions = self.questions_of(video_input, len(grids))
        return tuple(map(self._compressed, video_embeds_split, grids, seconds, questions))

    def _compressed(self, video: Tensor, grid: Grid, second: Tensor, question: Tensor | None) -> Tensor:
        times = torch.arange(grid[0], dtype=torch.float32) * float(second)
        return self.compress_run(video, grid, question, self._step(second), times.to(video.device))
