"""Inputs of a host from frames and a question, through the processor in the host's folder.

Import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`. Shapes: T frames, G grid steps.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig
from transformers.video_utils import VideoMetadata

from framefold.adapters.hosts.base.family import list_families
from framefold.data.video.frame_reader import SampledFrames
from framefold.errors import HostError, InputError, MissingExtraError, UnsupportedHostError

from .answer_format import History, write_conversation
from .locate import HostFolder, find_host

CLOCK = 1000  # see _metadata

STEP = "video_second_per_grid"  # of Qwen's omni models

CHANNELS = 3  # of a pixel

# Settings of some video processors. A host that drops tokens itself cannot be compared with others. Qwen's own code
# caps the pixels of a frame, so the cap is the default here if the host's folder does not set it.
NO_PRUNING = {"use_token_compression": False}

DEFAULTS = {"cap_pixels_per_frame": True}


def load_config(host: str | os.PathLike[str] | HostFolder) -> PreTrainedConfig:
    """Load the configuration of a host.

    Args:
        host: see :func:`~framefold.training.frozen_host.load.load_host`.

    Raises:
        HostError: There is no such host, or it is damaged.
        UnsupportedHostError: The host is of no supported family.
    """
    source = host if isinstance(host, HostFolder) else find_host(host)
    check_family(source)
    try:
        return AutoConfig.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise HostError(f"the config.json of {source.name} does not load: {first_line(error)}") from error


def check_family(source: HostFolder) -> None:
    """Check that a host is of a supported family.

    Raises:
        UnsupportedHostError: It is not, or the folder holds an adapter.
    """
    if (problem := unsupported(source)) is not None:
        raise UnsupportedHostError(problem)


def unsupported(source: HostFolder) -> str | None:
    """Return why a host is not supported; None if it is."""
    if source.kind in list_families():
        return None
    if "framefold_format" in source.config:
        return f"{source.name} is an adapter of framefold, not a host: give it as the compressor"
    return f"{source.name} is a {source.kind!r} model. Supported: {', '.join(list_families())}"


def load_processor(host: str | os.PathLike[str] | HostFolder) -> Any:
    """Load the processor of a host.

    Args:
        host: see :func:`~framefold.training.frozen_host.load.load_host`.

    Raises:
        HostError: The processor is missing, damaged, or has no video processor.
        MissingExtraError: The processor needs a package that is not installed.
    """
    source = host if isinstance(host, HostFolder) else find_host(host)
    try:
        processor = AutoProcessor.from_pretrained(source.folder, local_files_only=True)
    except ImportError as error:
        raise MissingExtraError(" ".join(str(error).split())) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"the processor of {source.name} does not load: {first_line(error)}"
        raise HostError(f"{text}; {source.remedy}") from error
    if getattr(processor, "video_processor", None) is None:
        raise HostError(f"the processor of {source.name} ({type(processor).__name__}) does not take videos")
    return processor


def build_inputs(processor: Any, sample: SampledFrames, question: str) -> dict[str, Any]:
    """Build the inputs of the host's forward for one question about one video, a batch of one on the CPU.

    Raises:
        InputError, HostError: See :func:`write_prompt` and :func:`apply_processor`.
    """
    return apply_processor(processor, sample, write_prompt(processor, question))


def write_prompt(processor: Any, question: str, history: History = ()) -> str:
    """Write a question about a video with the host's chat template, up to the start of the answer.

    Args:
        processor: of the host.
        question: about the video.
        history: questions and answers of the same conversation that precede it.

    Raises:
        InputError: The question is empty, or holds a placeholder of the host.
        HostError: The processor has no usable chat template.
    """
    if not question.strip():
        raise InputError("the question is empty")
    for token in (processor.video_token, processor.image_token):
        if any(token in text for text in (question, *chain(*history))):
            raise InputError(f"the question holds {token!r}, the placeholder of pictures in the prompts of this host")
    try:
        return write_conversation(partial(processor.apply_chat_template, add_generation_prompt=True), question, history)
    except (ValueError, AttributeError) as error:
        raise HostError(f"the host has no usable chat template (chat_template.jinja): {first_line(error)}") from error


def apply_processor(processor: Any, sample: SampledFrames, prompt: str) -> dict[str, Any]:
    """Return prompt and pixels as the host's forward takes them, a batch of one on the CPU.

    The processor neither samples frames nor drops tokens; times that it writes into the prompt are those of the frames.
    The last frame is repeated if there are fewer than one step of the token grid takes.

    Raises:
        InputError: The processor refuses the video.
    """
    sample = _with_complete_step(processor, sample)
    defaults = {name: value for name, value in DEFAULTS.items() if getattr(processor.video_processor, name, 0) is None}
    pruning = {name: value for name, value in NO_PRUNING.items() if hasattr(processor.video_processor, name)}
    try:
        inputs = dict(
            processor(
                text=[prompt],
                videos=[[torch.from_numpy(sample.frames).movedim(-1, 1)]],  # one list per prompt, for SmolVLM of 5.20
                video_metadata=[_metadata(sample)],
                do_sample_frames=False,
                return_tensors="pt",
                **defaults,
                **pruning,
            )
        )
    except (ValueError, IndexError) as error:
        shape = " x ".join(map(str, sample.frames.shape[:3]))
        raise InputError(f"the host's processor refuses {shape} frames: {first_line(error)}") from error
    if STEP in inputs:
        inputs[STEP] = torch.tensor([_seconds_per_step(grid_times(processor, sample))])
    return inputs


def _seconds_per_step(times: Tensor) -> float:
    """Return the mean distance of steps in whole seconds, as the positions of Qwen3-Omni would not be whole otherwise.

    The processor would assume the frame rate of its own sampling.
    """
    return float(max(1, round(float(times[-1] - times[0]) / max(1, len(times) - 1))))


def _with_complete_step(processor: Any, sample: SampledFrames) -> SampledFrames:
    """Repeat the last frame until one step is complete; some processors refuse shorter videos, but fill later steps."""
    missing = _frames_per_step(processor) - len(sample.frames)
    if missing <= 0:
        return sample
    frames, times = (np.concatenate([x, x[-1:].repeat(missing, 0)]) for x in (sample.frames, sample.times))
    return replace(sample, frames=frames, times=times)


def _frames_per_step(processor: Any) -> int:
    return getattr(processor.video_processor, "temporal_patch_size", None) or 1


def grid_times(processor: Any, sample: SampledFrames) -> Tensor:
    """Return (G,) seconds of the steps of the token grid; for a step of several frames (two in Qwen), their mean."""
    patch = _frames_per_step(processor)
    times = torch.from_numpy(sample.times)
    filled = torch.cat([times, times[-1:].expand(-len(times) % patch)])  # as processors repeat the last frame
    return filled.view(-1, patch).mean(dim=1)


def pixels_per_frame(inputs: dict[str, Any], steps: int, processor: Any) -> int:
    """Return the number of pixels of a frame, as the vision encoder gets it, from the inputs of a host.

    Args:
        inputs: what :func:`apply_processor` returned.
        steps: G.
        processor: the processor of the host.
    """
    values = sum(value.numel() for name, value in inputs.items() if name.startswith("pixel_values"))
    return round(values / (CHANNELS * steps * _frames_per_step(processor)))


def _metadata(sample: SampledFrames) -> VideoMetadata:
    """Return the metadata from which processors compute times as frame number / frames per second.

    Frame numbers are milliseconds at 1000 frames per second, which is also exact for files with a variable frame rate.
    """
    length = max(1, round(sample.duration * CLOCK))
    height, width = sample.frames.shape[1:3]
    return VideoMetadata(
        total_num_frames=length,
        fps=float(CLOCK),
        width=width,
        height=height,
        duration=sample.duration,
        frames_indices=[round(float(time) * CLOCK) for time in sample.times],
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error, without the advice that transformers adds on later lines."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
