"""Hosts with full attention only: attention of text to tokens outside of the context, inside the language model."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from packaging.version import Version

import framefold
from framefold.adapters.hosts import prepare
from framefold.adapters.hosts.hooks.generate import FIRST_WITH_RELATIVE_CROP
from framefold.training.frozen_host.question_rows import QuestionRows, prefill
from tests.conformance.test_in_llm import (
    BATCHES,
    GREEDY,
    SPECIAL,
    continue_cache,
    difference,
    forward_and_generate,
    padded,
    traces,
)
from tests.support.cases import case
from tests.support.hosts.added_attention import FAST, move, reference, slow_tokens, text_columns, trained
from tests.support.hosts.bare_hosts import BEAMS_FAIL, FULL_ATTENTION_HOSTS, Host, build
from tests.support.hosts.in_llm import LAYERS
from tests.support.hosts.oracles import CONTROL, TOLERANCE

pytestmark = pytest.mark.filterwarnings("ignore::framefold.warning_types.UntrainedCompressorWarning")


@pytest.fixture(scope="module", params=FULL_ATTENTION_HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param, "eager", layers=LAYERS)


def test_an_untrained_compressor_changes_no_bit_of_its_counterpart(host: Host) -> None:
    for attention in ("eager", "sdpa"):
        one = host if attention == "eager" else build(host.name, "sdpa", layers=LAYERS)
        inputs = padded(one).attached_inputs
        with framefold.attach(one.model, framefold.build(FAST, 0.5)):
            expected = forward_and_generate(one, inputs)
        with case(attention), framefold.attach(one.model, trained()):
            assert all(map(torch.equal, forward_and_generate(one, inputs), expected))
        with case(attention, "detached"), framefold.attach(one.model, framefold.build(FAST, 0.5)):
            assert all(map(torch.equal, forward_and_generate(one, inputs), expected))


@torch.no_grad()
def test_what_is_added_is_that_of_a_loop_over_columns_and_heads(host: Host) -> None:
    batches = {"padding on the left": {"rows": [[5, -6, 6], [9, -4, 3]]}} | BATCHES
    for name, recipe in batches.items():
        if host.name == "smolvlm" and name == "a row without video":
            continue  # the bare host needs an image in every row
        rows = recipe["rows"] if name != "padding on the left" or host.name not in EQUAL else [[5, -6, 6], [9, -6, 3]]
        batch = host.batch(*rows, side=recipe.get("side", "left"))
        with case(name):
            slow, columns = slow_tokens(batch), text_columns(batch, 0.5)
            compressor = trained()
            with framefold.attach(host.model, compressor):
                plain = host.model(**batch.attached_inputs).logits
                move(compressor)
                found = host.model(**batch.attached_inputs).logits
            with framefold.attach(host.model, framefold.build(FAST, 0.5)), reference(host, compressor, slow, columns):
                expected = host.model(**batch.attached_inputs).logits
            real = torch.zeros(found.shape[:2], dtype=torch.bool)
            for row, own in enumerate(columns):
                real[row, own] = True
            assert difference([found[real]], [expected[real]]) < TOLERANCE
            assert difference([found[real]], [plain[real]]) > CONTROL, "nothing was added"


EQUAL = ("llava_next_video", "video_llava")  # bare hosts that accept only equal videos in a batch


@torch.no_grad()
def test_decoding_with_a_cache_equals_decoding_without(host: Host) -> None:
    inputs, compressor = padded(host).attached_inputs, trained()
    sdpa = build(host.name, "sdpa", layers=LAYERS)
    with framefold.attach(host.model, compressor):
        start = host.model.generate(**inputs, **GREEDY).logits
        move(compressor)
        cached = host.model.generate(**inputs, **GREEDY)
        anew = host.model.generate(**inputs, **GREEDY, use_cache=False)
    assert torch.equal(cached.sequences, anew.sequences)
    assert difference(list(cached.logits), list(anew.logits)) < TOLERANCE < CONTROL
    assert difference([cached.logits[0]], [start[0]]) > CONTROL
    with framefold.attach(sdpa.model, compressor):
        same = sdpa.model.generate(**inputs, **GREEDY)
    assert difference(list(same.logits), list(cached.logits)) < TOLERANCE


@torch.no_grad()
def test_questions_share_a_prefill_whose_rows_are_selected_and_copied(host: Host) -> None:
    batch = host.batch([5, -6, 6], [4, -6, 7])  # without padding, which shifts positions in some hosts
    compressor = trained()
    more = torch.randint(3, 57, (3, 4), generator=torch.Generator().manual_seed(7))
    video = torch.tensor([1, 0, 1])
    with framefold.attach(host.model, compressor):
        move(compressor)
        prepared = prepare(host.model, batch.attached_inputs, compressor)
        start = prepared.prompt.next_position[video]
        rows = QuestionRows(more, torch.ones_like(more), more, video, start)
        continued = prefill(host.model, prepared.kwargs, rows)
        copies = [copy.deepcopy(continued["past_key_values"]) for _ in range(2)]
        assert all(one.layers[0].added[0].shared.stage is compressor.in_llm for one in copies)  # not copied, too
        found = host.model(**continued).logits
        for row, own in enumerate(video.tolist()):
            alone = batch.rows_alone[own].with_tokens(more[row : row + 1])
            expected = host.model(**alone.attached_inputs).logits[0, -4:]
            assert difference([found[row]], [expected]) < TOLERANCE
        assert difference([found[0]], [found[1]]) > CONTROL
        assert torch.equal(host.model(**continued | {"past_key_values": copies[0]}).logits, found)
        order = torch.tensor([2, 1, 0])
        copies[1].reorder_cache(order)
        moved = {name: value[order] for name, value in continued.items() if name in ("input_ids", "attention_mask")}
        moved |= {"position_ids": continued["position_ids"][..., order, :], "past_key_values": copies[1]}
        assert difference([host.model(**moved).logits], [found[order]]) < TOLERANCE


@torch.no_grad()
def test_a_cache_is_continued_by_several_tokens(host: Host) -> None:
    more = torch.randint(3, 57, (2, 4), generator=torch.Generator().manual_seed(7))
    for attention in ("eager", "sdpa"):
        one = host if attention == "eager" else build(host.name, "sdpa", layers=LAYERS)
        batch, compressor = padded(one), trained()
        with case(attention), framefold.attach(one.model, compressor):
            move(compressor)
            found = continue_cache(one, batch, more)
            expected = one.model(**batch.with_tokens(more).attached_inputs).logits[:, -4:]
            assert difference([found], [expected]) < TOLERANCE


@torch.no_grad()
def test_ways_to_decode(host: Host) -> None:
    few = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": SPECIAL}
    inputs, compressor = padded(host).attached_inputs, trained()
    with framefold.attach(host.model, compressor):
        move(compressor)
        greedy = host.model.generate(**inputs, **few)
        likeliest = few | {"do_sample": True, "top_k": 1, "num_return_sequences": 3}
        assert torch.equal(host.model.generate(**inputs, **likeliest), greedy.repeat_interleave(3, 0))
        one = host.batch([5, -6, 6]).attached_inputs
        if Version(transformers.__version__) >= FIRST_WITH_RELATIVE_CROP:
            alone = host.model.generate(**one, **few)
            assert torch.equal(host.model.generate(**one, **few, prompt_lookup_num_tokens=3), alone)
        if host.name in BEAMS_FAIL:
            return
        beams = host.model.generate(**inputs, **few, num_beams=3)
        assert torch.equal(host.model.generate(**inputs, **few, num_beams=3, use_cache=False), beams)
    with framefold.attach(host.model, framefold.build(FAST, 0.5)):
        assert not torch.equal(host.model.generate(**inputs, **few), greedy)


@torch.no_grad()
def test_copies_and_detached_hosts(host: Host) -> None:
    inputs, compressor = padded(host).attached_inputs, trained()
    bare = host.model(**padded(host).inputs).logits
    before = traces(host)
    handle = framefold.attach(host.model, compressor)
    move(compressor)
    found = host.model(**inputs).logits
    other = copy.deepcopy(host.model)
    assert torch.equal(other(**inputs).logits, found)
    move(other.compressor, 0.0)
    assert torch.equal(host.model(**inputs).logits, found)
    framefold.detach(other)
    assert torch.equal(other(**padded(host).inputs).logits, bare)
    handle.detach()
    assert torch.equal(host.model(**padded(host).inputs).logits, bare) and traces(host) == before
