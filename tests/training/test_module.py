"""The LightningModule: trained and frozen weights, budgets, losses, batches of different lengths, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import torch

from framefold.adapters import Compressed, Compressor
from framefold.adapters.core import registry
from framefold.adapters.ops.selection import exact_topk
from framefold.data.loading.loader import Batch, ResumableLoader
from framefold.data.question import FollowUp, Question
from framefold.data.shards.sample import VideoSample
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import BudgetError, ConfigError, HostError, UnknownCompressorError
from framefold.training.frozen_host.batch import answer_questions, encode_batch, mean_visual_tokens
from framefold.training.frozen_host.question_rows import IGNORE, QuestionRows, answer_loss, predict, writes_answer
from framefold.training.losses import total_loss
from framefold.training.metrics import TypeAccuracy
from framefold.training.module import CompressorModule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice


def batch(*lengths: int) -> Batch:
    return Batch(tuple(Recipe((length, length)).sample(i) for i, length in enumerate(lengths)))


@pytest.fixture
def alternating(monkeypatch) -> str:
    """Register a compressor that alternates between its two parameters and returns a loss."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))

    class Alternating(Compressor):
        name = "test_alternating"
        trainable: ClassVar[bool] = True

        def __init__(self, budget=0.25) -> None:
            super().__init__(budget)
            self.a, self.b, self.calls = torch.nn.Parameter(torch.ones(())), torch.nn.Parameter(torch.ones(())), 0

        def compress(self, video, k, query):
            self.calls += 1
            used = self.a if self.calls % 2 else self.b
            kept = video.keep(exact_topk(torch.arange(len(video)).float(), k))
            return Compressed(type(kept)(**{**kept.__dict__, "features": kept.features * used}), {"own": used.square()})

    return Alternating.name


@pytest.fixture
def make(random_host):
    def build(compressor: str = "fila", **settings) -> CompressorModule:
        module = CompressorModule(compressor, host=str(random_host), **settings)
        module.configure_model()
        return module

    return build


def trainer(tmp_path, **settings) -> pl.Trainer:
    defaults = dict(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    quiet = dict(enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path)
    return pl.Trainer(**{**defaults, **quiet, **settings})


def loader(videos: int = 8, batch_size: int = 2) -> ResumableLoader:
    return ResumableLoader(SyntheticStream(Recipe((16, 20)), videos, batch_size))


def test_training_changes_only_the_compressor(make, tmp_path):
    module = make(lr=0.1)
    host = {name: value.clone() for name, value in module.model.state_dict().items()}
    trainer(tmp_path, max_steps=3).fit(module, loader())
    assert all(value.equal(host[name]) for name, value in module.model.state_dict().items())
    assert all(bool((p != 0).any()) for p in module.compressor.parameters())
    assert not module.model.training and not any(p.requires_grad for p in module.model.parameters())
    optimized = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in module.compressor.parameters()}


def test_unused_parameters_get_a_gradient(make, alternating, tmp_path):
    module = make(alternating)
    gradients = []

    def record(*args, **kwargs):
        gradients.append([p.grad is not None for p in module.compressor.parameters()])

    module.on_after_backward = record
    trainer(tmp_path, max_steps=3).fit(module, loader(batch_size=1))
    assert gradients == [[True, True]] * 3


def test_batch_of_different_lengths_equals_single_videos(make):
    module = make(budget=0.2)
    together = batch(16, 24, 20)
    encoded = encode_batch(module.host, together.samples)
    logits, prepared, _ = answer_questions(module.host, module.compressor, encoded)
    first = 0
    for sample, tokens in zip(together.samples, prepared.tokens, strict=True):
        alone = encode_batch(module.host, [sample])
        expected, one, _ = answer_questions(module.host, module.compressor, alone)
        assert len(tokens) == len(one.tokens[0])
        rows = slice(first, first + len(sample.questions))
        torch.testing.assert_close(logits[rows, : expected.shape[1]], expected, atol=2e-5, rtol=1e-4)
        first += len(sample.questions)
    assert mean_visual_tokens(module.host, prepared) == sum(round(0.2 * t * 16) + 1 for t in (16, 24, 20)) / 3


def test_training_budget_depends_only_on_the_step(make):
    module = make(train_budgets=[0.5, 0.1, 8])
    budgets = [module.training_budget(step) for step in range(60)]
    again = make(train_budgets=[0.5, 0.1, 8])
    assert budgets == [again.training_budget(step) for step in range(60)]
    assert set(budgets) == {0.5, 0.1, 8}
    assert make().training_budget(0) == 0.1


