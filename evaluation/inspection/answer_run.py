"""Run a host on one prompt, with a compressor attached and without.

Import this module after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.
"""

from __future__ import annotations

import gc
import statistics
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import display_name
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.hosts.hooks.attach import attach
from framefold.adapters.hosts.lora.config import LoraAdapter
from framefold.adapters.hosts.lora.inject import with_lora
from framefold.adapters.hosts.prompt.columns import Positions
from framefold.evaluation.metrics.memory import peak_memory
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import add_video_inputs

from .answer_table import ALL_TOKENS, Answer, AnswerRow
from .kept_tokens import without_features
from .recorded_places import RecordedPlaces
from .timed_answer import TimedAnswer, timed_generate


@dataclass(frozen=True, eq=False)
class Task:
    """A host with a prompt, and how to answer it.

    Attributes:
        model: the host.
        processor: its processor.
        inputs: output of the processor for one video and question, on the device of the model.
        times: (G,) seconds of the steps of the token grid.
        positions: see :func:`~framefold.adapters.hosts.hooks.attach.attach`.
        max_new_tokens: largest length of the answer.
        lora: LoRA that the host has while it runs with the compressor.
        query: question for the compressor; None if it can be found in the prompt.
        vision_chunk: see :func:`~framefold.adapters.hosts.hooks.attach.attach`.
    """

    model: Any
    processor: Any
    inputs: dict[str, Any]
    times: torch.Tensor
    positions: Positions
    max_new_tokens: int
    lora: LoraAdapter | None = None
    query: str | None = None
    vision_chunk: int | None = None


def run_answers(task: Task, compressor: Compressor, compare: bool, repeats: int) -> Answer:
    """Answer with the compressor and, if ``compare``, with all tokens, in alternation.

    Each variant runs once to warm up, ``repeats`` times for its times, and once more for its memory.
    """
    variants: list[Compressor | None] = [compressor, None] if compare else [compressor]
    timed: list[list[TimedAnswer]] = [[] for _ in variants]
    rows = []
    with progress_bar(what="answers", total=len(variants) * (repeats + 1) + 1, unit="answer", leave=False) as bar:
        seen = _warm_up(task, compressor, variants)
        bar.update()
        for _ in range(repeats):
            for variant, runs in zip(variants, timed, strict=True):
                runs.append(_generate(task, variant, task.max_new_tokens))
                bar.update()
        gc.collect()  # memory that is freed during the measurement would hide growth
        for variant, runs in zip(variants, timed, strict=True):
            memory = peak_memory(partial(_generate, task, variant, task.max_new_tokens), task.model.device)
            rows.append(_row(task, variant, runs, seen, memory))
            bar.update()
    full = rows[1] if compare else None
    return Answer(rows[0].text, rows[0], full, seen.before, tokens=seen.entered, left=seen.left)


@dataclass(frozen=True, eq=False)
class SeenTokens:
    """What the language model saw of the video with the compressor.

    Attributes:
        before: number of visual tokens before compression.
        entered: the tokens that entered, without their features, which are large.
        left: those of the last layer; None if these are the same.
        mean: mean number over the layers; None if all layers have the same.
    """

    before: int
    entered: VideoTokens
    left: VideoTokens | None = None
    mean: float | None = None


def _warm_up(task: Task, compressor: Compressor, variants: list[Compressor | None]) -> SeenTokens:
    """Generate two tokens with each variant and return what the language model saw with the compressor."""
    seen: list[SeenTokens] = []

    def record(_: Any, args: tuple[VideoTokens, ...], out: Compressed) -> None:
        seen.append(SeenTokens(len(args[0]), without_features(out.tokens)))

    hook = compressor.register_forward_hook(record)
    with RecordedPlaces(task.model) as recorded:
        for variant in variants:
            _generate(task, variant, min(2, task.max_new_tokens))
    hook.remove()
    if not recorded.places:
        return seen[0]
    (place,) = recorded.places
    return replace(seen[0], left=without_features(place.last), mean=place.mean_tokens)


def _generate(task: Task, compressor: Compressor | None, new: int) -> TimedAnswer:
    if compressor is None:
        return timed_generate(task.model, task.inputs, new)
    lora: AbstractContextManager[Any] = nullcontext() if task.lora is None else with_lora(task.model, task.lora)
    options: dict[str, Any] = {"positions": task.positions, "query": task.query, "tokenizer": task.processor}
    with lora, attach(task.model, compressor, vision_chunk=task.vision_chunk, **options):
        return timed_generate(task.model, add_video_inputs(task.inputs, task.times), new)


def _row(task: Task, variant: Compressor | None, runs: list[TimedAnswer], seen: SeenTokens, memory: int) -> AnswerRow:
    name = ALL_TOKENS
    if variant is not None:
        name = display_name(variant) + (f", budget {variant.budget}" if variant.exact_budget else "")
        name += " (LoRA)" if task.lora is not None else ""
    text = task.processor.tokenizer.decode(runs[0].ids, skip_special_tokens=True).strip()
    prefill, decode = (run.prefill for run in runs), [run.decode for run in runs if run.decode is not None]
    decode_median = statistics.median(decode) if decode else None
    visual, mean = (seen.before, None) if variant is None else (len(seen.entered), seen.mean)
    return AnswerRow(name, text, visual, runs[0].prompt, statistics.median(prefill), decode_median, memory, mean)
