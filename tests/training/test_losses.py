"""The parts of the training loss: what each teaches, and what it is computed from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import framefold
from framefold.data.evidence import evidence_mask
from framefold.data.loading.loader import Batch
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.training.frozen_host.ask import answer_questions, compress_batch, encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import IGNORE, answer_places
from framefold.training.losses import check_weights, evidence_of, kl_loss, listwise_loss, loss_parts, total_loss
from framefold.training.module import CompressorModule
from framefold.training.teacher import teach

SAMPLES = [Recipe((16, 20)).sample(i) for i in range(2)]


@pytest.fixture(scope="module")
def host(random_host: Any) -> Any:
    return load_host(random_host)


@pytest.fixture(scope="module")
def asked(host: Any) -> Any:
    return encode_batch(host, SAMPLES)


def selector(host: Any, budget: float = 0.25) -> framefold.Compressor:
    torch.manual_seed(0)
    made = framefold.build("qtsplus", budget, dim=32, heads=4)
    return made.eval()


def test_kl_is_zero_for_the_teacher_itself_and_that_of_torch_otherwise(host: Any, asked: Any) -> None:
    teacher = teach(host, asked).logits
    places = answer_places(asked.rows)
    torch.testing.assert_close(kl_loss(teacher, teacher, places), torch.zeros(()), atol=1e-6, rtol=0)
    student = answer_questions(host, framefold.build("uniform", 0.1), asked).logits
    p, q = (torch.distributions.Categorical(logits=x[places]) for x in (teacher, student))
    torch.testing.assert_close(kl_loss(student, teacher, places), torch.distributions.kl_divergence(p, q).mean())


def test_kl_is_from_the_teacher_to_the_student() -> None:
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 4, 5, 7)
    places = torch.rand(4, 5) > 0.4
    p, q = (torch.distributions.Categorical(logits=x[places]) for x in (teacher, student))
    torch.testing.assert_close(kl_loss(student, teacher, places), torch.distributions.kl_divergence(p, q).mean())


def test_each_question_is_taught_its_own_evidence(host: Any, asked: Any) -> None:
    answered = answer_questions(host, selector(host), asked)
    questions = [(sample, question) for sample in SAMPLES for question in sample.questions]
    losses = []
    for scores, (sample, question) in zip(answered.prepared.scores, questions, strict=True):
        mask = torch.from_numpy(evidence_mask(question.evidence, (len(sample.times), 4, 4))).reshape(-1)
        if mask.any():
            losses.append(-scores.log_softmax(0)[mask].mean())
    torch.testing.assert_close(
        loss_parts(host, asked, answered, {"evidence": 1.0})["evidence"], torch.stack(losses).mean()
    )


def test_a_question_alone_with_its_video_gets_the_answer_that_it_gets_among_others(host: Any) -> None:
    mixed = encode_batch(host, [Recipe((length, length)).sample(i) for i, length in enumerate((16, 20))])
    together, alone = framefold.build("uniform", 0.5), framefold.build("uniform", 0.5)
    alone.query_aware = True  # type: ignore[misc]
    torch.testing.assert_close(
        answer_questions(host, alone, mixed).logits, answer_questions(host, together, mixed).logits
    )


def test_the_teacher_sees_every_token(host: Any, asked: Any) -> None:
    torch.testing.assert_close(
        teach(host, asked).logits, answer_questions(host, framefold.build("identity"), asked).logits
    )


def test_the_attention_of_the_teacher_is_that_of_the_host_on_whole_prompts(host: Any, asked: Any) -> None:
    """Against one forward over the whole prompt of a question, without a cache."""
    taught = teach(host, asked, attention=True)
    row = 3
    video = int(asked.rows.video[row])
    prefix = compress_batch(host, framefold.build("identity"), asked).kwargs
    seen = prefix["attention_mask"][video].bool()
    length = int(asked.rows.attention_mask[row].sum())
    ids = torch.cat([prefix["input_ids"][video][seen], asked.rows.input_ids[row, :length]])[None]
    features = host.model.get_input_embeddings()(ids)
    features[0, ids[0] == host.model.config.video_token_id] = asked.encoded[video].streams(
        framefold.build("identity")(framefold.VideoTokens.from_grid(asked.encoded[video].features)).tokens
    )[0]
    decoder = host.model.get_decoder()
    decoder.set_attn_implementation("eager")
    out = decoder(inputs_embeds=features, attention_mask=torch.ones_like(ids), output_attentions=True)
    decoder.set_attn_implementation("sdpa")
    weights = torch.stack([layer[0, :, -length:].sum((0, 1)) for layer in out.attentions]).mean(0)
    columns = (ids[0] == host.model.config.video_token_id).nonzero()[:, 0][asked.encoded[video].on_grid]
    torch.testing.assert_close(taught.attention[row], weights[columns], rtol=1e-4, atol=1e-5)


def test_looking_at_attention_leaves_the_host_as_it_was(host: Any, asked: Any) -> None:
    before = teach(host, asked).logits
    kind = host.model.get_decoder().config._attn_implementation
    teach(host, asked, attention=True)
    assert host.model.get_decoder().config._attn_implementation == kind
    assert torch.equal(teach(host, asked).logits, before)


def test_evidence_is_that_of_each_question_in_its_own_video(asked: Any) -> None:
    masks = evidence_of(asked.alone())
    questions = [(sample, question) for sample in SAMPLES for question in sample.questions]
    for mask, (sample, question) in zip(masks, questions, strict=True):
        expected = evidence_mask(question.evidence, (len(sample.times), 4, 4)).reshape(-1)
        assert mask.tolist() == expected.tolist()


def test_scores_are_pulled_to_their_targets_and_questions_without_one_are_left_out() -> None:
    scores = torch.zeros(2, 4, requires_grad=True)
    targets = [torch.tensor([0, 1, 1, 0]), torch.zeros(4)]
    loss = listwise_loss(list(scores), targets)
    torch.testing.assert_close(loss, torch.tensor(4.0).log())
    loss.backward()
    assert scores.grad is not None and scores.grad[0].tolist() == [0.25, -0.25, -0.25, 0.25]
    assert bool((scores.grad[1] == 0).all())
    assert listwise_loss(list(scores), [torch.zeros(4)] * 2) == 0


@pytest.mark.parametrize("name", ["evidence", "attention"])
def test_training_on_a_target_finds_it(host: Any, asked: Any, name: str) -> None:
    torch.manual_seed(0)
    model = selector(host).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    weights, history = {"answer": 0.0, name: 1.0}, []
    for _ in range(12):
        parts = loss_parts(host, asked, answer_questions(host, model, asked), weights)
        loss = total_loss(parts, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(parts[name]))
    targets = evidence_of(asked.alone()) if name == "evidence" else teach(host, asked, attention=True).attention
    best = listwise_loss([target.float().clamp(min=1e-30).log() for target in targets], targets)
    assert history[-1] - best < 0.7 * (history[0] - best), history


def test_distillation_is_not_computed_unless_it_is_wanted(host: Any, asked: Any, monkeypatch: Any) -> None:
    answered = answer_questions(host, selector(host), asked)
    monkeypatch.setattr("framefold.training.teacher.teach", lambda *a, **k: pytest.fail("the teacher was asked"))
    assert set(loss_parts(host, asked, answered, {})) == {"answer"}
    assert set(loss_parts(host, asked, answered, {"evidence": 0.5})) == {"answer", "evidence"}


def test_videos_without_answers_are_distilled(host: Any) -> None:
    bare = [
        replace(sample, questions=tuple(replace(question, answer="") for question in sample.questions))
        for sample in SAMPLES
    ]
    asked, labelled = encode_batch(host, bare), encode_batch(host, SAMPLES)
    assert bool((asked.rows.labels == IGNORE).all())
    weights = {"answer": 0.0, "kl": 1.0}
    student = framefold.build("pool", 0.1)
    parts = loss_parts(host, asked, answer_questions(host, student, asked), weights)
    assert set(parts) == {"kl"}
    with_answers = loss_parts(host, labelled, answer_questions(host, student, labelled), weights)
    torch.testing.assert_close(parts["kl"], with_answers["kl"])  # one-word answers: the same places


def test_weights_multiply_their_parts() -> None:
    parts = {"answer": torch.tensor(2.0), "kl": torch.tensor(3.0), "own": torch.tensor(5.0)}
    assert total_loss(parts, {"kl": 10.0, "own": 0.5}) == 2 + 30 + 2.5
    assert total_loss(parts, {"answer": 0.0, "kl": 1.0}) == 3 + 5


@pytest.mark.parametrize(
    "weights", [{"answer": -1.0}, {"answer": 0.0}, {"answer": 0.0, "kl": 0.0}, {"kl": math.nan}, {"kl": math.inf}]
)
def test_weights_that_teach_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        check_weights(weights)


@pytest.mark.parametrize("name", ["evidence", "attention"])
def test_scores_are_not_taught_to_what_does_not_score(random_host: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="query-aware"):
        CompressorModule("fila", host=str(random_host), losses={name: 1.0})


def test_a_query_aware_compressor_trains_in_the_module(random_host: Any, tmp_path: Any) -> None:
    import pytorch_lightning as pl

    module = CompressorModule(
        "qtsplus",
        "auto",
        {"heads": 4},
        host=str(random_host),
        losses={"evidence": 1.0, "kl": 1.0, "attention": 1.0},
        val_budgets=[0.25, "auto"],
    )
    module.configure_model()
    before = {name: value.clone() for name, value in module.compressor.state_dict().items()}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([Batch(tuple(SAMPLES))] * 2, batch_size=None)
    trainer.fit(module, loader, loader)
    parts = ("answer", "kl", "attention", "evidence", "flops", "kv", "smooth")
    assert all(f"train/{part}" in trainer.callback_metrics for part in parts)
    assert {"val/accuracy@0.25", "val/accuracy@auto"} <= set(trainer.callback_metrics)
    changed = [name for name, value in module.compressor.state_dict().items() if not value.equal(before[name])]
    assert len(changed) > 10 and "head.seen" in changed
