"""Hosts with full attention only: what is dropped or merged inside the language model might never have been there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor

import framefold
from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.hosts.hooks.generate import FIRST_WITH_RELATIVE_CROP
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.hosts.bare_hosts import BEAMS_FAIL, FULL_ATTENTION_HOSTS, Batch, Host, build
from tests.support.hosts.in_llm import (
    DROPPING,
    KEEPING,
    LAYERS,
    Acting,
    JoinPairs,
    JoinPairsOnInput,
    KeepAboveMean,
    KeepAll,
    KeepThird,
    kept_columns,
    masking,
    recording_runs,
    run_fusion,
    run_joined,
    run_sttm,
)
from tests.support.hosts.oracles import CONTROL, TOLERANCE
from tests.support.hosts.tiny_families import END, IMAGE, PAD, START, VIDEO

SPECIAL = [PAD, START, END, IMAGE, VIDEO, 62, 63]
GREEDY = {
    "max_new_tokens": 4, "do_sample": False, "suppress_tokens": SPECIAL, "output_logits": True,
    "return_dict_in_generate": True,
}  # fmt: skip
FLOOR = -1e30  # logits of suppressed tokens


@pytest.fixture(scope="module", params=FULL_ATTENTION_HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param, "eager", layers=LAYERS)


def padded(host: Host) -> Batch:
    return host.batch([5, -6, 6], [9, -6, 3])  # equal videos: some bare hosts accept no others in a batch


@torch.no_grad()
def forward_and_generate(host: Host, inputs: dict[str, Any]) -> list[Tensor]:
    out = host.model.generate(**inputs, **GREEDY)
    return [host.model(**inputs).logits, out.sequences, *out.logits]


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).float().masked_fill(b < FLOOR, 0).abs().max()) for a, b in pairs)


def test_what_keeps_every_token_changes_no_bit(host: Host) -> None:
    for attention in ("eager", "sdpa"):
        one = host if attention == "eager" else build(host.name, "sdpa", layers=LAYERS)
        inputs = padded(one).attached_inputs
        for every in (1, 2):
            with framefold.attach(one.model, Acting(None, every)):
                expected = forward_and_generate(one, inputs)
            for name, make in KEEPING.items():
                with case(attention, every, name), framefold.attach(one.model, Acting(make(), every)):
                    assert all(map(torch.equal, forward_and_generate(one, inputs), expected))
            with case(attention, every, "detached"), framefold.attach(one.model, Acting(None, every)):
                assert all(map(torch.equal, forward_and_generate(one, inputs), expected))


@torch.no_grad()
def test_what_is_dropped_is_masked_in_later_layers_and_when_decoding(host: Host) -> None:
    inputs = padded(host).attached_inputs
    sdpa = build(host.name, "sdpa", layers=LAYERS)
    for every, (name, make) in [(1, item) for item in DROPPING.items()] + [(2, ("once", DROPPING["once"]))]:
        with case(every, name):
            with framefold.attach(host.model, Acting(None, every)):
                complete = host.model(**inputs).logits
            with framefold.attach(host.model, Acting(make(), every)), recording_runs() as runs:
                logits, generated = host.model(**inputs).logits, host.model.generate(**inputs, **GREEDY)
                again = host.model.generate(**inputs, **GREEDY, use_cache=False)
            with framefold.attach(host.model, Acting(None, every)):
                with masking(host, runs[0]):
                    expected = host.model(**inputs).logits
                with masking(host, runs[1]):
                    reference = host.model.generate(**inputs, **GREEDY)
            kept = kept_columns(runs[0])
            assert difference([logits[kept]], [expected[kept]]) < TOLERANCE
            assert torch.equal(generated.sequences, reference.sequences)
            assert difference(list(generated.logits), list(reference.logits)) < TOLERANCE
            assert torch.equal(again.sequences, generated.sequences)
            assert difference(list(again.logits), list(generated.logits)) < TOLERANCE
            assert difference([logits[:, -1]], [complete[:, -1]]) > CONTROL, "dropping tokens changed nothing"
            check_cache(generated.past_key_values, runs[1])
            with framefold.attach(sdpa.model, Acting(make(), every)):
                same = sdpa.model.generate(**inputs, **GREEDY)
            assert difference(list(same.logits), list(generated.logits)) < TOLERANCE


def check_cache(cache: Any, run: Any) -> None:
    new = GREEDY["max_new_tokens"] - 1
    lengths = [cache.get_seq_length(layer) for layer in range(LAYERS)]
    assert lengths == [run.layout(layer).mask.shape[1] + new for layer in range(LAYERS)] and lengths[-1] < lengths[0]


@torch.no_grad()
def test_the_attention_that_is_read_is_that_of_the_last_column(host: Host) -> None:
    batch = padded(host)
    with framefold.attach(host.model, Acting(KeepAll(0, 2))), recording_runs() as runs:
        host.model(**batch.attached_inputs)
    columns = runs[0].mask.shape[1]
    with framefold.attach(host.model, Acting()):
        attentions = host.model(**batch.attached_inputs, output_attentions=True).attentions
    for layer, found in runs[0].received.items():
        torch.testing.assert_close(found, attentions[layer][:, :, columns - 1].mean(1), atol=1e-6, rtol=1e-5)
    for place, columns_of_video in zip(runs[0].places, runs[0].last.columns, strict=True):
        ids = batch.inputs["input_ids"][place.row, columns_of_video]
        assert len(ids) == len(place.tokens.index) and bool((ids == host.tiny.placeholder).all())


@torch.no_grad()
def test_merged_tokens_equal_a_loop_over_the_layers(host: Host) -> None:
    batch = host.batch([5, -6, 6])
    plain = host.model(**batch.inputs).logits[0, -1]
    for stage, layer, on_input in (
        (JoinPairsOnInput(1), 1, True),
        (JoinPairsOnInput(2), 2, True),
        (JoinPairs(0), 0, False),
        (JoinPairs(1), 1, False),
    ):
        with case(stage, layer):
            with framefold.attach(host.model, Acting(stage)):
                out = host.model(**batch.attached_inputs, use_cache=True)
                cached = host.model.generate(**batch.attached_inputs, **GREEDY).logits
                anew = host.model.generate(**batch.attached_inputs, **GREEDY, use_cache=False).logits
            expected, lengths = run_joined(batch, layer, on_input)
            assert difference([out.logits[0, -1]], [expected]) < TOLERANCE
            assert difference([expected], [plain]) > CONTROL / 10
            assert [out.past_key_values.get_seq_length(number) for number in range(LAYERS)] == lengths
            assert difference(list(cached), list(anew)) < TOLERANCE


@torch.no_grad()
def test_flashvid_drops_what_it_then_does_not_see(host: Host) -> None:
    inputs = host.batch([5, -6, 6]).attached_inputs
    settings: dict[str, Any] = {"selection": "div", "stage_2": True, "expansion": 1.25}
    compressor = framefold.build("flashvid", 0.5, **settings)
    with framefold.attach(host.model, compressor), recording_runs() as runs:
        found = host.model(**inputs).logits[:, -1]
    left = [len(runs[0].layout(layer).tokens[0].index) for layer in range(LAYERS)]
    k = budget_tokens(0.5, len(runs[0].layout(0).tokens[0].assign))
    assert left[0] == left[2] == int(1.25 * k) and left[3] == LAYERS * k - 3 * left[0] >= 1
    with framefold.attach(host.model, framefold.build("flashvid", left[0], selection="div")):
        complete = host.model(**inputs).logits[:, -1]
        with masking(host, runs[0]):
            expected = host.model(**inputs).logits[:, -1]
    assert difference([found], [expected]) < TOLERANCE < CONTROL < difference([found], [complete])


@torch.no_grad()
def test_framefusion_equals_its_rule_in_a_loop_over_the_layers(host: Host) -> None:
    batch = host.batch([5, -6, 6])
    plain, counts = host.model(**batch.inputs).logits[0, -1], set()
    for budget, threshold, least in ((0.5, 0.9, 0.1), (0.5, -1.0, 0.1), (0.7, 0.2, 0.0), (0.75, 1.0, 0.1)):
        with case(budget, threshold, least):
            compressor = framefold.build("framefusion_in_llm", budget, tau=threshold, least=least)
            with framefold.attach(host.model, compressor), recording_runs() as runs:
                out = host.model(**batch.attached_inputs, use_cache=True)
            expected, lengths = run_fusion(batch, budget, threshold, least)
            assert difference([out.logits[0, -1]], [expected]) < TOLERANCE
            assert difference([expected], [plain]) > CONTROL / 10
            assert [out.past_key_values.get_seq_length(number) for number in range(LAYERS)] == lengths
            left = [len(runs[0].layout(number).tokens[0].index) for number in range(LAYERS)]
            k = budget_tokens(budget, left[0])
            assert LAYERS * (k - 1) < sum(left) <= LAYERS * k
            counts.add(tuple(left))
    assert len(counts) > 2


@torch.no_grad()
def test_sttm_at_a_layer_equals_means_of_its_groups_in_a_loop(host: Host) -> None:
    batch = host.batch([5, -6, 6])
    plain = host.model(**batch.inputs).logits[0, -1]
    for budget, layer in ((0.5, 2), (0.75, 14)):
        with case(budget, layer):
            with framefold.attach(host.model, framefold.build("at_layer", budget, layer=layer)):
                out = host.model(**batch.attached_inputs, use_cache=True)
            expected, lengths = run_sttm(batch, budget, {2: 1, 14: 2}[layer])
            assert difference([out.logits[0, -1]], [expected]) < TOLERANCE < difference([expected], [plain])
            assert [out.past_key_values.get_seq_length(number) for number in range(LAYERS)] == lengths


BATCHES: dict[str, dict[str, Any]] = {
    "two videos in a row": {"rows": [[5, -4, 3, -4, 5]]},
    "a row without video": {"rows": [[5, -6, 6], [9]]},
    "padding on the right": {"rows": [[5, -6, 6], [9, -6, 3]], "side": "right"},
}


@torch.no_grad()
def test_batches_of_other_shapes(host: Host) -> None:
    for name, recipe in BATCHES.items():
        if host.name == "smolvlm" and name == "a row without video":
            continue  # the bare host needs an image in every row
        batch = host.batch(*recipe["rows"], side=recipe.get("side", "left"))
        with case(name):
            with framefold.attach(host.model, Acting(KeepAboveMean(1))), recording_runs() as runs:
                found = host.model(**batch.attached_inputs).logits
            with framefold.attach(host.model, Acting()), masking(host, runs[0]):
                expected = host.model(**batch.attached_inputs).logits
            kept = kept_columns(runs[0])
            assert difference([found[kept]], [expected[kept]]) < TOLERANCE
            last = batch.inputs["attention_mask"] * torch.arange(kept.shape[1])
            assert runs[0].asks.tolist() == last.argmax(-1).tolist()


@torch.no_grad()
def test_a_filled_cache_can_be_continued_by_several_tokens(host: Host) -> None:
    more = torch.randint(3, 57, (2, 4), generator=torch.Generator().manual_seed(7))
    for attention in ("eager", "sdpa"):
        one = host if attention == "eager" else build(host.name, "sdpa", layers=LAYERS)
        for rows in ([[5, -6, 6]], [[5, -6, 6], [9, -6, 3]]):
            batch = one.batch(*rows)
            with case(attention, rows):
                with framefold.attach(one.model, Acting(KeepThird(1), 2)), recording_runs() as runs:
                    found = continue_cache(one, batch, more)
                with framefold.attach(host.model, Acting(None, 2)), masking(host, runs[0]):
                    expected = continue_cache(host, batch, more)
                assert difference([found], [expected]) < TOLERANCE


def continue_cache(host: Host, batch: Batch, more: Tensor) -> Tensor:
    more = more[: len(batch.rows)]
    cache = host.model(**batch.attached_inputs, use_cache=True).past_key_values
    mask = torch.cat([batch.inputs["attention_mask"], torch.ones_like(more)], 1)
    return host.model(input_ids=more, attention_mask=mask, past_key_values=cache).logits


@torch.no_grad()
def test_ways_to_decode(host: Host) -> None:
    batch, few = host.batch([5, -6, 6]), {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": SPECIAL}
    inputs = batch.attached_inputs
    with framefold.attach(host.model, Acting(KeepThird(1))), recording_runs() as runs:
        greedy = host.model.generate(**inputs, **few)
        if Version(transformers.__version__) >= FIRST_WITH_RELATIVE_CROP:
            assert torch.equal(host.model.generate(**inputs, **few, prompt_lookup_num_tokens=3), greedy)
        else:
            with pytest.raises(InputError, match="needs transformers>="):
                host.model.generate(**inputs, **few, prompt_lookup_num_tokens=3)
        samples = host.model.generate(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=3)
        assert len(samples) == 3 and len(runs[-1].places) == 3
        if host.name not in BEAMS_FAIL:
            beams = host.model.generate(**inputs, **few, num_beams=3)
            assert [place.row for place in runs[-1].places] == [0, 1, 2]
    if host.name not in BEAMS_FAIL:
        with framefold.attach(host.model, Acting()), masking(host, runs[-1]):
            assert torch.equal(host.model.generate(**inputs, **few, num_beams=3), beams)


@torch.no_grad()
def test_copies_and_detached_hosts(host: Host) -> None:
    inputs = padded(host).attached_inputs
    bare = host.model(**padded(host).inputs).logits
    before = traces(host)
    handle = framefold.attach(host.model, Acting(KeepThird(1)))
    found = host.model(**inputs).logits
    other = copy.deepcopy(host.model)
    assert torch.equal(other(**inputs).logits, found)
    framefold.detach(other)
    assert torch.equal(other(**padded(host).inputs).logits, bare)
    assert torch.equal(host.model(**inputs).logits, found)
    handle.detach()
    assert torch.equal(host.model(**padded(host).inputs).logits, bare) and traces(host) == before


def traces(host: Host) -> Any:
    """Return what hooks leave in a host."""
    modules = list(host.model.modules())
    hooks = [(list(module._forward_pre_hooks), list(module._forward_hooks)) for module in modules]
    return [set(vars(module)) for module in modules], hooks, [id(getattr(module, "config", None)) for module in modules]
