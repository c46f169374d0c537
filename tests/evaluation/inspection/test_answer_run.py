"""Times, memory and the order of runs behind ``framefold answer``."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from framefold.adapters import build
from framefold.data.synthetic.generate import generate as synthesize
from framefold.evaluation.inspection import answer_run as answer_runs
from framefold.evaluation.inspection.answer_run import Task, run_answers
from framefold.evaluation.metrics import timing as measure
from framefold.training.frozen_host.load import load_host
from tests.support.processes import ROOT


class Sleeper:
    """Stands in for a host: hands over a prompt and then tokens, after known times."""

    device = torch.device("cpu")

    def __init__(self, *pauses: float) -> None:
        self.pauses = pauses

    def generate(self, streamer: Any, input_ids: torch.Tensor, **settings: Any) -> torch.Tensor:
        streamer.put(input_ids[:, :3])  # of a prompt that was shortened
        for pause in self.pauses:
            time.sleep(pause)
            streamer.put(torch.tensor([7]))
        streamer.end()
        return torch.cat([input_ids, torch.full((1, len(self.pauses)), 7)], dim=1)


def test_prefill_is_the_time_to_the_first_token_and_decode_that_of_each_further_one() -> None:
    inputs = {"input_ids": torch.arange(5)[None]}
    timed = measure.timed_generate(Sleeper(0.2, 0.02, 0.04, 0.03), inputs, 4)  # type: ignore[arg-type]
    assert (timed.ids.tolist(), timed.prompt) == ([7] * 4, 3)
    assert timed.prefill == pytest.approx(0.2, rel=0.3) and timed.decode == pytest.approx(0.03, rel=0.5)
    assert measure.timed_generate(Sleeper(0.01), inputs, 1).decode is None  # type: ignore[arg-type]


def test_peak_memory_is_what_a_call_needs_meanwhile_however_often_it_runs() -> None:
    def need(mebibytes: int) -> float:
        def work() -> None:
            torch.ones(mebibytes * 2**18)
            time.sleep(0.02)

        return measure.peak_memory(work, torch.device("cpu")) / 2**20

    assert [need(size) for size in (64, 64, 16, 16, 16, 0)] == pytest.approx([64, 64, 16, 16, 16, 0], abs=6)


def test_peak_memory_on_a_gpu_is_what_was_allocated_beside_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name, value in {"synchronize": 0, "memory_allocated": 100, "reset_peak_memory_stats": 0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name, value=value: done.append(name) or value)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 150)
    assert measure.peak_memory(lambda: done.append("run"), torch.device("cuda")) == 50
    assert done == ["synchronize", "memory_allocated", "reset_peak_memory_stats", "run"]


@pytest.fixture(scope="module")
def task() -> Task:
    """The embedded host on 16 frames, its inputs made without a processor."""
    embedded = load_host(ROOT / "checkpoints/tinyhost")
    video = synthesize(0, split="test", frames=16)
    text = embedded.tokenizer("<user><video> what color ?<assistant>", add_special_tokens=False)["input_ids"]
    at = text.index(embedded.model.config.video_token_id)
    ids = torch.tensor([text[:at] + [text[at]] * (16 * 16 + 1) + text[at + 1 :]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": embedded.pixel_values(video.frames),
    }
    processor = type("Processor", (), {"tokenizer": embedded.tokenizer})
    return Task(embedded.model, processor, inputs, torch.from_numpy(video.times), "preserve", 3)


def test_the_two_ways_take_turns_and_leave_the_host_as_it_was(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], answer_runs.generate

    def noted(model: nn.Module, inputs: dict[str, Any], new: int) -> measure.TimedAnswer:
        timed = real(model, inputs, new)  # type: ignore[arg-type]
        calls.append(("few" if hasattr(model, "compressor") else "all", new))
        return timed

    monkeypatch.setattr(answer_runs, "generate", noted)
    result = run_answers(task, build("uniform", 10), compare=True, repeats=2)
    warm, clock, memory = [("few", 2), ("all", 2)], [("few", 3), ("all", 3)] * 2, [("few", 3), ("all", 3)]
    assert calls == warm + clock + memory
    assert not hasattr(task.model, "compressor") and "generate" not in vars(task.model)
    assert result.full is not None
    assert (result.visual, result.full.visual, result.compressed.visual) == (256, 256, 10)
    assert result.full.prompt - result.compressed.prompt == 246
    assert result.text == result.compressed.text


def test_times_are_medians_and_the_first_run_does_not_count(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([99.0, 3.0, 1.0, 2.0, 50.0])  # warm-up, three timed, memory

    def timed(*args: Any) -> measure.TimedAnswer:
        return measure.TimedAnswer(torch.tensor([5]), 9, next(seconds), None)

    monkeypatch.setattr(answer_runs, "generate", timed)
    monkeypatch.setattr(answer_runs, "_warm_up", lambda task, *args: (timed() and 256, 10))
    assert run_answers(task, build("uniform", 10), compare=False, repeats=3).compressed.prefill == 2


def test_positions_and_processor_are_passed_on(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], answer_runs.attach
    monkeypatch.setattr(answer_runs, "attach", lambda *args, **more: seen.append(more) or real(*args, **more))
    run_answers(Task(**{**vars(task), "positions": "compact"}), build("uniform", 10), compare=False, repeats=1)
    assert {(more["positions"], more["tokenizer"]) for more in seen} == {("compact", task.processor)}


def test_pixels_take_the_dtype_of_the_host_and_other_numbers_keep_theirs() -> None:
    model = nn.Linear(1, 1).bfloat16()
    host: Any = type("Host", (), {"device": torch.device("cpu"), "dtype": model.weight.dtype})
    inputs = {"pixel_values_videos": torch.ones(2), "second_per_grid_ts": torch.tensor([0.1]), "other": [1]}
    placed = answer_runs.place({**inputs, "input_ids": torch.tensor([1])}, host)
    kinds = {name: getattr(value, "dtype", None) for name, value in placed.items()}
    assert list(kinds.values()) == [torch.bfloat16, torch.float32, None, torch.int64]
