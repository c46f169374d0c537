"""Run compressors on one video and collect the tokens that they keep.

Import this module after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import display_name
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.hooks.layer_hooks import in_llm
from framefold.adapters.hosts.prompt.prepare import Prepared, prepare
from framefold.adapters.hosts.prompt.question import query_or_none
from framefold.adapters.hosts.prompt.vision import encode
from framefold.data.video.frame_reader import SampledFrames
from framefold.training.frozen_host.device import move_inputs
from framefold.training.frozen_host.processor import build_inputs, grid_times

from .kept_tokens import KeptSheet, KeptTokens, step_frames, without_features


@torch.no_grad()
def run_compressors(
    model: Any,
    processor: Any,
    sample: SampledFrames,
    modules: Sequence[Compressor],
    question: str,
    columns: int,
    title: str,
) -> KeptSheet:
    """Compress a video with each compressor; the vision encoder runs once.

    The language model runs only for compressors that act inside it.

    Args:
        model: the host.
        processor: its processor.
        sample: frames of the video.
        modules: the compressors.
        question: question about the video.
        columns: see :class:`~framefold.evaluation.inspection.kept_tokens.KeptSheet`.
        title: as there.
    """
    inputs = move_inputs(build_inputs(processor, sample, question), model)
    times, kept = grid_times(processor, sample), list[KeptTokens]()
    attention = any(module.needs_attention for module in modules)
    clips = encode(model, inputs, attention=attention, tokenizer=processor)
    video = VideoTokens.from_grid(clips[0].features, times, clips[0].attention)
    for module in modules:
        query = query_or_none(model, inputs, processor, question) if module.query_aware else None
        with _eval_mode(module), in_llm(model, module):
            prepared = prepare(model, inputs, module, query=query, encoded=clips, tokenizer=processor, times=[times])
            if module.in_llm is not None:
                model(**prepared.kwargs, logits_to_keep=1)
        kept += _kept_by(module, prepared, module.events(video))
    pictures = step_frames(sample, processor, kept[0].tokens.grid[0])
    return KeptSheet(title, pictures, times.cpu().numpy(), tuple(kept), columns)


@contextmanager
def _eval_mode(module: Compressor) -> Iterator[None]:
    """Run a compressor in eval mode, in which it keeps its budget, and restore its own."""
    mode = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(mode)


def _kept_by(module: Compressor, prepared: Prepared, events: torch.Tensor | None) -> list[KeptTokens]:
    """Return the tokens that a compressor keeps of the only video of a prompt.

    Inside the language model these are the tokens of the last layer; before them come those that enter, if not all do.
    """
    name, entered = display_name(module), prepared.tokens[0].to("cpu")
    events = None if events is None else events.cpu()
    if module.in_llm is None:
        return [KeptTokens(name, entered, events)]
    assert prepared.prompt is not None
    (place,) = prepared.prompt.places
    last = without_features(place.last)
    inside = KeptTokens(f"{name} (last layer)", last, None, f" (mean over the layers: {place.mean_tokens:.1f})")
    if len(entered) == len(entered.assign):
        return [replace(inside, events=events)]
    return [KeptTokens(f"{name} (entering)", entered, events), inside]
