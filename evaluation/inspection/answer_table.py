"""Result of ``framefold.answer``, and the table that it prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from framefold.adapters.core.tokens import VideoTokens
from framefold.data.video.frame_reader import SampledFrames
from framefold.errors import InputError

from .picture_file import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .kept_tokens import KeptSheet

ALL_TOKENS = "all tokens"  # name of the variant without compression in printed tables


@dataclass(frozen=True)
class AnswerRow:
    """An answer with its costs: one line of the table.

    Attributes:
        name: compressor and budget, or "all tokens".
        text: the answer.
        visual: visual tokens that the language model read, or of which it drops some between its layers.
        prompt: all tokens of the prompt that it read.
        prefill: seconds to the first generated token: vision encoder, compressor and prompt.
        decode: seconds of each further token; None if there is none.
        memory: peak bytes on top of the loaded model, see :func:`~framefold.evaluation.metrics.memory.peak_memory`.
        mean: mean number of visual tokens over the layers of the language model; None if all layers have ``visual``.
    """

    name: str
    text: str
    visual: int
    prompt: int
    prefill: float
    decode: float | None
    memory: int
    mean: float | None = None

    @property
    def costs(self) -> str:
        """Time and length of the prompt in one line."""
        time = _ms(self.prefill) if self.prefill < 1 else f"{self.prefill:.2f} s"
        return f"{time} to the first token of the answer, {self.prompt:,} tokens in the prompt"


@dataclass(frozen=True)
class Answer:
    """Result of :func:`~framefold.evaluation.inspection.answer.answer`.

    Attributes:
        text: the answer on the compressed video.
        compressed: that answer with its costs.
        full: the answer with all tokens; None without ``compare``.
        visual: visual tokens of the video before compression.
        setting: a line about the video, and about how times and memory were measured.
        tokens: the tokens that the compressor let enter the language model, without their features.
        left: those of its last layer; None if these are the same.
        sheet: the question, and small frames of the video.
    """

    text: str
    compressed: AnswerRow
    full: AnswerRow | None
    visual: int
    setting: str = ""
    tokens: VideoTokens | None = field(default=None, repr=False)
    left: VideoTokens | None = field(default=None, repr=False)
    sheet: KeptSheet | None = field(default=None, repr=False)

    def __str__(self) -> str:
        rows = [row for row in (self.compressed, self.full) if row is not None]
        width = max(len(row.name) for row in rows)
        inside = any(row.mean is not None for row in rows)
        mean = "  mean over layers" if inside else ""
        head = f"{'':<{width}}  visual tokens{mean}  prompt     prefill  decode/token  peak memory"
        lines = [
            f"{row.name:<{width}}  {row.visual:>13}{_mean(row) if inside else ''}  {row.prompt:>6}"
            f"  {_ms(row.prefill):>10}  {_ms(row.decode):>12}  {row.memory / 2**20:>7.1f} MiB"
            for row in rows
        ]
        answers = [self.text] if self.full is None else [f"{row.name:<{width}}  {row.text}" for row in rows]
        return "\n".join([*answers, "", head, *lines, "", self.setting])

    def figure(self) -> Figure:
        """Return a new matplotlib figure: the answer with all tokens, if there is one, beside that with fewer.

        Raises:
            InputError: the answer does not come from :func:`framefold.answer`, which keeps the frames.
        """
        from .answer_figure import Panel, draw_answers

        if self.tokens is None or self.sheet is None:
            raise InputError("the frames of this answer were not kept: framefold.answer keeps them")
        everything = VideoTokens.from_grid(self.tokens.features.new_zeros(*self.tokens.grid, 1))
        read = self.tokens if self.left is None else self.left
        pairs = [(row, tokens) for row, tokens in ((self.full, everything), (self.compressed, read)) if row]
        panels = [Panel(self._title(row), tokens, _first_line(row.text), row.costs) for row, tokens in pairs]
        return draw_answers(self.sheet, panels)

    def save(self, file: str | Path) -> Path:
        """Write :meth:`figure` to a picture (png, jpg, webp, svg, pdf), atomically.

        Raises:
            ConfigError: another suffix, or there is no such folder.
            OSError: the file cannot be written.
        """
        return save_figure(self.figure(), file)

    def _title(self, row: AnswerRow) -> str:
        name = row.name.partition(", budget")[0]
        if row.mean is not None and self.left is not None:
            share = f"{row.mean:,.1f} ({100 * row.mean / self.visual:.2g} %)"
            return f"{name}: {row.visual:,} to {len(self.left):,} visual tokens, mean over layers {share}"
        share = "" if row is self.full else f" ({100 * row.visual / self.visual:.2g} %)"
        return f"{name}: {row.visual:,} visual tokens{share}"


def describe_setting(sample: SampledFrames, visual: int, repeats: int, device: torch.device) -> str:
    """Return a line about the video, and about how times and memory were measured.

    Args:
        sample: the frames that the host was shown.
        visual: visual tokens of the video before compression.
        repeats: number of timed runs.
        device: device of the host.
    """
    memory = "allocated on the GPU" if device.type == "cuda" else "growth of the process"
    count = len(sample.times)
    frames = f"all {count}" if count == sample.total else f"{count} of {sample.total}"
    video = f"{frames} frames, {sample.duration:.1f} s, {visual} visual tokens"
    return f"{video}; times: median of {repeats} after a warm-up; memory: {memory} on top of the loaded model"


def _mean(row: AnswerRow) -> str:
    return f"  {row.visual if row.mean is None else row.mean:>16.1f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"


def _first_line(text: str, length: int = 56) -> str:
    """Return the first line of a text, of at most ``length`` characters."""
    line = (text.splitlines() or [""])[0]
    return line if len(line) <= length else line[: length - 1] + "…"
