"""Hosts with full attention only: random stages inside the language model equal a loop over the layers, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import framefold
from tests.support.cases import case
from tests.support.hosts.bare_hosts import FULL_ATTENTION_HOSTS, Host, build
from tests.support.hosts.in_llm import LAYERS, Acting
from tests.support.hosts.oracles import CONTROL, TOLERANCE
from tests.support.hosts.random_stages import Choices, RandomStage, RandomStageOnInput, run_choices

BATCHES: list[dict[str, Any]] = [
    {"rows": [[5, -4, 3, -4, 5]]},
    {"rows": [[5, -6, 6], [9, -6, 3]]},
    {"rows": [[2, -6, 9], [4, -6, 1]], "side": "right"},
]


@pytest.fixture(scope="module", params=FULL_ATTENTION_HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param, "eager", layers=LAYERS)


@torch.no_grad()
def test_random_stages_equal_a_loop_over_the_layers(host: Host) -> None:
    sdpa = build(host.name, "sdpa", layers=LAYERS)
    changed = 0.0
    for seed in range(6):
        recipe, choices = BATCHES[seed % len(BATCHES)], Choices.draw(seed, LAYERS)
        batch = host.batch(*recipe["rows"], side=recipe.get("side", "left"))
        stage = (RandomStageOnInput if choices.site == "input" else RandomStage)(choices)
        last = (batch.inputs["attention_mask"] * torch.arange(batch.inputs["attention_mask"].shape[1])).argmax(-1)
        expected = torch.stack([run_choices(row, choices) for row in batch.rows_alone])
        for one in (host, sdpa):
            with case(seed, choices, one is sdpa):
                with framefold.attach(one.model, Acting(stage)):
                    found = one.model(**batch.attached_inputs).logits[torch.arange(len(last)), last]
                assert float((found - expected).abs().max()) < TOLERANCE
        plain = host.model(**batch.inputs).logits[torch.arange(len(last)), last]
        changed = max(changed, float((plain - expected).abs().max()))
    assert changed > CONTROL, "dropping and merging changed nothing"
