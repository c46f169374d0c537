"""Pictures of kept tokens: kept ones bright, dropped ones dim, merged ones outlined, with a plot over time."""

from __future__ import annotations

import importlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import av
import matplotlib.image
import numpy as np
import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.__main__ import main
from framefold.data.video.frame_reader import SampledFrames, sample_frames
from framefold.errors import BudgetError, ConfigError
from framefold.evaluation.inspection.kept_figure import PLOT, KeptFigure
from framefold.evaluation.inspection.kept_tokens import DIM, KeptSheet, KeptTokens, group_colors
from tests.support.numbered_frames import write_numbered
from tests.support.paths import ROOT, TINYHOST
from tests.support.processes import needs_torchvision

CLIPS = ROOT.parent / "shared" / "videos"


def sheet_of(tokens: VideoTokens, frames: np.ndarray, events: torch.Tensor | None = None) -> KeptSheet:
    kept = KeptTokens("mine", tokens, events)
    return KeptSheet("a title", frames, np.arange(len(frames)) / 2, (kept,), columns=3)


def tiles_of(sheet: KeptSheet) -> np.ndarray:
    return np.stack(list(sheet.tiles(sheet.kept[0])))


def grey(t: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((t, height, width, 3), 200, np.uint8)


def pixel(tiles: np.ndarray, t: int, y: int, x: int, grid: tuple[int, int]) -> np.ndarray:
    """The central pixel of a token."""
    high, wide = tiles.shape[1:3]
    return tiles[t, int((y + 0.5) * high / grid[0]), int((x + 0.5) * wide / grid[1])]


def test_kept_tokens_are_bright_and_dropped_ones_dim() -> None:
    video = VideoTokens.from_grid(torch.randn(4, 2, 3, 8, generator=torch.Generator().manual_seed(0)))
    kept = [0, 4, 9, 23]
    tiles = tiles_of(sheet_of(video.keep(torch.tensor(kept)), grey(4)))
    assert tiles.shape[0] == 4 and abs(tiles.shape[2] / tiles.shape[1] - 1.5) < 0.02  # the aspect ratio of the video
    for token in range(24):
        t, y, x = np.unravel_index(token, (4, 2, 3))
        expected = 200 if token in kept else round(200 * DIM)
        assert (pixel(tiles, t, y, x, (2, 3)) == expected).all()
    assert KeptTokens("", video.keep(torch.tensor(kept))).tokens_per_frame().tolist() == [2, 1, 0, 1]


def test_dropped_tokens_lose_their_colour_and_remain_readable() -> None:
    video = VideoTokens.from_grid(torch.zeros(1, 1, 2, 4))
    red = np.zeros((1, 20, 40, 3), np.uint8)
    red[..., 0] = 250
    tiles = tiles_of(sheet_of(video.keep(torch.tensor([0])), red))
    assert pixel(tiles, 0, 0, 0, (1, 2)).tolist() == [250, 0, 0]
    dropped = pixel(tiles, 0, 0, 1, (1, 2)).tolist()
    assert dropped[0] == dropped[1] == dropped[2] == round(250 * 0.299 * DIM)


def test_pooled_tokens_count_in_every_frame_that_they_represent() -> None:
    video = VideoTokens.from_grid(torch.randn(4, 2, 2, 8, generator=torch.Generator().manual_seed(0)))
    pooled = framefold.build("pool", 8)(video).tokens  # two runs of two frames, four tokens each
    assert KeptTokens("pool", pooled).tokens_per_frame().tolist() == [4, 4, 4, 4]


def test_merged_groups_have_an_outline_in_one_color() -> None:
    video = VideoTokens.from_grid(torch.ones(2, 2, 2, 8))
    assign = torch.tensor([0, 0, 1, 2, 0, 0, -1, 2])  # the upper row of both frames, a single token, a corner over time
    tokens = VideoTokens(
        features=torch.ones(3, 8), grid=(2, 2, 2), index=torch.tensor([0, 2, 3]), size=torch.tensor([4, 1, 2]),
        assign=assign, times=video.times,
    )  # fmt: skip
    tiles, tint = tiles_of(sheet_of(tokens, grey(2))), group_colors(3).round().astype(np.uint8)
    high, wide = tiles.shape[1:3]
    for t in range(2):
        assert (tiles[t, 0, :] == tint[0]).all()  # the border of the frame
        assert (tiles[t, high // 2 - 1, : wide // 2 - 3] == tint[0]).all()  # the border to the group below
        assert (tiles[t, high // 4, wide // 2 - 4 : wide // 2 + 4] == 200).all()  # no line inside the group
        assert (tiles[t, -1, wide // 2 + 3 :] == tint[2]).all()
    assert (tiles[0, -1, : wide // 2 - 3] == 200).all()  # an unmerged token has no outline
    assert (tiles[1, -1, : wide // 2 - 3] == round(200 * DIM)).all()


def test_neighbouring_groups_differ_in_color() -> None:
    tint = group_colors(50)
    assert np.abs(np.diff(tint, axis=0)).sum(1).min() > 100


def test_a_video_whose_tokens_are_all_kept_is_drawn_unchanged() -> None:
    video = VideoTokens.from_grid(torch.ones(2, 3, 3, 8))
    assert (tiles_of(sheet_of(video, grey(2))) == 200).all()


def test_plot_shows_when_tokens_are_kept_and_events_happen(tmp_path: Path) -> None:
    video = VideoTokens.from_grid(torch.randn(6, 2, 2, 8, generator=torch.Generator().manual_seed(0)))
    early, late = video.keep(torch.tensor([0, 1, 2])), video.keep(torch.tensor([21, 22, 23]))
    event = torch.arange(24) >= 20

    def plot(name: str, tokens: VideoTokens, events: torch.Tensor | None) -> np.ndarray:
        KeptFigure(sheet_of(tokens, grey(6), events)).save(tmp_path / name)
        return matplotlib.image.imread(tmp_path / name)[-PLOT + 80 :]

    bars = plot("a.png", early, None)
    assert not np.array_equal(bars, plot("b.png", late, None))
    none = plot("c.png", early, torch.zeros(24, dtype=torch.bool))
    assert not np.array_equal(bars, none)
    columns = np.arange(bars.shape[1]) / bars.shape[1]
    centers = []
    for name, events in (("d.png", event.flip(0)), ("e.png", event)):
        changed = np.abs(none - plot(name, early, events)).sum((0, 2))
        centers.append(float((changed * columns).sum() / changed.sum()))
    assert centers[0] < 0.4 and centers[1] > 0.6  # in the first frame, in the last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--compressor": "unheard_of"}, "unheard_of"),
        ({"--budget": "0"}, "a budget in tokens must be at least 1, got 0"),
        ({"--frames": "0"}, "at least 1"),
        ({"--out": "sheet.txt"}, "out must end in .png, .jpg"),
        ({"--out": "nowhere/sheet.png"}, "no folder nowhere"),
        ({"--device": "abacus"}, "abacus"),
        ({"--compressor": "uniform", "--params": "{uniform: {size: 1}}"}, "size"),
        ({"--compressor": "uniform", "--params": "{pool: {spatial: 2}}"}, "'pool' is not shown"),
        (
            {"--compressor": "fastv"},
            "fastv chooses tokens inside the language model by .*: give a question (--question)",
        ),
        ({"--compressor": "st_simdiff", "--params": "{st_simdiff: {stage_2: true}}"}, "give a question (--question)"),
    ],
)
def test_wrong_settings_are_errors_of_one_line_before_the_work(
    change: dict[str, str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from framefold.evaluation.inspection import show

    monkeypatch.setattr(show, "sample_frames", lambda *args: pytest.fail("the video was read"))
    words = {"--video": "clip.mp4", "--compressor": "uniform", "--out": "sheet.png"} | change
    assert main(["show", *[part for pair in words.items() for part in pair]]) == 2
    error = capsys.readouterr().err
    parts = message.split(".*")
    assert all(part in error for part in parts) and error.count("\n") == 1


def test_every_suffix_gives_a_file_of_its_kind(tmp_path: Path) -> None:
    video = VideoTokens.from_grid(torch.randn(6, 2, 2, 8, generator=torch.Generator().manual_seed(0)))
    kept = tuple(KeptTokens(name, framefold.build(name, 6)(video).tokens) for name in ("uniform", "pool"))
    figure = KeptFigure(KeptSheet("a title", grey(6), np.arange(6) / 2, kept, columns=3))
    marks = {"png": b"\x89PNG", "jpg": b"\xff\xd8", "webp": b"RIFF", "svg": b"<?xml", "pdf": b"%PDF", "mp4": b"ftyp"}
    for suffix, mark in marks.items():
        assert mark in figure.save(tmp_path / f"kept.{suffix}").read_bytes()[:12], suffix
    drawing = (tmp_path / "kept.svg").read_text()
    for text in ("uniform: 6 of 24 tokens", "pool: 6 of 24 tokens", "grey: dropped", "outlined in one colour"):
        assert text in drawing, text
    with av.open(str(tmp_path / "kept.mp4")) as container:
        frames, seconds = list(container.decode(video=0)), float(container.duration) / 1e6
    assert len(frames) == 6 and frames[0].width > 3 * 224 and seconds == pytest.approx(3, abs=0.6)
    with pytest.raises(ConfigError, match="must end in"):
        figure.save(tmp_path / "kept.gif")
    assert figure._repr_png_().startswith(b"\x89PNG")


@needs_torchvision
def test_python_draws_what_the_command_draws_next_to_the_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    video = tmp_path / "video.mp4"
    assert main(["view", "--out", str(video), "--frames", "16"]) == 0
    words = ["show", "--video", str(video), "--compressor", "st_simdiff", "pool", "--budget", "12", "--frames", "8"]
    assert main([*words, "--host", str(TINYHOST)]) == 0
    assert "st_simdiff: 12 of 128 tokens, pool: 12 of 128 tokens of 8 steps" in capsys.readouterr().out
    model, processor = (auto.from_pretrained(TINYHOST) for auto in (AutoModelForImageTextToText, AutoProcessor))
    drawn = framefold.show(model, processor, video, ["st_simdiff", framefold.build("pool")], budget=12, frames=8)
    theirs = matplotlib.image.imread(tmp_path / "video.kept.png")
    ours = matplotlib.image.imread(drawn.save(tmp_path / "ours.png"))
    assert np.array_equal(ours, theirs)
    assert [kept.name for kept in drawn.sheet.kept] == ["st_simdiff", "pool"]


@needs_torchvision
def test_of_methods_inside_the_language_model_the_last_layer_and_what_enters_are_drawn(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from framefold.adapters.hosts.prompt.places import IN_LLM_HOOKS

    video = tmp_path / "video.mp4"
    assert main(["view", "--out", str(video), "--frames", "16"]) == 0
    model, processor = (auto.from_pretrained(TINYHOST) for auto in (AutoModelForImageTextToText, AutoProcessor))

    def kept(name: str, question: str | None = "which shape flashed first ?", **params: Any) -> list[KeptTokens]:
        module = framefold.build(name, 0.4, **params)
        return list(framefold.show(model, processor, video, module, frames=16, question=question).sheet.kept)

    (fastv,) = kept("fastv")
    assert (
        fastv.title == "fastv (last layer): 50 of 256 tokens (mean over the layers: 101.5)"
    )  # 256 + 3 * 50 of 4 * 102
    (other,) = kept("fastv", "what color was the ring ?")
    assert len(other.tokens) == 50 and not torch.equal(other.tokens.index, fastv.tokens.index), "the question chooses"
    entering, last = kept("st_simdiff", stage_2=True)
    assert entering.title == "st_simdiff (entering): 127 of 256 tokens" and entering.events is not None
    assert last.name == "st_simdiff (last layer)" and set(last.tokens.index.tolist()) < set(
        entering.tokens.index.tolist()
    )
    assert last.tokens_per_frame().sum() == len(last.tokens) == 93  # 127 + 3 * 93 of 4 * 102
    (merged,) = kept("at_layer", None)
    assert merged.merges and int(merged.tokens.size.sum()) == 256 and len(merged.tokens) == 50, "it needs no question"
    assert not hasattr(model, IN_LLM_HOOKS)
    with pytest.raises(ConfigError, match="give a question"):
        kept("pyramid_drop", None)
    with pytest.raises(BudgetError, match="the smallest budget for 256 tokens is 65"):
        framefold.show(model, processor, video, "fastv", budget=0.1, frames=16, question="which shape ?")
    assert not hasattr(model, IN_LLM_HOOKS)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="there are no real clips next to this checkout")
def test_cuts_of_a_real_clip_are_events() -> None:
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


def test_large_frames_are_shrunk_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show = importlib.import_module("framefold.evaluation.inspection.show")
    path, shapes = write_numbered(tmp_path / "x.mp4", count=9, size=(1080, 1920), preset="ultrafast"), []

    class Stop(Exception):
        pass

    def stop(model: object, processor: object, sample: SampledFrames, *args: object) -> None:
        shapes.append(sample.frames.shape)
        raise Stop

    monkeypatch.setattr(show, "_draw", stop)
    tracemalloc.start()
    with pytest.raises(Stop):
        show.show(None, None, str(path), "uniform", budget=0.5, frames=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with pytest.raises(Stop):
        show.show_command(str(path), ["uniform"], str(tmp_path / "x.png"), str(TINYHOST), 0.5, frames=8)
    for count, height, width, _ in shapes:
        assert count == 8 and 0.99 < height * width / show.MAX_PIXELS <= 1.01
        assert width / height == pytest.approx(16 / 9, rel=0.01)
    assert len(shapes) == 2
    assert peak < 1.5 * np.prod(shapes[0]) + 2**24  # of NumPy and Python: the large frames are not kept
