"""Compressors that act inside the language model of an attached host: budgets, training, and what is refused."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import StaticCache

import framefold
from framefold.adapters.hosts import in_llm, prepare
from framefold.adapters.hosts.hooks import generate
from framefold.adapters.reference.st_simdiff import stage_2
from framefold.errors import AttachError, BudgetError, InputError
from tests.support.cases import case
from tests.support.hosts.bare_hosts import Host, build
from tests.support.hosts.in_llm import (
    LAYERS,
    Acting,
    JoinPairs,
    JoinPairsOnInput,
    KeepAboveMean,
    KeepThird,
    recording_runs,
)
from tests.support.hosts.tiny_families import without

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # the frozen vision side
    pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing:FutureWarning"),  # a name that all versions accept
]
STAGES = {"pruned": KeepThird, "merged after attention": JoinPairs, "merged on input": JoinPairsOnInput}


@pytest.fixture(scope="module", params=["qwen3_vl", "llava_onevision"])
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param, layers=LAYERS)


@pytest.fixture
def attached(host: Host) -> Iterator[Host]:
    with framefold.attach(host.model, Acting(KeepThird(1))):
        yield host


# Budgets


METHODS = {"fastv": {}, "pyramid_drop": {}, "st_simdiff": {"stage_2": True}}


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_the_cache_holds_the_budget_as_a_mean_over_the_layers(host: Host, name: str) -> None:
    batch = host.batch([5, -8, 6])
    total = 8 * host.tiny.tokens
    text = batch.inputs["input_ids"].shape[1] - total
    for budget in (0.5, 0.6, 0.9, 1.0, total - 1):
        compressor = framefold.build(name, budget, **METHODS[name])
        with case(budget), framefold.attach(host.model, compressor):
            out = host.model(**batch.attached_inputs, use_cache=True)
        visual = [out.past_key_values.get_seq_length(layer) - text for layer in range(LAYERS)]
        k = framefold.adapters.core.budget.budget_tokens(budget, total)
        assert visual[0] == compressor.entering(k, total) and LAYERS * (k - 1) < sum(visual) <= LAYERS * k
        if budget == 1.0:
            assert visual == [total] * LAYERS


@torch.no_grad()
def test_the_released_second_stage_of_st_simdiff_acts_on_the_hosts_own_attention(host: Host) -> None:
    batch = host.batch([5, -8, 6])
    params = {"variant": "official", "tau_sim": 0.2, "tau_event": -2.0}
    one = build(host.name, "eager", layers=28)
    both = framefold.build("st_simdiff", 0.4, **params, stage_2=True)
    with framefold.attach(one.model, both), recording_runs() as runs:
        one.model(**batch.attached_inputs)
    first, second = (runs[0].layout(layer) for layer in (1, 2))
    dropped = [1 - len(first.tokens[0].index) / (8 * host.tiny.tokens)]
    with framefold.attach(one.model, framefold.build("st_simdiff", 0.4, **params)):
        attention = one.model(**batch.attached_inputs, output_attentions=True).attentions[1][0, :, -1]
    video = torch.zeros(attention.shape[-1], dtype=torch.bool)
    video[runs[0].places[0].columns] = True
    expected = stage_2(attention, video, 0.4, dropped)
    assert (second.where[0] >= 0).tolist() == expected.tolist()
    assert 0 < len(second.tokens[0].index) < len(first.tokens[0].index)


@torch.no_grad()
def test_an_impossible_budget_is_refused_before_the_language_model_runs(host: Host) -> None:
    batch = host.batch([5, -8, 6])
    total, calls = 8 * host.tiny.tokens, []
    hook = host.language.register_forward_pre_hook(lambda *_: calls.append(1))
    with framefold.attach(host.model, framefold.build("fastv", 0.1)):
        smallest = (total + LAYERS - 1 + LAYERS - 1) // LAYERS  # all tokens in layer 0, and one in each of the others
        for run in (host.model, functools.partial(host.model.generate, max_new_tokens=2)):
            with pytest.raises(
                BudgetError, match=f"fastv: .* the smallest budget for {total} tokens is {smallest}, a ratio"
            ):
                run(**batch.attached_inputs)
        host.model.compressor.budget = smallest
        host.model(**batch.attached_inputs)
    hook.remove()
    assert len(calls) == 1


@torch.no_grad()
def test_prepared_prompts_name_the_places_of_the_tokens(host: Host) -> None:
    batch = host.batch([5, -6, 3, -4, 6], [9, -6, 3])
    compressor = framefold.build("uniform", 0.5)
    prepared = prepare(host.model, batch.attached_inputs, compressor)
    assert prepared.prompt is not None
    places = prepared.prompt.places
    assert [place.row for place in places] == [0, 0, 1] and all(place.plan is None for place in places)
    features = torch.cat([tokens.features for tokens in prepared.tokens])
    embeds: list[Tensor] = []
    hook = host.language.register_forward_pre_hook(
        lambda _, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    host.model(**prepared.kwargs)
    hook.remove()
    found = torch.cat([embeds[0][place.row, place.columns] for place in places])
    assert torch.equal(found, features) and all(len(place.tokens.features) == 0 for place in places)


# Ways to use it


@torch.no_grad()
def test_the_context_manager_equals_attach_and_leaves_no_trace(host: Host) -> None:
    batch, compressor = host.batch([5, -6, 6], [9, -6, 3]), Acting(KeepThird(1))
    with framefold.attach(host.model, compressor):
        expected = host.model(**batch.attached_inputs).logits
    with in_llm(host.model, compressor):
        found = host.model(**prepare(host.model, batch.attached_inputs, compressor).kwargs).logits
    assert torch.equal(found, expected)
    with in_llm(host.model, framefold.build("uniform")):
        assert not hasattr(host.model, "_framefold_in_llm")
    assert not hasattr(host.model, "_framefold_in_llm")


@torch.no_grad()
def test_outputs_of_the_callers_length(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -6, 3])
    labels = batch.labels()
    with framefold.attach(host.model, Acting(KeepThird(1), 2), outputs="full"):
        out = host.model(**batch.attached_inputs, labels=labels)
    assert out.logits.shape[:2] == labels.shape
    loss = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(out.loss, loss)


@torch.no_grad()
def test_the_column_that_asks_is_the_last_one_of_the_prompt_before_any_label(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -6, 3])
    last = batch.inputs["input_ids"].shape[1] - 1
    labels = batch.labels(3)  # the last three columns
    with framefold.attach(host.model, Acting(KeepAboveMean(1))), recording_runs() as runs:
        host.model(**batch.attached_inputs)
        host.model(**batch.attached_inputs, labels=labels)
        host.model.generate(**batch.attached_inputs, max_new_tokens=3, use_cache=False)
    asks = [run.asks.tolist() for run in runs]
    assert asks == [[last] * 2, [last - 3] * 2, *[[last] * 2] * 3]


@torch.no_grad()
def test_a_cache_may_serve_another_prompt_after_a_reset(host: Host) -> None:
    first, second = host.batch([5, -6, 6]), host.batch([4, -4, 3])
    with framefold.attach(host.model, Acting(KeepThird(1))):
        cache = host.model(**first.attached_inputs, use_cache=True).past_key_values
        expected = host.model(**second.attached_inputs).logits
        cache.crop(-cache.get_seq_length())
        for layer in cache.layers:
            layer.reset() if hasattr(layer, "reset") else None
        fresh = type(cache)()
        assert torch.equal(host.model(**second.attached_inputs, past_key_values=fresh).logits, expected)


@torch.no_grad()
def test_an_attached_model_can_be_pickled() -> None:
    host = build("llava_onevision", layers=LAYERS)
    inputs = host.batch([5, -6, 6]).attached_inputs
    framefold.attach(host.model, framefold.build("fastv", 0.5))
    other = pickle.loads(pickle.dumps(host.model))
    assert torch.equal(other(**inputs).logits, host.model(**inputs).logits)


@torch.no_grad()
def test_lora_and_a_compressor_that_peft_copied(host: Host) -> None:
    peft = pytest.importorskip("peft")
    one = build(host.name, layers=LAYERS)
    inputs = one.batch([5, -6, 6]).attached_inputs
    framefold.attach(one.model, Acting(KeepThird(1)))
    expected = one.model(**inputs).logits
    config = peft.LoraConfig(target_modules=r".*language_model.*(q|v)_proj", modules_to_save=["compressor"])
    model = peft.get_peft_model(one.model, config)
    assert torch.allclose(model(**inputs).logits, expected, atol=1e-6)


# Refusals


def test_prefill_in_chunks_is_refused_because_it_would_skip_the_stage(attached: Host) -> None:
    inputs = attached.batch([5, -6, 6]).attached_inputs
    with pytest.raises(InputError, match="prefill_chunk_size"):
        attached.model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=8)
    attached.model.generation_config.prefill_chunk_size = 8
    try:
        with pytest.raises(InputError, match="prefill_chunk_size"):
            attached.model.generate(**inputs, max_new_tokens=2)
    finally:
        attached.model.generation_config.prefill_chunk_size = None


@torch.no_grad()
def test_an_error_inside_a_layer_leaves_nothing_for_the_next_forward(attached: Host) -> None:
    inputs = attached.batch([5, -6, 6]).attached_inputs
    ids = inputs["input_ids"][:, -6:]
    expected = attached.model(input_ids=ids).logits

    def fail(*_: Tensor) -> None:
        raise MemoryError("simulated")

    hook = attached.language.layers[1].self_attn.o_proj.register_forward_pre_hook(fail)  # after the attention
    with pytest.raises(MemoryError):
        attached.model(**inputs)
    hook.remove()
    assert torch.equal(attached.model(input_ids=ids).logits, expected)


def test_labels_that_leave_no_text_behind_a_video_are_refused(attached: Host) -> None:
    last = attached.batch([5, -6])  # a label on its last column leaves the last frame to ask
    complete = attached.batch([5, -6, 6])
    two = attached.batch([5, -4, 3, -4, 5])
    between = two.labels(len(two.inputs["input_ids"][0]) - two.inputs["input_ids"].shape[1] // 2)
    with framefold.attach(build(attached.name, layers=LAYERS).model, Acting(JoinPairs(1))) as handle:
        for batch, labels in (
            (last, last.labels(1)),
            (complete, complete.inputs["input_ids"]),
            (two, between),
        ):
            inputs = batch.attached_inputs | {"labels": labels}
            with case(labels), pytest.raises(InputError, match=r"row 0: no text between the video.* pass the question"):
                attached.model(**inputs)
            handle.model(**inputs)  # this stage reads no attention


def test_a_prompt_is_not_prepared_for_a_host_that_would_skip_the_stage(host: Host) -> None:
    batch, compressor = host.batch([5, -6, 6]), framefold.build("fastv", 0.5)
    with pytest.raises(InputError, match=r"fastv acts inside the language model.*in_llm\(model, compressor\)"):
        prepare(host.model, batch.attached_inputs, compressor)
    with in_llm(host.model, framefold.build("fastv", layer=14)):
        kwargs = prepare(host.model, batch.attached_inputs, compressor).kwargs
        with pytest.raises(AttachError, match="another compressor"):
            host.model(**kwargs)


def test_layers_in_which_a_stage_cannot_act(host: Host) -> None:
    traces = set(vars(host.model))
    for acts in ((LAYERS - 1,), (), (0, LAYERS)):
        with pytest.raises(AttachError, match=f"language model of {LAYERS} layers"):
            framefold.attach(host.model, Acting(KeepThird(*acts)))
    with pytest.raises(AttachError, match="at least one layer before"):
        framefold.attach(host.model, Acting(JoinPairsOnInput(0)))
    other = build(host.name, layers=LAYERS)
    other.language.config.layer_types = ["full_attention", "sliding_attention"] * 2
    with pytest.raises(AttachError, match="full attention, this one has full_attention, sliding_attention"):
        framefold.attach(other.model, Acting(KeepThird(1)))
    assert set(vars(host.model)) == traces
    other_layer, same_layer = (in_llm(host.model, Acting(KeepThird(act))) for act in (2, 1))
    refused = pytest.raises(AttachError, match="acts inside")
    with framefold.attach(host.model, Acting(KeepThird(1))), same_layer, refused, other_layer:
        pass


def test_caches_and_masks_that_do_not_fit(attached: Host) -> None:
    batch, model = attached.batch([5, -6, 6]), attached.model
    inputs = batch.attached_inputs
    static = StaticCache(config=model.config.get_text_config(), max_cache_len=80)
    with pytest.raises(InputError, match="not StaticCache"):
        model(**inputs, past_key_values=static)
    with pytest.raises(InputError, match="cache_implementation"):
        model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(InputError, match="assistant_model"):
        model.generate(**inputs, max_new_tokens=2, assistant_model=model)
    with in_llm(build(attached.name, layers=LAYERS).model, None):
        kwargs = prepare(model, inputs, model.compressor).kwargs
    columns = kwargs["input_ids"].shape[1]
    causal = torch.ones(1, 1, columns, columns, dtype=torch.bool).tril()
    with pytest.raises(InputError, match="2-D attention_mask"):
        model(**kwargs | {"attention_mask": causal})
    cache = model(**inputs, use_cache=True).past_key_values
    with pytest.raises(InputError, match="filled cache"):
        model(**without(kwargs, "attention_mask"), past_key_values=cache)
    cache.crop(-10)
    with pytest.raises(InputError, match="cropped inside"):
        model(input_ids=torch.tensor([[5]]), past_key_values=cache)


def test_prompt_lookup_needs_a_version_that_crops_by_numbers(attached: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FIRST_WITH_RELATIVE_CROP", generate.Version("99"))
    with pytest.raises(InputError, match="transformers>=99"):
        attached.model.generate(**attached.batch([5, -6, 6]).attached_inputs, prompt_lookup_num_tokens=3)


@torch.no_grad()
def test_rows_of_a_cache_with_padding_inside_cannot_be_selected(host: Host) -> None:
    batch = host.batch([5, -6, 6], [5, -6, 6], seed=8)
    axes = () if host.name == "llava_onevision" else (3,)
    for stage, fits in ((KeepThird(1), True), (KeepAboveMean(1), False)):
        with framefold.attach(host.model, Acting(stage)), recording_runs() as runs:
            cache = host.model(**batch.attached_inputs, use_cache=True).past_key_values
            rows = torch.tensor([0, 0, 1])
            cache.batch_select_indices(rows)
            mask = torch.cat([batch.inputs["attention_mask"][rows], torch.ones(3, 1, dtype=torch.long)], 1)
            place = torch.full((*axes, 3, 1), 90)
            step = {"input_ids": torch.full((3, 1), 7), "attention_mask": mask, "position_ids": place}
            step["past_key_values"] = cache
            counts = {len(tokens.index) for tokens in runs[0].last.tokens}
            assert (len(counts) == 1) == fits
            if fits:
                assert torch.isfinite(host.model(**step).logits).all()
            else:
                with pytest.raises(InputError, match="different numbers of tokens"):
                    host.model(**step)


def test_router_logits_are_refused() -> None:
    moe = build("qwen3_vl_moe", layers=LAYERS)
    with framefold.attach(moe.model, Acting(KeepThird(1))), pytest.raises(InputError, match="output_router_logits"):
        moe.model(**moe.batch([5, -6, 6]).attached_inputs, output_router_logits=True)
