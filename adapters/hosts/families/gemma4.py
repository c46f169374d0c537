"""Gemma 4: 1-D positions, one run of placeholders per frame behind its time as text, padded rows of patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family, features_of, register_family
from framefold.errors import InputError

PLACES, COUNTS = "video_position_ids", "num_frames_per_video"


class Gemma4(Family):
    """``Gemma4ForConditionalGeneration``: a token per square of ``pooling_kernel_size`` patches.

    The tokens of a frame that are kept still see each other in larger hosts, as these read ``mm_token_type_ids``.
    """

    model_type = "gemma4"
    classes = ("Gemma4ForConditionalGeneration",)
    windowed = True
    frame_text = r"(?<=>)\d{2,}:\d{2}|\d{2}:\d{2}"  # after the frame before, or after other text
    vision_inputs = ("pixel_values_videos", "pixel_values", PLACES, "image_position_ids", COUNTS)

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        return 8, 8  # nominal: up to 70 tokens per frame, of any shape

    def side(self, model: PreTrainedModel) -> int:
        """Return the side of a token, in units of the places of the patches."""
        return model.config.vision_config.pooling_kernel_size

    def patch(self, model: PreTrainedModel) -> int:
        """Return the side of a patch in pixels."""
        return model.config.vision_config.patch_size

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        side, patch = self.side(model), self.patch(model)
        h, w = (side * max(1, round(one / (side * patch))) for one in (height, width))
        columns, rows = torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")
        places = torch.stack([columns, rows], -1).flatten(0, 1).expand(frames, -1, -1)
        return {self.pixels: torch.zeros(frames, h * w, 3 * patch**2), PLACES: places, COUNTS: torch.tensor([frames])}

    def prefills_in_chunks(self, model: PreTrainedModel) -> bool:
        return model.config.get_text_config().use_bidirectional_attention != "vision"

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        clips, side = self._places(inputs), self.side(model)
        if chunk is None:
            features = features_of(model, "video", inputs).pooler_output
        else:
            features = self._features_in_chunks(model, inputs, chunk)
        shapes = [((clip.flatten(0, 1).amax(0) + 1) // side).tolist() for clip in clips]
        return [
            Encoded.from_grid(part.unflatten(0, (len(clip), h, w)))
            for part, clip, (w, h) in zip(features, clips, shapes, strict=True)
        ]

    def _features_in_chunks(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int) -> list[Tensor]:
        """Return the (tokens, D) features of each video, encoded some frames at a time."""
        videos, clips = [], self._places(inputs)
        for pixels, places in zip(inputs[self.pixels].split([len(clip) for clip in clips]), clips, strict=True):
            parts = [
                features_of(
                    model, "video", {**inputs, self.pixels: some, PLACES: where, COUNTS: torch.tensor([len(some)])}
                )
                for some, where in zip(pixels.split(chunk), places.split(chunk), strict=True)
            ]
            videos.append(torch.cat([part.pooler_output[0] for part in parts]))
        return videos

    def _places(self, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return, per video, the (T, patches, 2) column and row of each patch, -1 for padding."""
        pixels, places, counts = (inputs.get(name) for name in (self.pixels, PLACES, COUNTS))
        if not isinstance(pixels, Tensor):
            raise InputError(f"{self.pixels} must be a tensor (return_tensors='pt'), got {type(pixels).__name__}")
        if pixels.ndim != 3 or pixels.numel() == 0:
            raise InputError(f"{self.pixels} must be (frames, patches, values), not empty; got {tuple(pixels.shape)}")
        if not isinstance(places, Tensor) or places.shape != (*pixels.shape[:2], 2):
            raise InputError(f"{PLACES} must be {(*pixels.shape[:2], 2)}; the processor returns it")
        frames = [] if counts is None else torch.as_tensor(counts).flatten().tolist()
        if sum(frames) != len(pixels) or min(frames) < 1:
            raise InputError(f"{COUNTS} must add up to {len(pixels)} frames, got {frames}; the processor returns it")
        return places.split(frames)

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        side, values = self.side(model), torch.cat(received)
        grids: list[Tensor | None] = []
        for clip, places in zip(clips, self._places(inputs), strict=True):
            grid = values.new_zeros(clip.features.shape[:3])
            frame, patch = (places != -1).all(-1).nonzero(as_tuple=True)
            column, row = (places[frame, patch] // side).unbind(-1)
            own, values = values[: len(places)], values[len(places) :]
            grids.append(grid.index_put_((frame, row, column), own[frame, patch] / side**2, accumulate=True))
        return grids

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        return BaseModelOutputWithPooling(pooler_output=tuple(streams[0]))  # type: ignore[arg-type]


register_family(Gemma4())
