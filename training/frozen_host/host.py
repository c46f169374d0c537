"""Frozen hosts, which encode videos and prompts.

The result is an :class:`~framefold.data.shards.encoded.EncodedSample`: the features of a video and the token ids of its
prompts. It is read from shards of features or computed here, by a tinyhost from raw frames and by other hosts through
their processor.

Dimensions: B videos, T frames, S pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from framefold.adapters.hosts.base.family import Family, family_of
from framefold.adapters.hosts.prompt.vision import encode
from framefold.data.evidence import relocate_evidence
from framefold.data.shards.encoded import EncodedSample
from framefold.data.shards.sample import Sample, VideoSample, check_special_tokens
from framefold.errors import DataError, HostError, InputError, PromptError

from .answer_format import split_prompts
from .locate import HostFolder
from .question_rows import answer_ids
from .vocabulary import special_tokens, warn_unknown_words


@dataclass(frozen=True)
class Host:
    """A frozen video-LLM in eval mode.

    Attributes:
        model: the transformers model.
        tokenizer: of the model.
        source: the folder that it was loaded from.
        frames: maximum number of frames of a video that it encodes, evenly spaced; None for all.
        vision_chunk: number of frames that the vision encoder takes at once; None for all.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    source: HostFolder | None = field(default=None, kw_only=True)
    frames: int | None = field(default=None, kw_only=True)
    vision_chunk: int | None = field(default=None, kw_only=True)

    @cached_property
    def family(self) -> Family:
        """Its host family."""
        return family_of(self.model)

    @property
    def width(self) -> int:
        """D, width of its visual tokens on input to the language model."""
        return self.model.config.get_text_config().hidden_size

    @property
    def pixels_per_token(self) -> int:
        """Side in pixels of the square of a frame that becomes one visual token."""
        vision = self.model.config.vision_config
        merged = getattr(vision, "spatial_merge_size", None)
        return vision.patch_size * merged if merged else vision.image_size // self.family.grid(self.model)[0]

    def encode_sample(self, sample: Sample, attention: bool = False) -> EncodedSample:
        """Encode a video with its prompts, or check stored features; the result has the device and dtype of the host.

        Args:
            sample: a video or stored features.
            attention: also return the attention that each token received in the vision encoder.

        Raises:
            DataError: Features that do not fit this host, or that lack the requested attention; or a question or an
                answer that this host cannot take.
            InputError, PromptError: A video or a question that the processor of this host refuses.
            HostError: Features of another host, or a video that this host cannot encode in this environment.
        """
        check_special_tokens(sample.key, sample.questions, self.special_tokens)
        if isinstance(sample, EncodedSample):
            self._check(sample, attention)
            return _move_sample(sample, self.model.device, self.model.dtype)
        try:
            encoded = self.encode_video(sample if self.frames is None else sample.subsample(self.frames), attention)
        except (InputError, PromptError) as error:
            raise type(error)(f"{sample.key}: {error}") from error
        _check_replies(encoded)
        low, high = torch.aminmax(encoded.features)  # one pass, no copy; NaN propagates
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise InputError(f"{sample.key}: the vision encoder of this host returned NaN or infinite features")
        return encoded

    def encode_video(self, sample: VideoSample, attention: bool) -> EncodedSample:
        """Encode a video with its prompts; evidence in the result is in steps of the grid.

        Raises:
            HostError: This host cannot encode videos in this environment; the message says what to do.
        """
        raise NotImplementedError

    def check_features_host(self, record: Any, features: str) -> None:
        """Refuse features of another host; each record is compared once.

        Args:
            record: what the features keep of their host, see
                :meth:`~framefold.training.frozen_host.locate.HostFolder.base_model`.
            features: name of the features, for the message.

        Raises:
            HostError: The features are of another or of an unknown host.
        """
        key = json.dumps(record, sort_keys=True, default=str)
        if key in self._accepted:
            return
        if self.source is None or not isinstance(record, dict):
            raise HostError(f"{features} does not say which host encoded it: write it with 'framefold shards features'")
        self.source.check_features_host(record, self.width, features)
        self._accepted.add(key)

    @cached_property
    def _accepted(self) -> set[str]:
        return set()

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer turns into a placeholder of pictures, or into a mark of the conversation."""
        return special_tokens(self.tokenizer, self.model.config)

    def check_videos(self) -> None:
        """Check that this host can encode videos in this environment.

        Raises:
            HostError, MissingExtraError: It cannot; the message says what to do.
        """
        if not any(True for _ in self.model.base_model.get_submodule(self.family.vision).parameters()):
            raise HostError("the vision encoder of this host was dropped, since it was trained on features")

    def drop_vision(self) -> None:
        """Delete the vision encoder, which features do not need."""
        setattr(self.model.base_model, self.family.vision, nn.Module())

    def _check(self, sample: EncodedSample, attention: bool) -> None:
        self.check_features_host(sample.host, sample.key)
        texts = list(chain(*sample.prompts, *sample.replies))
        ids = [*sample.columns["input_ids"].unique().tolist(), *texts]
        known = self.model.config.get_text_config().vocab_size
        columns = {name: column[None] for name, column in sample.columns.items()}
        placeholders = self.family.placeholders(self.model, columns)[0]
        problem = None
        if max(ids) >= known:
            problem = f"has token {max(ids)}, this host knows {known}"
        elif int(placeholders.sum()) != len(sample.on_grid) or not bool(placeholders[-1]):
            problem = f"has {len(sample.on_grid)} visual tokens for {int(placeholders.sum())} placeholders"
        elif unknown := sample.columns.keys() - {"input_ids", *self.family.columns}:
            problem = f"has columns that this host does not take: {', '.join(sorted(unknown))}"
        elif bool(self.family.placeholders(self.model, {"input_ids": torch.tensor([texts])}).any()):
            problem = "has a placeholder of this host in a question or an answer"
        elif attention and sample.attention is None:
            problem = "lacks the attention of the vision encoder, which this compressor needs: encode the videos with"
            problem += " 'framefold shards features --attention'"
        if problem:
            raise DataError(f"{sample.key} {problem}")
        _check_replies(sample)


@dataclass(frozen=True)
class Tinyhost(Host):
    """A host that 'framefold tinyhost train' wrote; its processor only resizes and normalises.

    Attributes:
        image_size: height and width of its input, in pixels.
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixel_values(self, frames: np.ndarray | Sequence[np.ndarray]) -> Tensor:
        """Resize and normalise frames.

        Args:
            frames: uint8 (T, S, S, 3), or B videos of the same shape.

        Returns:
            (B, T, 3, image_size, image_size), float32.

        Raises:
            HostError: The frames have another shape or dtype.
        """
        videos = torch.from_numpy(np.asarray(frames))
        if videos.ndim == 4:
            videos = videos[None]
        if videos.ndim != 5 or videos.shape[-1] != 3 or videos.dtype != torch.uint8:
            raise HostError(f"frames must be uint8 (T, S, S, 3), got {videos.dtype} {tuple(videos.shape)}")
        pixels = videos.movedim(-1, 2).float() / 255
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            flat = F.interpolate(pixels.flatten(0, 1), size=size, mode="bicubic", antialias=True)
            pixels = flat.clamp(0, 1).unflatten(0, pixels.shape[:2])
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B, T, 3, S, S) to visual tokens (B, T*H*W + 1, D); the last token is the newline."""
        return self.model.get_video_features(pixels, return_dict=True).pooler_output

    def encode_video(self, sample: VideoSample, attention: bool) -> EncodedSample:
        device = self.model.device
        self._check_words(sample)
        pixels = self.pixel_values(sample.frames.numpy()).to(device, self.model.dtype)
        (clip,) = encode(self.model, {"pixel_values_videos": [pixels]}, attention, vision_chunk=self.vision_chunk)
        texts = [question.text for question in sample.questions]
        histories = [question.history for question in sample.questions]
        video_token = self.model.config.video_token_id
        prefix, prompts = split_prompts(self.tokenizer, texts, len(clip), video_token, histories)
        questions = sample.questions
        if sample.frame_numbers is not None:
            steps = {number: step for step, number in enumerate(sample.frame_numbers)}
            questions = tuple(replace(q, evidence=relocate_evidence(q.evidence, steps)) for q in questions)
        return EncodedSample(
            sample.key,
            questions,
            tuple(map(tuple, prompts)),
            tuple(tuple(answer_ids(self.tokenizer, question.answer)) for question in questions),
            len(prefix),
            features=clip.features,
            extra=clip.extra,
            on_grid=clip.on_grid,
            times=sample.times.to(device),
            columns={"input_ids": torch.tensor(prefix, device=device)},
            positions=torch.arange(len(prefix), device=device),
            attention=clip.attention,
        )

    def _check_words(self, sample: VideoSample) -> None:
        """Warn once about questions or answers with words that this host does not know."""
        asked = [question for question in sample.questions if question.type]  # without a type, it is a placeholder
        texts = [text for question in asked for text in (question.text, question.answer)]
        if not self._warned and warn_unknown_words(self.name, self.tokenizer, texts, sample.key, stacklevel=2):
            self._warned.append(sample.key)

    @cached_property
    def _warned(self) -> list[str]:
        return []

    @property
    def name(self) -> str:
        """The host as the user gave it."""
        return "this host" if self.source is None else self.source.name


def _check_replies(sample: EncodedSample) -> None:
    """Raise DataError if an answer has no token, such as one of characters that the tokenizer drops.

    An answer of "" is an unanswered question, from which distillation can learn; those in shards are refused as damage.
    """
    for number, (question, reply) in enumerate(zip(sample.questions, sample.replies, strict=True)):
        if question.answer and not reply:
            raise DataError(
                f"{sample.key} has an answer without tokens: questions[{number}].answer {question.answer!r}"
            )


def _move_sample(sample: EncodedSample, device: torch.device, dtype: torch.dtype) -> EncodedSample:
    """Move a sample to a device, and its features to a dtype."""
    converted = {name: getattr(sample, name).to(device, dtype) for name in ("features", "extra")}
    moved = {name: getattr(sample, name).to(device) for name in ("on_grid", "times", "positions")}
    return replace(
        sample,
        **converted,
        **moved,
        columns={name: column.to(device) for name, column in sample.columns.items()},
        deepstack=tuple(layer.to(device, dtype) for layer in sample.deepstack),
        attention=None if sample.attention is None else sample.attention.to(device),
    )
