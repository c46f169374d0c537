"""Many questions on one prefill equal one full prompt per question."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from framefold.errors import PromptError
from framefold.training.frozen_host.question_rows import (
    IGNORE,
    QuestionRows,
    answer_logits,
    answer_loss,
    build_prompt,
    packed_logits,
    predict,
)
from framefold.training.tinyhost.build import Architecture, build_host, build_tokenizer

QUESTIONS = ["how many flashes ?", "which flashed first ring or cross ?", "what background at the end ?"]
ANSWERS = ["two", "cross", "dots"]
FRAMES = 3
N = FRAMES * 4 + 1


@pytest.fixture(scope="module")
def host():
    torch.manual_seed(0)
    architecture = Architecture(image=32, vision_width=16, vision_ff=32, text_width=32, text_ff=64)
    model = build_host(architecture).eval().requires_grad_(False)
    return model, build_tokenizer(), torch.randn(2, FRAMES, 3, 32, 32)


def prompt(host, questions=QUESTIONS, answers=ANSWERS, **kwargs):
    model, tokenizer, _ = host
    return build_prompt(tokenizer, questions, answers, N, model.config.video_token_id, **kwargs)


def separate(model, tokenizer, pixels, question, answer):
    """Return the logits of a stock forward over a full prompt at the last token before the answer, and the answer."""
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text.replace("<video>", "<video>" * N) + " " + answer, return_tensors="pt").input_ids
    return model(input_ids=ids, pixel_values_videos=pixels).logits[0, -2], ids[0, -1]


def test_rows_equal_a_full_prompt_per_question(host):
    model, tokenizer, pixels = host
    prefix, rows = prompt(host)
    both = QuestionRows.concat([rows, rows])
    ids = prefix.expand(2, -1)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    logits = answer_logits(model, given, both)
    expected = [
        separate(model, tokenizer, video[None], question, answer)
        for video in pixels
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    at = (both.labels != IGNORE).int().argmax(dim=1) - 1
    torch.testing.assert_close(logits[torch.arange(6), at], torch.stack([e[0] for e in expected]), atol=1e-5, rtol=0)
    assert both.answers().tolist() == [int(e[1]) for e in expected]
    assert predict(logits, both).tolist() == [int(e[0].argmax()) for e in expected]


def test_answer_loss_is_the_mean_cross_entropy(host):
    model, tokenizer, pixels = host
    prefix, rows = prompt(host)
    given = {"input_ids": prefix[None], "attention_mask": torch.ones(1, len(prefix)), "pixel_values_videos": pixels[:1]}
    loss = answer_loss(answer_logits(model, given, rows), rows)
    parts = [
        F.cross_entropy(*separate(model, tokenizer, pixels[:1], q, a)) for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(parts).mean(), atol=1e-5, rtol=0)


def test_pruned_prefix_equals_the_full_prefix_with_masked_columns(host):
    model, _, pixels = host
    prefix, rows = prompt(host)
    features = model.get_video_features(pixels[:1], return_dict=True).pooler_output
    keep = torch.tensor([0, 1, 4, 5, 9, 12])
    columns = torch.cat([torch.tensor([0]), 1 + keep, torch.arange(1 + N, len(prefix))])
    pruned = {
        "input_ids": prefix[columns][None],
        "attention_mask": torch.ones(1, len(columns)),
        "position_ids": columns[None],
        "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features[:, keep])},
    }
    mask = torch.zeros(1, len(prefix))
    mask[0, columns] = 1
    full = {
        "input_ids": prefix[None],
        "attention_mask": mask,
        "position_ids": torch.arange(len(prefix))[None],
        "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features)},
    }
    torch.testing.assert_close(answer_logits(model, pruned, rows), answer_logits(model, full, rows), atol=1e-5, rtol=0)


def test_gradients_reach_the_prefix_features(host):
    model, _, pixels = host
    prefix, rows = prompt(host)
    features = model.get_video_features(pixels[:1], return_dict=True).pooler_output.clone().requires_grad_()
    given = {
        "input_ids": prefix[None],
        "attention_mask": torch.ones(1, len(prefix)),
        "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features)},
    }
    answer_loss(answer_logits(model, given, rows), rows).backward()
    assert (features.grad.abs().amax(dim=-1) > 0).all()


# ---- packed rows ----------------------------------------------------------------------------------------------------


def two_videos(host, kind: str):
    """Return a prefix of two videos, and two rows of different lengths for each of them."""
    model, _, pixels = host
    prefix, one = prompt(host, QUESTIONS[:2], ANSWERS[:2], end=True)
    _, other = prompt(host, QUESTIONS[1:], ANSWERS[1:], end=True)
    features = model.get_video_features(pixels, return_dict=True).pooler_output.clone().requires_grad_()
    columns, kept = torch.arange(len(prefix)).expand(2, -1), features
    if kind == "pruned":  # other tokens of each video, at their original positions
        keep = torch.tensor([[0, 1, 4, 5, 9, 12], [2, 3, 6, 7, 8, 12]])
        head = int((prefix == model.config.video_token_id).int().argmax())
        assert head + N == len(prefix)
        columns = torch.cat([columns[:, :head], head + keep], dim=1)
        kept = features.gather(1, keep[..., None].expand(-1, -1, features.shape[-1]))
    mask = torch.ones_like(columns)
    if kind == "masked":  # like left padding
        mask[1, :3] = 0
    given = {
        "input_ids": prefix[columns],
        "attention_mask": mask,
        "position_ids": columns,
        "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=kept)},
    }
    return given, QuestionRows.concat([one, other]), features


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["whole", "pruned", "masked"])
def test_packed_rows_equal_separate_rows_in_logits_and_gradients(host, kind, attention):
    model = host[0]
    weight = model.get_input_embeddings().weight.requires_grad_()
    before = model.config._attn_implementation
    model.set_attn_implementation(attention)
    try:
        both = []
        for forward in (answer_logits, packed_logits):
            given, rows, features = two_videos(host, kind)
            logits = forward(model, given, rows)
            gradients = torch.autograd.grad(answer_loss(logits, rows), [features, weight])
            both.append((logits[rows.attention_mask.bool()], *gradients))
    finally:
        model.set_attn_implementation(before)
        weight.requires_grad_(False)
    assert (rows.attention_mask == 0).any() and both[0][1].abs().max() > 1e-6
    for expected, got in zip(*both, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_rows_that_cannot_be_packed_are_refused(host):
    given, rows, _ = two_videos(host, "whole")
    with pytest.raises(PromptError, match="attention_mask"):
        packed_logits(host[0], {name: value for name, value in given.items() if name != "attention_mask"}, rows)
    fields = {name: getattr(rows, name) for name in rows.__dataclass_fields__}
    for order in ([0, 1, 2], [0, 2, 1, 3], [0, 0, 0, 2]):  # unequally many, not next to each other, both
        with pytest.raises(PromptError, match="equally many"):
            packed_logits(host[0], given, QuestionRows(**{name: value[order] for name, value in fields.items()}))


def test_prefix_ends_with_the_video_and_rows_start_after_it(host):
    model, tokenizer, _ = host
    for questions in (QUESTIONS, QUESTIONS[:1], ["which shape flashed first ?", "which shape flashed last ?"]):
        prefix, rows = prompt(host, questions, ["ring"] * len(questions))
        assert (prefix == model.config.video_token_id).sum() == N
        assert ((rows.labels != IGNORE).int().argmax(dim=1) >= 1).all()
        assert (rows.start == len(prefix)).all()
        assert (rows.labels[rows.labels != IGNORE] == tokenizer.convert_tokens_to_ids("ring")).all()


def test_end_token_is_labelled_on_request_and_unlabelled_rows_are_predicted(host):
    _, tokenizer, _ = host
    assert (prompt(host, end=True)[1].labels == tokenizer.eos_token_id).sum() == len(QUESTIONS)
    bare, full = prompt(host, answers=None)[1], prompt(host)[1]
    logits = torch.randn(len(QUESTIONS), full.input_ids.shape[1], 11)
    assert (bare.labels == IGNORE).all()
    assert predict(logits, bare).tolist() == predict(logits, full).tolist()


def test_unusable_prompts_are_refused(host):
    model, tokenizer, _ = host
    with pytest.raises(PromptError, match="0 questions"):
        prompt(host, [], [])
    with pytest.raises(PromptError, match="1 answers"):
        prompt(host, QUESTIONS, ["two"])
    with pytest.raises(PromptError, match="0 video tokens"):
        build_prompt(tokenizer, QUESTIONS, ANSWERS, N, 99)
    prefix, rows = prompt(host)
    with pytest.raises(PromptError, match="attention_mask"):
        answer_logits(model, {"input_ids": prefix[None]}, rows)
    late = build_tokenizer()
    late.chat_template = (
        "{% for p in messages[0].content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}<video>"
    )
    with pytest.raises(PromptError, match="the video before"):
        build_prompt(late, QUESTIONS, ANSWERS, N, model.config.video_token_id)


def test_weights_of_rows_make_the_loss_a_mean_of_means(host):
    _, rows = prompt(host)
    torch.manual_seed(1)
    logits = torch.randn(*rows.input_ids.shape, 80)
    alone = torch.stack([answer_loss(logits[i : i + 1], pick(rows, [i])) for i in range(3)])
    torch.testing.assert_close(answer_loss(logits, rows, torch.ones(3)), answer_loss(logits, rows))
    even = (alone[0] + (alone[1] + alone[2]) / 2) / 2  # the last two rows are of one type
    torch.testing.assert_close(answer_loss(logits, rows, torch.tensor([1, 0.5, 0.5])), even)


def pick(rows, index):
    return QuestionRows(*(getattr(rows, field.name)[index] for field in fields(rows)))
