"""``framefold answer`` refuses wrong settings before any work; the command itself is tested in test_commands.py."""

from __future__ import annotations

import pytest
import torch

from framefold.__main__ import main
from framefold.evaluation.inspection import answer

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
