"""What a host makes of a video, and the prompts of its questions, through the host's own processor.

Import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.

The processor runs once a video. What it makes of the prompt is overheard where it hands the text to its tokenizer; the
other questions are put in that text behind the last placeholder. Tokenizers split at special tokens before all else, so
what follows that placeholder may be tokenized without the thousands before it.

Dimensions: F frames, T steps of the grid, L columns of the prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family, family_of
from framefold.adapters.hosts.base.image_runs import CLIPS, ImageRuns
from framefold.adapters.hosts.prompt.vision import encode
from framefold.data.evidence import WHOLE, View, relocate
from framefold.data.question import Question
from framefold.data.shards.encoded import EncodedSample
from framefold.data.shards.sample import VideoSample
from framefold.data.video.frame_reader import Sample as Film
from framefold.errors import HostError, MissingExtraError

from .answer_format import ReplyStyle, reply_style
from .device import move_inputs
from .host import Host
from .processor import process, write_prompt
from .torchvision import check_torchvision


@dataclass(frozen=True)
class ProcessorHost(Host):
    """Any other host: its own processor makes pixels and prompts of a video."""

    @cached_property
    def processor(self) -> Any:
        """Of its folder.

        Raises:
            HostError: it has none that takes videos. MissingExtraError: a package is missing; the message installs it.
        """
        from .processor import load_processor

        assert self.found is not None
        try:
            check_torchvision()
            return load_processor(str(self.found.folder))
        except MissingExtraError as error:
            raise MissingExtraError(
                f"{self.found.name} is shown videos through its own processor: {error}. Or encode them elsewhere with"
                f" 'framefold shards features --host {self.found.name}', and train from these shards"
            ) from error

    def check_videos(self) -> None:
        super().check_videos()
        _ = self.processor

    def encode_sample(self, sample: VideoSample, attention: bool) -> EncodedSample:
        pass

        return encode_through_processor(self.model, self.processor, sample, attention)


def encode_through_processor(model: Any, processor: Any, sample: VideoSample, attention: bool) -> EncodedSample:
    """Encode a video once and write the prompts of all of its questions.

    Args:
        attention: with the attention that each token received in the vision encoder.

    Returns:
        Tensors on the device of the model, features in its dtype; evidence in steps of the grid.

    Raises:
        InputError: a question or a video that the processor refuses.
        HostError: a processor or positions that one prefix for all questions cannot serve.
    """
    family, film = family_of(model), film_of(sample)
    texts = [write_prompt(processor, question.text) for question in sample.questions]
    with _overheard(processor) as heard:
        inputs = process(processor, film, texts[0])
    inputs = move_inputs(inputs, model)
    shared = int(family.placeholders(model, inputs)[0].nonzero()[-1]) + 1
    tails = _Tails(processor, heard, texts[0], inputs["input_ids"][0], shared)
    style = reply_style(processor, model)
    asked = [tails.ids(text, style, q.answer) for text, q in zip(texts, sample.questions, strict=True)]
    positions = family.positions(model, inputs, torch.ones_like(inputs["input_ids"]), False)[..., 0, :]
    clip = _encode(model, family, inputs, len(film.times), attention)
    steps, times = _in_time(film, clip.features.shape[0])
    return EncodedSample(
        sample.key,
        _relocated(sample, steps, _view(processor.video_processor, *film.frames.shape[1:3])),
        tuple(prompt for prompt, _ in asked),
        tuple(reply for _, reply in asked),
        _start(positions, shared),
        features=clip.features,
        extra=clip.extra,
        on_grid=clip.on_grid,
        times=times.to(clip.features.device),
        columns=_columns(family, inputs, shared),
        positions=positions[..., :shared].contiguous(),
        deepstack=clip.deepstack,
        attention=clip.attention,
    )


def film_of(sample: VideoSample) -> Film:
    """Frames with times as a processor is told them: from the first frame of the video on."""
    times = (sample.times - sample.times[0]).numpy()
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return Film(sample.frames.numpy(), times, len(times), float(times[-1]) + step)


def _encode(model: Any, family: Family, inputs: dict[str, Any], frames: int, attention: bool) -> Encoded:
    if isinstance(family, ImageRuns):  # all of its images are this video, even a single one
        inputs = {**inputs, CLIPS: [0] * frames}
    clips = encode(model, inputs, attention)
    if len(clips) != 1:
        raise HostError(f"the processor made {len(clips)} videos of one")
    return clips[0]


def _columns(family: Family, inputs: dict[str, Any], shared: int) -> dict[str, Tensor]:
    """What the host takes for each column of the prefix."""
    ids = inputs["input_ids"]
    names = ["input_ids", *(name for name in family.columns if name != "labels")]
    given = {name: inputs[name] for name in names if inputs.get(name) is not None}
    return {name: values[0, :shared].long() for name, values in given.items() if values.shape == ids.shape}


def _start(positions: Tensor, shared: int) -> int:
    """Position of the column behind the prefix; it is not the furthest one plus one: a video may reach further in time.

    Args:
        positions: (..., L') of a whole prompt.
    """
    behind = positions[..., shared:].reshape(-1, positions.shape[-1] - shared)
    start = int(behind[0, 0])
    if not bool((behind == start + torch.arange(behind.shape[1], device=behind.device)).all()):
        raise HostError("the positions behind the video do not go on one by one in this host")
    return start


def _in_time(film: Film, steps: int) -> tuple[np.ndarray, Tensor]:
    """(F,) step of the grid that shows each frame, and (T,) seconds of the steps: means over their frames."""
    patch = -(-len(film.times) // steps)
    times = torch.from_numpy(film.times)
    filled = torch.cat([times, times[-1:].expand(steps * patch - len(times))])  # as processors repeat the last frame
    return np.arange(len(times)) // patch, filled.view(steps, patch).mean(dim=1)


def _relocated(sample: VideoSample, steps: np.ndarray, view: View) -> tuple[Question, ...]:
    numbers = range(len(sample.frames)) if sample.numbers is None else sample.numbers
    step_of = dict(zip(numbers, steps.tolist(), strict=True))
    return tuple(replace(one, evidence=relocate(one.evidence, step_of, view)) for one in sample.questions)


def _view(video_processor: Any, height: int, width: int) -> View:
    """The part of a frame that is left by a crop of its middle, in fractions of the frame."""
    crop, size = getattr(video_processor, "crop_size", None), getattr(video_processor, "size", None)
    if not getattr(video_processor, "do_center_crop", None) or crop is None or size is None:
        return WHOLE
    if getattr(video_processor, "do_resize", True):
        shortest = getattr(size, "shortest_edge", None)
        scale = shortest / min(height, width) if shortest else None
        height, width = (height * scale, width * scale) if scale else (size.height, size.width)
    top, left = (1 - crop.height / height) / 2, (1 - crop.width / width) / 2
    return top, left, 1 - top, 1 - left


class _Overheard:
    """A tokenizer in whose place a processor is listened to."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.texts, self.settings = tokenizer, list[str](), dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: Any, **settings: Any) -> Any:
        self.texts, self.settings = list(text), settings
        return self.tokenizer(text, **settings)


@contextmanager
def _overheard(processor: Any) -> Iterator[_Overheard]:
    heard = _Overheard(processor.tokenizer)
    processor.tokenizer = heard
    try:
        yield heard
    finally:
        processor.tokenizer = heard.tokenizer


class _Tails:
    """The ids behind the last placeholder of a video, for every question about it.

    Args:
        heard: what the processor gave its tokenizer for the first question. first: the prompt of that question.
        ids: (L',) what became of it. shared: columns up to the last placeholder.

    Raises:
        HostError: the processor has changed more of the prompt than the placeholder, or the tokenizer does not split
            where the last one ends.
    """

    def __init__(self, processor: Any, heard: _Overheard, first: str, ids: Tensor, shared: int) -> None:
        self.video, self.heard, self.placeholder = processor.video_token, heard, int(ids[shared - 1])
        self.mark: str = heard.tokenizer.convert_ids_to_tokens(self.placeholder)
        self.before, found, after = first.partition(self.video)
        written = heard.texts[0] if len(heard.texts) == 1 else ""
        if not found or not written.startswith(self.before) or not written.endswith(after) or self.mark not in written:
            raise HostError(f"the processor of this host writes no {self.video!r} as it stands in the chat template")
        self.beside = written[: len(written) - len(after)].rpartition(self.mark)[2]  # what it wrote behind the video
        if self._ids(after) != ids[shared:].tolist():
            raise HostError(f"the tokenizer of this host does not split behind {self.mark!r}")

    def ids(self, text: str, style: ReplyStyle, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of a prompt behind the video, and of the answer behind that."""
        before, found, after = text.partition(self.video)
        if not found or before != self.before or not after:
            raise HostError("the chat template must put the video before all text that differs between questions")
        prompt, whole = self._ids(after), self._ids(f"{after}{style.lead}{answer}")
        if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
            reply = whole[len(prompt) :]
        else:  # a token that reaches from the prompt into the answer, which a host that is asked cannot write
            reply = self.heard.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return tuple(prompt), (*reply, *style.end)

    def _ids(self, after: str) -> list[int]:
        settings = {name: value for name, value in self.heard.settings.items() if name != "return_tensors"}
        ids = list(self.heard.tokenizer([self.mark + self.beside + after], **settings)["input_ids"][0])
        return ids[ids.index(self.placeholder) + 1 :]
