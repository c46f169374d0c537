"""Which attention of the host on all tokens the scores learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from framefold.data.loading.loader import Batch
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.training.frozen_host.batch import encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.module import CompressorModule
from framefold.training.teacher import TeacherAttention, resolve_teacher, teacher_outputs
from tests.support.paths import TINYHOST

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice


@pytest.fixture(scope="module")
def host() -> Any:
    return load_host(TINYHOST)


@pytest.fixture(scope="module")
def batch(host: Any) -> Any:
    return encode_batch(host, [Recipe((16, 20)).sample(i) for i in range(2)])


def test_all_layers_are_the_mean_of_each(host: Any, batch: Any) -> None:
    count = len(host.family.decoder_layers(host.model))
    assert count >= 2
    for heads in ("mean", "max"):
        every = teacher_outputs(host, batch, TeacherAttention(heads=heads)).attention
        single = [teacher_outputs(host, batch, TeacherAttention([n], heads)).attention for n in range(count)]
        for row, found in enumerate(every):
            torch.testing.assert_close(found, torch.stack([layer[row] for layer in single]).mean(0))
        assert not torch.allclose(single[0][0], single[1][0])


def test_attention_is_reduced_over_heads_and_words_that_are_not_padding() -> None:
    torch.manual_seed(0)
    layers = [torch.rand(2, 3, 4, 5) for _ in range(2)]  # two questions of 4 and 2 tokens, 3 heads, 5 columns
    asking = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    for heads in ("mean", "max"):
        found = TeacherAttention([1], heads).reduce(layers, asking)
        for row, words in ((0, 4), (1, 2)):
            own = layers[1][row, :, :words]
            torch.testing.assert_close(found[row], own.sum((0, 1)) if heads == "mean" else own.amax((0, 1)))


def test_without_answers_only_the_tokens_before_them_ask(host: Any) -> None:
    """The same questions with other answers: a different attention only where answers count."""
    samples = [Recipe((16, 20)).sample(i) for i in range(2)]
    others = [replace(one, questions=[replace(asked, answer="no") for asked in one.questions]) for one in samples]
    known, other = (encode_batch(host, given) for given in (samples, others))
    for answers in (True, False):
        setting = TeacherAttention(answers=answers)
        one, two = (
            torch.stack([row.sum() for row in teacher_outputs(host, given, setting).attention])
            for given in (known, other)
        )
        alike = torch.isclose(one, two, rtol=1e-4)
        assert bool(alike.all()) != answers, (one, two)
    asking = TeacherAttention(answers=False).asking(known.rows)
    ended = known.rows.attention_mask.sum(1)
    assert torch.equal(asking.sum(1), ended - (known.rows.labels != -100).sum(1)) and bool(
        (asking.sum(1) < ended).all()
    )


def test_wrong_settings_are_refused_before_the_first_step(random_host: Any) -> None:
    for settings in ({"layers": []}, {"layers": [-1]}, {"layers": [1, 1]}, {"heads": "most"}, {"layer": [1]}):
        with pytest.raises(ConfigError, match="teacher"):
            resolve_teacher(settings)
    module = CompressorModule("qtsplus", host=str(random_host), teacher=TeacherAttention([1]))
    with pytest.raises(ConfigError, match="layers 0 to 0"):
        module.configure_model()


def test_the_setting_reaches_the_losses(random_host: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    asked = []

    def spy(host: Any, batch: Any, attention: Any) -> Any:
        asked.append(attention)
        return teacher_outputs(host, batch, attention)

    monkeypatch.setattr("framefold.training.losses.teacher_outputs", spy)
    settings = TeacherAttention([0], "max")
    model: dict[str, Any] = {"host": str(random_host), "losses": {"rank": 1.0}, "teacher": settings}
    module = CompressorModule("qtsplus", 0.25, {"heads": 4}, **model)
    module.configure_model()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([Batch((Recipe((16, 16)).sample(0),))], batch_size=None)
    trainer.fit(module, loader)
    assert asked == [settings] and trainer.callback_metrics["train/rank"] > 0
    assert module.hparams["teacher"] == {
        "layers": [0],
        "heads": "max",
        "answers": True,
    }  # what a checkpoint and a card record
