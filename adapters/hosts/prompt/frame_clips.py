"""Find the videos of a prompt whose frames are images, from the text that the processor wrote before the images."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.family import Family
from framefold.adapters.hosts.base.image_runs import CLIPS, FrameText, ImageRuns
from framefold.errors import InputError

from .find_question import load_tokenizer
from .row_text import RowDecoder, RowText


def name_clips(model: PreTrainedModel, family: Family, inputs: Mapping[str, Any], tokenizer: Any) -> Mapping[str, Any]:
    """Add ``clips`` to the inputs of a host that takes frames as images.

    The inputs of other hosts are returned as they are, and so are inputs whose placeholders do not form images, which
    the family refuses later.

    Args:
        model: the host.
        family: family of the host.
        inputs: the host's inputs.
        tokenizer: tokenizer or processor of the host. If None, the tokenizer next to the weights it was loaded from. If
            there is none either, the clips are guessed from the token ids, with a warning.
    """
    ids = inputs.get("input_ids")
    if not isinstance(family, ImageRuns) or inputs.get(CLIPS) is not None or inputs.get(family.pixels) is None:
        return inputs
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        return inputs
    per_image, placeholders = math.prod(family.grid(model)), family.placeholders(model, inputs)
    if not bool(placeholders.any()) or int(placeholders.sum()) % per_image:
        return inputs
    decoder = _decoder_beside(model) if tokenizer is None else _cached_decoder(tokenizer)
    has_text = bool((ids[~placeholders] >= 0).any())  # which embeddings need not have
    if decoder is None or not has_text or not family.frame_text:
        return {**inputs, CLIPS: _guess(model, family, inputs, decoder)}
    clips: list[int] = []
    for row, visual in zip(ids.tolist(), placeholders.tolist(), strict=True):
        text = decoder.decode(row, visual)
        if any((end - first) % per_image for _, first, end in text.visuals):
            return inputs
        count = max(clips, default=-1) + 1
        clips += [number + count if number >= 0 else -1 for number in clips_in_row(family, text, per_image)]
    return {**inputs, CLIPS: clips}


def _guess(
    model: PreTrainedModel, family: ImageRuns, inputs: Mapping[str, Any], decoder: RowDecoder | None
) -> list[int]:
    clips = family.clip_numbers(model, inputs)
    if decoder is None and max(clips) >= 0:
        warnings.warn(
            f"no tokenizer was found for this {type(model).__name__}, so that the videos among its images are guessed"
            f" from the token ids: pass attach(..., tokenizer=processor), or {CLIPS}= with each call",
            stacklevel=2,
        )
    return clips


def clips_in_row(family: ImageRuns, row: RowText, per_image: int) -> list[int]:
    """Return the number of the clip that each image of a row belongs to, -1 for stills.

    A frame is one image (not several tiles) right after the processor's text. It continues the video of the image
    before it if there is no other text between them, and if its number or time continues that of the image before.

    Args:
        family: family of the host.
        row: the row as text.
        per_image: number of placeholders of an image.
    """
    clips: list[int] = []
    lone: list[int] = []  # clips whose first frame has a text that no first frame has
    clip, previous = -1, None
    for text, frame, images in _frames(family, row, per_image):
        if frame is None:
            clips += [-1] * images
        else:
            follows = previous is not None and text and frame.follows(previous)
            clip += not follows
            clips.append(clip)
            if not follows and frame.begins is False:
                lone.append(clip)
        previous = frame
    return [-1 if number in lone and clips.count(number) == 1 else number for number in clips]


def _frames(family: ImageRuns, row: RowText, per_image: int) -> Iterator[tuple[bool, FrameText | None, int]]:
    """Yield for each run of placeholders whether only frame text is before it, its frame text, and its images."""
    start = 0
    for at, first, end in row.visuals:
        text = row.plain_text(start, at)
        match = _before_frame(family.frame_text).search(text) if end - first == per_image else None
        frame = None if match is None else family.read_frame_text(match)
        yield match is not None and match.start() == 0, frame, (end - first) // per_image
        start = at + 1


@functools.cache
def _before_frame(frame_text: str) -> re.Pattern[str]:
    return re.compile(f"(?:{frame_text}\n)\\Z", re.VERBOSE)


_cached_decoder = functools.lru_cache(maxsize=8)(RowDecoder.from_tokenizer)


def _decoder_beside(model: PreTrainedModel) -> RowDecoder | None:
    """Return the decoder of the tokenizer next to the weights of a model, or None if there is none."""
    name = str(model.name_or_path or "")
    if not name:
        return None
    changed = Path(name).stat().st_mtime_ns if Path(name).is_dir() else 0
    return _decoder_of(name, getattr(model.config, "_commit_hash", None), changed)


@functools.lru_cache(maxsize=8)
def _decoder_of(name: str, revision: str | None, changed: int) -> RowDecoder | None:
    """Return the decoder of a tokenizer by name; ``changed`` is the time at which a file was last added to a folder."""
    try:
        return _cached_decoder(load_tokenizer(name, revision))
    except InputError:
        return None
