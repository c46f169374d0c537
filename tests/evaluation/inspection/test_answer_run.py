"""Order of the runs behind ``framefold answer``, and what is measured in each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from framefold import VideoTokens
from framefold.adapters import build
from framefold.data.synthetic.generate import generate as synthesize
from framefold.evaluation.inspection import answer_run
from framefold.evaluation.inspection.answer_run import Task, run_answers
from framefold.evaluation.inspection.timed_answer import TimedAnswer
from framefold.training.frozen_host.load import load_host
from tests.support.processes import ROOT


@pytest.fixture(scope="module")
def task() -> Task:
    """The embedded host with a prompt for 16 frames, written without a processor."""
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


def test_variants_alternate_and_leave_the_host_unchanged(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real, options = [], answer_run.timed_generate, []

    def recorded(model: nn.Module, inputs: dict[str, Any], new: int) -> TimedAnswer:
        timed = real(model, inputs, new)  # type: ignore[arg-type]
        calls.append(("few" if hasattr(model, "compressor") else "all", new))
        return timed

    attach = answer_run.attach
    monkeypatch.setattr(answer_run, "timed_generate", recorded)
    monkeypatch.setattr(answer_run, "attach", lambda *args, **more: options.append(more) or attach(*args, **more))
    compact = Task(**{**vars(task), "positions": "compact"})
    result = run_answers(compact, build("uniform", 10), compare=True, repeats=2)
    warm_up, timed, memory = [("few", 2), ("all", 2)], [("few", 3), ("all", 3)] * 2, [("few", 3), ("all", 3)]
    assert calls == warm_up + timed + memory
    assert {(more["positions"], more["tokenizer"]) for more in options} == {("compact", task.processor)}
    assert not hasattr(task.model, "compressor") and "generate" not in vars(task.model)
    assert result.full is not None
    assert (result.visual, result.full.visual, result.compressed.visual) == (256, 256, 10)
    assert result.full.prompt - result.compressed.prompt == 246
    assert result.text == result.compressed.text


def test_times_are_medians_without_the_warm_up(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([99.0, 3.0, 1.0, 2.0, 50.0])  # warm-up, three timed runs, memory

    def timed(*args: Any) -> TimedAnswer:
        return TimedAnswer(torch.tensor([5]), 9, next(seconds), None)

    monkeypatch.setattr(answer_run, "timed_generate", timed)
    seen = answer_run.SeenTokens(256, VideoTokens.from_grid(torch.zeros(10, 1, 1, 1)))
    monkeypatch.setattr(answer_run, "_warm_up", lambda task, *args: timed() and seen)
    assert run_answers(task, build("uniform", 10), compare=False, repeats=3).compressed.prefill == 2


@pytest.mark.parametrize(
    ("name", "params", "entered", "left"),
    [
        ("fastv", {}, 256, 85),
        ("pyramid_drop", {}, 256, 40),
        ("at_layer", {}, 256, 85),
        ("framefusion_in_llm", {}, 256, None),
        ("st_simdiff", {"stage_2": True}, 160, 117),
        ("flashvid", {"stage_2": True}, 160, 32),
    ],
)
def test_methods_inside_the_language_model_report_what_the_layers_had(
    task: Task, name: str, params: dict[str, Any], entered: int, left: int | None
) -> None:
    result = run_answers(task, build(name, 0.5, **params), compare=True, repeats=1)
    row, full = result.compressed, result.full
    assert row.visual == entered and row.mean is not None and 127 < row.mean <= 128, "the mean is the budget"
    assert full is not None and full.mean is None and full.visual == 256
    assert result.tokens is not None and len(result.tokens) == entered
    assert result.left is not None and (left is None or len(result.left) == left)
    assert set(result.left.index.tolist()) <= set(result.tokens.index.tolist())
    assert row.prompt == full.prompt - 256 + entered and "mean over layers" in str(result)
    assert not task.model._forward_pre_hooks and not any(one._forward_pre_hooks for one in task.model.modules())


def test_methods_before_the_language_model_have_no_mean_over_its_layers(task: Task) -> None:
    result = run_answers(task, build("uniform", 0.5), compare=False, repeats=1)
    assert result.compressed.mean is None and result.left is None and "mean over layers" not in str(result)
