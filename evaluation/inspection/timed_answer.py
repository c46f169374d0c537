"""Greedy generation with the times of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from framefold.evaluation.metrics.timing import Stopwatch


@dataclass(frozen=True, eq=False)
class TimedAnswer:
    """An answer and its times.

    Attributes:
        ids: (n,) generated tokens.
        prompt: length of the prompt that the language model read, in tokens.
        prefill: seconds to the first generated token: vision encoder, compressor and prompt.
        decode: mean seconds of each further token; None if there is none.
    """

    ids: Tensor
    prompt: int
    prefill: float
    decode: float | None


class _TokenTimes(BaseStreamer):
    """Records the time of each token; ``generate`` passes the prompt first, then each token once it is on the CPU."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.prompt = watch, 0

    def put(self, value: Tensor) -> None:
        if not self.prompt:
            self.prompt = value.shape[-1]
        else:
            self.watch.lap()

    def end(self) -> None:
        pass


@torch.inference_mode()
def timed_generate(model: PreTrainedModel, inputs: Mapping[str, Any], max_new_tokens: int) -> TimedAnswer:
    """Generate an answer greedily and time it."""
    host: Any = model
    with Stopwatch(model.device) as watch:
        times = _TokenTimes(watch)
        out = host.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, streamer=times)
    first, last, further = watch.laps[0], watch.laps[-1], len(watch.laps) - 1
    new = out[0, inputs["input_ids"].shape[1] :].cpu()
    return TimedAnswer(new, times.prompt, first, (last - first) / further if further else None)
