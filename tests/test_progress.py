"""The progress bar estimates the remaining time from the mean of all steps of this run."""

from __future__ import annotations

import pytest
from tqdm import tqdm

from framefold.progress import progress_bar


def test_rate_is_the_mean_of_the_steps_of_this_run(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    bar = progress_bar(what="results", total=10, done=4, unit="result")
    bar._time, bar.start_t, bar.last_print_t = (lambda: now), 0.0, 0.0
    for seconds in (1, 1, 28):  # unequal steps
        now += seconds
        bar.update(1)
    text = str(bar)
    bar.close()
    assert "7/10 [00:30<00:30" in text and "10.00s/result" in text, text
    assert "results" in capsys.readouterr().err
