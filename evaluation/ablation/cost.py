"""What a cell of the ablation costs: time, memory and operations until the first question can be read.

A few videos are prefilled one at a time, each with all its tokens and compressed, next to each other in the same
process: machines differ, and so does their load, but what the two take relative to each other can be compared. A
method that knows the question is asked the first one. Everything is run once before it is timed.

Dimensions: B videos.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import torch

from framefold.adapters.base.build import build
from framefold.evaluation.metrics.flops import counted_flops, prefill_flops
from framefold.evaluation.metrics.memory import peak_bytes
from framefold.evaluation.metrics.timing import Compress, TimedCompressor, peak_memory, synchronize
from framefold.training.frozen_host.ask import EncodedBatch, compress_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import QARows

from .batches import HeldOutBatch
from .oracles import KeepEvidence

VIDEOS = 5  # that are measured


@dataclass(frozen=True)
class Once:
    """One prefill: milliseconds of the compressor and of the rest, and columns of the prompt."""

    compressor: float
    prefill: float
    columns: int

    @property
    def total(self) -> float:
        """Milliseconds of both."""
        return self.compressor + self.prefill


class Meter:
    """Measures compressors on the same few videos.

    Args:
        videos: batches of one video each.
    """

    def __init__(self, host: Host, videos: Sequence[HeldOutBatch]) -> None:
        self.host, self.videos = host, [_first_question(video) for video in videos[:VIDEOS]]
        self.full = TimedCompressor(build("identity"), host.model.device)
        self._peaks: dict[str, int] = {}  # with all tokens, by who changes the host

    @torch.no_grad()
    def measure(self, compressor: Compress, changed_by: str = "") -> dict[str, Any]:
        """Costs of a compressor.

        Args:
            changed_by: names who has changed the host (LoRA), "" if nobody.

        Returns:
            Medians over the videos of ``compressor_ms``, ``prefill_ms`` and ``full_prefill_ms`` (with all tokens), and
            of ``speedup``, by how much all tokens take longer than compressor and prefill; means of ``prefill_flops``
            and ``full_prefill_flops`` (None if there is no formula) and of ``compressor_flops`` (matrix products only);
            ``peak_bytes`` and ``full_peak_bytes`` of the first video beside what was there before, and ``memory_of``,
            what counted them.
        """
        timed, first = TimedCompressor(compressor, self.host.model.device), self.videos[0]
        peak = self._peak(timed, first)
        if changed_by not in self._peaks:
            self._peaks[changed_by] = self._peak(self.full, first)
        operations = counted_flops(lambda: self._compressed(timed, first))
        self._once(timed, first)  # to warm up
        pairs = []
        for number, video in enumerate(self.videos):
            runs = [self.full, timed] if number % 2 else [timed, self.full]  # so that neither is always the second
            took = {id(run): self._once(run, video) for run in runs}
            pairs.append((took[id(timed)], took[id(self.full)]))
        return {
            "videos": len(pairs),
            "compressor_ms": median(one.compressor for one, _ in pairs),
            "prefill_ms": median(one.prefill for one, _ in pairs),
            "full_prefill_ms": median(full.total for _, full in pairs),
            "speedup": median(full.total / one.total for one, full in pairs),
            "prefill_flops": self._flops([one.columns for one, _ in pairs]),
            "full_prefill_flops": self._flops([full.columns for _, full in pairs]),
            "compressor_flops": operations,
            "peak_bytes": peak,
            "full_peak_bytes": self._peaks[changed_by],
            "memory_of": "CUDA allocator" if self.host.model.device.type == "cuda" else "tensors",
        }

    def _once(self, compressor: TimedCompressor, video: HeldOutBatch) -> Once:
        start = time.perf_counter()
        columns = self._prefill(compressor, video)
        synchronize(self.host.model.device)
        total = 1000 * (time.perf_counter() - start)
        return Once(compressor.milliseconds[-1], total - compressor.milliseconds[-1], columns)

    def _compressed(self, compressor: TimedCompressor, video: HeldOutBatch) -> dict[str, Any]:
        if isinstance(compressor.compressor, KeepEvidence):
            compressor.compressor.begin(video)
        return compress_batch(self.host, compressor, video.asked).kwargs

    def _prefill(self, compressor: TimedCompressor, video: HeldOutBatch) -> int:
        inputs = self._compressed(compressor, video)
        self.host.model(**inputs, use_cache=True, logits_to_keep=1)
        return inputs["input_ids"].shape[1]

    def _peak(self, compressor: TimedCompressor, video: HeldOutBatch) -> int:
        if self.host.model.device.type == "cuda":
            self._prefill(compressor, video)  # libraries take their workspaces once
            return peak_memory(lambda: self._prefill(compressor, video), self.host.model.device)
        known = [*_tensors(self.host.model), *_tensors(compressor.compressor)]
        clips = [tensor for clip in video.asked.encoded for tensor in (clip.features, clip.extra, *clip.deepstack)]
        return peak_bytes(
            lambda: self._prefill(compressor, video), *known, *clips, *video.asked.inputs.values(), *video.asked.times
        )

    def _flops(self, columns: list[int]) -> float | None:
        counts = [prefill_flops(self.host.model.config, count) for count in columns]
        known = [count for count in counts if count is not None]
        return fmean(known) if len(known) == len(counts) else None


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()] if isinstance(module, torch.nn.Module) else []


def _first_question(video: HeldOutBatch) -> HeldOutBatch:
    """A batch of one video that is asked its first question only."""
    asked = video.asked
    rows = QARows(*(getattr(asked.rows, name)[:1] for name in asked.rows.__dataclass_fields__))
    first = EncodedBatch(asked.encoded, asked.inputs, asked.times, rows, asked.questions[:1])
    return replace(video, asked=first, evidence=video.evidence[:1])
