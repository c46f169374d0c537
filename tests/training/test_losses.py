"""Training losses: declarations, values, weights and targets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import framefold
from framefold.data.evidence import evidence_mask
from framefold.data.loading.loader import Batch
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.training.answer_losses import kl_loss
from framefold.training.frozen_host.batch import answer_questions, answer_windows, compress_batch, encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import IGNORE, answer_mask
from framefold.training.losses import (
    LOSSES,
    Loss,
    LossInputs,
    compute_losses,
    document_losses,
    total_loss,
    validate_loss_weights,
)
from framefold.training.module import CompressorModule
from framefold.training.optimizer import weights_at
from framefold.training.score_losses import evidence_masks, listwise_loss
from framefold.training.teacher import TeacherAttention, teacher_outputs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice
SAMPLES = [Recipe((16, 20)).sample(i) for i in range(2)]


@pytest.fixture(scope="module")
def host(random_host: Any) -> Any:
    return load_host(random_host)


@pytest.fixture(scope="module")
def batch(host: Any) -> Any:
    return encode_batch(host, SAMPLES)


def query_aware(host: Any, budget: float = 0.25) -> framefold.Compressor:
    torch.manual_seed(0)
    return framefold.build("qtsplus", budget, dim=32, heads=4).eval()


def fit(module: CompressorModule, folder: Any, validate: bool = False) -> pl.Trainer:
    """Train for two steps."""
    module.configure_model()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([Batch(tuple(SAMPLES))] * 2, batch_size=None)
    trainer.fit(module, loader, loader if validate else None)
    return trainer


# ---- declarations ---------------------------------------------------------------------------------------------------


def test_one_declaration_adds_a_loss(random_host: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = []

    def compute(inputs: LossInputs) -> torch.Tensor:
        teachers.append(inputs.teacher)
        return inputs.answers.logits.float().square().mean()

    loss = Loss("logit_norm", "mean square of the logits", compute, lambda inputs: len(inputs.rows.video), "logits")
    monkeypatch.setitem(LOSSES, loss.name, loss)
    module = CompressorModule("fila", host=str(random_host), lr=0.1, losses={"answer": 0.0, "logit_norm": 2.0})
    metrics = fit(module, tmp_path).callback_metrics
    assert all(bool(parameter.any()) for parameter in module.compressor.parameters())  # they start at zero
    assert metrics["train/loss"] == 2 * metrics["train/logit_norm"] > 0
    assert len(teachers) == 2 and None not in teachers

    with pytest.raises(ConfigError, match="weights"):
        CompressorModule("fila", host=str(random_host), losses={"logit_norm": -1.0})
    with pytest.raises(ConfigError, match="'logit_nrom'; did you mean 'logit_norm'"):
        fit(CompressorModule("fila", host=str(random_host), losses={"logit_nrom": 1.0}), tmp_path)
    monkeypatch.setitem(LOSSES, loss.name, replace(loss, needs_scores=True))
    with pytest.raises(ConfigError, match="'logit_norm' trains the scores of tokens, which this compressor does not"):
        CompressorModule("storm", host=str(random_host), losses={"logit_norm": 1.0})
    documented = document_losses(type("Documented", (), {"__doc__": "{losses}"}))
    assert '"logit_norm": mean square of the logits' in str(documented.__doc__)


def test_every_loss_is_in_the_documentation_of_the_option() -> None:
    described = str(CompressorModule.__doc__)
    assert [loss.name for loss in LOSSES.values() if f'"{loss.name}": {loss.description}' not in described] == []


# ---- values ---------------------------------------------------------------------------------------------------------


def test_kl_is_zero_for_the_teacher_and_equals_the_divergence_of_torch_otherwise(host: Any, batch: Any) -> None:
    teacher = teacher_outputs(host, batch).logits
    mask = answer_mask(answer_windows(batch.rows)[1])
    torch.testing.assert_close(kl_loss(teacher, teacher, mask), torch.zeros(()), atol=1e-6, rtol=0)
    student = answer_questions(host, framefold.build("uniform", 0.1), batch).logits
    p, q = (torch.distributions.Categorical(logits=x[mask]) for x in (teacher, student))
    torch.testing.assert_close(kl_loss(student, teacher, mask), torch.distributions.kl_divergence(p, q).mean())


def test_kl_is_from_the_teacher_to_the_student() -> None:
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 4, 5, 7)
    mask = torch.rand(4, 5) > 0.4
    p, q = (torch.distributions.Categorical(logits=x[mask]) for x in (teacher, student))
    torch.testing.assert_close(kl_loss(student, teacher, mask), torch.distributions.kl_divergence(p, q).mean())


def test_scores_that_ignore_the_question_learn_the_evidence_of_all_questions_about_a_video(
    host: Any, batch: Any
) -> None:
    torch.manual_seed(0)
    blind = framefold.build("fila", 0.25, dim=32, grid=(4, 4))
    blind.score.data += torch.randn(32)
    answers = answer_questions(host, blind, batch)
    assert len(answers.prepared.scores) == len(SAMPLES) < len(batch.questions)
    losses = []
    for scores, sample in zip(answers.prepared.scores, SAMPLES, strict=True):
        for question in sample.questions:
            mask = torch.from_numpy(evidence_mask(question.evidence, (len(sample.times), 4, 4))).reshape(-1)
            losses += [-scores.log_softmax(0)[mask].mean()] if mask.any() else []
    value = compute_losses(host, batch, answers, {"evidence": 1.0})["evidence"]
    torch.testing.assert_close(value, torch.stack(losses).mean())
    value.backward()
    assert bool(blind.score.grad.any())
    attention = teacher_outputs(host, batch, TeacherAttention()).attention
    values = compute_losses(host, batch, answers, {"attention": 1.0, "rank": 1.0})
    of_each = [answers.prepared.scores[video] for video in batch.rows.video.tolist()]
    torch.testing.assert_close(values["attention"], listwise_loss(of_each, attention))
    assert 0 < float(values["rank"].detach()) < 2


def test_evidence_loss_uses_the_evidence_of_each_question(host: Any, batch: Any) -> None:
    answers = answer_questions(host, query_aware(host), batch)
    questions = [(sample, question) for sample in SAMPLES for question in sample.questions]
    losses, tokens = [], []
    for scores, (sample, question) in zip(answers.prepared.scores, questions, strict=True):
        mask = torch.from_numpy(evidence_mask(question.evidence, (len(sample.times), 4, 4))).reshape(-1)
        if mask.any():
            losses.append(-scores.log_softmax(0)[mask].mean())
            tokens.append(int(mask.sum()))
    parts = compute_losses(host, batch, answers, {"evidence": 1.0, "evidence_tokens": 1.0})
    torch.testing.assert_close(parts["evidence"], torch.stack(losses).mean())
    per_token = sum(n * loss for n, loss in zip(tokens, losses, strict=True)) / sum(tokens)
    torch.testing.assert_close(parts["evidence_tokens"], per_token)
    assert len(set(tokens)) > 1 and float(per_token) != float(parts["evidence"])


def test_listwise_loss_skips_rows_without_a_target() -> None:
    scores = torch.zeros(2, 4, requires_grad=True)
    targets = [torch.tensor([0, 1, 1, 0]), torch.zeros(4)]
    loss = listwise_loss(list(scores), targets)
    torch.testing.assert_close(loss, torch.tensor(4.0).log())
    loss.backward()
    assert scores.grad is not None and scores.grad[0].tolist() == [0.25, -0.25, -0.25, 0.25]
    assert bool((scores.grad[1] == 0).all())
    assert listwise_loss(list(scores), [torch.zeros(4)] * 2) == 0


@pytest.mark.parametrize("name", ["evidence", "attention"])
def test_training_on_a_target_approaches_it(host: Any, batch: Any, name: str) -> None:
    torch.manual_seed(0)
    model = query_aware(host).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    weights, history = {"answer": 0.0, name: 1.0}, []
    for _ in range(12):
        parts = compute_losses(host, batch, answer_questions(host, model, batch), weights)
        loss = total_loss(parts, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(parts[name].detach()))
    alone = batch.one_video_per_question()
    targets = (
        evidence_masks(alone) if name == "evidence" else teacher_outputs(host, batch, TeacherAttention()).attention
    )
    best = listwise_loss([target.float().clamp(min=1e-30).log() for target in targets], targets)
    assert history[-1] - best < 0.7 * (history[0] - best), history


def test_teacher_runs_only_if_a_loss_needs_it(host: Any, batch: Any, monkeypatch: Any) -> None:
    answers = answer_questions(host, query_aware(host), batch)
    monkeypatch.setattr("framefold.training.losses.teacher_outputs", lambda *a, **k: pytest.fail("the teacher ran"))
    assert set(compute_losses(host, batch, answers, {})) == {"answer"}
    assert set(compute_losses(host, batch, answers, {"evidence": 0.5})) == {"answer", "evidence"}


def test_kl_needs_no_answers(host: Any) -> None:
    unanswered = [
        replace(sample, questions=tuple(replace(question, answer="") for question in sample.questions))
        for sample in SAMPLES
    ]
    batch, labelled = encode_batch(host, unanswered), encode_batch(host, SAMPLES)
    assert bool((batch.rows.labels == IGNORE).all())
    weights = {"answer": 0.0, "kl": 1.0}
    student = framefold.build("pool", 0.1)
    parts = compute_losses(host, batch, answer_questions(host, student, batch), weights)
    assert set(parts) == {"kl"}
    with_answers = compute_losses(host, labelled, answer_questions(host, student, labelled), weights)
    torch.testing.assert_close(parts["kl"], with_answers["kl"])  # one-word answers: the same tokens


def test_query_aware_compressor_trains_with_all_losses(random_host: Any, tmp_path: Any) -> None:
    module = CompressorModule(
        "qtsplus",
        "auto",
        {"heads": 4},
        host=str(random_host),
        losses={
            "evidence": 1.0,
            "evidence_tokens": 1.0,
            "merged_evidence": 1.0,
            "kl": 1.0,
            "attention": 1.0,
            "rank": 1.0,
        },
        val_budgets=[0.25, "auto"],
    )
    module.configure_model()
    before = {name: value.clone() for name, value in module.compressor.state_dict().items()}
    metrics = fit(module, tmp_path, validate=True).callback_metrics
    parts = (*LOSSES, "flops", "kv", "smooth")
    assert all(f"train/{part}" in metrics for part in parts)
    assert {"val/accuracy@0.25", "val/accuracy@auto"} <= set(metrics)
    changed = [name for name, value in module.compressor.state_dict().items() if not value.equal(before[name])]
    assert len(changed) > 10 and "head.seen" in changed


# ---- weights --------------------------------------------------------------------------------------------------------


def test_total_loss_multiplies_parts_by_their_weights() -> None:
    parts = {"answer": torch.tensor(2.0), "kl": torch.tensor(3.0), "own": torch.tensor(5.0)}
    assert total_loss(parts, {"kl": 10.0, "own": 0.5}) == 2 + 30 + 2.5
    assert total_loss(parts, {"answer": 0.0, "kl": 1.0}) == 3 + 5


def test_invalid_weights_are_refused() -> None:
    zero = {"answer": 0.0}
    ramps: list[dict[str, Any]] = [{"kl": [0.0, math.inf]}, {"kl": [1.0]}, {"kl": [1.0, -1.0]}, {"answer": [1.0, 0.0]}]
    for weights in ({"answer": -1.0}, zero, {**zero, "kl": 0.0}, {"kl": math.nan}, {"kl": math.inf}, *ramps):
        with pytest.raises(ConfigError, match="weights"):
            validate_loss_weights(weights)
            pytest.fail(f"{weights} were accepted")


def test_a_weight_of_two_numbers_changes_linearly_over_the_run(random_host: Any, tmp_path: Any) -> None:
    weights: dict[str, Any] = {"answer": 0.5, "kl": [0.0, 2.0]}
    assert weights_at(weights, 0.25) == {"answer": 0.5, "kl": 0.5}
    assert weights_at(weights, 7.0)["kl"] == 2.0 and weights_at(weights, -1.0)["kl"] == 0.0
    module = CompressorModule("fila", host=str(random_host), losses=weights)
    seen = []
    module.log = lambda name, value, **_: seen.append(float(value)) if name == "train/loss" else None  # type: ignore
    module.log_dict = lambda values, **_: seen.append({key: float(value) for key, value in values.items()})  # type: ignore
    fit(module, tmp_path)
    first, first_loss, second, second_loss = seen
    assert "train/kl" not in first and first_loss == pytest.approx(0.5 * first["train/answer"])
    assert second_loss == pytest.approx(0.5 * second["train/answer"] + 1.0 * second["train/kl"])  # half of the run


def test_losses_of_scores_need_a_compressor_that_returns_them(random_host: Any) -> None:
    for name in ("evidence", "evidence_tokens", "attention", "rank"):
        for compressor, params in (("storm", {}), ("fila", {"dynamic": False})):
            with pytest.raises(ConfigError, match=f"{name}.*does not return"):
                CompressorModule(compressor, params=params, host=str(random_host), losses={name: 1.0})


# ---- batches and teacher --------------------------------------------------------------------------------------------


def test_one_video_per_question_gives_the_answers_of_the_shared_video(host: Any) -> None:
    mixed = encode_batch(host, [Recipe((length, length)).sample(i) for i, length in enumerate((16, 20))])
    together, alone = framefold.build("uniform", 0.5), framefold.build("uniform", 0.5)
    alone.query_aware = True  # type: ignore[misc]
    torch.testing.assert_close(
        answer_questions(host, alone, mixed).logits, answer_questions(host, together, mixed).logits
    )


def test_evidence_masks_are_those_of_each_question_in_its_video(batch: Any) -> None:
    masks = evidence_masks(batch.one_video_per_question())
    questions = [(sample, question) for sample in SAMPLES for question in sample.questions]
    for mask, (sample, question) in zip(masks, questions, strict=True):
        expected = evidence_mask(question.evidence, (len(sample.times), 4, 4)).reshape(-1)
        assert mask.tolist() == expected.tolist()


def test_teacher_sees_every_token(host: Any, batch: Any) -> None:
    torch.testing.assert_close(
        teacher_outputs(host, batch).logits, answer_questions(host, framefold.build("identity"), batch).logits
    )


def test_teacher_attention_equals_that_of_a_full_prompt(host: Any, batch: Any) -> None:
    """Compared with one forward over the full prompt of a question, without a cache."""
    outputs = teacher_outputs(host, batch, TeacherAttention())
    row = 3
    video = int(batch.rows.video[row])
    prefix = compress_batch(host, framefold.build("identity"), batch).kwargs
    columns = prefix["attention_mask"][video].bool()
    length = int(batch.rows.attention_mask[row].sum())
    ids = torch.cat([prefix["input_ids"][video][columns], batch.rows.input_ids[row, :length]])[None]
    features = host.model.get_input_embeddings()(ids)
    features[0, ids[0] == host.model.config.video_token_id] = batch.encoded[video].streams(
        framefold.build("identity")(framefold.VideoTokens.from_grid(batch.encoded[video].features)).tokens
    )[0]
    decoder = host.model.get_decoder()
    decoder.set_attn_implementation("eager")
    out = decoder(inputs_embeds=features, attention_mask=torch.ones_like(ids), output_attentions=True)
    decoder.set_attn_implementation("sdpa")
    weights = torch.stack([layer[0, :, -length:].sum((0, 1)) for layer in out.attentions]).mean(0)
    places = (ids[0] == host.model.config.video_token_id).nonzero()[:, 0][batch.encoded[video].on_grid]
    torch.testing.assert_close(outputs.attention[row], weights[places], rtol=1e-4, atol=1e-5)


def test_reading_attention_leaves_the_host_unchanged(host: Any, batch: Any) -> None:
    before = teacher_outputs(host, batch).logits
    kind = host.model.get_decoder().config._attn_implementation
    teacher_outputs(host, batch, TeacherAttention())
    assert host.model.get_decoder().config._attn_implementation == kind
    assert torch.equal(teacher_outputs(host, batch).logits, before)


# ---- without the language model -------------------------------------------------------------------------------------


def test_the_language_model_does_not_run_if_no_active_loss_reads_its_answers(random_host: Any, tmp_path: Any) -> None:
    weights = {}
    for answer in (0.0, 1e-30):
        torch.manual_seed(0)
        losses = {"evidence": 1.0, "answer": answer}
        module = CompressorModule("qtsplus", 0.25, {"heads": 4}, str(random_host), losses=losses)
        module.configure_model()
        calls: list[int] = []
        language_model = module.host.family.language_model(module.model)
        language_model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        metrics = fit(module, tmp_path).callback_metrics
        assert bool(calls) == ("train/answer" in metrics) == bool(answer), (answer, len(calls))
        assert "train/evidence" in metrics
        weights[answer] = module.compressor.state_dict()
    for name, value in weights[0.0].items():
        torch.testing.assert_close(value, weights[1e-30][name], msg=name)
