"""From frames and a question to the inputs of a host, through the processor that the host's folder brings.

Import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`. Shapes: T frames, G grid steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig
from transformers.video_utils import VideoMetadata

from framefold.adapters.hosts.base.family import list_families
from framefold.data.video.frame_reader import Sample
from framefold.errors import HostError, InputError, MissingExtraError, UnsupportedHostError

CLOCK = 1000  # see _metadata

# Settings of some video processors. A host that drops tokens by itself cannot be compared, and Qwen's own code caps the
# pixels of a frame; that setting is left alone where the host's folder decides it.
NO_PRUNING = {"use_token_compression": False}

UNDECIDED = {"cap_pixels_per_frame": True}


def load_config(host: str) -> PreTrainedConfig:
    """The configuration of a host folder or Hub id.

    Raises:
        HostError: no such host, or a damaged one.
        UnsupportedHostError: of no family that a compressor can be attached to.
    """
    try:
        config = AutoConfig.from_pretrained(host)
    except (OSError, ValueError, KeyError) as error:
        raise HostError(f"there is no host to load in {host!r}: {first_line(error)}") from error
    if config.model_type not in list_families():
        raise UnsupportedHostError(f"{host} is a {config.model_type!r} model. Supported: {', '.join(list_families())}")
    return config


def load_processor(host: str) -> Any:
    """The processor of a host folder or Hub id.

    Raises:
        HostError: it has none, a damaged one, or one without a video processor or a chat template.
        MissingExtraError: it needs a package that is not installed.
    """
    try:
        processor = AutoProcessor.from_pretrained(host)
    except ImportError as error:
        raise MissingExtraError(" ".join(str(error).split())) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(f"the processor of {host} does not load: {first_line(error)}") from error
    if getattr(processor, "video_processor", None) is None:
        raise HostError(f"the processor of {host} ({type(processor).__name__}) takes no video")
    return processor


def build_inputs(processor: Any, sample: Sample, question: str) -> dict[str, Any]:
    """Prompt and pixels as the host's forward takes them, one row, on the CPU; see the two functions that it calls."""
    return process(processor, sample, write_prompt(processor, question))


def write_prompt(processor: Any, question: str) -> str:
    """A question about a video as the host's chat template writes it, up to where the answer begins.

    Raises:
        InputError: an empty question, or one that holds a placeholder of the host.
        HostError: a processor without a chat template, so that nobody knows how the host wants to be asked.
    """
    if not question.strip():
        raise InputError("the question is empty")
    for token in (processor.video_token, processor.image_token):
        if token in question:
            raise InputError(f"the question holds {token!r}, which stands for pictures in the prompts of this host")
    parts = [{"type": "video"}, {"type": "text", "text": question}]
    try:
        return processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    except (ValueError, AttributeError) as error:
        raise HostError(f"the host has no usable chat template (chat_template.jinja): {first_line(error)}") from error


def process(processor: Any, sample: Sample, prompt: str) -> dict[str, Any]:
    """Prompt and pixels as the host's forward takes them, one row, on the CPU.

    The processor samples no frames and drops no tokens; times that it writes into the prompt are those of the frames.

    Raises:
        InputError: a video that the processor refuses.
    """
    decided = {name: value for name, value in UNDECIDED.items() if getattr(processor.video_processor, name, 0) is None}
    pruning = {name: value for name, value in NO_PRUNING.items() if hasattr(processor.video_processor, name)}
    try:
        return dict(
            processor(
                text=[prompt],
                videos=[[torch.from_numpy(sample.frames).movedim(-1, 1)]],  # a list a prompt: SmolVLM of 5.20 wants it
                video_metadata=[_metadata(sample)],
                do_sample_frames=False,
                return_tensors="pt",
                **decided,
                **pruning,
            )
        )
    except (ValueError, IndexError) as error:
        shape = " x ".join(map(str, sample.frames.shape[:3]))
        raise InputError(f"the host's processor refuses {shape} frames: {first_line(error)}") from error


def grid_times(processor: Any, sample: Sample) -> Tensor:
    """(G,) seconds of the steps of the token grid; where it holds several frames a step (Qwen: two), their mean."""
    patch = getattr(processor.video_processor, "temporal_patch_size", None) or 1
    times = torch.from_numpy(sample.times)
    filled = torch.cat([times, times[-1:].expand(-len(times) % patch)])  # as processors repeat the last frame
    return filled.view(-1, patch).mean(dim=1)


def _metadata(sample: Sample) -> VideoMetadata:
    """What processors compute times from: number of a frame / frames per second.

    Numbers are given in milliseconds, at 1000 a second: that is right for files with a variable frame rate too.
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
    """What an error says, without the advice that transformers puts below."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
