"""Ask a host about a real video file, with and without a compressor: the verb ``framefold answer``.

Nothing here may import transformers before torchvision has been found, since transformers looks for it once; not even
under ``TYPE_CHECKING``, which jsonargparse runs to read the signature.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import torch

from ..adapters import Compressor, build
from ..adapters.errors import ConfigError, InputError
from ..adapters.folder import CONFIG, load_folder
from ..adapters.hub import resolve
from ..adapters.origin import Origin
from ..data.sample import sample_frames
from .answer_rows import Answer, report
from .find_torchvision import find_torchvision
from .options import Budget


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
    other_host: bool = False,
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
        other_host: take an adapter that was trained in another host.

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
    compressor = resolve(compressor)
    plugged, where = compressor_of(compressor, budget), device_of(device)
    plugged.origin = Origin() if other_host else plugged.origin
    find_torchvision()
    from .answer_runs import Task, load_model, lora_of, place, run
    from .processing import build_inputs, grid_times, load_config, load_processor

    config = load_config(host)
    processor = load_processor(host)
    sample = sample_frames(video, frames)
    inputs = build_inputs(processor, sample, question)
    _check_length(config, processor, inputs, max_new_tokens)
    lora = lora_of(compressor)
    model = load_model(host, dtype, where)
    times = grid_times(processor, sample)
    task = Task(model, processor, place(inputs, model), times, positions, max_new_tokens, lora)
    result = run(task, plugged, compare, repeats)
    print(report(result, sample, repeats, where))
    return result


def compressor_of(name: str, budget: Budget | None, params: dict[str, Any] | None = None) -> Compressor:
    """A compressor by registered name, with parameters, or from an adapter folder, which has its own."""
    if "/" in name or (Path(name) / CONFIG).is_file():
        if params:
            raise ConfigError(f"an adapter folder brings its parameters, {name} takes none")
        return load_folder(name, budget=budget)
    return build(name, **params or {}) if budget is None else build(name, budget, **params or {})


def device_of(name: str | None) -> torch.device:
    """A device by name; cuda where there is one and nothing is said."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"no device is called {name!r}; cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {name} is not there; cpu or, with a GPU, cuda")
    return device


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
