"""``FramefoldInternVL``: InternVL (the folders that transformers loads) in vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import interns1 as stock
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModalPruning
from vllm.multimodal import MULTIMODAL_REGISTRY

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.serving.vllm.positions import anchor_mask, framed_rows

from .frame_runs import Line
from .frame_text import TEXT, FrameTextProcessor, VideoText
from .questions import QuestionInfo, QuestionProcessor


class InternVLInfo(QuestionInfo, stock.InternS1ProcessingInfo):
    """Does not know the question."""


class InternVLProcessor(QuestionProcessor, FrameTextProcessor, stock.InternS1MultiModalProcessor):
    """Lays out prompts for the compressor's number of tokens, and passes on the question and the text of a video."""

    def frame_text(self, mm_items: Any, data: Mapping[str, Any], item: int) -> list[int]:
        processor = self.info.get_hf_processor()
        frame = processor.start_image_token + processor.image_token + processor.end_image_token
        numbers = range(1, int(data["video_num_patches"][item]) + 1)
        text = "\n".join(f"Frame{number}: {frame}" for number in numbers)
        return self.info.get_tokenizer()(text, add_special_tokens=False)["input_ids"]

    def frames_and_tokens(self, fields: Mapping[str, Any]) -> tuple[int, int]:
        return int(fields["video_num_patches"]), self.info.get_hf_processor().image_seq_length


@MULTIMODAL_REGISTRY.register_processor(
    InternVLProcessor,
    info=InternVLInfo,
    dummy_inputs=stock.InternS1DummyInputsBuilder,
)
class FramefoldInternVL(
    VideoText, Line, stock.InternS1ForConditionalGeneration, SupportsMRoPE, SupportsMultiModalPruning
):
    """InternVL with a compressor behind its vision encoder."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.side = int(self.num_image_token**0.5)
        self.has_gaps = vllm_config.model_config.uses_mrope
        self.hold_compressor(vllm_config, (self.side, self.side))

    def placeholder_ids(self) -> tuple[int, ...]:
        return (self.config.image_token_id,)  # also of videos

    def advance(self, feature: Any) -> int:
        frames = int(feature.data["video_num_patches"].data)
        texts = feature.mm_position.length - self.framefold_settings.count(self.side**2, frames)
        return texts + frames * self.side**2

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        videos = [feature for feature in mm_features if feature.modality == "video"]
        return super().get_mrope_input_positions(input_tokens, videos)  # images are numbered like text

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        media: list[Tensor] = []
        for modality, given in self._parse_and_validate_multimodal_inputs(**kwargs).items():
            features = self._process_vision_input(given)
            if modality == "images":
                media += [self.with_rows(image, torch.arange(len(image))) for image in features]
            else:
                media += map(self._compressed, features, getattr(given, TEXT), self.questions_of(given, len(features)))
        return tuple(media)

    def _compressed(self, video: Tensor, text: Tensor, question: Tensor | None) -> Tensor:
        clip = Encoded.from_grid(video.unflatten(0, (-1, self.side, self.side)))
        tokens, (features,) = self.compress_video(clip, question)
        kept = anchor_mask(tokens.index, len(video))
        rows, starts = self.with_text(text, kept, features)
        return self.with_rows(rows, framed_rows(kept, starts, len(rows)), starts[0] + 1)
