"""Attention that a compressor adds inside the language model: gradients, PEFT, chains, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

import framefold
from framefold.adapters.hosts import in_llm, prepare
from framefold.adapters.hosts.base.family import family_of
from framefold.errors import AttachError, ConfigError, InputError
from tests.adapters.hosts.hooks.test_adapter_names import with_adapters
from tests.support.cases import case
from tests.support.hosts.added_attention import FAST, NAME, move, reference, slow_tokens, text_columns, trained
from tests.support.hosts.bare_hosts import Host, build
from tests.support.hosts.in_llm import LAYERS
from tests.support.hosts.oracles import TOLERANCE

pytestmark = [
    pytest.mark.filterwarnings("ignore::framefold.warning_types.UntrainedCompressorWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # the frozen vision side
    pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing:FutureWarning"),  # a name that all versions accept
]
FAMILIES = ("qwen3_vl", "llava_onevision")
Gradients = dict[str, Tensor]


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param, "eager", layers=LAYERS)


@contextmanager
def training(model: Any, reentrant: bool | None = None) -> Iterator[None]:
    model.train()
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
        model.eval()


def gradients(
    host: Host, compressor: Any, reentrant: bool | None = None, moved: bool = True
) -> tuple[float, Gradients]:
    """Return the loss of a batch with a row that has less video, and the gradients of the compressor."""
    batch = host.batch([5, -6, 6], [9, -4, 3])
    with framefold.attach(host.model, compressor), training(host.model, reentrant):
        if moved:
            move(compressor, 0.5)
        loss = host.model(**batch.attached_inputs, labels=batch.labels(), use_cache=False).loss
        loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in compressor.named_parameters()}


def test_gradients_are_the_same_with_checkpointing(host: Host) -> None:
    loss, expected = gradients(host, trained())
    assert len(expected) == 5 * LAYERS and all(bool((gradient != 0).any()) for gradient in expected.values())
    for reentrant in (False, True):  # inputs need gradients without enable_input_require_grads()
        other, found = gradients(host, trained(), reentrant)
        assert other == loss
        assert all(torch.equal(found[name], value) for name, value in expected.items()), reentrant


def test_gradients_are_those_of_a_loop_over_columns_and_heads(host: Host) -> None:
    batch, compressor = host.batch([5, -6, 6], [9, -4, 3]), trained()
    loss, found = gradients(host, compressor)
    compressor.zero_grad()
    slow, columns = slow_tokens(batch), text_columns(batch, 0.5)
    labels = batch.labels()
    with framefold.attach(host.model, framefold.build(FAST, 0.5)), training(host.model):
        with reference(host, compressor, slow, columns):
            expected = host.model(**batch.attached_inputs, labels=labels, use_cache=False).loss
        expected.backward()
    assert abs(loss - expected.item()) < TOLERANCE
    for name, parameter in compressor.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=TOLERANCE)


def test_at_the_start_only_alpha_learns_and_every_parameter_has_a_gradient(host: Host) -> None:
    _, found = gradients(host, trained(), moved=False)
    learning = {name for name, gradient in found.items() if bool((gradient != 0).any())}
    assert learning == {f"in_llm.blocks.{layer}.alpha" for layer in range(LAYERS)}


def test_gradients_reach_an_encoder_before_it(host: Host) -> None:
    results = []
    for reentrant in (None, False):
        torch.manual_seed(0)
        chain = framefold.build(f"storm+{NAME}", 0.5)
        results.append(gradients(host, chain, reentrant))
    (loss, expected), (other, found) = results
    assert loss == other and all(torch.equal(found[name], value) for name, value in expected.items())
    torch.manual_seed(0)
    alone = framefold.build(f"storm+{FAST}", 0.5)
    names = [name for name in expected if name.startswith("stages.0")]
    _, without = gradients(host, alone)
    assert names and any(not torch.allclose(expected[name], without[name], rtol=0.01) for name in names)
    with pytest.raises(InputError, match="'use_reentrant': False"):
        gradients(host, framefold.build(f"storm+{NAME}", 0.5), True)


def test_it_trains_in_both_kinds_of_forward_that_share_a_prefill(host: Host) -> None:
    """Questions after a prefill have the gradients of complete prompts."""
    batch, compressor = host.batch([5, -6], [5, -6]), trained()
    more = torch.randint(3, 57, (2, 5), generator=torch.Generator().manual_seed(3))
    found = []
    with framefold.attach(host.model, compressor):
        move(compressor)
        for shared in (True, False):
            compressor.zero_grad()
            if shared:
                cache = host.model(**batch.attached_inputs, use_cache=True).past_key_values
                logits = host.model(input_ids=more, past_key_values=cache).logits
            else:
                logits = host.model(**batch.with_tokens(more).attached_inputs).logits[:, -5:]
            logits.square().mean().backward()
            found.append([parameter.grad.clone() for parameter in compressor.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=TOLERANCE)


# Ways to use it


@torch.no_grad()
def test_the_context_manager_equals_attach(host: Host) -> None:
    batch, compressor = host.batch([5, -6, 6], [9, -4, 3]), trained()
    with in_llm(host.model, compressor):
        kwargs = prepare(host.model, batch.attached_inputs, compressor).kwargs
        assert len(compressor.in_llm.blocks) == LAYERS  # created for this host
        move(compressor)
        found = host.model(**kwargs).logits
    with framefold.attach(host.model, compressor):
        assert torch.equal(host.model(**batch.attached_inputs).logits, found)
    with pytest.raises(InputError, match=f"{NAME} acts inside the language model.*in_llm"):
        prepare(host.model, batch.attached_inputs, compressor)


@torch.no_grad()
def test_an_attached_model_and_a_filled_cache_can_be_pickled() -> None:
    host, compressor = build("llava_onevision", layers=LAYERS), trained()
    inputs = host.batch([5, -6, 6]).attached_inputs
    framefold.attach(host.model, compressor)
    move(compressor)
    other = pickle.loads(pickle.dumps(host.model))
    assert torch.equal(other(**inputs).logits, host.model(**inputs).logits)
    cache = host.model(**inputs, use_cache=True).past_key_values
    more = {"input_ids": torch.tensor([[7]])}
    copied = pickle.loads(pickle.dumps(cache))
    logits = [host.model(**more, past_key_values=one).logits for one in (cache, copied)]
    assert torch.equal(*logits)


@torch.no_grad()
def test_a_cache_may_serve_another_prompt_after_a_reset(host: Host) -> None:
    first, text = host.batch([5, -6, 6]), host.batch([12])
    bare = host.model(**text.inputs).logits
    with framefold.attach(host.model, trained()):
        move(host.model.compressor)
        cache = host.model(**first.attached_inputs, use_cache=True).past_key_values
        held = cache.layers[0].added
        assert len(held) == 1 and len(held[0].keys) == 1
        cache.crop(-cache.get_seq_length())
        torch.testing.assert_close(host.model(**text.inputs, past_key_values=cache).logits, bare)
        assert not cache.layers[0].added
        cache = host.model(**first.attached_inputs, use_cache=True).past_key_values
        for layer in cache.layers:
            layer.reset()
        assert not any(layer.added for layer in cache.layers)


@torch.no_grad()
def test_prompts_without_video_are_those_of_the_bare_host(host: Host) -> None:
    text = host.batch([12])
    bare = host.model(**text.inputs).logits
    with framefold.attach(host.model, trained()):
        move(host.model.compressor)
        out = host.model(**text.inputs, past_key_values=DynamicCache())
        assert torch.equal(out.logits, bare)


@torch.no_grad()
def test_every_row_attends_by_the_weights_of_its_adapter() -> None:
    pytest.importorskip("peft")
    host, model = with_adapters("llava_onevision", trained(layers=(0, 20)), ["compressor"])  # two layers
    move(model.base_model.model.compressor.original_module)
    batch = host.batch([5, -6, 6], [4, -6, 7], [5, -6, 6])
    names = ["one", "two", "__base__"]
    found = model(**batch.inputs, adapter_names=names).logits
    tokens = model.generate(**batch.inputs, adapter_names=names, max_new_tokens=3)
    copies = model.base_model.model.compressor
    alphas = {float(one.in_llm.blocks["0"].alpha) for one in (*copies.modules_to_save.values(), copies.original_module)}
    assert len(alphas) == 3 and 0 not in alphas
    for row, (name, alone) in enumerate(zip(names, batch.rows_alone, strict=True)):
        model.set_adapter("one" if name == "__base__" else name)
        with model.disable_adapter() if name == "__base__" else torch.no_grad():
            logits = model(**alone.inputs).logits[0]
            expected = model.generate(**alone.inputs, max_new_tokens=3)
        assert (found[row, -3:] - logits[-3:]).abs().max() < TOLERANCE, name
        assert torch.equal(tokens[row, -3:], expected[0, -3:]), name


def test_peft_trains_its_copy_of_the_compressor() -> None:
    peft = pytest.importorskip("peft")
    host = build("llava_onevision", layers=LAYERS)
    batch = host.batch([5, -6, 6])
    framefold.attach(host.model, trained())
    config = peft.LoraConfig(target_modules=r".*language_model.*(q|v)_proj", modules_to_save=["compressor"])
    model = peft.get_peft_model(host.model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before = {name: value.clone() for name, value in model.state_dict().items() if "in_llm" in name}
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch.attached_inputs, labels=batch.labels()).loss.backward()
        optimizer.step()
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == {name for name in before if "modules_to_save" in name} and changed


# Refusals


def test_hosts_and_layers_that_do_not_fit(host: Host) -> None:
    with pytest.raises(AttachError, match=rf"adds in layers \[0, 5\] .* of {LAYERS} layers"):
        framefold.attach(host.model, trained(layers=(0, 39)))
    with framefold.attach(host.model, compressor := trained()):
        pass
    other = build(host.name, layers=6)
    with pytest.raises(InputError, match=r"weights for a language model of 4 layers .*, not of 6 layers"):
        framefold.attach(other.model, compressor, allow_other_host=True)
    sliding = build(host.name, layers=LAYERS)
    sliding.language.config.layer_types = ["full_attention", "sliding_attention"] * 2
    with pytest.raises(AttachError, match="full attention, this one has"):
        framefold.attach(sliding.model, trained())
    for layers in ((), (-1,), (3, 3)):
        with pytest.raises(ConfigError, match="different numbers from 0"):
            trained(layers=layers)
    with pytest.raises(ConfigError, match="must all be given"):
        trained(dim=32)
    with pytest.raises(ConfigError, match="from 1 to"):
        trained(num_layers=4, dim=32, heads=0, kv_heads=2, head_width=8)


def test_scaled_layers_are_different_ones_of_the_same_share_of_the_depth() -> None:
    stage = trained().in_llm
    expected = {1: (0,), 2: (0, 1), 4: (0, 1, 2, 3), 14: (0, 4, 8, 12), 28: (0, 8, 16, 24), 36: (0, 8, 16, 24)}
    assert {layers: stage.adds(layers) for layers in expected} == expected


def test_caches_masks_and_chunks_that_do_not_fit(host: Host) -> None:
    batch = host.batch([5, -6, 6])
    inputs = batch.attached_inputs
    with framefold.attach(host.model, trained()), torch.no_grad():
        model = host.model
        static = StaticCache(config=model.config.get_text_config(), max_cache_len=80)
        with pytest.raises(InputError, match="not StaticCache"):
            model(**inputs, past_key_values=static)
        with pytest.raises(InputError, match="prefill_chunk_size"):
            model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=8)
        with pytest.raises(InputError, match="assistant_model"):
            model.generate(**inputs, max_new_tokens=2, assistant_model=model)
        cache = model(**inputs, use_cache=True).past_key_values
        kwargs = prepare(model, inputs, model.compressor).kwargs
        with pytest.raises(InputError, match="filled cache"):
            model(**{k: v for k, v in kwargs.items() if k != "attention_mask"}, past_key_values=cache)
        for layer in cache.layers:
            layer.keys, layer.values = (part.repeat_interleave(2, 0) for part in (layer.keys, layer.values))
        with pytest.raises(InputError, match="keys of the video for 1 rows, but there are 2"):
            two = {"input_ids": torch.full((2, 1), 5), "past_key_values": cache}
            two["attention_mask"] = torch.ones(2, cache.get_seq_length() + 1, dtype=torch.long)
            model(**two, position_ids=torch.full((*kwargs["position_ids"].shape[:-2], 2, 1), 60))


def test_experts_may_return_their_router_logits() -> None:
    moe = build("qwen3_vl_moe", layers=LAYERS)
    with framefold.attach(moe.model, trained()), torch.no_grad(), case("all layers have the same length"):
        assert moe.model(**moe.batch([5, -6, 6]).attached_inputs, output_router_logits=True).aux_loss.isfinite()


@pytest.mark.parametrize("name", FAMILIES)
def test_projections_of_the_host_are_copied_with_the_weights_of_its_norm(name: str) -> None:
    host, compressor = build(name, layers=LAYERS), trained()
    layers: Any = family_of(host.model).decoder_layers(host.model)
    with torch.no_grad():
        for layer in layers:
            layer.input_layernorm.weight.normal_(1, 0.1)
    copied = framefold.init_from_host(compressor, host.model)
    assert len(copied) == 2 * LAYERS
    x = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
    for number, layer in enumerate(layers):
        keys, values = compressor.in_llm.keys_and_values(number, x)
        states = layer.input_layernorm(x)
        for projection, found in ((layer.self_attn.k_proj, keys), (layer.self_attn.v_proj, values)):
            torch.testing.assert_close(
                found, projection(states).unflatten(-1, (2, -1)).transpose(1, 2), rtol=1e-3, atol=1e-4
            )
        assert compressor.in_llm.blocks[str(number)].alpha.item() == 0
