"""Draw the tokens of a video file that a compressor keeps: the command ``framefold show``.

This module must not import transformers before torchvision is found, since transformers looks for it only once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.base.build import load_or_build
from framefold.adapters.base.untrained import display_name, warn_untrained
from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.data.video.frame_reader import SampledFrames, sample_frames
from framefold.errors import ConfigError
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device
from framefold.training.frozen_host.locate import HostFolder, find_host
from framefold.training.frozen_host.torchvision import find_torchvision
from framefold.training.frozen_host.vocabulary import warn_unknown_words

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
    revision: str | None = None,
) -> Path:
    """Draw the frames of a video with the tokens that a compressor keeps, and their number over time.

    Kept tokens are bright and dropped ones dim. Tokens that were merged have an outline in one colour, in every frame
    that the merged token represents. The plot below shows the number of tokens per frame, merged ones at their anchor,
    and, for methods that detect events, the share of each frame's tokens that are events.

    Args:
        video: video file that FFmpeg can read.
        compressor: registered name, or an adapter: a folder, or user/name or user/name@revision on the Hub.
        out: PNG file to write.
        host: video-LLM with its processor, whose vision encoder computes the tokens: a folder, or an id on the Hub that
            has been downloaded (hf download).
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the adapter's own.
        frames: number of frames to sample, evenly over the duration of the video.
        columns: frames per row.
        question: question for query-aware compressors.
        params: parameters of a registered compressor that differ from their defaults.
        device: cpu or cuda; by default cuda if it is available.
        revision: branch, tag or commit of a host on the Hub.

    Returns:
        Path of the picture.

    Raises:
        The errors of ``framefold answer``.
        OSError: the picture cannot be written.
    """
    if min(frames, columns) < 1:
        raise ConfigError(f"frames and columns must be at least 1, not {frames} and {columns}")
    file = Path(out)
    if file.suffix.lower() != ".png":
        raise ConfigError(f"out must be a .png file, not {out}")
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} to write {file.name} to")
    module, where = load_or_build(resolve_adapter(compressor), budget, params), resolve_device(device)
    found = find_host(host, revision)
    warn_untrained(module)
    from .kept_tokens import KeptSheet, draw_kept_tokens

    find_torchvision()
    sample = sample_frames(video, frames)
    with progress_bar(what=f"encoding {Path(video).name}", total=1, unit="video", leave=False):
        tokens, events, times, crops = _compress(module, found, sample, question, where)
    step = -(-len(sample.frames) // tokens.grid[0])  # frames per step of the token grid
    pictures = _crop_to_square(sample.frames[::step]) if crops else sample.frames[::step]
    title = f"{Path(video).name}   {display_name(module)}   {len(tokens)} of {len(tokens.assign)} tokens"
    sheet = KeptSheet(title, pictures, times.numpy(), tokens, events, columns)
    draw_kept_tokens(sheet, file)
    print(f"wrote {file}: {len(tokens)} of {len(tokens.assign)} tokens of {tokens.grid[0]} steps")
    return file


def _compress(
    module: Any, host: HostFolder, sample: SampledFrames, question: str, device: torch.device
) -> tuple[Any, Any, Tensor, bool]:
    """Return the kept tokens, the events, the seconds of the steps, and whether the host's processor crops frames."""
    from framefold.adapters.core.tokens import VideoTokens
    from framefold.adapters.hosts.prompt.prepare import prepare
    from framefold.adapters.hosts.prompt.question import query_or_none
    from framefold.adapters.hosts.prompt.vision import encode
    from framefold.training.frozen_host.device import move_inputs
    from framefold.training.frozen_host.load import load_model
    from framefold.training.frozen_host.processor import build_inputs, grid_times, load_config, load_processor

    load_config(host)
    processor = load_processor(host)
    if host.is_tinyhost and module.query_aware:
        warn_unknown_words(host.name, processor.tokenizer, [question], "the question")
    inputs = build_inputs(processor, sample, question)
    model = load_model(host, "auto", device)
    inputs, times = move_inputs(inputs, model), grid_times(processor, sample)
    with torch.no_grad():
        clips = encode(model, inputs, attention=module.needs_attention, tokenizer=processor)
        query = query_or_none(model, inputs, processor, question) if module.query_aware else None
        prepared = prepare(model, inputs, module, query=query, encoded=clips, tokenizer=processor, times=[times])
        events = module.events(VideoTokens.from_grid(clips[0].features, times=times))
    crops = bool(getattr(processor.video_processor, "do_center_crop", False))
    return prepared.tokens[0].to("cpu"), None if events is None else events.cpu(), times, crops


def _crop_to_square(frames: np.ndarray) -> np.ndarray:
    """Return the central square of each frame, which is what processors that crop pass to a host."""
    side = min(frames.shape[1:3])
    top, left = ((size - side) // 2 for size in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side]
