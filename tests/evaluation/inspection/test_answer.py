"""``framefold.answer`` and its command: wrong settings are refused before any work; see test_commands.py as well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import framefold
from framefold.__main__ import main
from framefold.evaluation.inspection import answer
from tests.support.paths import TINYHOST
from tests.support.processes import needs_torchvision

QUESTION = "which shape flashed first ?"
GOOD = ["--host", "checkpoints/tinyhost", "--video", "good.mp4", "--question", "why ?", "--compressor", "st_simdiff"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (["--compressor", "st_simdif"], "did you mean 'st_simdiff'"),
        (["--compressor", "./none"], "not an adapter folder"),
        (["--budget", "1.5"], "(0, 1]"),
        (["--budget", "0"], "a budget in tokens must be at least 1, got 0"),
        (["--frames", "0"], "frames must be at least 1"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--repeats=-1"], "repeats must be at least 1"),
        (["--vision-chunk", "0"], "vision_chunk must be at least 1"),
        (["--device", "tpu"], "'tpu'"),
        (["--device", "cuda:99"], "cuda"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_wrong_settings_are_errors_before_the_work(
    changed: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answer, "find_torchvision", lambda: pytest.fail("work was begun"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["answer", *GOOD, *changed]) == 2
    assert text in capsys.readouterr().err


@needs_torchvision
def test_python_answers_like_the_command_and_leaves_the_host_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    video = tmp_path / "video.mp4"
    assert main(["view", "--out", str(video), "--difficulty", "hard"]) == 0
    model, processor = (auto.from_pretrained(TINYHOST) for auto in (AutoModelForImageTextToText, AutoProcessor))
    options = {"budget": 0.1, "frames": 16, "max_new_tokens": 2, "compare": True}
    result = framefold.answer(model, processor, video, QUESTION, compressor="st_simdiff", **options)
    words = ["answer", "--host", str(TINYHOST), "--video", str(video), "--question", QUESTION, "--compare"]
    capsys.readouterr()
    shape = ["--compressor", "st_simdiff", "--budget", "0.1", "--frames", "16", "--max_new_tokens", "2"]
    assert main([*words, *shape]) == 0
    printed = capsys.readouterr().out
    assert result.full is not None and result.compressed.visual < result.full.visual / 9
    for row in (result.compressed, result.full):
        assert re.search(rf"^{row.name} +{row.text}$", printed, re.MULTILINE) and row.name in str(result), printed
    assert str(result).splitlines()[0] in printed and "visual tokens; times: median of 1" in str(result)
    chunks = framefold.answer(model, processor, video, QUESTION, compressor="st_simdiff", vision_chunk=5, **options)
    assert chunks.text == result.text and torch.equal(chunks.tokens.index, result.tokens.index)
    again = framefold.answer(model, processor, video, QUESTION, compressor=framefold.build("identity"), frames=16)
    assert again.text.startswith(result.full.text) and again.full is None
    with pytest.raises(framefold.errors.BudgetError):
        framefold.answer(model, processor, video, QUESTION, compressor="pool", budget=2.0)
