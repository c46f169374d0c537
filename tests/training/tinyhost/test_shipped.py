"""The hosts in checkpoints: position of their tokens, accuracy, and their cards."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

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
from tests.support.paths import ROOT, TINYHOST, TINYHOST_CROWDED


class Shipped(NamedTuple):
    """A shipped host, the videos it was trained on, and its recipe."""

    folder: Path
    difficulty: str
    recipe: str


SHIPPED = [Shipped(TINYHOST, "hard", "cpu"), Shipped(TINYHOST_CROWDED, "crowded", "crowded")]


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda shipped: shipped.folder.name)
def shipped(request: pytest.FixtureRequest) -> Shipped:
    torch.set_num_threads(1)
    return request.param


def tokens(host: Host, shipped: Shipped, first: int, videos: int) -> tuple[Tensor, Tensor]:
    """Return tokens (N, D) of videos, and the cell of the frame that each of them shows."""
    clips = [generate(i, split="val", frames=16, difficulty=shipped.difficulty) for i in range(first, first + videos)]
    features = torch.cat([host.encode_pixels(host.pixel_values(video.frames))[0, :-1] for video in clips])
    return torch.nn.functional.normalize(features, dim=-1), torch.arange(len(features) // (16 * videos)).repeat(
        16 * videos
    )


def test_linear_probes_recover_row_and_column_of_a_token(shipped: Shipped) -> None:
    host = load_host(shipped.folder)
    x, cell = tokens(host, shipped, 0, 16)
    unseen, where = tokens(host, shipped, 100, 8)
    side = round((int(cell.max()) + 1) ** 0.5)
    for place in (lambda cell: cell // side, lambda cell: cell % side):
        weights = torch.linalg.lstsq(x, torch.nn.functional.one_hot(place(cell), side).float()).solution
        assert ((unseen @ weights).argmax(-1) == place(where)).float().mean() > 0.99


def test_accuracy_is_far_above_chance_and_needs_the_video(shipped: Shipped) -> None:
    results = evaluate_host(
        str(shipped.folder), [64], videos=12, show=["full", "blind", "frame"], difficulty=shipped.difficulty
    )
    full = results["full@64/normal"]
    assert full["accuracy"] > 0.75
    assert results["blind@64/normal"]["accuracy"] < 0.45
    assert results["frame@64/normal"]["accuracy"] < 0.45
    assert "background" in full["types"]  # which does not count:
    assert full["n"] == sum(row[3] for kind, row in full["types"].items() if kind in HEADLINE)


def test_card_names_the_commands_and_the_curve_has_every_stage(shipped: Shipped) -> None:
    card = (shipped.folder / "README.md").read_text()
    assert f"framefold tinyhost train --config tinyhost/{shipped.recipe} " in card and "framefold tinyhost eval" in card
    recipe = yaml.safe_load((ROOT / "configs" / "tinyhost" / f"{shipped.recipe}.yaml").read_text())
    rows = list(csv.DictReader((shipped.folder / "training_curve.csv").open()))
    steps = {row["stage"]: int(row["step"]) for row in rows}
    assert steps == {stage["name"]: stage["steps"] for stage in recipe["stages"]}


def test_card_has_every_type_with_at_least_400_questions(shipped: Shipped) -> None:
    card = (shipped.folder / "README.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \|.*\| (\d+) \|$", card, flags=re.MULTILINE))
    asked = set(asked_types(PRESETS[shipped.difficulty]))
    assert asked <= set(rows)
    assert all(int(rows[kind]) >= 400 for kind in asked & set(HEADLINE))


def test_shipped_host_is_below_20_megabytes(shipped: Shipped) -> None:
    assert sum(file.stat().st_size for file in shipped.folder.iterdir()) < 20e6


def test_invalid_measurements_are_refused() -> None:
    for wrong, text in [
        ({"videos": 0}, "at least 1, got 0"),
        ({"show": ["random:abc"]}, "cannot show"),
        ({"show": ["none"]}, "cannot show"),
    ]:
        with pytest.raises(HostError, match=text):
            evaluate_host(str(TINYHOST), [16], **({"videos": 1} | wrong))
            pytest.fail(f"{wrong} was accepted")
