"""A bias on visual tokens: its gradients, its way through caches and batches, and where it is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters import Compressed, VideoTokens
from framefold.adapters.hosts import biased_keys, prepare
from framefold.adapters.hosts.hooks.key_bias import additive_mask, check_takes_bias
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import AttachError, ContractError, InputError
from framefold.training.frozen_host.batch import answer_questions, answer_windows, encode_batch
from framefold.training.frozen_host.load import load_host
from tests.support.hosts.soft_drop import HardDrop, SoftDrop
from tests.support.hosts.tiny_hosts import batch, llava_onevision, prompt, video
from tests.support.paths import TINYHOST


class Given(SoftDrop):
    """Keeps all tokens, with a bias that a test gives."""

    bias: Tensor

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        return Compressed(video, key_bias=self.bias[: len(video)])


def inputs(**more: Any) -> dict[str, Any]:
    return {**batch(prompt(4, -8, 5)), "pixel_values_videos": video(), **more}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_are_those_of_finite_differences(attention: str) -> None:
    host = llava_onevision(attention).double()
    compressor = Given()
    given = inputs(pixel_values_videos=video().double())
    weights = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(bias: Tensor) -> Tensor:
        compressor.bias = bias
        return host(**given).logits[0, -1] @ weights  # the host's own loss is fp32

    torch.manual_seed(0)
    bias = torch.randn(32, dtype=torch.float32, requires_grad=True)
    with framefold.attach(host, compressor):
        (found,) = torch.autograd.grad(loss(bias), bias)
        with torch.no_grad():
            for row in (0, 13, 31):
                step = torch.zeros(32).index_fill(0, torch.tensor([row]), 1e-2)
                expected = float(loss(bias + step) - loss(bias - step)) / 2e-2
                assert float(found[row]) == pytest.approx(expected, abs=1e-4, rel=2e-3), row
    assert float(found.abs().max()) > 0.1


@torch.no_grad()
def test_questions_behind_a_shared_video_see_its_bias() -> None:
    host = load_host(TINYHOST)
    encoded = encode_batch(host, [Recipe((length, length)).sample(i) for i, length in enumerate((16, 20))])
    soft, hard, full = (answer_questions(host, one, encoded).logits for one in (
        SoftDrop().eval(), HardDrop().eval(), framefold.build("identity")))  # fmt: skip
    real = answer_windows(encoded.rows)[1].attention_mask.bool()
    torch.testing.assert_close(soft[real], hard[real], atol=1e-3, rtol=1e-3)
    assert float((soft[real] - full[real]).abs().max()) > 0.1
    assert "_framefold_key_bias" not in vars(host.model)
    assert torch.equal(answer_questions(host, framefold.build("identity"), encoded).logits, full)  # nothing stays


@torch.no_grad()
def test_later_columns_of_a_cache_see_the_bias_until_it_is_emptied() -> None:
    host = llava_onevision("sdpa")
    ids = prompt(4, -8, 5)
    found = []
    for compressor in (SoftDrop(), HardDrop()):
        with framefold.attach(host, compressor):
            first = host(**batch(ids), pixel_values_videos=video(), use_cache=True)
            cache, logits = first.past_key_values, []
            for word in (5, 6):
                step = host(input_ids=torch.tensor([[word]]), past_key_values=cache)
                logits.append(step.logits[:, -1])
            found.append(torch.cat(logits))
            cache.crop(0)
            plain = host(input_ids=torch.tensor([[5, 6]]), past_key_values=cache).logits
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)
    assert torch.isfinite(plain).all()


@torch.no_grad()
def test_detaching_restores_the_host_bit_by_bit() -> None:
    host = llava_onevision("sdpa")
    before = host(**inputs()).logits
    with framefold.attach(host, SoftDrop()):
        assert not torch.equal(host(**inputs()).logits, before)
    assert torch.equal(host(**inputs()).logits, before)


def test_the_mask_is_causal_and_hides_padding() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    bias = torch.tensor([[0.0, -2.0], [1.0, 0.0]])
    found = additive_mask(mask, bias, torch.zeros(2, 3, 8), past=1)
    low = torch.finfo(torch.float32).min
    assert found.shape == (2, 1, 3, 4)
    assert found[0, 0].tolist() == [[low, -2, low, low], [low, -2, 0, low], [low, -2, 0, 0]]
    assert found[1, 0].tolist() == [[1, 0, low, low], [1, 0, 0, low], [1, 0, 0, 0]]
    with torch.autocast("cpu", torch.bfloat16):
        assert additive_mask(None, bias, torch.zeros(2, 3, 8), past=1).dtype == torch.bfloat16
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        extreme = additive_mask(None, torch.full((1, 3), -1e38), torch.zeros(1, 3, 8, dtype=dtype), past=0)
        assert bool(extreme.isfinite().all()) and bool((extreme[0, 0, 1, :2] > extreme[0, 0, 1, 2]).all())
    with pytest.raises(InputError, match="2-D"):
        additive_mask(mask[:, None, None], bias, torch.zeros(2, 3, 8), past=1)
    with pytest.raises(InputError, match="for 2 rows, but there are 4"):
        additive_mask(None, bias, torch.zeros(4, 3, 8), past=1)


def test_attention_that_takes_no_bias_is_refused_by_type() -> None:
    for implementation in ("flash_attention_2", "flash_attention_3", "flex_attention", "paged|sdpa"):
        with pytest.raises(AttachError, match=r"takes no bias.*attn_implementation='sdpa'"):
            check_takes_bias(SimpleNamespace(_attn_implementation=implementation))
    sliding = SimpleNamespace(_attn_implementation="sdpa", layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(AttachError, match="sliding_attention"):
        check_takes_bias(sliding)
    host = llava_onevision("sdpa")
    host.model.language_model.config._attn_implementation_internal = "flash_attention_2"
    with framefold.attach(host, SoftDrop()), pytest.raises(AttachError, match="takes no bias"):
        host(**inputs())
    with pytest.raises(AttachError, match="takes no bias"):  # before the first step
        framefold.attach(host.train(), SoftDrop())
    with framefold.attach(host.eval(), framefold.build("vision_selector", 0.5)):  # it only biases in training
        pass


def test_a_bias_that_would_be_lost_is_refused() -> None:
    host = llava_onevision("sdpa")
    with pytest.raises(InputError, match="attach it"):
        prepare(host, inputs(), SoftDrop())
    with biased_keys(host, SoftDrop()):
        prepare(host, inputs(), SoftDrop())
    with framefold.attach(host, SoftDrop()), pytest.raises(InputError, match="eval"):
        host.generate(**inputs(), max_new_tokens=1)
    wrong = Given()
    for bias in (torch.zeros(3), torch.full((32,), torch.nan)):
        wrong.bias = bias
        with framefold.attach(host, wrong), pytest.raises(ContractError, match="one finite number per token"):
            host(**inputs())


def test_reentrant_checkpointing_is_refused_and_the_other_gives_the_same_gradients() -> None:
    host, gradients = llava_onevision("sdpa").train(), {}
    labels = torch.full((1, 42), -100)
    labels[0, -2:] = torch.tensor([7, 9])
    compressor = Given()
    for reentrant in (None, False, True):
        compressor.bias = torch.linspace(-1, 1, 32).requires_grad_()
        if reentrant is not None:
            host.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        with framefold.attach(host, compressor):
            if reentrant:
                with pytest.raises(InputError, match="use_reentrant"):
                    host(**inputs(labels=labels))
                continue
            host(**inputs(labels=labels)).loss.backward()
            gradients[reentrant] = compressor.bias.grad
    torch.testing.assert_close(gradients[None], gradients[False])
    assert bool(gradients[None].any())
