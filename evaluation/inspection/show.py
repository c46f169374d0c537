"""See what a compressor keeps of a real video: the verb ``framefold show``.

Nothing here may import transformers before torchvision has been found, since transformers looks for it once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.base.build import load_or_build
from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.data.video.frame_reader import Sample, sample_frames
from framefold.errors import ConfigError
from framefold.training.frozen_host.device import device_of
from framefold.training.frozen_host.torchvision import find_torchvision

QUESTION = "What happens in the video?"


def show(
    video: str,
    compressor: str,
    out: str,
    host: str = "checkpoints/tinyhost",
    budget: Budget | None = None,
    frames: int = 32,
    columns: int = 8,
    question: str = QUESTION,
    params: dict[str, Any] | None = None,
    device: str | None = None,
) -> Path:
    """Draw the frames of a video with what a compressor keeps of them, and when it keeps how much.

    Kept places are clear and dropped ones dim. Places that were merged into one token have an outline of one colour, in
    every frame that the token stands for. The strip below has the tokens of each frame, a merged one at its anchor, and
    where the method looks for events the share of each frame's places that are one.

    Args:
        video: any file that FFmpeg reads.
        compressor: registered name, or an adapter: a folder, or user/name or user/name@revision on the Hub.
        out: PNG to write.
        host: folder or Hub id of a video-LLM with its processor; its vision encoder makes the tokens.
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the adapter's own.
        frames: number of frames to take, evenly over the duration of the video.
        columns: frames in a row.
        question: for query-aware compressors.
        params: parameters of a registered compressor other than their defaults.
        device: cpu or cuda; by default cuda where there is one.

    Returns:
        Path of the picture.

    Raises:
        The errors of ``framefold answer``; OSError: the picture cannot be written.
    """
    if min(frames, columns) < 1:
        raise ConfigError(f"frames and columns must be at least 1, not {frames} and {columns}")
    file = Path(out)
    if file.suffix.lower() != ".png":
        raise ConfigError(f"out must be a .png, not {out}")
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} to write {file.name} into")
    plug, where = load_or_build(resolve_adapter(compressor), budget, params), device_of(device)
    from .kept_tokens import KeptSheet, draw_kept_tokens

    find_torchvision()
    sample = sample_frames(video, frames)
    tokens, events, times, crops = _tokens(plug, host, sample, question, where)
    step = -(-len(sample.frames) // tokens.grid[0])  # frames in a step of the token grid
    pictures = _square(sample.frames[::step]) if crops else sample.frames[::step]
    title = f"{Path(video).name}   {plug.name}   {len(tokens)} of {len(tokens.assign)} tokens"
    sheet = KeptSheet(title, pictures, times.numpy(), tokens, events, columns)
    draw_kept_tokens(sheet, file)
    print(f"wrote {file}: {len(tokens)} of {len(tokens.assign)} tokens of {tokens.grid[0]} steps")
    return file


def _tokens(plug: Any, host: str, sample: Sample, question: str, device: torch.device) -> tuple[Any, Any, Tensor, bool]:
    """What the compressor keeps, its events, the seconds of the steps, and whether the host sees the middle only."""
    from framefold.adapters.core.tokens import VideoTokens
    from framefold.adapters.hosts.prompt.prepare import prepare
    from framefold.adapters.hosts.prompt.vision import encode
    from framefold.training.frozen_host.device import move_inputs
    from framefold.training.frozen_host.load import load_model
    from framefold.training.frozen_host.processor import build_inputs, grid_times, load_config, load_processor

    load_config(host)
    processor = load_processor(host)
    inputs = build_inputs(processor, sample, question)
    model = load_model(host, "auto", device)
    inputs, times = move_inputs(inputs, model), grid_times(processor, sample)
    with torch.no_grad():
        clips = encode(model, inputs, attention=plug.needs_attention)
        prepared = prepare(model, inputs, plug, encoded=clips, tokenizer=processor, times=[times])
        events = plug.events(VideoTokens.from_grid(clips[0].features, times=times))
    crops = bool(getattr(processor.video_processor, "do_center_crop", False))
    return prepared.tokens[0].to("cpu"), None if events is None else events.cpu(), times, crops


def _square(frames: np.ndarray) -> np.ndarray:
    """The middle of each frame, as wide as it is high: what processors that crop let a host see."""
    side = min(frames.shape[1:3])
    top, left = ((size - side) // 2 for size in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side]
