"""``framefold show``: what is kept is clear, what is dropped is dim, what is merged is outlined, and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.__main__ import main
from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import encode_video
from framefold.data.video.frame_reader import sample_frames
from framefold.evaluation.inspection.kept_tokens import (
    DIM,
    KeptSheet,
    colors,
    draw_kept_tokens,
    per_frame,
    render_kept_tokens,
)
from tests.support.paths import ROOT

CLIPS = ROOT.parent / "shared" / "videos"


def sheet_of(tokens: VideoTokens, frames: np.ndarray, events: torch.Tensor | None = None) -> KeptSheet:
    return KeptSheet("a title", frames, np.arange(len(frames)) / 2, tokens, events, columns=3)


def grey(t: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((t, height, width, 3), 200, np.uint8)


def cell(tiles: np.ndarray, t: int, y: int, x: int, grid: tuple[int, int]) -> np.ndarray:
    """The middle pixel of a place."""
    high, wide = tiles.shape[1:3]
    return tiles[t, int((y + 0.5) * high / grid[0]), int((x + 0.5) * wide / grid[1])]


def test_kept_places_are_clear_and_dropped_ones_dim() -> None:
    video = VideoTokens.from_grid(torch.randn(4, 2, 3, 8, generator=torch.Generator().manual_seed(0)))
    kept = [0, 4, 9, 23]
    tiles = render_kept_tokens(sheet_of(video.keep(torch.tensor(kept)), grey(4)))
    assert tiles.shape[0] == 4 and abs(tiles.shape[2] / tiles.shape[1] - 1.5) < 0.02  # the video's proportions
    for token in range(24):
        t, y, x = np.unravel_index(token, (4, 2, 3))
        expected = 200 if token in kept else round(200 * DIM)
        assert (cell(tiles, t, y, x, (2, 3)) == expected).all()
    assert per_frame(video.keep(torch.tensor(kept))).tolist() == [2, 1, 0, 1]


def test_merged_places_have_outlines_of_one_color_where_the_group_ends() -> None:
    video = VideoTokens.from_grid(torch.ones(2, 2, 2, 8))
    assign = torch.tensor([0, 0, 1, 2, 0, 0, -1, 2])  # the upper row of both frames, a single one, a corner over time
    tokens = VideoTokens(
        features=torch.ones(3, 8), grid=(2, 2, 2), index=torch.tensor([0, 2, 3]), size=torch.tensor([4, 1, 2]),
        assign=assign, times=video.times,
    )  # fmt: skip
    tiles, tint = render_kept_tokens(sheet_of(tokens, grey(2))), colors(3).round().astype(np.uint8)
    high, wide = tiles.shape[1:3]
    for t in range(2):
        assert (tiles[t, 0, :] == tint[0]).all()  # the frame's edge
        assert (tiles[t, high // 2 - 1, : wide // 2 - 3] == tint[0]).all()  # the group below is another
        assert (tiles[t, high // 4, wide // 2 - 4 : wide // 2 + 4] == 200).all()  # no line inside the group
        assert (tiles[t, -1, wide // 2 + 3 :] == tint[2]).all()
    assert (tiles[0, -1, : wide // 2 - 3] == 200).all()  # a token for itself has none
    assert (tiles[1, -1, : wide // 2 - 3] == round(200 * DIM)).all()


def test_neighbouring_groups_differ_in_color() -> None:
    tint = colors(50)
    assert np.abs(np.diff(tint, axis=0)).sum(1).min() > 100


def test_every_compressor_can_be_drawn(tmp_path: Path) -> None:
    video = VideoTokens.from_grid(torch.randn(6, 3, 3, 8, generator=torch.Generator().manual_seed(0)))
    for name in framefold.list_compressors():
        compressor = framefold.build(name, 0.3)
        tokens = compressor(video, torch.ones(2, 8)).tokens
        file = tmp_path / f"{name}.png"
        draw_kept_tokens(sheet_of(tokens, grey(6), compressor.events(video)), file)
        assert matplotlib.image.imread(file).std() > 0.05


def test_the_strip_shows_when_tokens_are_kept_and_events_happen(tmp_path: Path) -> None:
    video = VideoTokens.from_grid(torch.randn(6, 2, 2, 8, generator=torch.Generator().manual_seed(0)))
    early, late = video.keep(torch.tensor([0, 1, 2])), video.keep(torch.tensor([21, 22, 23]))
    event = torch.arange(24) >= 20

    def strip(name: str, tokens: VideoTokens, events: torch.Tensor | None) -> np.ndarray:
        draw_kept_tokens(sheet_of(tokens, grey(6), events), tmp_path / name)
        return matplotlib.image.imread(tmp_path / name)[-190:]

    bars = strip("a.png", early, None)
    assert not np.array_equal(bars, strip("b.png", late, None))
    none = strip("c.png", early, torch.zeros(24, dtype=torch.bool))
    assert not np.array_equal(bars, none)
    columns = np.arange(bars.shape[1]) / bars.shape[1]
    centers = []
    for name, events in (("d.png", event.flip(0)), ("e.png", event)):
        changed = np.abs(none - strip(name, early, events)).sum((0, 2))
        centers.append(float((changed * columns).sum() / changed.sum()))
    assert centers[0] < 0.4 and centers[1] > 0.6  # in the first frame, in the last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--compressor": "unheard_of"}, "unheard_of"),
        ({"--budget": "0"}, "a budget in tokens must be at least 1, got 0"),
        ({"--frames": "0"}, "at least 1"),
        ({"--out": "sheet.jpg"}, "must be a .png"),
        ({"--out": "nowhere/sheet.png"}, "no folder nowhere"),
        ({"--device": "abacus"}, "abacus"),
        ({"--compressor": "uniform", "--params": "{size: 1}"}, "size"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_loaded(
    change: dict[str, str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from framefold.evaluation.inspection import show

    monkeypatch.setattr(show, "sample_frames", lambda *args: pytest.fail("the video was read"))
    words = {"--video": "clip.mp4", "--compressor": "uniform", "--out": "sheet.png"} | change
    assert main(["show", *[part for pair in words.items() for part in pair]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.skipif(
    not (Path(sys.prefix) / "torchvision").is_dir() and find_spec("torchvision") is None,
    reason="there is no torchvision (make setup)",
)
def test_the_command_draws_a_file_through_a_hosts_own_processor(tmp_path: Path) -> None:
    video = generate(3, split="test", frames=16)
    (tmp_path / "clip.mp4").write_bytes(encode_video(video.frames, video.times))
    script = """
