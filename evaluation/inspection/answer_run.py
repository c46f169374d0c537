"""Running a host on one prompt, with a compressor attached and without.

Import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.
"""

from __future__ import annotations

import gc
import statistics
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.hooks.attach import attach
from framefold.adapters.hosts.lora.config import Lora, has_lora, read_lora
from framefold.adapters.hosts.lora.inject import with_lora
from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.pretrained.config import CONFIG
from framefold.evaluation.metrics.timing import TimedAnswer, peak_memory, timed_generate
from framefold.training.frozen_host.device import add_video_inputs

from .answer_table import ALL, Answer, AnswerRow


@dataclass(frozen=True, eq=False)
class Task:
    """A host with its inputs, and how to run it.

    Attributes:
        inputs: what the processor made of video and question, one row, where the model is.
        times: (G,) seconds of the steps of the token grid.
        lora: what the host gets while it runs with the compressor.
    """

    model: Any
    processor: Any
    inputs: dict[str, Any]
    times: torch.Tensor
    positions: Positions
    max_new_tokens: int
    lora: Lora | None = None


def lora_of(compressor: str) -> Lora | None:
    """LoRA of an adapter folder; None for a folder without, or for a name.

    Raises:
        AdapterFileError: it is damaged. MissingExtraError: PEFT is not installed.
    """
    folder = Path(compressor)
    return read_lora(folder) if (folder / CONFIG).is_file() and has_lora(folder) else None


def run_answers(task: Task, compressor: Compressor, compare: bool, repeats: int) -> Answer:
    """Answer with the compressor, and with all tokens where they are to be compared; the two take turns.

    Each is run once to warm up, `repeats` times for the clock, and once more for the memory.
    """
    ways: list[Compressor | None] = [compressor, None] if compare else [compressor]
    before, after = _warm_up(task, compressor, ways)
    timed: list[list[TimedAnswer]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, runs in zip(ways, timed, strict=True):
            runs.append(_generate(task, way, task.max_new_tokens))
    gc.collect()  # or what is freed meanwhile would hide what is needed
    rows = []
    for way, runs in zip(ways, timed, strict=True):
        memory = peak_memory(partial(_generate, task, way, task.max_new_tokens), task.model.device)
        rows.append(_row(task, way, runs, before if way is None else after, memory))
    return Answer(rows[0].text, rows[0], rows[1] if compare else None, before)


def _warm_up(task: Task, compressor: Compressor, ways: list[Compressor | None]) -> tuple[int, int]:
    """Run each way for two tokens; returns the number of visual tokens before and after the compressor."""
    seen: list[tuple[int, int]] = []
    watch = compressor.register_forward_hook(lambda _, args, out: seen.append((len(args[0]), len(out.tokens))))
    for way in ways:
        _generate(task, way, min(2, task.max_new_tokens))
    watch.remove()
    return seen[0]


def _generate(task: Task, compressor: Compressor | None, new: int) -> TimedAnswer:
    if compressor is None:
        return timed_generate(task.model, task.inputs, new)
    tuned: AbstractContextManager[Any] = nullcontext() if task.lora is None else with_lora(task.model, task.lora)
    with tuned, attach(task.model, compressor, positions=task.positions, tokenizer=task.processor):
        return timed_generate(task.model, add_video_inputs(task.inputs, task.times), new)


def _row(task: Task, way: Compressor | None, runs: list[TimedAnswer], visual: int, memory: int) -> AnswerRow:
    name = ALL if way is None else f"{way.name}, budget {way.budget}" if way.exact_budget else way.name
    name += " (LoRA)" if way is not None and task.lora is not None else ""
    text = task.processor.tokenizer.decode(runs[0].ids, skip_special_tokens=True).strip()
    prefill, decode = (run.prefill for run in runs), [run.decode for run in runs if run.decode is not None]
    decode_median = statistics.median(decode) if decode else None
    return AnswerRow(name, text, visual, runs[0].prompt, statistics.median(prefill), decode_median, memory)
