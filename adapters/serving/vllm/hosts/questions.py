"""The question of a request, for compressors that choose the tokens of a video by it.

It travels as ``mm_processor_kwargs`` of the request, which are part of the key of the engine's caches. So a video is
encoded and compressed once for each question, and no cached result is used for another question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig

from framefold.adapters.serving.vllm.settings import ServingSettings
from framefold.errors import InputError

QUESTION = "question"  # in mm_processor_kwargs
TOKENS = "framefold_question"  # field of a video: the ids of the question's tokens

EXAMPLE = '"mm_processor_kwargs": {"question": "..."}'

LONGEST = 8192  # characters of a question


class QuestionInfo:
    """Mixin for the information of a processor, which does not know the question."""

    def get_hf_processor(self: Any, **kwargs: Any) -> Any:
        return super().get_hf_processor(**_without_question(kwargs))  # type: ignore[misc]


class QuestionProcessor:
    """Mixin for a processor: the tokens of the question become a field of each video."""

    info: Any

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        data = super()._apply_hf_processor_main(mm_items, _without_question(hf_kwargs))  # type: ignore[misc]
        videos = mm_items.get_count("video", strict=False)
        if videos and ServingSettings.of(self.info.get_hf_config()).reads_question:
            data[TOKENS] = [self._tokens(hf_kwargs.get(QUESTION))] * videos
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        return fields | {TOKENS: MultiModalFieldConfig.batched("video")}

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        inputs.hf_processor_mm_kwargs = {**inputs.hf_processor_mm_kwargs, QUESTION: "?"}
        return inputs

    def _tokens(self, question: Any) -> Tensor:
        """Return the ids of a question, as ``framefold.attach`` takes them from its text.

        Raises:
            InputError: there is no question; the engine refuses the request.
        """
        if not isinstance(question, str) or not question.strip() or len(question) > LONGEST:
            raise InputError(f"the compressor of this server chooses tokens by the question: send {EXAMPLE}")
        ids = self.info.get_tokenizer()(question, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError("the question has no token")
        return torch.tensor(ids)


class VideoQuestions:
    """Mixin for a model class, before its own base: the questions of the videos that it encodes."""

    def _parse_and_validate_video_input(self, **kwargs: Any) -> Any:
        ids = kwargs.pop(TOKENS, None)
        video_input = super()._parse_and_validate_video_input(**kwargs)  # type: ignore[misc]
        if video_input is not None:
            setattr(video_input, TOKENS, ids)
        return video_input

    def questions_of(self: Any, video_input: Any, videos: int) -> list[Tensor | None]:
        """Return the (Q, D) embeddings of the question of each video; None if the compressor reads none."""
        ids = getattr(video_input, TOKENS)
        if ids is None:
            return [None] * videos
        return [self.get_language_model().embed_input_ids(one.flatten()) for one in ids]


def _without_question(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != QUESTION}
