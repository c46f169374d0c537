"""Packaged recipes train for two steps, and the stage distill needs no labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

import framefold
from framefold.configs import config_names, find_config
from framefold.data.loading.loader import Batch
from framefold.data.question import Question
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.training.losses import LOSSES
from framefold.training.module import CompressorModule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice
RECIPES = [name for name in config_names() if name.startswith("compressor/")]
DISTILL = yaml.safe_load(find_config("stage/distill").read_text())["model"]


def settings(name: str) -> dict[str, Any]:
    """Return what a recipe sets of the model."""
    found: dict[str, Any] = yaml.safe_load(find_config(name).read_text())["model"]
    return found


def compressor_of(recipe: dict[str, Any]) -> Any:
    return framefold.build(recipe["compressor"], recipe["budget"], **recipe.get("params", {}))


TRAINED = [name for name in RECIPES if compressor_of(settings(name)).trainable]
SCORED = [name for name in TRAINED if compressor_of(settings(name)).returns_scores]


def train(recipe: dict[str, Any], host: Path, folder: Path, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Train for one step per batch, and return the weights; what random weights were at the start follows a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = CompressorModule(**{**recipe, "host": str(host)})
        module.configure_model()
        before = {name: p.detach().clone() for name, p in module.compressor.named_parameters()}
        quiet = dict(enable_progress_bar=False, enable_model_summary=False, logger=False, enable_checkpointing=False)
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_steps=len(batches), default_root_dir=folder, **quiet
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    after = {name: p.detach() for name, p in module.compressor.named_parameters()}
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before), "nothing was trained"
    return after


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return [Batch(tuple(Recipe((16, 20)).sample(2 * step + i) for i in range(2))) for step in range(2)]


@pytest.mark.parametrize("name", TRAINED)
def test_a_recipe_trains_for_two_steps(name: str, random_host: Path, tmp_path: Path, batches: list[Batch]) -> None:
    train(settings(name), random_host, tmp_path, batches)


@pytest.mark.parametrize("name", SCORED)
def test_distillation_trains_every_method_that_scores_tokens_without_labels(
    name: str, random_host: Path, tmp_path: Path, batches: list[Batch]
) -> None:
    """Other answers of as many words, and no evidence, change nothing."""

    def without_labels(one: Question) -> Question:
        return replace(one, answer=" ".join(["no"] * len(one.answer.split())), evidence=())

    def unlabelled(batch: Batch) -> Batch:
        samples = batch.samples
        return Batch(tuple(replace(one, questions=[*map(without_labels, one.questions)]) for one in samples))

    recipe = {**settings(name), "losses": DISTILL["losses"], "teacher": DISTILL["teacher"]}
    labelled = train(recipe, random_host, tmp_path, batches)
    other = train(recipe, random_host, tmp_path, [unlabelled(batch) for batch in batches])
    different = [key for key, value in labelled.items() if not torch.equal(other[key], value)]
    assert not different


def test_distillation_is_refused_where_nothing_scores_tokens(random_host: Path) -> None:
    query_aware = {name for name in TRAINED if compressor_of(settings(name)).query_aware}
    assert query_aware <= {*SCORED} and len(query_aware) >= 4
    assert all(LOSSES[loss].teacher == "attention" for loss, weight in DISTILL["losses"].items() if weight)
    for name in sorted({*TRAINED} - {*SCORED}):
        with pytest.raises(ConfigError, match="trains the scores of tokens"):
            CompressorModule(**{**settings(name), "losses": DISTILL["losses"], "host": str(random_host)})
