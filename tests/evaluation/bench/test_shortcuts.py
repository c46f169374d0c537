"""``framefold bench shortcuts``: statistics find evidence that they should find, and none of the crowded task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framefold import VideoTokens
from framefold.__main__ import main
from framefold.data.question import Question
from framefold.errors import ConfigError, DataError
from framefold.evaluation.bench.shortcuts import PIXELS, bench_shortcuts, rank_evidence, shortcut_table, summarize
from framefold.evaluation.bench.token_statistics import STATISTICS, pixel_tokens
from tests.support.paths import TINYHOST

GRID = (6, 4, 4)
SPATIAL = set(STATISTICS) - {"time"}  # first and last events are early and late by definition


def tokens_with(place: tuple[int, ...], vector: torch.Tensor) -> VideoTokens:
    """A video of almost equal tokens of length 1, with one other token."""
    torch.manual_seed(0)
    features = torch.ones(*GRID, 16) / 4 + 0.01 * torch.randn(*GRID, 16)
    features[place] = vector
    return VideoTokens.from_grid(features)


def auc_of(video: VideoTokens, place: tuple[int, ...]) -> dict[str, float]:
    """The AUC of each statistic for evidence in one cell."""
    frame, row, column = place
    box = (frame, row / 4, column / 4, (row + 1) / 4, (column + 1) / 4)
    question = Question("needle", "?", "red", ("red",), (box,))
    return {one.statistic: one.auc for one in rank_evidence(video, [question], 0, ["st_simdiff", "medoids"])}


def test_a_long_token_is_found_by_everything_but_its_place() -> None:
    found = auc_of(tokens_with((3, 1, 1), torch.full((16,), 1.0)), (3, 1, 1))
    assert all(found[name] > 0.9 for name in ("length", "distance from mean", "nearest neighbour", "local contrast"))
    assert found["change"] > 0.9 and found["medoids"] > 0.9
    assert found["central position"] == pytest.approx((12 + 1.5 / 95 * 12) / 16, abs=0.2)


def test_a_token_in_another_direction_is_not_long() -> None:
    vector = torch.zeros(16)
    vector[0] = 1.0
    found = auc_of(tokens_with((3, 1, 1), vector), (3, 1, 1))
    assert found["distance from mean"] > 0.98 and found["nearest neighbour"] > 0.98
    assert 0.2 < found["length"] < 0.8


def test_received_attention_is_a_statistic_if_there_is_any() -> None:
    video = tokens_with((0, 0, 0), torch.ones(16))
    assert "received attention" not in auc_of(video, (0, 0, 0))
    attention = torch.zeros(GRID)
    attention[2, 3, 3] = 1
    with_attention = VideoTokens.from_grid(video.as_grid(), attention=attention)
    assert auc_of(with_attention, (2, 3, 3))["received attention"] == 1
    assert auc_of(with_attention, (0, 0, 0))["received attention"] < 0.5


def test_question_types_count_equally() -> None:
    video = tokens_with((3, 1, 1), torch.full((16,), 1.0))
    boxes = [(3, 0.25, 0.25, 0.5, 0.5), (0, 0, 0, 0.25, 0.25)]
    found, other = (Question(kind, "?", "a", ("a",), (box,)) for kind, box in zip("ab", boxes, strict=True))
    ranked = [*rank_evidence(video, [found, other], 0, []), *rank_evidence(video, [found], 1, [])]
    (row,) = [row for row in summarize(ranked) if row["statistic"] == "length"]
    assert row["types"]["a"] == 1 and row["auc"][0] == pytest.approx((1 + row["types"]["b"]) / 2)
    assert row["events"] is None and "length" in shortcut_table([row])


def test_pixel_tokens_are_frequencies_of_cells() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[1, :16, 16:] = 255
    frames[1, 16:, :16, 0] = np.arange(16) % 2 * 255
    video = pixel_tokens(frames, 2)
    grid = video.as_grid()
    assert video.grid == (2, 2, 2)
    means = grid[..., [0, 16, 32]]  # the lowest frequency of each channel
    assert torch.allclose(means[0], torch.tensor(-1.0)) and torch.allclose(means[1, 0, 1], torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(means[1, 1, 0], torch.tensor([0.0, -1, -1]), atol=1e-5)


@pytest.mark.parametrize(("difficulty", "hidden"), [("crowded", True), ("hard", False)])
def test_no_statistic_of_pixels_ranks_the_evidence_of_the_crowded_task(difficulty: str, hidden: bool) -> None:
    """The hard task is the control: there, length and others give the evidence away."""
    rows = bench_shortcuts(PIXELS, difficulty, videos=24, compressors=[])
    best = max(max(row["auc"][0], 1 - row["auc"][0]) for row in rows if row["statistic"] in SPATIAL)
    assert best < 0.66 if hidden else best > 0.75, (difficulty, best)


def test_command_measures_a_host_and_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--host", str(TINYHOST), "--videos", "4", "--frames", "24", "--compressors", "[evs]"]
    assert main(["bench", "shortcuts", *words, "--out", str(tmp_path)]) == 0
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "shortcuts.json").read_text())
    assert (tmp_path / "shortcuts.md").read_text() == printed
    assert [row["statistic"] for row in written["rows"]] == [*STATISTICS, "received attention", "evs"]
    assert written["settings"]["host"] == str(TINYHOST) and written["settings"]["videos"] == 4
    by_name = {row["statistic"]: row for row in written["rows"]}
    assert by_name["length"]["events"][0] > 0.9  # the shortcut of this host
    assert all(0 <= low <= value <= high <= 1 for value, low, high in (row["auc"] for row in written["rows"]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"videos": 0}, ConfigError, "positive"),
        ({"compressors": ["fila"]}, ConfigError, "fila is trained"),
        ({"compressors": ["cdpruner"]}, ConfigError, "cdpruner .*question"),
        ({"difficulty": "brutal"}, DataError, "brutal"),
    ],
)
def test_wrong_settings_are_errors_before_the_host_is_loaded(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framefold.training.frozen_host.load.load_host", lambda *_: pytest.fail("the host was loaded"))
    with pytest.raises(error, match=message):
        bench_shortcuts(str(TINYHOST), **arguments)
