"""``FramefoldLlavaOnevision``: LLaVA-OneVision in vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import llava_onevision as stock
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModalPruning
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig

from framefold.adapters.hosts.base.encoded import Encoded

from .compression import VideoCompression
from .positions import MediaPositions, line_positions, position_channels
from .settings import ServingSettings

FRAMES = "framefold_frames"

# Of the video with which the engine measures its memory. Its own rule increases the number until the tokens no longer
# fit, but a budget in tokens always fits.
DUMMY_FRAMES = 8

TOWER, SAVED_LEVEL = "vision_tower.", "vision_model."


class LlavaOnevisionInfo(stock.LlavaOnevisionProcessingInfo):
    """Counts the tokens that the compressor keeps, and the newline behind them."""

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        per_frame = self._get_num_frame_tokens(image_width=image_width, image_height=image_height)
        return ServingSettings.of(self.get_hf_config()).count(per_frame, num_frames) + 1

    def _get_max_video_frames(self, max_tokens: int) -> int:
        return DUMMY_FRAMES


class LlavaOnevisionProcessor(stock.LlavaOnevisionMultiModalProcessor):
    """Passes on the number of frames, because the engine drops the pixels of a video whose prefix is cached."""

    def _apply_hf_processor_main(self, *args: Any, **kwargs: Any) -> Any:
        data = super()._apply_hf_processor_main(*args, **kwargs)
        if data.get("pixel_values_videos") is not None:
            data[FRAMES] = torch.tensor([len(video) for video in data["pixel_values_videos"]])
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        return fields | {FRAMES: MultiModalFieldConfig.batched("video", keep_on_cpu=True)}


@MULTIMODAL_REGISTRY.register_processor(
    LlavaOnevisionProcessor,
    info=LlavaOnevisionInfo,
    dummy_inputs=stock.LlavaOnevisionDummyInputsBuilder,
)
class FramefoldLlavaOnevision(
    MediaPositions,
    VideoCompression,
    stock.LlavaOnevisionForConditionalGeneration,
    SupportsMRoPE,
    SupportsMultiModalPruning,
):
    """LLaVA-OneVision with a compressor behind its vision encoder.

    Positions with gaps go through M-RoPE with three equal axes, see
    :class:`~framefold.adapters.serving.vllm.configure.LineConfiguration`.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.has_gaps = vllm_config.model_config.uses_mrope
        self.hold_compressor(vllm_config, (self.side, self.side))

    @property
    def side(self) -> int:
        """Side of the grid of a frame, which the host pools 2 x 2, rounding up."""
        vision = self.config.vision_config
        return -(-(vision.image_size // vision.patch_size) // 2)

    def placeholder_ids(self) -> tuple[int, ...]:
        return self.config.image_token_index, self.config.video_token_index

    def advance(self, feature: Any) -> int:
        if feature.modality == "image":
            return feature.mm_position.length
        return int(feature.data[FRAMES].data) * self.side**2 + 1

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return super().load_weights(_rename_tower(weights))

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        media: list[Tensor] = []
        for modality, given in self._parse_and_validate_multimodal_inputs(**kwargs).items():
            if modality == "image":
                images = (image.flatten(0, -2) for image in self._process_image_input(given))
                media += [self._with_positions(image, torch.arange(len(image))) for image in images]
            else:
                media += [self._compressed(video.flatten(0, -2)) for video in self._process_video_pixels(given)]
        return tuple(media)

    def _compressed(self, video: Tensor) -> Tensor:
        on_grid = torch.arange(len(video), device=video.device) < len(video) - 1
        clip = Encoded(video[:-1].unflatten(0, (-1, self.side, self.side)), video[-1:], on_grid)
        tokens, (features,) = self.compress_video(clip)
        return self._with_positions(features, clip.kept_placeholders(tokens).sort().values)

    def _with_positions(self, features: Tensor, rows: Tensor) -> Tensor:
        if not self.has_gaps:
            return features
        return torch.cat([features, position_channels(line_positions(rows), 0, features)], 1)


def _rename_tower(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Add a level to the names of the tower, which transformers 5 does not save and the engine's class still has."""
    for name, value in weights:
        head, tower, tail = name.partition(TOWER)
        yield (head + tower + SAVED_LEVEL + tail if tower and not tail.startswith(SAVED_LEVEL) else name), value
