"""Times of generated tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from framefold.evaluation.inspection.timed_answer import timed_generate
from framefold.evaluation.metrics import timing


class FakeClock:
    """Stands in for the module ``time``; time passes only by hand."""

    def __init__(self) -> None:
        self.now = 5.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


class FakeHost:
    """Stands in for a host: takes known times for a prompt and its tokens."""

    device = torch.device("cpu")

    def __init__(self, clock: FakeClock, *pauses: float) -> None:
        self.clock, self.pauses = clock, pauses

    def generate(self, streamer: Any, input_ids: torch.Tensor, **settings: Any) -> torch.Tensor:
        streamer.put(input_ids[:, :3])  # of a prompt that was shortened
        for pause in self.pauses:
            self.clock.now += pause
            streamer.put(torch.tensor([7]))
        streamer.end()
        return torch.cat([input_ids, torch.full((1, len(self.pauses)), 7)], dim=1)


def test_prefill_ends_with_the_first_token_and_decode_is_the_mean_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, inputs = FakeClock(), {"input_ids": torch.arange(5)[None]}
    monkeypatch.setattr(timing, "time", clock)
    timed = timed_generate(FakeHost(clock, 0.2, 0.02, 0.04, 0.03), inputs, 4)  # type: ignore[arg-type]
    assert (timed.ids.tolist(), timed.prompt) == ([7] * 4, 3)
    assert timed.prefill == pytest.approx(0.2) and timed.decode == pytest.approx(0.03)
    assert timed_generate(FakeHost(clock, 0.01), inputs, 1).decode is None  # type: ignore[arg-type]
