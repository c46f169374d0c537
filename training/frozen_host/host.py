"""Frozen hosts and what they make of a sample.

What a host makes of a video, and how it wants to be asked, is an
:class:`~framefold.data.shards.encoded.EncodedSample`: read from shards of features, or made here. The embedded
host makes it from raw frames, others through their own processor.

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
from framefold.data.evidence import relocate
from framefold.data.shards.encoded import EncodedSample
from framefold.data.shards.sample import Sample, VideoSample
from framefold.errors import DataError, HostError

from .locate import FoundHost
from .question_rows import answer_ids, split_prompts


@dataclass(frozen=True)
class Host:
    """A frozen video-LLM in eval mode.

    Attributes:
        tokenizer: of its text.
        found: where it came from.
        frames: most frames of a video that it is shown, taken evenly; None: all.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    found: FoundHost | None = field(default=None, kw_only=True)
    frames: int | None = field(default=None, kw_only=True)

    @cached_property
    def family(self) -> Family:
        """What attaching knows about it."""
        return family_of(self.model)

    @property
    def width(self) -> int:
        """D, the width of its visual tokens where they enter the language model."""
        return self.model.config.get_text_config().hidden_size

    def see(self, sample: Sample, attention: bool = False) -> EncodedSample:
        """What this host makes of a sample, on its device and in its dtype.

        Args:
            attention: with the attention that each token received in the vision encoder.

        Raises:
            DataError: features that do not fit this host, or without the attention that is needed.
            HostError: features of another host, or no way to encode videos.
        """
        if isinstance(sample, EncodedSample):
            self._check(sample, attention)
            return _placed(sample, self.model.device, self.model.dtype)
        return self.encode_sample(sample if self.frames is None else sample.thinned(self.frames), attention)

    def encode_sample(self, sample: VideoSample, attention: bool) -> EncodedSample:
        """Encode a video; evidence is then in steps of the grid.

        Raises:
            HostError: this host cannot be shown videos here; the message says what to do.
        """
        raise NotImplementedError

    def check_made(self, made: Any, what: str) -> None:
        """Refuse features of another host; what was looked at once is remembered.

        Raises:
            HostError: another host, or nobody knows which one.
        """
        key = json.dumps(made, sort_keys=True, default=str)
        if key in self._accepted:
            return
        if self.found is None or not isinstance(made, dict):
            raise HostError(f"{what} does not tell which host made it: write it with 'framefold shards features'")
        self.found.check_made(made, self.width, what)
        self._accepted.add(key)

    @cached_property
    def _accepted(self) -> set[str]:
        return set()

    def check_videos(self) -> None:
        """Find out whether videos can be encoded.

        Raises:
            HostError, MissingExtraError: they cannot; the message says what to do.
        """
        if not any(True for _ in self.model.base_model.get_submodule(self.family.vision).parameters()):
            raise HostError("the vision encoder of this host was dropped, it has been trained on features")

    def drop_vision(self) -> None:
        """Forget the weights of the vision encoder, where only features will be seen."""
        setattr(self.model.base_model, self.family.vision, nn.Module())

    def _check(self, sample: EncodedSample, attention: bool) -> None:
        self.check_made(sample.host, sample.key)
        ids = [*sample.columns["input_ids"].unique().tolist(), *chain(*sample.prompts, *sample.replies)]
        known = self.model.config.get_text_config().vocab_size
        columns = {name: column[None] for name, column in sample.columns.items()}
        placeholders = self.family.placeholders(self.model, columns)[0]
        problem = None
        if max(ids) >= known:
            problem = f"has token {max(ids)}, this host knows {known}"
        elif int(placeholders.sum()) != len(sample.on_grid) or not bool(placeholders[-1]):
            problem = f"has {len(sample.on_grid)} visual tokens for {int(placeholders.sum())} placeholders"
        elif unknown := sample.columns.keys() - {"input_ids", *self.family.columns}:
            problem = f"has values of columns that this host does not take: {', '.join(sorted(unknown))}"
        elif attention and sample.attention is None:
            problem = "lacks the attention of the vision encoder, which this compressor needs: encode the videos with"
            problem += " 'framefold shards features --attention'"
        if problem:
            raise DataError(f"{sample.key} {problem}")


@dataclass(frozen=True)
class EmbeddedHost(Host):
    """A host that 'framefold tinyhost train' made: its processor does nothing but resize and normalise."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixel_values(self, frames: np.ndarray | Sequence[np.ndarray]) -> Tensor:
        """uint8 frames (T, S, S, 3), or equally long videos of them, to normalised pixels (B, T, 3, size, size)."""
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
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, T, 3, S, S) to the host's own visual tokens (B, T*H*W + 1, D); the last is the newline."""
        return self.model.get_video_features(pixels, return_dict=True).pooler_output

    def encode_sample(self, sample: VideoSample, attention: bool) -> EncodedSample:
        device = self.model.device
        pixels = self.pixel_values(sample.frames.numpy()).to(device, self.model.dtype)
        (clip,) = encode(self.model, {"pixel_values_videos": [pixels]}, attention)
        texts = [question.text for question in sample.questions]
        prefix, prompts = split_prompts(self.tokenizer, texts, len(clip), self.model.config.video_token_id)
        questions = sample.questions
        if sample.numbers is not None:
            steps = {number: step for step, number in enumerate(sample.numbers)}
            questions = tuple(replace(one, evidence=relocate(one.evidence, steps)) for one in questions)
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


def _placed(sample: EncodedSample, device: torch.device, dtype: torch.dtype) -> EncodedSample:
    """A sample on a device, its features in a dtype."""
    wide = {name: getattr(sample, name).to(device, dtype) for name in ("features", "extra")}
    own = {name: getattr(sample, name).to(device) for name in ("on_grid", "times", "positions")}
    return replace(
        sample,
        **wide,
        **own,
        columns={name: column.to(device) for name, column in sample.columns.items()},
        deepstack=tuple(layer.to(device, dtype) for layer in sample.deepstack),
        attention=None if sample.attention is None else sample.attention.to(device),
    )