def test_each_step_uses_its_budget_and_restores_the_default(make, tmp_path):
    module = make(budget=0.1, train_budgets=[4], val_budgets=[2, 0.5])
    fitted = trainer(tmp_path, max_epochs=1, limit_train_batches=1)
    fitted.fit(module, loader(), ResumableLoader(SyntheticStream(Recipe((16, 16)), 2, 2, fresh=False), restart=True))
    metrics = fitted.callback_metrics
    assert metrics["train/visual_tokens"] == 5 and metrics["val/visual_tokens@2"] == 3  # and the host's newline token
    assert metrics["val/visual_tokens@0.5"] == 129 and module.compressor.budget == 0.1
    both = (metrics["val/accuracy@2"] + metrics["val/accuracy@0.5"]) / 2
    assert metrics["val/accuracy"] == pytest.approx(float(both))
    assert {"val/needle@2", "val/direction@0.5", "val/loss@2"} <= set(metrics)


def test_untrained_compressor_equals_its_training_free_counterpart(make):
    videos = batch(20, 24)
    trained, free = make("fila", params={"members": "cluster"}), make("scene_mean", params={"members": "cluster"})
    logits = [answer_questions(m.host, m.compressor, encode_batch(m.host, videos.samples))[0] for m in (trained, free)]
    assert logits[0].equal(logits[1])


def test_losses_of_the_compressor_are_weighted_and_logged(make, alternating, tmp_path):
    module = make(alternating, losses={"own": 3.0, "answer": 0.0})
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(module, loader())
    assert fitted.callback_metrics["train/own"] == 1.0 and fitted.callback_metrics["train/loss"] == 3.0
    assert "train/answer" not in fitted.callback_metrics  # nothing else needs the language model
    with pytest.raises(ConfigError, match="no loss of this compressor is called .anwser.; did you mean .answer."):
        total_loss({"answer": torch.ones(()), "own": torch.ones(())}, {"anwser": 1.0})


def test_a_resampler_trains_on_the_videos_alone(make, tmp_path):
    """Without the loss of the answers, "rebuild" falls; without "rebuild", its predictor gets no other gradient."""
    module = make("resampler", params={"rebuild": 2.0}, losses={"answer": 0.0, "rebuild": 1.0}, lr=3e-3)
    fitted, values = trainer(tmp_path, max_steps=6), []
    module.on_before_backward = lambda loss: values.append(
        (loss.item(), float(fitted.callback_metrics["train/rebuild"]))
    )
    fitted.fit(module, loader(16))
    assert all(total == pytest.approx(rebuild) for total, rebuild in values) and values[-1][0] < 0.9 * values[0][0]
    answers = make("resampler", params={"rebuild": 2.0}, losses={"rebuild": 0.0}, lr=3e-3)
    before = [p.clone() for p in answers.compressor.rebuilder.parameters()]
    trainer(tmp_path, max_steps=2).fit(answers, loader())
    after = list(answers.compressor.rebuilder.parameters())
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_learning_rate_warms_up_and_decays(make, tmp_path):
    module = make(lr=1.0, warmup=0.25, lr_end=0.1)
    rates = []
    module.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    trainer(tmp_path, max_steps=8).fit(module, loader(16))
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[-1] < 0.25 and rates[2:] == sorted(rates[2:], reverse=True)


def test_bf16_mixed_precision_trains(make, tmp_path):
    module = make(lr=0.1)
    trainer(tmp_path, max_steps=2, precision="bf16-mixed").fit(module, loader())
    assert all(p.dtype == torch.float32 and bool((p != 0).any()) for p in module.compressor.parameters())


def test_checkpoint_holds_only_the_compressor_and_loads_alone(make, tmp_path):
    module = make(lr=0.1, train_budgets=[0.1, 6])
    fitted = trainer(tmp_path, max_steps=2)
    fitted.fit(module, loader())
    fitted.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {"compressor.static", "compressor.score"}
    again = CompressorModule.load_from_checkpoint(tmp_path / "a.ckpt")
    for name, value in module.compressor.state_dict().items():
        assert value.equal(again.compressor.state_dict()[name])


def test_accuracy_by_type_is_accumulated():
    metric = TypeAccuracy()
    metric.update(torch.tensor([True, False, True]), torch.tensor([True, False, False]), ["needle", "needle", "mine"])
    metric.update(torch.tensor([True, True]), torch.tensor([False, True]), ["needle", "needle"])
    expected = {"accuracy": 0.875, "text_match": 0.25, "needle": 0.75, "other": 1.0}
    assert {k: float(v) for k, v in metric.compute().items()} == expected


def test_wrong_settings_are_refused_before_the_host_is_loaded(random_host):
    for settings, error in (
        (dict(compressor="fla"), UnknownCompressorError),
        (dict(params={"memebrs": 1}), ConfigError),
        (dict(budget=2.0), BudgetError),
        (dict(train_budgets=[0]), BudgetError),
        (dict(lr=0.0), ConfigError),
        (dict(losses={"answer": -1.0}), ConfigError),
        (dict(host="/no/host"), HostError),
    ):
        with pytest.raises(error):
            CompressorModule(**{"host": str(random_host), **settings})
    with pytest.raises(ConfigError, match="nothing to train"):
        module = CompressorModule("scene_mean", host=str(random_host))
        module.configure_optimizers()


