"""A host that encodes videos and prompts with its own processor.

Import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.

The processor runs once per video, with the first question. The text that it passes to its tokenizer is recorded, and
the other questions are inserted there after the last placeholder. Tokenizers split at special tokens first, so the text
after that placeholder can be tokenized without the thousands of placeholders before it.

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
from framefold.data.evidence import FULL_FRAME, Viewport, relocate_evidence
from framefold.data.question import Question
from framefold.data.shards.encoded import EncodedSample
from framefold.data.shards.sample import VideoSample
from framefold.data.video.frame_reader import SampledFrames
from framefold.errors import HostError, InputError, MissingExtraError

from .answer_format import AnswerFormat, infer_answer_format
from .device import move_inputs
from .host import Host
from .processor import apply_processor, load_processor, write_prompt
from .torchvision import check_torchvision


@dataclass(frozen=True)
class ProcessorHost(Host):
    """A host other than tinyhost; the processor in its folder creates pixels and prompts."""

    @cached_property
    def processor(self) -> Any:
        """The processor in the host's folder.

        Raises:
            HostError: The folder holds no processor that takes videos.
            MissingExtraError: A package is missing; the message holds the command that installs it.
        """
        assert self.source is not None
        try:
            check_torchvision()
            return load_processor(str(self.source.folder))
        except MissingExtraError as error:
            raise MissingExtraError(
                f"{self.source.name} encodes videos with its own processor: {error}. Or encode them on another machine"
                f" with 'framefold shards features --host {self.source.name}', and train on these shards"
            ) from error

    def check_videos(self) -> None:
        super().check_videos()
        _ = self.processor

    def encode_video(self, sample: VideoSample, attention: bool) -> EncodedSample:
        return encode_with_processor(self.model, self.processor, sample, attention, self.vision_chunk)


def encode_with_processor(
    model: Any, processor: Any, sample: VideoSample, attention: bool, vision_chunk: int | None = None
) -> EncodedSample:
    """Encode a video once and build the prompts of all of its questions.

    Args:
        model: of the host.
        processor: of the host.
        sample: the video with its questions.
        attention: also return the attention that each token received in the vision encoder.
        vision_chunk: number of frames that the vision encoder takes at once; None for all.

    Returns:
        Tensors on the device of the model, features in its dtype; evidence in steps of the grid.

    Raises:
        InputError: The processor refuses a question or the video.
        HostError: The questions cannot share one prefix with this processor or with the positions of this host.
    """
    family, frames = family_of(model), processor_frames(sample)
    texts = [write_prompt(processor, question.text, question.history) for question in sample.questions]
    with _record_tokenizer(processor) as recorder:
        inputs = apply_processor(processor, frames, texts[0])
    inputs = move_inputs(inputs, model)
    shared = int(family.placeholders(model, inputs)[0].nonzero()[-1]) + 1
    if not family.prefills_in_chunks(model) and _marked_behind(inputs, shared):
        raise HostError(
            f"{type(model).__name__} lets a video see the mark behind it, so its questions cannot share one prefix:"
            " train on its videos with another trainer"
        )
    suffixes = _QuestionSuffixes(processor, recorder, texts[0], inputs["input_ids"][0], shared)
    style = infer_answer_format(processor, model)
    ids = [suffixes.ids(text, style, q.answer) for text, q in zip(texts, sample.questions, strict=True)]
    positions = family.positions(model, inputs, torch.ones_like(inputs["input_ids"]), False)[..., 0, :]
    clip = _encode(model, family, inputs, len(frames.times), attention, vision_chunk)
    steps, times = _grid_steps(frames, clip.features.shape[0])
    return EncodedSample(
        sample.key,
        _relocated(sample, steps, _viewport(processor.video_processor, *frames.frames.shape[1:3])),
        tuple(prompt for prompt, _ in ids),
        tuple(reply for _, reply in ids),
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


def _marked_behind(inputs: dict[str, Any], shared: int) -> bool:
    """Return whether columns behind the video are of its kind."""
    types = inputs.get("mm_token_type_ids")
    return types is not None and bool(types[0, shared:].any())


def processor_frames(sample: VideoSample) -> SampledFrames:
    """Return frames and times as processors take them, with times from the first frame of the video on."""
    times = (sample.times - sample.times[0]).numpy()
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return SampledFrames(sample.frames.numpy(), times, len(times), float(times[-1]) + step)


def _encode(
    model: Any, family: Family, inputs: dict[str, Any], frames: int, attention: bool, vision_chunk: int | None
) -> Encoded:
    if isinstance(family, ImageRuns):  # the host takes frames as images; all of them belong to this video
        inputs = {**inputs, CLIPS: [0] * frames}
    clips = encode(model, inputs, attention, vision_chunk=vision_chunk)
    if len(clips) != 1:
        raise HostError(f"the processor split one video into {len(clips)}")
    return clips[0]


def _columns(family: Family, inputs: dict[str, Any], shared: int) -> dict[str, Tensor]:
    """Select the inputs that the host takes for each column, for the columns of the prefix."""
    ids = inputs["input_ids"]
    names = ["input_ids", *(name for name in family.columns if name != "labels")]
    given = {name: inputs[name] for name in names if inputs.get(name) is not None}
    return {name: values[0, :shared].long() for name, values in given.items() if values.shape == ids.shape}


def _start(positions: Tensor, shared: int) -> int:
    """Return the position of the column after the prefix.

    It need not be the largest position of the prefix plus one, since the time axis of a video may reach further.

    Args:
        positions: (..., L') of a complete prompt.
        shared: L, number of columns of the prefix.
    """
    after = positions[..., shared:].reshape(-1, positions.shape[-1] - shared)
    start = int(after[0, 0])
    if not bool((after == start + torch.arange(after.shape[1], device=after.device)).all()):
        raise HostError("the positions after the video are not consecutive in this host")
    return start


def _grid_steps(frames: SampledFrames, steps: int) -> tuple[np.ndarray, Tensor]:
    """Return (F,) step of the grid of each frame, and (T,) seconds of the steps: means over their frames."""
    patch = -(-len(frames.times) // steps)
    times = torch.from_numpy(frames.times)
    filled = torch.cat([times, times[-1:].expand(steps * patch - len(times))])  # as processors repeat the last frame
    return np.arange(len(times)) // patch, filled.view(steps, patch).mean(dim=1)


def _relocated(sample: VideoSample, steps: np.ndarray, view: Viewport) -> tuple[Question, ...]:
    numbers = range(len(sample.frames)) if sample.frame_numbers is None else sample.frame_numbers
    step_of = dict(zip(numbers, steps.tolist(), strict=True))
    return tuple(replace(q, evidence=relocate_evidence(q.evidence, step_of, view)) for q in sample.questions)


def _viewport(video_processor: Any, height: int, width: int) -> Viewport:
    """Return the part of a frame that the processor's centre crop leaves, in fractions of the frame."""
    crop, size = getattr(video_processor, "crop_size", None), getattr(video_processor, "size", None)
    if not getattr(video_processor, "do_center_crop", None) or crop is None or size is None:
        return FULL_FRAME
    if getattr(video_processor, "do_resize", True):
        shortest = getattr(size, "shortest_edge", None)
        scale = shortest / min(height, width) if shortest else None
        height, width = (height * scale, width * scale) if scale else (size.height, size.width)
    top, left = (1 - crop.height / height) / 2, (1 - crop.width / width) / 2
    return top, left, 1 - top, 1 - left


class _TokenizerRecorder:
    """A tokenizer that records the texts and settings of its last call."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.texts, self.settings = tokenizer, list[str](), dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: Any, **settings: Any) -> Any:
        self.texts, self.settings = list(text), settings
        return self.tokenizer(text, **settings)


@contextmanager
def _record_tokenizer(processor: Any) -> Iterator[_TokenizerRecorder]:
    recorder = _TokenizerRecorder(processor.tokenizer)
    processor.tokenizer = recorder
    try:
        yield recorder
    finally:
        processor.tokenizer = recorder.tokenizer


class _QuestionSuffixes:
    """Token ids after the last placeholder of a video, for each question about it.

    Args:
        processor: of the host.
        recorder: the tokenizer call of the processor for the first question.
        first: the prompt of the first question.
        ids: (L',) token ids of that prompt.
        shared: number of columns up to the last placeholder.

    Raises:
        HostError: The processor changed more of the prompt than the placeholder, or the tokenizer does not split after
            the last placeholder.
    """

    def __init__(self, processor: Any, recorder: _TokenizerRecorder, first: str, ids: Tensor, shared: int) -> None:
        self.video, self.recorder, self.placeholder = processor.video_token, recorder, int(ids[shared - 1])
        self.mark: str = recorder.tokenizer.convert_ids_to_tokens(self.placeholder)
        self.before, token, after = first.partition(self.video)
        text = recorder.texts[0] if len(recorder.texts) == 1 else ""
        begins = recorder.tokenizer.bos_token or recorder.tokenizer.eos_token or ""  # which Molmo 2's processor adds
        begun = text.startswith(self.before) or text.startswith(begins + self.before)
        if not token or not begun or not text.endswith(after) or self.mark not in text:
            raise HostError(f"the processor of this host changes more of a prompt than the placeholder {self.video!r}")
        self.inserted = text[: len(text) - len(after)].rpartition(self.mark)[2]  # the processor's text after the video
        if self._ids(after) != ids[shared:].tolist():
            raise HostError(f"the tokenizer of this host does not split after {self.mark!r}")

    def ids(self, text: str, style: AnswerFormat, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of a prompt after the video, and the ids of the answer after it."""
        before, token, after = text.partition(self.video)
        if not token or before != self.before or not after:
            raise HostError("the chat template must put the video before all text that differs between questions")
        prompt, complete = self._ids(after), self._ids(f"{after}{style.lead}{answer}")
        if complete[: len(prompt)] == prompt and len(complete) > len(prompt):
            reply = complete[len(prompt) :]
        else:  # a token spans prompt and answer; the host cannot generate it after the prompt
            reply = self.recorder.tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not reply:
            raise InputError(f"the answer {answer!r} has no token of this host")
        return tuple(prompt), (*reply, *style.end)

    def _ids(self, after: str) -> list[int]:
        settings = {name: value for name, value in self.recorder.settings.items() if name != "return_tensors"}
        ids = list(self.recorder.tokenizer([self.mark + self.inserted + after], **settings)["input_ids"][0])
        return ids[ids.index(self.placeholder) + 1 :]
