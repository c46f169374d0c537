"""A host with a compressor attached for good, which answers one question after the other and measures each.

Import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from framefold.adapters.base.build import load_or_build
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.hosts.hooks.attach import attach
from framefold.adapters.hosts.lora.inject import with_lora
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.data.video.frame_reader import sample_frames
from framefold.errors import ConfigError
from framefold.evaluation.inspection.answer_run import lora_of
from framefold.evaluation.metrics.memory import resident_peak_memory
from framefold.evaluation.metrics.timing import TimedAnswer, synchronize, timed_generate
from framefold.training.frozen_host.device import add_video_inputs, device_of, move_inputs
from framefold.training.frozen_host.load import load_model
from framefold.training.frozen_host.processor import build_inputs, grid_times, load_config, load_processor

from .settings import EvalSettings, digest_of, settings_of

VIDEOS = 2  # sampled ones that are kept: several questions in a row are about the same


@dataclass(frozen=True)
class MeasuredAnswer:
    """One answer, and what it took.

    Attributes:
        text: the answer. frames: taken of the video.
        visual_before, visual_after: visual tokens before and after the compressor.
        prompt: tokens of the whole prompt that the language model saw.
        over_context: the positions of the prompt and the longest answer exceed the host's context.
        new_tokens: tokens of the answer.
        prefill: seconds until the first of them: vision encoder, compressor and prompt.
        decode: seconds for each further one; None if there is none.
        compressor: seconds in the compressor, a part of `prefill`.
        memory: peak bytes needed beside the loaded model, see
            :func:`~framefold.evaluation.metrics.timing.peak_memory`.
    """

    text: str
    frames: int
    visual_before: int
    visual_after: int
    prompt: int
    over_context: bool
    new_tokens: int
    prefill: float
    decode: float | None
    compressor: float
    memory: int


class Session:
    """Loads host, compressor and LoRA when it is made.

    Raises:
        The errors of ``framefold answer``; ConfigError: an adapter that is not what the settings say it was.
    """

    def __init__(self, settings: EvalSettings) -> None:
        self.settings, device = settings, device_of(settings.device)
        source = resolve_adapter(settings.compressor)
        if settings.adapter not in (None, digest_of(source)[0]):
            raise ConfigError(f"{settings.compressor} was changed meanwhile: give another --out")
        params = settings.params if settings.adapter is None else None  # an adapter's folder brings them
        plugged = load_or_build(source, settings.budget, params)  # type: ignore[arg-type]
        config, self.processor = load_config(settings.host), load_processor(settings.host)
        self.longest = getattr(config.get_text_config(), "max_position_embeddings", None)
        lora = lora_of(source)
        self.model = load_model(settings.host, settings.dtype, device)
        self._stack, self._watch, self._warm = ExitStack(), _Watch(plugged), False
        if lora is not None:
            self._stack.enter_context(with_lora(self.model, lora))
        how: dict[str, Any] = {"positions": settings.positions, "allow_other_host": settings.allow_other_host}
        self._stack.enter_context(attach(self.model, plugged, tokenizer=self.processor, **how))
        self._sample = lru_cache(VIDEOS)(lambda video: sample_frames(video, settings.frames))

    def answer(self, video: str, question: str, max_new_tokens: int) -> MeasuredAnswer:
        """Answer greedily.

        Raises:
            DataError: no video that can be decoded. InputError: a question that does not fit.
        """
        sample = self._sample(video)
        built = build_inputs(self.processor, sample, question)
        inputs = add_video_inputs(move_inputs(built, self.model), grid_times(self.processor, sample))
        if not self._warm:  # the first run of a host is slower than all others
            timed_generate(self.model, inputs, min(2, max_new_tokens))
            self._warm = True
        runs: list[TimedAnswer] = []
        memory = resident_peak_memory(
            lambda: runs.append(timed_generate(self.model, inputs, max_new_tokens)), self.model.device
        )
        run, seen = runs[0], self._watch
        length = run.prompt if self.settings.positions == "compact" else built["input_ids"].shape[1]
        return MeasuredAnswer(
            text=self.processor.tokenizer.decode(run.ids, skip_special_tokens=True).strip(),
            frames=len(sample.times),
            visual_before=seen.before,
            visual_after=seen.after,
            prompt=run.prompt,
            over_context=self.longest is not None and length + max_new_tokens > self.longest,
            new_tokens=len(run.ids),
            prefill=run.prefill,
            decode=run.decode,
            compressor=seen.seconds,
            memory=memory,
        )


@lru_cache(maxsize=1)
def open_session(settings: str) -> Session:
    """The session of these settings (as JSON); the tasks of an evaluation share one."""
    return Session(settings_of(json.loads(settings)))


class _Watch:
    """Notes the tokens and the time of the last call of a compressor."""

    def __init__(self, compressor: Any) -> None:
        self.before, self.after, self.seconds, self._start = 0, 0, 0.0, 0.0
        compressor.register_forward_pre_hook(self._begin)
        compressor.register_forward_hook(self._end)

    def _begin(self, _: Any, args: tuple[VideoTokens, ...]) -> None:
        synchronize(args[0].features.device)
        self._start = time.perf_counter()

    def _end(self, _: Any, args: tuple[VideoTokens, ...], out: Compressed) -> None:
        synchronize(args[0].features.device)
        self.seconds = time.perf_counter() - self._start
        self.before, self.after = len(args[0]), len(out.tokens)
