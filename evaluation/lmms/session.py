"""A host with a compressor attached permanently, which answers one question after another and measures each.

Import this module after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from framefold.adapters.base.build import load_or_build
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.hosts.hooks.attach import attach
from framefold.adapters.hosts.lora.inject import with_lora
from framefold.adapters.hosts.prompt.question import query_or_none
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.data.video.frame_reader import sample_frames
from framefold.errors import ConfigError
from framefold.evaluation.inspection.recorded_places import RecordedPlaces
from framefold.evaluation.inspection.source import lora_of
from framefold.evaluation.inspection.timed_answer import TimedAnswer, timed_generate
from framefold.evaluation.metrics.memory import peak_memory
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.training.frozen_host.device import add_video_inputs, move_inputs, resolve_device
from framefold.training.frozen_host.load import load_model
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.processor import (
    apply_processor,
    grid_times,
    load_config,
    load_processor,
    pixels_per_frame,
    write_prompt,
)
from framefold.training.frozen_host.vocabulary import warn_unknown_words

from .settings import EvalSettings, digest_of, settings_of

VIDEOS = 2  # sampled videos kept in memory; consecutive questions are often about the same one


@dataclass(frozen=True)
class MeasuredAnswer:
    """An answer with its costs.

    Attributes:
        text: the answer.
        prompt_text: the prompt, with the placeholder of the video.
        frames: frames sampled from the video.
        pixels: pixels of a frame, as the vision encoder gets it.
        visual_before: visual tokens before the compressor.
        visual_after: visual tokens after the compressor.
        visual_mean: mean number of visual tokens over the layers of the language model.
        prompt: all tokens of the prompt that the language model read.
        over_context: the positions of the prompt and the longest answer exceed the context of the host.
        new_tokens: tokens of the answer.
        prefill: seconds to the first of them: vision encoder, compressor and prompt.
        decode: seconds of each further token; None if there is none.
        compressor: seconds of the compressor, a part of ``prefill``.
        memory: peak bytes on top of the loaded model, see :func:`~framefold.evaluation.metrics.memory.peak_memory`.
    """

    text: str
    prompt_text: str
    frames: int
    pixels: int
    visual_before: int
    visual_after: int
    visual_mean: float
    prompt: int
    over_context: bool
    new_tokens: int
    prefill: float
    decode: float | None
    compressor: float
    memory: int


class Session:
    """A loaded host with its compressor and LoRA.

    Raises:
        The errors of ``framefold answer``.
        ConfigError: the adapter is not the one that the settings describe.
    """

    def __init__(self, settings: EvalSettings) -> None:
        self.settings, device = settings, resolve_device(settings.device)
        source = resolve_adapter(settings.compressor)
        if settings.adapter not in (None, digest_of(source)[0]):
            raise ConfigError(f"{settings.compressor} has changed since the evaluation began: give another --out")
        params = settings.params if settings.adapter is None else None  # an adapter folder contains its parameters
        module = load_or_build(source, settings.budget, params)  # type: ignore[arg-type]
        host = find_host(settings.host, settings.revision)
        config, self.processor = load_config(host), load_processor(host)
        self.longest = getattr(config.get_text_config(), "max_position_embeddings", None)
        lora = lora_of(source)
        self.model = load_model(host, settings.dtype, device)
        self._stack, self._last_call, self._warm = ExitStack(), _LastCall(module), False
        self._query_aware, self._is_tinyhost = module.query_aware, host.is_tinyhost
        if lora is not None:
            self._stack.enter_context(with_lora(self.model, lora))
        options: dict[str, Any] = {"positions": settings.positions, "allow_other_host": settings.allow_other_host}
        self._stack.enter_context(attach(self.model, module, tokenizer=self.processor, **options))
        self._recorded = self._stack.enter_context(RecordedPlaces(self.model))
        self._sample = lru_cache(VIDEOS)(lambda video: sample_frames(video, settings.frames))

    def answer(self, video: str, question: str, max_new_tokens: int) -> MeasuredAnswer:
        """Answer a question about a video file greedily.

        Raises:
            DataError: the video cannot be decoded.
            InputError: the question cannot be used.
        """
        if self._is_tinyhost:
            warn_unknown_words(self.settings.host, self.processor.tokenizer, [question], "a question")
        sample = self._sample(video)
        text = write_prompt(self.processor, question)
        prompt = apply_processor(self.processor, sample, text)
        inputs = add_video_inputs(move_inputs(prompt, self.model), grid_times(self.processor, sample))
        if self._query_aware and (query := query_or_none(self.model, inputs, self.processor, question)) is not None:
            inputs["query"] = query
        if not self._warm:  # the first run of a host is slower than all others
            timed_generate(self.model, inputs, min(2, max_new_tokens))
            self._warm = True
        runs: list[TimedAnswer] = []
        memory = peak_memory(lambda: runs.append(timed_generate(self.model, inputs, max_new_tokens)), self.model.device)
        run, call = runs[0], self._last_call
        length = run.prompt if self.settings.positions == "compact" else prompt["input_ids"].shape[1]
        return MeasuredAnswer(
            text=self.processor.tokenizer.decode(run.ids, skip_special_tokens=True).strip(),
            prompt_text=text,
            frames=len(sample.times),
            pixels=pixels_per_frame(prompt, len(grid_times(self.processor, sample)), self.processor),
            visual_before=call.before,
            visual_after=call.after,
            visual_mean=self._recorded.places[0].mean_tokens if self._recorded.places else call.after,
            prompt=run.prompt,
            over_context=self.longest is not None and length + max_new_tokens > self.longest,
            new_tokens=len(run.ids),
            prefill=run.prefill,
            decode=run.decode,
            compressor=call.watch.seconds,
            memory=memory,
        )


@lru_cache(maxsize=1)
def open_session(settings: str) -> Session:
    """Return the session of these settings (as JSON), which all tasks of an evaluation share."""
    return Session(settings_of(json.loads(settings)))


class _LastCall:
    """Duration and token counts of the last call of a compressor.

    Attributes:
        watch: stopwatch of the call.
        before: visual tokens before the call.
        after: visual tokens after it.
    """

    def __init__(self, compressor: Any) -> None:
        self.watch, self.before, self.after = Stopwatch(), 0, 0
        compressor.register_forward_pre_hook(self._start)
        compressor.register_forward_hook(self._stop)

    def _start(self, _: Any, args: tuple[VideoTokens, ...]) -> None:
        self.watch = Stopwatch(args[0].features.device)
        self.watch.start()

    def _stop(self, _: Any, args: tuple[VideoTokens, ...], out: Compressed) -> None:
        self.watch.stop()
        self.before, self.after = len(args[0]), len(out.tokens)
