"""Mixins for hosts whose videos are frames with text between them, where the engine has no way to prune such videos.

Which tokens of a frame are kept is known only when the video is encoded. The prompt therefore has all placeholders of a
video in its first frame, and the model replaces all rows of the video, the text too. Its ids travel as a field, with
one placeholder for each frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig

from framefold.adapters.serving.vllm.settings import ServingSettings
from framefold.errors import InputError

TEXT = "framefold_text"  # field of a video


class FrameTextProcessor:
    """Mixin for a processor: passes on the text of a video, and lays out prompts for the compressor's tokens."""

    info: Any

    def frame_text(self, mm_items: Any, data: Mapping[str, Any], item: int) -> list[int]:
        """Return the ids of a video with one placeholder, the id of images, for each frame."""
        raise NotImplementedError

    def frames_and_tokens(self, fields: Mapping[str, Any]) -> tuple[int, int]:
        """Return the number of frames of a video, and of tokens of a frame, from its fields."""
        raise NotImplementedError

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        data = super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
        videos = range(mm_items.get_count("video", strict=False))
        if videos:
            data[TEXT] = [torch.tensor(self.frame_text(mm_items, data, item)) for item in videos]
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        return fields | {TEXT: MultiModalFieldConfig.batched("video")}

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        config = self.info.get_hf_config()
        settings, placeholder = ServingSettings.of(config), config.image_token_id

        def video(item: int) -> list[int]:
            fields = {name: field.data for name, field in out_mm_kwargs["video"][item].items()}
            text = fields[TEXT].tolist()
            frames, tokens = self.frames_and_tokens(fields)
            if text.count(placeholder) != frames:
                raise InputError(f"a video has {frames} steps in time, but {text.count(placeholder)} times")
            first = text.index(placeholder)
            rest = [one for one in text if one != placeholder]
            return rest[:first] + [placeholder] * settings.count(tokens, frames) + rest[first:]

        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)  # type: ignore[misc]
        return [replace(update, replacement=video) if update.modality == "video" else update for update in updates]


class VideoText:
    """Mixin for a model class, before its own base: videos with the text between their frames."""

    config: Any

    def _parse_and_validate_video_input(self, **kwargs: Any) -> Any:
        text = kwargs.pop(TEXT, None)
        video_input = super()._parse_and_validate_video_input(**kwargs)  # type: ignore[misc]
        if video_input is not None:
            setattr(video_input, TEXT, text)
        return video_input

    def with_text(self: Any, text: Tensor, kept: Tensor, features: Tensor) -> tuple[Tensor, list[int]]:
        """Return the rows of a compressed video, and the row before the tokens of each frame.

        Args:
            text: the ids of the video, see :class:`FrameTextProcessor`.
            kept: (T*H*W,) bool, the anchors of the tokens that are kept.
            features: (K, D), their features.
        """
        ids = text.flatten().cpu()
        is_frame = ids == self.config.image_token_id
        lengths = torch.ones_like(ids)
        lengths[is_frame] = kept.unflatten(0, (int(is_frame.sum()), -1)).sum(1)
        is_token = is_frame.repeat_interleave(lengths).to(features.device)
        rows = features.new_empty(len(is_token), features.shape[1])
        rows[is_token] = features
        rows[~is_token] = self.get_language_model().embed_input_ids(ids[~is_frame].to(rows.device)).to(rows)
        return rows, ((lengths.cumsum(0) - lengths)[is_frame] - 1).tolist()
