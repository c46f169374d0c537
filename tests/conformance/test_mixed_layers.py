"""Hosts whose layers do not all attend to every column before their own: state, padding, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.errors import AttachError
from tests.support.cases import case
from tests.support.hosts.bare_hosts import (
    COMPRESSING,
    FULL_ATTENTION_HOSTS,
    RECURRENT_HOSTS,
    AboveMean,
    Batch,
    Host,
    build,
    perturb,
)
from tests.support.hosts.oracles import CONTROL, ShortRow, max_difference, rows_of, run_masked, shorten
from tests.support.hosts.soft_drop import SoftDrop
from tests.support.hosts.tiny_families import FIRST_WORD, HOSTS, LAST_WORD

EXACT = 1e-5
MIXED_HOSTS = [name for name in HOSTS if name not in FULL_ATTENTION_HOSTS]


@pytest.fixture(scope="module", params=RECURRENT_HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


def states_of(cache: Any, row: int) -> list[Tensor]:
    """Return what the layers of a cache remember of a row, without keys and values."""
    layers = [layer for layer in cache.layers if hasattr(layer, "recurrent_states")]
    assert layers
    held = [states for layer in layers for states in (layer.conv_states, layer.recurrent_states)]
    return [state[row] for states in held for state in states.values()]


@torch.no_grad()
def run_token_by_token(host: Host, short: ShortRow) -> tuple[Tensor, list[Tensor]]:
    """Return the (N, vocabulary) logits of a row built by hand, and the states after it.

    The language model reads one column at a time, so no chunk, mask or padding can make a difference.
    """
    cache, states = None, []
    for column in range(len(short.columns)):
        one = slice(column, column + 1)
        arguments = {"inputs_embeds": short.embeds[None, one], "position_ids": short.positions[..., None, one]}
        output = host.language(**arguments, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        states.append(output.last_hidden_state[0])
    return host.model.lm_head(torch.cat(states)), states_of(cache, 0)


BATCHES: dict[str, dict[str, Any]] = {
    "one row": {"rows": [[5, -6, 6]]},
    "padding on the left": {"rows": [[5, -6, 6], [9, -4, 3]]},
    "new padding": {"rows": [[5, -6, 6], [8, -6, 3]], "mask": False},
    "two, one and no video": {"rows": [[4, -4, 3, -4, 2], [12], [1, -4, 6]]},
}


@pytest.mark.parametrize("kind", COMPRESSING)
def test_logits_and_states_are_those_of_the_kept_tokens_read_one_by_one(host: Host, kind: str) -> None:
    for name, arguments in BATCHES.items():
        compressor = COMPRESSING[kind]()
        batch = host.batch(*arguments["rows"], mask=arguments.get("mask", True))
        with framefold.attach(host.model, compressor), torch.no_grad():
            perturb(compressor)
            out = host.model(**batch.attached_inputs, use_cache=True)
        shorts = shorten(batch, compressor)
        found = rows_of(out.logits, shorts, "left")
        for row, short in enumerate(shorts):
            logits, states = run_token_by_token(host, short)
            with case(name, row):
                assert max_difference([found[row]], [logits]) < EXACT
                assert max_difference(states_of(out.past_key_values, row), states) < EXACT


def test_masking_a_token_is_not_dropping_it(host: Host) -> None:
    """A masked column still moves the state, so it is no reference for these hosts."""
    batch, compressor = host.batch([5, -6, 6], [9, -6, 3]), AboveMean()
    with framefold.attach(host.model, compressor), torch.no_grad():
        logits = host.model(**batch.attached_inputs).logits
    shorts = shorten(batch, compressor)
    assert max_difference(rows_of(logits, shorts, "left"), run_masked(batch, shorts)) > CONTROL


@pytest.mark.parametrize("name", MIXED_HOSTS)
def test_a_decode_loop_continues_rows_that_became_ragged(name: str) -> None:
    """Nothing shows the side of the padding; on the right it would move the state or window of the shorter row."""
    host = build(name)

    def is_ragged(batch: Batch) -> bool:
        return len({host.model(**row.attached_inputs).logits.shape[1] for row in batch.rows_alone}) > 1

    with framefold.attach(host.model, AboveMean()), torch.no_grad():
        batches = (host.batch([5, -6, 6], [8, -6, 3], seed=seed) for seed in range(1, 9))
        batch = next(batch for batch in batches if is_ragged(batch))
        assert len(set(batch.lengths)) == 1
        out = host.model(**batch.attached_inputs, use_cache=True)
        for _ in range(3):
            batch = batch.with_tokens(out.logits[:, -1:, FIRST_WORD:LAST_WORD].argmax(-1) + FIRST_WORD)
            ids = batch.inputs["input_ids"][:, -1:]
            out = host.model(input_ids=ids, past_key_values=out.past_key_values)
            alone = [host.model(**row.attached_inputs).logits[:, -1] for row in batch.rows_alone]
            assert (out.logits[:, -1] - torch.cat(alone)).abs().max() < EXACT


OTHER = "(linear_attention|sliding_attention|attention to later columns)"
REFUSED: dict[str, Callable[[], Any]] = {
    "fastv": lambda: framefold.build("fastv", 0.5),
    "a later stage": lambda: framefold.build("st_simdiff", 0.5, stage_2=True),
    "added attention": lambda: framefold.build("slow_fast_cross_attention", 0.5),
}


@pytest.mark.parametrize("name", MIXED_HOSTS)
def test_compressors_inside_the_language_model_are_refused_by_type(name: str) -> None:
    host = build(name)
    traces = set(vars(host.model))
    for kind, make in REFUSED.items():
        with case(kind), pytest.raises(AttachError, match=f"full attention, this one has .*{OTHER}"):
            framefold.attach(host.model, make())
    if name != "molmo2":  # which refuses the bias in the forward, as its mask is 4-D
        with pytest.raises(AttachError, match=OTHER):  # a bias on visual tokens, in training
            framefold.attach(host.model.train(), SoftDrop())
    assert set(vars(host.model)) == traces