import sys
from framefold.__main__ import main
for name, budget in (("st_simdiff", "0.1"), ("pool", "12")):
    status = main(["show", "--video", "clip.mp4", "--compressor", name, "--budget", budget, "--frames", "8",
                   "--host", sys.argv[1], "--out", f"{name}.png"])
    assert status == 0, status
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "checkpoints/tinyhost")],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "wrote st_simdiff.png: 13 of 128 tokens of 8 steps" in done.stdout
    assert "wrote pool.png: 12 of 128 tokens of 8 steps" in done.stdout
    assert matplotlib.image.imread(tmp_path / "pool.png").shape[2] >= 3


@pytest.mark.skipif(not CLIPS.is_dir(), reason="there are no real clips beside this checkout")
def test_the_cuts_of_a_real_clip_are_among_the_events() -> None:
    from framefold.training.frozen_host.load import load_host

    host: Any = load_host(str(ROOT / "checkpoints/tinyhost"))
    sample = sample_frames(CLIPS / "bikes.mp4", 64)
    change = np.abs(np.diff(sample.frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    cuts = {8, 19, 35, 48, 62}  # seen on the contact sheet
    assert set(np.argsort(-change)[:5] + 1) == cuts
    with torch.no_grad():
        features = host.model.model.get_video_features(host.pixel_values(sample.frames)).pooler_output[0]
    video = VideoTokens.from_grid(features[:-1].unflatten(0, (64, 4, 4)))
    events = framefold.build("st_simdiff").events(video)
    assert events is not None
    share = events.view(64, -1).float().mean(1)
    assert all(share[cut] > 0.3 for cut in cuts) and share.median() < 0.1, json.dumps(share.tolist())
