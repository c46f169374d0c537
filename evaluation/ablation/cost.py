"""Cost of a compressor: time, memory and operations up to the logits of the first answer token, and to the answer.

A few videos are prefilled one at a time, each with all its tokens and compressed, alternately in the same process:
absolute times depend on the machine and its load, but the ratio of the two can be compared. A query-aware compressor
gets the first question. Everything runs once before it is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from statistics import fmean, median
from typing import Any, NamedTuple

import torch

from framefold.adapters.base.build import build
from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.adapters.hosts.hooks.layer_hooks import in_llm
from framefold.adapters.hosts.prompt.prepare import Prepared
from framefold.data.shards.sample import VideoSample
from framefold.errors import DataError, InputError, PromptError
from framefold.evaluation.metrics.equal_flops import PromptSize
from framefold.evaluation.metrics.flops import PrefillFormula, added_attention_flops, count_flops
from framefold.evaluation.metrics.memory import peak_memory, peak_tensor_bytes
from framefold.evaluation.metrics.timing import Compress, Stopwatch, TimedCompressor
from framefold.evaluation.results.settings import FULL
from framefold.evaluation.rows.keep_evidence import KeepEvidence
from framefold.training.frozen_host.batch import EncodedBatch, complete_prompts, compress_batch, dropped_tokens
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import IGNORE, QuestionRows, question_inputs

from .batches import HeldOutBatch
from .heldout import HeldOutSource

VIDEOS = 3  # videos to measure on; prefilling one with all its tokens takes longer than answering about it at 10 %


class PrefillSize(NamedTuple):
    """What a prefill and the answer after it compute.

    Attributes:
        columns: tokens of the prompt in each layer.
        added: operations of attention to tokens outside of the context.
        new: tokens of question and answer after the prompt.
        answer: tokens of the answer.
        tower: share of the frames' pixels that a vision encoder needs.
    """

    columns: list[int]
    added: int
    new: int
    answer: int
    tower: float


class TowerCost(NamedTuple):
    """Cost of the vision encoder for all frames of a video; None where the data contains features instead of frames.

    Attributes:
        flops: counted operations, mean over a few videos.
        milliseconds: median over them, with the prompts.
    """

    flops: float | None = None
    milliseconds: float | None = None


UNKNOWN = TowerCost()


@torch.no_grad()
def tower_cost(host: Host, source: HeldOutSource) -> TowerCost:
    """Measure the vision encoder of a host on the first videos of a source."""
    flops, milliseconds = [], []
    for create in islice(source.videos(), VIDEOS):
        with suppress(DataError, InputError, PromptError):  # damaged videos are left out
            sample = create().sample
            if not isinstance(sample, VideoSample):
                return TowerCost()
            counted = count_flops(partial(host.encode_sample, sample))  # also the warm-up
            with Stopwatch(host.model.device) as watch:
                host.encode_sample(sample)
            flops.append(counted)
            milliseconds.append(1000 * watch.seconds)
    return TowerCost(fmean(flops), median(milliseconds)) if flops else TowerCost()


@dataclass(frozen=True)
class PrefillTiming:
    """One prefill.

    Attributes:
        compressor: milliseconds of the compressor.
        prefill: milliseconds of everything else.
        question: milliseconds of the question, if it is not part of the prefill.
        size: what was prefilled.
    """

    compressor: float
    prefill: float
    question: float
    size: PrefillSize

    @property
    def total(self) -> float:
        """Milliseconds of compressor and prefill."""
        return self.compressor + self.prefill


class CostMeter:
    """Measures compressors on the same few videos.

    Args:
        host: host that reads the prompts.
        videos: batches of one video each.
        tower: cost of the vision encoder.
    """

    def __init__(self, host: Host, videos: Sequence[HeldOutBatch], tower: TowerCost = UNKNOWN) -> None:
        self.tower = tower
        self.host, self.videos = host, [_first_question(video) for video in videos[:VIDEOS]]
        self.full = TimedCompressor(build(FULL), host.model.device)
        self.formula = PrefillFormula.of(host.model.config)
        self._full_peaks: dict[str, int] = {}  # peak with all tokens, by the key of the LoRA in the host

    @torch.no_grad()
    def measure(self, compressor: Compress, lora_key: str = "") -> dict[str, Any]:
        """Measure the costs of a compressor.

        Args:
            compressor: compressor of the videos.
            lora_key: key of the LoRA in the host, "" without LoRA.

        Returns:
            Medians over the videos of ``compressor_ms``, ``prefill_ms``, ``full_prefill_ms`` (with all tokens) and
            ``speedup``, the ratio of the time with all tokens to that of compressor and prefill; means of
            ``prefill_flops`` and ``full_prefill_flops`` (None if there is no formula for the host);
            ``compressor_flops`` (matrix products only), ``peak_bytes`` and ``full_peak_bytes`` of the first video, on
            top of what was in use before; ``memory_of``, the source of the peaks; and ``videos``, their number.
            Of the rest of the way to an answer: ``tower_flops`` and ``tower_ms`` of the frames that the method needs,
            ``question_ms`` of the first question after the prefill, ``answer_flops`` of question and answer,
            ``full_total_flops`` of everything with all tokens, and ``per_question``, 1 for a method that compresses and
            prefills anew for each question.
        """
        timed, first = TimedCompressor(compressor, self.host.model.device), self.videos[0]
        peak = self._peak(timed, first)
        if lora_key not in self._full_peaks:
            self._full_peaks[lora_key] = self._peak(self.full, first)
        operations = count_flops(lambda: self._compress(timed, first))
        self._time_prefill(timed, first)  # warm-up
        pairs = []
        for number, video in enumerate(self.videos):
            runs = [self.full, timed] if number % 2 else [timed, self.full]  # neither is always the second
            timings = {id(run): self._time_prefill(run, video) for run in runs}
            pairs.append((timings[id(timed)], timings[id(self.full)]))
        sizes = [short.size for short, _ in pairs]
        share = fmean(size.tower for size in sizes)
        tower_flops, tower_ms = (None if one is None else share * one for one in self.tower)
        return {
            "tower_flops": tower_flops,
            "tower_ms": tower_ms,
            "question_ms": median(short.question for short, _ in pairs),
            "answer_flops": self._answer_flops(sizes),
            "full_total_flops": self._total_flops([full.size for _, full in pairs]),
            "per_question": float(timed.query_aware),
            "videos": len(pairs),
            "compressor_ms": median(short.compressor for short, _ in pairs),
            "prefill_ms": median(short.prefill for short, _ in pairs),
            "full_prefill_ms": median(full.total for _, full in pairs),
            "speedup": median(full.total / short.total for short, full in pairs),
            "prefill_flops": self._mean_flops([short.size for short, _ in pairs]),
            "full_prefill_flops": self._mean_flops([full.size for _, full in pairs]),
            "compressor_flops": operations,
            "peak_bytes": peak,
            "full_peak_bytes": self._full_peaks[lora_key],
            "memory_of": "CUDA allocator" if self.host.model.device.type == "cuda" else "tensors",
        }

    def prompt_sizes(self, complete: bool) -> list[PromptSize]:
        """Return the sizes of the prompts that are prefilled.

        Args:
            complete: with the first question, as for compressors that read it inside the language model.
        """
        return [_prompt_size(video.encoded, complete) for video in self.videos]

    @torch.no_grad()
    def prefill_flops(self, compressor: Compress) -> float | None:
        """Return the mean operations of the prefills with a compressor, None if there is no formula for the host."""
        timed = TimedCompressor(compressor, self.host.model.device)
        return self._mean_flops([self._prefill(timed, video)[0] for video in self.videos])

    def budget_flops(self, budget: Budget) -> float | None:
        """Return the limit at equal FLOPs: everything with the budget's tokens in every layer and no compressor."""
        if self.formula is None or self.tower.flops is None:
            return None
        layers = len(self.formula.weights)
        sizes = []
        for video in self.videos:
            prompt = _prompt_size(video.encoded, complete=False)
            columns = [prompt.text + budget_tokens(budget, prompt.tokens)] * layers
            sizes.append(PrefillSize(columns, 0, *_question_size(video.encoded.rows, prefilled=False), 1.0))
        return self._total_flops(sizes)

    def _time_prefill(self, compressor: TimedCompressor, video: HeldOutBatch) -> PrefillTiming:
        with in_llm(self.host.model, compressor):
            with Stopwatch(self.host.model.device) as watch:
                size, further = self._prefill(compressor, video)
            with Stopwatch(self.host.model.device) as question:
                if further:
                    self.host.model(**further, logits_to_keep=1)
        compressing = compressor.milliseconds[-1]
        after = 1000 * question.seconds if further else 0.0
        return PrefillTiming(compressing, 1000 * watch.seconds - compressing, after, size)

    def _compress(self, compressor: TimedCompressor, video: HeldOutBatch) -> Prepared:
        if isinstance(compressor.compressor, KeepEvidence):
            compressor.compressor.begin(video)
        with in_llm(self.host.model, compressor):
            return compress_batch(self.host, compressor, video.encoded)

    def _prefill(self, compressor: TimedCompressor, video: HeldOutBatch) -> tuple[PrefillSize, dict[str, Any]]:
        """Prefill a prompt, and return the arguments of a forward over the question, if the prompt lacks it."""
        rows = video.encoded.rows
        with in_llm(self.host.model, compressor):
            prepared = self._compress(compressor, video)
            inputs, complete = prepared.kwargs, compressor.in_llm is not None and compressor.in_llm.reads
            if complete:
                inputs = complete_prompts(self.host, prepared, rows)
            cache = self.host.model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        dropped = dropped_tokens(self.host, prepared)
        columns = [inputs["input_ids"].shape[1] - count for count in dropped]
        further = {} if complete else question_inputs(prepared.kwargs, rows, cache)
        tower = fmean(map(getattr(compressor.compressor, "tower_share", lambda tokens: 1.0), prepared.tokens))
        size = PrefillSize(
            columns, self._added_flops(compressor.in_llm, prepared), *_question_size(rows, complete), tower
        )
        return size, further

    def _added_flops(self, stage: Any, prepared: Prepared) -> int:
        """Return the operations of the attention that a stage has added to the text of one prompt."""
        layers = 0 if stage is None else len(stage.adds(len(self.host.family.decoder_layers(self.host.model))))
        if not layers or prepared.prompt is None or prepared.prompt.visual is None:
            return 0
        text = int((prepared.prompt.mask.bool() & ~prepared.prompt.visual).sum())
        tokens = sum(len(place.tokens.assign) for place in prepared.prompt.places)
        return added_attention_flops(self.host.family.language_model_shape(self.host.model), layers, text, tokens)

    def _peak(self, compressor: TimedCompressor, video: HeldOutBatch) -> int:
        if self.host.model.device.type == "cuda":
            self._prefill(compressor, video)  # libraries allocate their workspaces in the first run
            return peak_memory(lambda: self._prefill(compressor, video), self.host.model.device)
        batch = video.encoded
        weights = [*_tensors(self.host.model), *_tensors(compressor.compressor)]
        clips = [tensor for clip in batch.encoded for tensor in (clip.features, clip.extra, *clip.deepstack)]
        inputs = [*weights, *clips, *batch.inputs.values(), *batch.times]
        return peak_tensor_bytes(lambda: self._prefill(compressor, video), *inputs)

    def _answer_flops(self, sizes: Sequence[PrefillSize]) -> float | None:
        if self.formula is None:
            return None
        return fmean(self.formula.after(size.columns, size.new, size.answer) for size in sizes)

    def _total_flops(self, sizes: Sequence[PrefillSize]) -> float | None:
        parts = (self.tower.flops, self._mean_flops(sizes), self._answer_flops(sizes))
        return None if None in parts else sum(part for part in parts if part is not None)

    def _mean_flops(self, sizes: Sequence[PrefillSize]) -> float | None:
        return None if self.formula is None else fmean(self.formula(size.columns) + size.added for size in sizes)


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()] if isinstance(module, torch.nn.Module) else []


def _question_size(rows: QuestionRows, prefilled: bool) -> tuple[int, int]:
    """Return the tokens after the prefill of the only row, and those of the answer among them."""
    answer = int((rows.labels != IGNORE).sum())
    return (answer if prefilled else int(rows.attention_mask.sum())), answer


def _prompt_size(batch: EncodedBatch, complete: bool) -> PromptSize:
    """Return the size of a prompt with the only video of a batch."""
    t, h, w = batch.encoded[0].features.shape[:3]
    columns = batch.inputs["input_ids"].shape[1] + complete * batch.rows.input_ids.shape[1]
    return PromptSize(t * h * w, h * w, columns - t * h * w)


def _first_question(video: HeldOutBatch) -> HeldOutBatch:
    """Reduce a batch of one video to its first question."""
    batch = video.encoded
    rows = QuestionRows(*(getattr(batch.rows, name)[:1] for name in batch.rows.__dataclass_fields__))
    first = EncodedBatch(batch.encoded, batch.inputs, batch.times, rows, batch.questions[:1])
    return replace(video, encoded=first, evidence=video.evidence[:1])
