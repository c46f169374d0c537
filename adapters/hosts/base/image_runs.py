"""Base class of hosts that take a video as a run of images in the prompt, with text between the images.

Dimensions: I images in the batch, H W token grid of an image.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.errors import InputError

from .clips import pool_patches
from .encoded import Encoded
from .family import Family, features_of

CLIPS = "clips"


class FrameText(NamedTuple):
    """Content of the text that a processor writes before a frame.

    Attributes:
        order: number or seconds of the frame, which do not decrease within a video.
        begins: whether the frame is the first of a video; None if its text does not tell.
        counted: whether ``order`` is 1 higher than that of the frame before, or the same where a tokenizer has one
            token for all numbers.
    """

    order: int
    begins: bool | None
    counted: bool = False

    def follows(self, previous: FrameText) -> bool:
        """Return whether the frame may be the one after another frame of a video."""
        most = previous.order + 1 if self.counted else math.inf
        return previous.order <= self.order <= most and not self.begins


class ImageRuns(Family):
    """Base class of such hosts, which groups images into clips.

    The processor's text before an image shows whether it is a frame of a video; all other images are stills, also the
    tiles of one picture. Stills are never compressed. Without a tokenizer, the clips are guessed from the token ids:
    see :func:`guess_clips`. ``model(..., clips=...)`` overrides both with one number per image: equal numbers for the
    frames of a clip, -1 for a still.
    """

    modality = "image"
    pixels = "pixel_values"
    images = ()

    def read_frame_text(self, match: re.Match[str]) -> FrameText:
        """Return the content of a match of ``frame_text``; by default, frames with no other text between them are one
        video."""
        return FrameText(0, None)

    def placeholder_id(self, model: PreTrainedModel) -> int:
        return model.config.image_token_id

    def image_starts(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
        """Return the (I, 2) row and column of the first placeholder of each image.

        Raises:
            InputError: the placeholders do not form images.
        """
        h, w = self.grid(model)
        where = self.placeholders(model, inputs).nonzero()
        if len(where) % (h * w) or not len(where):
            raise InputError(f"{len(where)} placeholders do not form images of {h} x {w} tokens")
        return where[:: h * w]

    def clip_numbers(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[int]:
        """Return the number of the clip that each image belongs to, -1 for stills.

        Raises:
            InputError: the placeholders do not form images, or ``clips`` are given and impossible.
        """
        starts, given = self.image_starts(model, inputs), inputs.get(CLIPS)
        if given is not None:
            return _check_clips(given, starts)
        return guess_clips(inputs["input_ids"], starts, math.prod(self.grid(model)))

    def has_video(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
        if not super().has_video(model, inputs) or inputs.get(CLIPS) is None:
            return super().has_video(model, inputs)  # impossible inputs, which are refused later
        return max(self.clip_numbers(model, inputs)) >= 0

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        size = model.config.vision_config.image_size
        sides = (size, size) if isinstance(size, int) else tuple(size)
        ids = torch.full((1, frames * math.prod(self.grid(model))), self.placeholder_id(model))
        return {"input_ids": ids, self.pixels: torch.ones(frames, 3, *sides), CLIPS: [0] * frames}

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        pixels = inputs[self.pixels]
        if not isinstance(pixels, Tensor) or pixels.numel() == 0:
            raise InputError(f"{self.pixels} must be a tensor of images and not empty")
        clips = self.clip_numbers(model, inputs)
        parts = [inputs] if chunk is None else self.split_images(inputs, chunk)
        features = torch.cat([_features(model, part) for part in parts])
        h, w = self.grid(model)
        if len(features) % (h * w):
            raise InputError(f"{len(features)} features do not form images of {h} x {w} tokens")
        images = features.unflatten(0, (-1, h, w))
        if len(images) != len(clips):
            raise InputError(f"{len(images)} images do not match placeholders for {len(clips)} images")
        return _group(images, clips)

    def split_images(self, inputs: Mapping[str, Any], chunk: int) -> Iterable[Mapping[str, Any]]:
        """Return the arguments of the vision side for some images at a time."""
        return ({**inputs, self.pixels: part} for part in inputs[self.pixels].split(chunk))

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        h, w = self.grid(model)
        images = pool_patches(torch.cat(received), (h, w)).split([len(clip) // (h * w) for clip in clips])
        return [None if clip.is_still else part for clip, part in zip(clips, images, strict=True)]


def _features(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
    output = features_of(model, "image", inputs).pooler_output
    return output.flatten(0, 1) if isinstance(output, Tensor) else torch.cat(tuple(output))


def guess_clips(ids: Tensor, starts: Tensor, per_image: int) -> list[int]:
    """Guess the number of the clip that each image belongs to, -1 for stills, without reading the text.

    Consecutive images of a row with the same token before their placeholders form one clip. A single image is a still,
    and so are images whose placeholders are adjacent (tiles of one picture).

    Args:
        ids: (B, L) prompts.
        starts: (I, 2) row and column of the first placeholder of each image.
        per_image: number of placeholders of an image.
    """
    row, column = starts.T
    before = torch.where(column > 0, ids[row, (column - 1).clamp(min=0)], -1)
    same_row = torch.zeros_like(row, dtype=torch.bool)
    same_row[1:] = row[1:] == row[:-1]
    adjacent = same_row.clone()
    adjacent[1:] &= column[1:] == column[:-1] + per_image
    tile = adjacent.clone()
    tile[:-1] |= adjacent[1:]
    continues = same_row & ~tile
    continues[1:] &= (before[1:] == before[:-1]) & ~tile[:-1]
    clip = (~continues).cumsum(0) - 1
    alone = torch.bincount(clip)[clip] == 1
    return clip.masked_fill(tile | alone, -1).tolist()


def _check_clips(clips: Any, starts: Tensor) -> list[int]:
    try:
        numbers = [operator.index(number) for number in clips]
    except TypeError as error:
        raise InputError(f"{CLIPS} must be whole numbers, one per image, -1 for a still: {error}") from error
    rows = starts[:, 0].tolist()
    if len(numbers) != len(rows):
        raise InputError(f"{CLIPS} must have one number for each of the {len(rows)} images, got {len(numbers)}")
    last_image: dict[int, int] = {}  # of each clip
    for image, number in enumerate(numbers):
        last = last_image.get(number, image - 1)
        if number >= 0 and (last != image - 1 or (number in last_image and rows[last] != rows[image])):
            raise InputError(f"the images of clip {number} must follow each other in one row: {CLIPS} is {numbers}")
        last_image[number] = image
    return numbers


def _group(images: Tensor, clips: Sequence[int]) -> list[Encoded]:
    """Return one video per run of consecutive images of a clip, and one entry per still."""
    out: list[Encoded] = []
    start = 0
    for end in range(1, len(clips) + 1):
        if end < len(clips) and clips[end] == clips[start] >= 0:
            continue
        part = images[start:end]
        if clips[start] >= 0:
            out.append(Encoded.from_grid(part))
        else:
            tokens = part.flatten(0, 2)
            out.append(Encoded(part[:0], tokens, torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)))
        start = end
    return out
