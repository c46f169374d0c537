"""Draw the tokens of a video file that compressors keep: ``framefold.show`` and its command.

This module must not import transformers before torchvision is found, since transformers looks for it only once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framefold.adapters.base.build import load_or_build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import warn_untrained
from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.data.video.frame_reader import SampledFrames, sample_frames
from framefold.errors import ConfigError
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device
from framefold.training.frozen_host.locate import EMBEDDED, find_host
from framefold.training.frozen_host.torchvision import find_torchvision
from framefold.training.frozen_host.vocabulary import warn_unknown_words

from .picture_file import check_picture

if TYPE_CHECKING:
    from .kept_figure import KeptFigure

QUESTION = "What happens in the video?"

MAX_PIXELS = 1024 * 768  # per frame: larger frames are shrunk as they are read, which bounds the memory


def show(
    model: Any,
    processor: Any,
    video: str | os.PathLike[str],
    compressors: str | Compressor | Sequence[str | Compressor],
    *,
    budget: Budget | None = None,
    frames: int = 32,
    columns: int = 8,
    question: str | None = None,
) -> KeptFigure:
    """Draw the tokens of a video file that compressors keep.

    Args:
        model: video-LLM of a supported family, whose vision encoder computes the tokens; it is left as it was.
        processor: its processor.
        video: video file that FFmpeg can read. Frames of more than 1024 x 768 pixels are shrunk to as many.
        compressors: one or several compressors, registered names, or adapters.
        budget: share of the visual tokens to keep (0.1), or their number (100); by default each compressor's own.
        frames: number of frames to sample, evenly over the duration of the video.
        columns: frames per row.
        question: question for query-aware compressors, by default "What happens in the video?". Compressors that read
            it inside the language model (fastv) need one.

    Returns:
        A figure, which notebooks display; ``save("kept.png")`` writes it, ``save("kept.mp4")`` an animation.

    Raises:
        AttachError: a compressor cannot act in the layers of this language model.
        The errors of :func:`framefold.answer`.
    """
    _check_counts(frames, columns)
    several = [compressors] if isinstance(compressors, str | Compressor) else list(compressors)
    modules = [one if isinstance(one, Compressor) else load_or_build(resolve_adapter(one), budget) for one in several]
    for module in modules:
        module.budget = module.budget if budget is None else budget
        warn_untrained(module)
    _check_question(modules, question)
    find_torchvision()
    sample = sample_frames(video, frames, MAX_PIXELS)
    return _draw(model, processor, sample, modules, question or QUESTION, columns, Path(video).name)


def show_command(
    video: str,
    compressor: list[str],
    out: str | None = None,
    host: str = EMBEDDED,
    budget: Budget | None = None,
    frames: int = 32,
    columns: int = 8,
    question: str | None = None,
    params: dict[str, dict[str, Any]] | None = None,
    device: str | None = None,
    revision: str | None = None,
) -> None:
    """Draw the frames of a video with the tokens that compressors keep, and their number over time.

    Kept tokens are in colour, dropped ones dim and grey. Tokens that were merged have an outline in one colour, in
    every frame that the merged token represents. The plot below shows the number of tokens that represent each frame,
    and, for methods that detect events, the share of each frame's tokens that are events.

    Of methods that reduce tokens inside the language model, the tokens of its last layer are drawn, and above them
    those that enter, if not all do. The host then also reads the prompt.

    Args:
        video: video file that FFmpeg can read. Frames of more than 1024 x 768 pixels are shrunk to as many.
        compressor: one or several registered names or adapters (a folder, or user/name or user/name@revision on the
            Hub); each gets a strip of the same frames.
        out: picture (.png, .jpg, .webp, .svg, .pdf) or animation (.mp4) to write; by default VIDEO.kept.png next to the
            video.
        host: video-LLM with its processor, whose vision encoder computes the tokens: a folder, or an id on the Hub that
            has been downloaded (hf download).
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the adapter's own.
        frames: number of frames to sample, evenly over the duration of the video.
        columns: frames per row.
        question: question for query-aware compressors, by default "What happens in the video?". Compressors that read
            it inside the language model (fastv) need one.
        params: parameters of registered compressors that differ from their defaults, by name of the compressor.
        device: cpu or cuda; by default cuda if it is available.
        revision: branch, tag or commit of a host on the Hub.

    Raises:
        ConfigError: the suffix of out, a number or a parameter is wrong.
        OSError: the picture cannot be written.
        FramefoldError: as ``framefold answer``.
    """
    _check_counts(frames, columns)
    from .kept_figure import ANIMATIONS

    file = check_picture(out or Path(video).with_suffix(".kept.png"), ANIMATIONS)
    if unknown := set(params or {}) - set(compressor):
        raise ConfigError(f"params are by name of a compressor, and {sorted(unknown)[0]!r} is not shown")
    known = params or {}
    modules = [load_or_build(resolve_adapter(name), budget, known.get(name)) for name in compressor]
    _check_question(modules, question)
    asked = question or QUESTION
    where, found = resolve_device(device), find_host(host, revision)
    for module in modules:
        warn_untrained(module)
    find_torchvision()
    from framefold.training.frozen_host.load import load_model
    from framefold.training.frozen_host.processor import load_config, load_processor

    load_config(found)
    processor = load_processor(found)
    sample = sample_frames(video, frames, MAX_PIXELS)
    if found.is_tinyhost and any(module.query_aware for module in modules):
        warn_unknown_words(host, processor.tokenizer, [asked], "the question")
    with progress_bar(what=f"encoding {Path(video).name}", total=1, unit="video", leave=False):
        model = load_model(found, "auto", where)
        drawn = _draw(model, processor, sample, modules, asked, columns, Path(video).name)
    drawn.save(file)
    counts = ", ".join(kept.title for kept in drawn.sheet.kept)
    print(f"wrote {file}: {counts} of {len(drawn.sheet.times)} steps")
    if host == EMBEDDED:
        print(f"tokens of the embedded host {host}; --host HOST draws those of your own model")


def _check_counts(frames: int, columns: int) -> None:
    if min(frames, columns) < 1:
        raise ConfigError(f"frames and columns must be at least 1, not {frames} and {columns}")


def _check_question(modules: Sequence[Compressor], question: str | None) -> None:
    for module in modules:
        if not question and module.in_llm is not None and module.in_llm.reads:
            raise ConfigError(
                f"{module.name} chooses tokens inside the language model by the attention that the question pays them:"
                " give a question (--question)"
            )


def _draw(
    model: Any,
    processor: Any,
    sample: SampledFrames,
    modules: Sequence[Compressor],
    question: str,
    columns: int,
    title: str,
) -> KeptFigure:
    from .kept_figure import KeptFigure
    from .kept_run import run_compressors

    return KeptFigure(run_compressors(model, processor, sample, modules, question, columns, title))
