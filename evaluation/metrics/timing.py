"""How long a compressor takes."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from framefold.adapters.core.tokens import Compressed, VideoTokens

Compress = Callable[..., Compressed]


class TimedCompressor:
    """A compressor that notes how long each call took, in milliseconds."""

    def __init__(self, compressor: Compress, device: torch.device) -> None:
        self.compressor, self.device = compressor, device
        self.query_aware = getattr(compressor, "query_aware", False)
        self.needs_attention = getattr(compressor, "needs_attention", False)
        self.milliseconds: list[float] = []

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        synchronize(self.device)
        start = time.perf_counter()
        out = self.compressor(video, query)
        synchronize(self.device)
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        return out


PAUSE = 0.001  # seconds between two looks at the memory


@dataclass(frozen=True, eq=False)
class TimedAnswer:
    """One answer.

    Attributes:
        ids: (n,) new tokens.
        prompt: length of the prompt that the language model saw, in tokens.
        prefill: seconds until the first new token: vision encoder, compressor and prompt.
        decode: seconds for each further token; None if there is none.
    """

    ids: Tensor
    prompt: int
    prefill: float
    decode: float | None


class _Clock(BaseStreamer):
    """Notes when tokens come out; ``generate`` hands over the prompt first, and each token once it is on the CPU."""

    def __init__(self) -> None:
        self.prompt, self.times = 0, list[float]()

    def put(self, value: Tensor) -> None:
        if not self.prompt:
            self.prompt = value.shape[-1]
        else:
            self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.inference_mode()
def timed_generate(model: PreTrainedModel, inputs: Mapping[str, Any], max_new_tokens: int) -> TimedAnswer:
    """Answer greedily and time it."""
    clock = _Clock()
    synchronize(model.device)
    start = time.perf_counter()
    host: Any = model
    out = host.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, streamer=clock)
    first, last, further = clock.times[0], clock.times[-1], len(clock.times) - 1
    new = out[0, inputs["input_ids"].shape[1] :].cpu()
    return TimedAnswer(new, clock.prompt, first - start, (last - first) / further if further else None)


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call needs at most, beside what is there before it, such as the model.

    On CUDA what torch allocates; on the CPU how far the resident memory of the process grows, looked at every
    millisecond. What an earlier call has freed is given back to the system first, or it would hide growth.
    """
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    return_freed()
    with _Resident() as resident:
        run()
    return resident.peak - resident.before


def return_freed() -> None:
    """Give memory that was freed back to the system: what is taken from it does not show in the resident memory."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class _Resident:
    """Watches the resident memory of this process from a thread."""

    def __init__(self) -> None:
        self._process, self._over = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = self._process.memory_info().rss

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, self._process.memory_info().rss)

    def __enter__(self) -> _Resident:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._look()
