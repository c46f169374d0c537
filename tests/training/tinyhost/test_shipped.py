"""The host in checkpoints/tinyhost: position of its tokens, accuracy, and its card."""

from __future__ import annotations

import csv
import re

import pytest
import torch
import yaml
from torch import Tensor

from framefold.data.synthetic.difficulty import PRESETS
from framefold.data.synthetic.generate import generate
from framefold.data.synthetic.questions import HEADLINE, asked_types
from framefold.errors import HostError
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host
from framefold.training.tinyhost.evaluate import evaluate_host
from tests.support.paths import TINYHOST


@pytest.fixture(scope="module")
def host() -> Host:
    torch.set_num_threads(1)
    return load_host(TINYHOST)


def tokens(host: Host, first: int, videos: int) -> tuple[Tensor, Tensor]:
    """Return tokens (N, D) of hard videos, and the cell (0 to 15) of the frame that each of them shows."""
    clips = [generate(i, split="val", frames=16, difficulty="hard") for i in range(first, first + videos)]
    features = torch.cat([host.encode_pixels(host.pixel_values(video.frames))[0, :-1] for video in clips])
    return torch.nn.functional.normalize(features, dim=-1), torch.arange(16).repeat(16 * videos)


def test_linear_probes_recover_row_and_column_of_a_token(host: Host) -> None:
    x, cell = tokens(host, 0, 16)
    unseen, where = tokens(host, 100, 8)
    for place in (lambda cell: cell // 4, lambda cell: cell % 4):
        weights = torch.linalg.lstsq(x, torch.nn.functional.one_hot(place(cell), 4).float()).solution
        assert ((unseen @ weights).argmax(-1) == place(where)).float().mean() > 0.99


def test_accuracy_is_far_above_chance_and_needs_the_video() -> None:
    results = evaluate_host(str(TINYHOST), [64], videos=12, show=["full", "blind", "frame"])
    full = results["full@64/normal"]
    assert full["accuracy"] > 0.75
    assert results["blind@64/normal"]["accuracy"] < 0.45
    assert results["frame@64/normal"]["accuracy"] < 0.45
    assert "background" in full["types"]  # which does not count:
    assert full["n"] == sum(row[3] for kind, row in full["types"].items() if kind in HEADLINE)


def test_card_names_the_commands_and_the_curve_has_every_stage() -> None:
    card = (TINYHOST / "README.md").read_text()
    assert "framefold tinyhost train --config tinyhost/cpu" in card and "framefold tinyhost eval" in card
    recipe = yaml.safe_load((TINYHOST.parent.parent / "configs" / "tinyhost" / "cpu.yaml").read_text())
    rows = list(csv.DictReader((TINYHOST / "training_curve.csv").open()))
    steps = {row["stage"]: int(row["step"]) for row in rows}
    assert steps == {stage["name"]: stage["steps"] for stage in recipe["stages"]}


def test_card_has_every_type_with_at_least_500_questions() -> None:
    card = (TINYHOST / "README.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \|.*\| (\d+) \|$", card, flags=re.MULTILINE))
    asked = set(asked_types(PRESETS["hard"]))
    assert asked <= set(rows)
    assert all(int(rows[kind]) >= 500 for kind in asked & set(HEADLINE))


def test_invalid_measurements_are_refused() -> None:
    for wrong, text in [
        ({"videos": 0}, "at least 1, got 0"),
        ({"show": ["random:abc"]}, "cannot show"),
        ({"show": ["none"]}, "cannot show"),
    ]:
        with pytest.raises(HostError, match=text):
            evaluate_host(str(TINYHOST), [16], **({"videos": 1} | wrong))
            pytest.fail(f"{wrong} was accepted")
