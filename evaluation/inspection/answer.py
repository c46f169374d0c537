"""Ask a host about a real video file, with and without a compressor: the verb ``framefold answer``.

Nothing here may import transformers before torchvision has been found, since transformers looks for it once; not even
under ``TYPE_CHECKING``, which jsonargparse runs to read the signature.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch

from framefold.adapters.base.build import load_or_build
from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.base_model import BaseModel
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.data.video.frame_reader import sample_frames
from framefold.errors import ConfigError, InputError
from framefold.training.frozen_host.device import device_of
from framefold.training.frozen_host.torchvision import find_torchvision

from .answer_table import Answer, answer_report


def answer(
    host: str,
    video: str,
    question: str,
    compressor: str,
    budget: Budget | None = None,
    frames: int = 64,
    max_new_tokens: int = 64,
    compare: bool = False,
    positions: Literal["preserve", "compact"] = "preserve",
    repeats: int = 3,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    allow_other_host: bool = False,
) -> Answer:
    """Ask a host about a video file on fewer visual tokens; print the answer and what it took.

    Answers are greedy. Times are medians of `repeats` runs after one to warm up; with `compare`, the two take turns.

    Args:
        host: folder or Hub id of a video-LLM of a supported family, with its processor.
        video: any file that FFmpeg reads.
        question: put to the host through its own chat template.
        compressor: registered name, or an adapter: a folder, or user/name or user/name@revision on the Hub. LoRA in it
            is put into the host, but for all tokens.
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the adapter's own.
        frames: number of frames to take, evenly over the duration of the video.
        max_new_tokens: longest answer.
        compare: answer with all tokens as well.
        positions: "preserve" leaves tokens their positions in the full prompt, "compact" counts the shorter one anew.
        repeats: timed runs.
        device: cpu or cuda (cuda:1 ...); by default cuda where there is one.
        dtype: of the weights; "auto" is what the host was saved in.
        allow_other_host: take an adapter that was trained in another host.

    Raises:
        UnknownCompressorError, BudgetError, AdapterFileError, HubError, ConfigError: the compressor or a setting;
            nothing was loaded then. WrongHostError: the adapter was trained in another host.
        MissingExtraError: torchvision, Pillow or a package of the host's processor; the message installs it.
        HostError, UnsupportedHostError: no host that can be used.
        DataError: no video that can be decoded. InputError: a question that does not fit.
    """
    for name, value in (("frames", frames), ("max_new_tokens", max_new_tokens), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    compressor = resolve_adapter(compressor)
    plugged, where = load_or_build(compressor, budget), device_of(device)
    plugged.base_model = BaseModel() if allow_other_host else plugged.base_model
    find_torchvision()
    from framefold.training.frozen_host.device import move_inputs
    from framefold.training.frozen_host.load import load_model
    from framefold.training.frozen_host.processor import build_inputs, grid_times, load_config, load_processor

    from .answer_run import Task, lora_of, run_answers

    config = load_config(host)
    processor = load_processor(host)
    sample = sample_frames(video, frames)
    inputs = build_inputs(processor, sample, question)
    _check_length(config, processor, inputs, max_new_tokens)
    lora = lora_of(compressor)
    model = load_model(host, dtype, where)
    times = grid_times(processor, sample)
    task = Task(model, processor, move_inputs(inputs, model), times, positions, max_new_tokens, lora)
    result = run_answers(task, plugged, compare, repeats)
    print(answer_report(result, sample, repeats, where))
    return result


def _check_length(config: Any, processor: Any, inputs: dict[str, Any], new: int) -> None:
    """Refuse a question that fills the context of the host by itself; say so where the video does with it."""
    ids = inputs["input_ids"]
    marks = processor.tokenizer.convert_tokens_to_ids([processor.video_token, processor.image_token])
    text = int((~torch.isin(ids, torch.tensor(marks))).sum())
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is None:
        return
    if text + new > longest:
        raise InputError(
            f"{text} tokens of text and {new} new ones do not fit the host's context of {longest}: shorten the question"
        )
    if ids.numel() + new > longest:
        note = f"the full prompt has {ids.numel()} tokens, more than the host's context of {longest}"
        print(f"framefold: note: {note}; fewer --frames, or --positions compact", file=sys.stderr)
