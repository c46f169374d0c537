"""``FramefoldQwen3VL``: Qwen3-VL in vLLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import qwen3_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.serving.vllm.positions import anchor_mask, framed_positions, position_channels
from framefold.adapters.serving.vllm.settings import ServingSettings

from .patch_grids import FramedGrids
from .questions import QuestionInfo, QuestionProcessor


class Qwen3VLInfo(QuestionInfo, stock.Qwen3VLProcessingInfo):
    """Does not know the question."""


class Qwen3VLProcessor(QuestionProcessor, stock.Qwen3VLMultiModalProcessor):
    """Lays out prompts for the compressor's number of tokens, and passes on the question."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        # The engine looks these names up whenever it lays out a prompt. A process serves one model.
        count = ServingSettings.of(info.get_hf_config()).count
        stock.compute_retained_tokens_count = stock.vidcom2_compute_retained_tokens_count = count


class FramedVideos(FramedGrids):
    """Mixin for the Qwen3 families; deepstack layers are merged as the tokens are."""

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> tuple[Tensor, ...]:
        grids = video_input["video_grid_thw"].tolist()
        return tuple(
            map(
                self._compressed,
                video_embeds_split,
                grids,
                video_input.timestamps,
                self.questions_of(video_input, len(grids)),
            )
        )

    def _compressed(self: Any, video: Tensor, patches: list[int], timestamps: Any, question: Tensor | None) -> Tensor:
        grid = self.token_grid(patches)
        features, *deepstack = (layer.unflatten(0, grid) for layer in video.split(self.visual_dim, 1))
        tokens, streams = self.compress_video(Encoded.from_grid(features, tuple(deepstack)), question)
        kept = anchor_mask(tokens.index, len(video))
        return self._create_final_video_embeddings(
            video_embeddings=torch.cat(streams, 1),
            num_tokens_per_frame=kept.unflatten(0, (grid[0], -1)).sum(1).tolist(),
            timestamps=timestamps,
            video_grid_thw=patches,
            retention_mask=kept,
        )

    def _get_expanded_positions(
        self: Any,
        device: torch.device,
        seq_len: int,
        video_grid_thw: Any,
        num_tokens_per_frame: list[int],
        timestamps: Any,
        is_video_embed: Tensor,
        is_vision_start: Tensor,
        retention_mask: Tensor,
    ) -> Tensor:
        """Return the channels that the engine appends to a video and the text between its frames."""
        starts = is_vision_start.nonzero()[:, 0].tolist()
        relative = framed_positions(self.token_grid(video_grid_thw), retention_mask, starts, seq_len)
        # In the engine's prompt, all placeholders of a shortened video are in its first frame.
        return position_channels(relative, starts[0] + 1, torch.zeros((), device=device, dtype=self.visual.dtype))


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor,
    info=Qwen3VLInfo,
    dummy_inputs=stock.Qwen3VLDummyInputsBuilder,
)
class FramefoldQwen3VL(FramedVideos, stock.Qwen3VLForConditionalGeneration):
    """Qwen3-VL with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "model") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.hold_compressor(vllm_config)
