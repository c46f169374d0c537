"""Ask a host about a video file, with and without a compressor: ``framefold.answer`` and its command.

This module must not import transformers before torchvision is found, since transformers looks for it only once; not
even under ``TYPE_CHECKING``, which jsonargparse executes to read the signature.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from framefold.adapters.base.build import load_or_build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import warn_untrained
from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.base_model import BaseModel
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.data.video.frame_reader import sample_frames
from framefold.errors import ConfigError, InputError
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.torchvision import find_torchvision
from framefold.training.frozen_host.vocabulary import warn_unknown_words

from .answer_table import Answer, describe_setting
from .kept_tokens import KeptSheet, shrink_frame, step_frames
from .picture_file import check_picture

SMALL = 160  # pixels, width of the frames that an answer keeps


def answer(
    model: Any,
    processor: Any,
    video: str | os.PathLike[str],
    question: str,
    *,
    compressor: str | Compressor,
    budget: Budget | None = None,
    frames: int = 64,
    max_new_tokens: int = 64,
    compare: bool = False,
    positions: Literal["preserve", "compact", "all_axes"] = "preserve",
    repeats: int = 1,
    vision_chunk: int | None = None,
) -> Answer:
    """Ask a loaded host about a video file on fewer visual tokens.

    Decoding is greedy. The host is left as it was; a compressor that is attached to it must be detached first.

    Args:
        model: video-LLM of a supported family, an unmodified transformers model.
        processor: its processor.
        video: video file that FFmpeg can read.
        question: question, which is wrapped in the host's own chat template.
        compressor: a compressor, a registered name, or an adapter (a folder, or user/name@revision on the Hub). LoRA in
            an adapter is added to the host, except for the run with all tokens.
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the compressor's own.
        frames: number of frames to sample, evenly over the duration of the video.
        max_new_tokens: largest length of the answer.
        compare: also answer with all tokens.
        positions: "preserve" keeps the positions that tokens have in the full prompt; "compact" renumbers them;
            "all_axes" is the rule of published Qwen2-VL and Qwen2.5-VL for the text behind a video.
        repeats: number of timed runs, of which the times are medians.
        vision_chunk: number of frames that the vision encoder takes at once, so that its memory does not grow with the
            video; by default all.

    Returns:
        The answer with its costs; ``print(answer)`` shows both as ``framefold answer`` does.

    Raises:
        UnknownCompressorError, BudgetError, AdapterFileError, HubError, ConfigError: the compressor or a setting is
            invalid.
        WrongHostError: the adapter was trained in another host.
        MissingExtraError: torchvision or Pillow is missing.
        UnsupportedHostError: the model belongs to no supported family.
        DataError: the video cannot be decoded.
        InputError: the question does not fit into the context of the host.
    """
    from .source import compressor_and_lora, tinyhost_name

    _check_counts(frames, max_new_tokens, repeats, vision_chunk)
    module, lora = compressor_and_lora(compressor, budget)
    warn_untrained(module)
    find_torchvision()
    prompt = _Prompt(processor, video, question, frames)
    prompt.check(model.config, max_new_tokens, tinyhost_name(model))
    return prompt.answer(model, module, lora, positions, max_new_tokens, compare, repeats, vision_chunk)


class _Prompt:
    """The prompt of a question about a video file.

    Args:
        processor: processor of the host.
        video: video file.
        question: question.
        frames: largest number of frames to sample.
    """

    def __init__(self, processor: Any, video: str | os.PathLike[str], question: str, frames: int) -> None:
        from framefold.training.frozen_host.processor import build_inputs

        self.processor, self.question = processor, question
        self.sample = sample_frames(os.fspath(video), frames)
        self.inputs = build_inputs(processor, self.sample, question)

    def check(self, config: Any, max_new_tokens: int, tinyhost: str | None) -> None:
        """Check the length of the prompt, and warn about words that a tinyhost (by its name) does not know."""
        _check_length(config, self.processor, self.inputs, max_new_tokens)
        if tinyhost is not None:
            warn_unknown_words(tinyhost, self.processor.tokenizer, [self.question], "the question")

    def answer(
        self,
        model: Any,
        compressor: Compressor,
        lora: Any,
        positions: Literal["preserve", "compact", "all_axes"],
        max_new_tokens: int,
        compare: bool,
        repeats: int,
        vision_chunk: int | None = None,
    ) -> Answer:
        """Run the host, see :func:`answer`."""
        from framefold.adapters.hosts.prompt.question import query_or_none
        from framefold.training.frozen_host.device import move_inputs
        from framefold.training.frozen_host.processor import grid_times

        from .answer_run import Task, run_answers

        inputs, times = move_inputs(self.inputs, model), grid_times(self.processor, self.sample)
        query = query_or_none(model, inputs, self.processor, self.question) if compressor.query_aware else None
        task = Task(model, self.processor, inputs, times, positions, max_new_tokens, lora, query, vision_chunk)
        result = run_answers(task, compressor, compare, repeats)
        setting = describe_setting(self.sample, result.visual, repeats, model.device)
        return replace(result, setting=setting, sheet=self._sheet(times))

    def _sheet(self, times: torch.Tensor) -> KeptSheet:
        """Return the question with small frames of the video."""
        frames = step_frames(self.sample, self.processor, len(times))
        small = np.stack([shrink_frame(one, SMALL * one.shape[0] // one.shape[1], SMALL) for one in frames])
        return KeptSheet(self.question, small.astype(np.uint8), times.cpu().numpy(), (), 8)


def _check_counts(frames: int, max_new_tokens: int, repeats: int, vision_chunk: int | None) -> None:
    counts = {"frames": frames, "max_new_tokens": max_new_tokens, "repeats": repeats, "vision_chunk": vision_chunk}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")


def answer_command(
    host: str,
    video: str,
    question: str,
    compressor: str | None = None,
    budget: Budget | None = None,
    frames: int = 64,
    max_new_tokens: int = 64,
    compare: bool = False,
    positions: Literal["preserve", "compact", "all_axes"] = "preserve",
    repeats: int = 3,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    allow_other_host: bool = False,
    revision: str | None = None,
    out: str | None = None,
    params: dict[str, Any] | None = None,
    vision_chunk: int | None = None,
) -> Answer:
    """Ask a host about a video file on fewer visual tokens; print the answer, its times and its memory.

    Decoding is greedy. Times are medians of `repeats` runs after a warm-up; with `compare`, the two variants alternate.

    Args:
        host: video-LLM of a supported family with its processor: a folder, or an id on the Hub that has been downloaded
            (hf download).
        video: video file that FFmpeg can read.
        question: question, which is wrapped in the host's own chat template.
        compressor: registered name, or an adapter: a folder, or user/name or user/name@revision on the Hub. LoRA in
            the adapter is added to the host, except for the run with all tokens. None for a host that contains one,
            written by 'framefold export --merge'.
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the adapter's own.
        frames: number of frames to sample, evenly over the duration of the video.
        max_new_tokens: largest length of the answer.
        compare: also answer with all tokens.
        positions: "preserve" keeps the positions that tokens have in the full prompt; "compact" renumbers them;
            "all_axes" is the rule of published Qwen2-VL and Qwen2.5-VL for the text behind a video.
        repeats: number of timed runs.
        device: cpu or cuda (cuda:1 ...); by default cuda if it is available.
        dtype: dtype of the weights; "auto" is bfloat16 on a GPU, and the one that they were saved in elsewhere.
        allow_other_host: accept an adapter that was trained in another host.
        revision: branch, tag or commit of a host on the Hub.
        out: picture to write (.png, .jpg, .webp, .svg, .pdf): the tokens that the host read, its answer and the costs.
        params: parameters of a registered compressor that differ from their defaults.
        vision_chunk: number of frames that the vision encoder takes at once, so that its memory does not grow with the
            video; by default all. The run with all tokens that ``compare`` adds does not use it.

    Raises:
        UnknownCompressorError, BudgetError, AdapterFileError, HubError, ConfigError: the compressor or a setting is
            invalid; nothing has been loaded yet.
        WrongHostError: the adapter was trained in another host.
        MissingExtraError: torchvision, Pillow or a package of the host's processor is missing; the message contains the
            command that installs it.
        HostError, UnsupportedHostError: the host cannot be used.
        DataError: the video cannot be decoded.
        InputError: the question does not fit into the context of the host.
    """
    _check_counts(frames, max_new_tokens, repeats, vision_chunk)
    picture = None if out is None else check_picture(out)
    named = find_host(host, revision).merged_adapter() if compressor is None else compressor
    module, where = load_or_build(resolve_adapter(named), budget, params), resolve_device(device)
    found = find_host(host, revision)
    warn_untrained(module)
    find_torchvision()
    from framefold.training.frozen_host.load import load_model
    from framefold.training.frozen_host.processor import load_config, load_processor

    from .source import lora_of

    config, processor = load_config(found), load_processor(found)
    prompt = _Prompt(processor, video, question, frames)
    prompt.check(config, max_new_tokens, host if found.is_tinyhost else None)
    with progress_bar(what=f"loading {host}", total=1, unit="host", leave=False):
        model = load_model(found, dtype, where)
    module.base_model = BaseModel() if allow_other_host else module.base_model
    lora = lora_of(resolve_adapter(named))
    result = prompt.answer(model, module, lora, positions, max_new_tokens, compare, repeats, vision_chunk)
    print(result)
    if picture is not None:
        print(f"wrote {result.save(picture)}")
    return result


def _check_length(config: Any, processor: Any, inputs: dict[str, Any], new: int) -> None:
    """Refuse a question that exceeds the context of the host by itself; warn if it does together with the video."""
    ids = inputs["input_ids"]
    placeholders = processor.tokenizer.convert_tokens_to_ids([processor.video_token, processor.image_token])
    text = int((~torch.isin(ids, torch.tensor(placeholders))).sum())
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is None:
        return
    if text + new > longest:
        raise InputError(
            f"{text} tokens of text and {new} new ones do not fit the host's context of {longest}: shorten the question"
        )
    if ids.numel() + new > longest:
        note = f"the full prompt has {ids.numel()} tokens, more than the host's context of {longest}"
        print(f"framefold: note: {note}; use fewer --frames, or --positions compact", file=sys.stderr)
