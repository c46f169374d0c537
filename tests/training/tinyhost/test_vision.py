"""Tasks of the tinyhost's vision tower, and its frames of synthetic videos with a label for each token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from framefold.data.evidence import evidence_mask
from framefold.data.synthetic.crowd import CROWD_HALOS
from framefold.data.synthetic.generate import generate
from framefold.data.synthetic.render import COLORS, SHAPES, TEXTURES
from framefold.errors import HostError
from framefold.training.tinyhost.build import Architecture, build_host, build_tokenizer
from framefold.training.tinyhost.frames import IGNORE, KINDS, PROBES
from framefold.training.tinyhost.stage import Stage
from framefold.training.tinyhost.token_views import TokenView
from framefold.training.tinyhost.train import train
from framefold.training.tinyhost.video_frames import label_frame, video_frame_batch
from framefold.training.tinyhost.vision import VisionTraining

SMALL = Architecture(
    image=128, vision_width=16, vision_ff=32, vision_layers=1, text_width=32, text_ff=64, vision_use_head=True
)
STAGE = Stage("tower", "vision", steps=30, batch=4, warmup=5, lr=0.01, source="videos", difficulty=("crowded",))

_COLORS = tuple(COLORS)

CROWD = ("cream", "sky", "decoy", "violet", "teal", "mover", "flare")  # kinds, in the order of CROWD_HALOS


def trained(stage: Stage) -> tuple[VisionTraining, dict[str, float]]:
    """Train a small tower, and return it with the logged values of its last step."""
    torch.set_num_threads(1)
    module = VisionTraining(build_host(SMALL, seed=1), build_tokenizer(), stage, seed=0)
    logged: dict[str, float] = {}
    module._log = lambda name, value, count: logged.update({name: float(value)})  # type: ignore[method-assign]
    module.host.requires_grad_(False)
    optimizer = module.configure_optimizers()["optimizer"]
    batches = module.batch_function()
    for step in range(stage.steps):
        optimizer.zero_grad()
        module.training_step(batches(step), step).backward()
        optimizer.step()
    return module, logged


def test_labels_tell_what_lies_on_top_of_a_crowded_frame() -> None:
    found = 0
    for index in range(4):
        video = generate(index, frames=16, difficulty="crowded")
        assert video.crowd is not None
        for flash in (event for event in video.events if event.kind == "flash"):
            labels = label_frame(video, flash.first, 8, 32)
            held = evidence_mask([(0, *flash.box(flash.first)[1:])], (1, 8, 8))[0]
            later = [e for e in video.events[video.events.index(flash) + 1 :] if e.first <= flash.first <= e.last]
            if not later:
                assert (labels["kind"][held] == KINDS.index("flash")).all()
                assert (labels["shape"][held] == SHAPES.index(flash.shape)).all()
                assert (labels["color"][held] == _COLORS.index(flash.color)).all()
                found += 1
            assert ((labels["kind"] == KINDS.index("flash")) <= held).all() or later
    assert found > 10


def test_labels_of_the_crowd_agree_with_the_pixels() -> None:
    frames, labels = video_frame_batch(0, seed=0, frames=96, cells=8, difficulty=("crowded",))
    assert frames.shape == (96, 128, 128, 3) and set(labels) == set(PROBES)
    cells = frames.reshape(96, 8, 16, 8, 16, 3).swapaxes(2, 3).reshape(96, 64, 256, 3).astype(int)
    tokens = {kind: labels["kind"] == KINDS.index(kind) for kind in KINDS}
    assert all(tokens[kind].sum() > 100 for kind in CROWD)  # the discs of the whole crowd are labelled
    for color, own in zip(CROWD_HALOS, CROWD, strict=True):
        of_color = (np.abs(cells - color).max(axis=-1) < 45).mean(axis=-1)
        assert of_color[tokens[own]].mean() > 2 * max(of_color[tokens[kind]].mean() for kind in CROWD if kind != own)
    for name, number in (("shape", len(SHAPES)), ("color", len(COLORS)), ("texture", len(TEXTURES))):
        assert set(np.unique(labels[name])) == {IGNORE, *range(number)}
    assert (labels["shape"][tokens["flare"]] == IGNORE).all() and (labels["shape"][tokens["decoy"]] != IGNORE).all()


def test_frames_with_events_are_preferred() -> None:
    _, labels = video_frame_batch(1, seed=0, frames=96, cells=8, difficulty=("crowded",))
    flashes = (labels["kind"] == KINDS.index("flash")).any(axis=1)
    assert flashes.mean() > 0.65  # about 0.55 of all frames of short crowded videos have a flash


def test_even_length_reduces_differences_in_length_and_in_distance_from_the_mean() -> None:
    _, free = trained(replace(STAGE, even_length=1e-9))
    _, even = trained(replace(STAGE, even_length=3.0))
    assert even["length"] < 0.5 * free["length"] and even["distance"] < 0.5 * free["distance"]


def test_kinds_of_tokens_weigh_equally_in_differences_of_length() -> None:
    module = VisionTraining(build_host(SMALL), build_tokenizer(), STAGE, seed=0)
    logged: dict[str, float] = {}
    module._log = lambda name, value, count: logged.update({name: float(value)})  # type: ignore[method-assign]
    features = torch.ones(100, 32)
    features[0] *= 8  # the only flash
    kinds = torch.full((100,), KINDS.index("decoy"))
    kinds[0] = KINDS.index("flash")
    kinds[1] = IGNORE
    module._length_loss(features, kinds)
    lengths = features.norm(dim=-1).log()
    deviations = (lengths - lengths.mean()).square()
    assert logged["length"] == pytest.approx(float((deviations[0] + deviations[2]) / 2), rel=1e-4)


def test_appearance_is_reconstructed_from_tokens() -> None:
    _, logged = trained(replace(STAGE, appearance=2.0))
    assert logged["appearance"] < 0.8


def test_summary_is_a_divergence_in_which_flashes_count_more() -> None:
    module = VisionTraining(build_host(SMALL), build_tokenizer(), replace(STAGE, summary=1.0, emphasis=3.0), seed=0)
    module._log = lambda name, value, count: None  # type: ignore[method-assign]
    kinds = torch.tensor([[KINDS.index(kind) for kind in ("flash", "decoy", "decoy", "decoy", "none")]])
    shapes = torch.tensor([[0, 1, 1, 1, IGNORE]])
    targets = {"kind": kinds, "shape": shapes, "color": shapes}

    def loss(shares: list[float]) -> Tensor:
        """Return the loss of a probe that answers with given shares of the first two shapes and colours."""
        part = torch.tensor([*shares, 1e-6, 1e-6, 1e-6, 1e-6]).log()
        torch.nn.init.zeros_(module.probes["summary"].weight)
        module.probes["summary"].bias.data = torch.cat([part, part])
        return module._summary_loss(torch.ones(1, 16), targets).detach()

    assert abs(float(loss([0.5, 0.5]))) < 1e-3  # one flash counts as much as three others
    assert float(loss([0.25, 0.75])) > 0.1


def test_summary_trains_the_pooling_head() -> None:
    module = VisionTraining(build_host(SMALL), build_tokenizer(), replace(STAGE, summary=1.0), seed=0)
    module._log = lambda name, value, count: None  # type: ignore[method-assign]
    module.configure_optimizers()
    module.training_step(module.batch_function()(0), 0).backward()
    head = module.host.model.vision_tower.head
    assert head.probe.grad.abs().max() > 0 and head.attention.in_proj_weight.grad.abs().max() > 0
    assert not head._forward_hooks


def test_stages_that_do_not_suit_the_host_are_refused(tmp_path: Path) -> None:
    mixes = (TokenView("full"),)
    for stage, architecture, text in [
        (replace(STAGE, summary=1.0), replace(SMALL, vision_use_head=False), "set architecture.vision_use_head"),
        (replace(STAGE, source="films"), SMALL, "source 'films'; known: drawn, videos"),
        (replace(STAGE, difficulty=("hard",)), SMALL, "videos of 64 pixels, and the host takes 128"),
        (Stage("some", "language", 1, mixes=mixes, difficulty=("crowded",)), replace(SMALL, image=64), "takes 64"),
    ]:
        with pytest.raises(HostError, match=text):
            train(str(tmp_path / "host"), [stage], architecture)
            pytest.fail(f"{stage} was accepted")
    assert not (tmp_path / "host").exists()