def test_answer_loss_is_the_cross_entropy_of_the_answers(make):
    module = make()
    encoded = encode_batch(module.host, batch(16, 16).samples)
    logits, _, asked = answer_questions(module.host, module.compressor, encoded)
    rows = asked.rows
    labels = rows.answers()
    at = (rows.labels != -100).int().argmax(1) - 1
    chosen = logits[torch.arange(len(labels)), at].log_softmax(-1)[torch.arange(len(labels)), labels]
    torch.testing.assert_close(answer_loss(logits, rows), -chosen.mean())


def conversation() -> VideoSample:
    """A video with a conversation of three turns, and a question of its own."""
    turns = [
        ("which shape flashed first ?", "red ring"),
        ("how many flashes ?", "two"),
        ("what happened ?", "ring red"),
    ]
    questions = [Question("own", *turns[0], (), ())]
    questions += [FollowUp("own", *turns[n], (), (), history=tuple(turns[:n])) for n in (1, 2)]
    return replace(Recipe((16, 16)).sample(0), questions=(*questions, Question("own", *turns[1], (), ())))


def test_the_loss_of_a_conversation_is_that_of_one_row_with_a_mask_of_all_answers(make):
    module = make()
    encoded = encode_batch(module.host, [conversation()])
    rows = encoded.rows
    logits, _, asked = answer_questions(module.host, module.compressor, encoded)
    turns = QuestionRows(*(value[:3] for value in vars(asked.rows).values()))
    masked = QuestionRows(*(value[2:3].clone() for value in vars(rows).values()))  # the last turn has all of them
    for turn in range(2):
        answer = (rows.labels[turn] != IGNORE).nonzero()[:, 0]
        assert rows.input_ids[turn, : answer[-1] + 1].equal(masked.input_ids[0, : answer[-1] + 1])
        masked.labels[0, answer] = masked.input_ids[0, answer]
    assert int((masked.labels != IGNORE).sum()) == 5  # red ring, two, ring red
    complete = answer_questions(module.host, module.compressor, replace(encoded, rows=masked))
    torch.testing.assert_close(answer_loss(logits[:3], turns), answer_loss(complete.logits, complete.batch.rows))
    asked_alone, asked_later = rows.attention_mask[3].sum(), rows.attention_mask[1].sum()
    assert asked_later > asked_alone + 2 and not logits[1].equal(logits[3])  # the history is in the prompt


def test_text_match_is_what_the_host_writes(make):
    module = make()
    encoded = encode_batch(module.host, [conversation()])
    logits, prepared, batch = answer_questions(module.host, module.compressor, encoded)
    rows, row = encoded.rows, 0
    start = int((rows.labels[row] != IGNORE).int().argmax())
    written = []  # greedily, one token at a time
    for length in (0, 1):
        ids = rows.input_ids.clone()
        ids[row, start : start + length] = torch.tensor(written, dtype=torch.long)
        given = replace(encoded, rows=replace(rows, input_ids=ids))
        found = answer_questions(module.host, module.compressor, given).logits
        written.append(int(found[row, length].argmax()))  # from the last token of the question on
    for answer, expected in (
        (written, True),
        ([written[0], written[1] + 1], False),
        ([written[0] + 1, written[1]], False),
    ):
        ids, labels = rows.input_ids.clone(), rows.labels.clone()
        ids[row, start : start + 2] = labels[row, start : start + 2] = torch.tensor(answer)
        given = replace(encoded, rows=replace(rows, input_ids=ids, labels=labels))
        found, _, asked = answer_questions(module.host, module.compressor, given)
        assert bool(writes_answer(found, asked.rows)[row]) is expected, answer
        assert bool(predict(found, asked.rows)[row] == answer[0]) is (answer[0] == written[0])
    one_token = (rows.labels != IGNORE).sum(1) == 1
    first = predict(logits, batch.rows) == rows.answers()
    assert one_token.any() and writes_answer(logits, batch.rows)[one_token].equal(first[one_token])


def test_validation_logs_the_text_match(make, tmp_path):
    module = make(val_budgets=[0.5])
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(module, loader(2), loader(2))
    metrics = fitted.callback_metrics
    assert metrics["val/text_match@0.5"] == metrics["val/accuracy@0.5"]  # answers of one token
    assert {name.partition("@")[0] for name in metrics if name.startswith("val/")} <= {
        name.partition("@")[0] for name in module.validation_metrics()
    }
