"""Stages in the language model that drop, merge and weigh tokens at random, and what a host should return with them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from framefold.adapters import VideoTokens
from framefold.adapters.base.in_llm import Decision
from tests.support.hosts.bare_hosts import Batch
from tests.support.hosts.in_llm import StandIn
from tests.support.hosts.layer_loop import loop_over_layers
from tests.support.hosts.oracles import grid_columns


@dataclass(frozen=True)
class Choices:
    """Random decisions, which depend only on the seed, the layer and the tokens.

    Attributes:
        site: site of the stage.
        acts: layers in which it acts.
        seed: seed of the decisions.
    """

    site: Literal["after_attention", "input"]
    acts: tuple[int, ...]
    seed: int

    @classmethod
    def draw(cls, seed: int, layers: int) -> Choices:
        """Return random choices for a language model of n layers."""
        rng = random.Random(seed)
        on_input = rng.random() < 0.5
        acts = rng.sample(range(on_input, layers - 1 + on_input), rng.randint(1, layers - 1))
        return cls("input" if on_input else "after_attention", tuple(sorted(acts)), seed)

    def decide(self, layer: int, index: list[int]) -> Decision:
        """Return the decision about the tokens with these original numbers."""
        rng, n = random.Random(f"{self.seed} {layer} {index}"), len(index)
        rows = sorted(rng.sample(range(n), rng.randint(max(1, n // 3), n)))
        if rng.random() < 0.3:
            return Decision(torch.tensor(rows))
        group = [rng.randrange(len(rows)) if rng.random() < 0.7 else -1 for _ in index]
        for row, token in enumerate(rows):
            group[token] = row
        weight = torch.tensor([rng.uniform(0.1, 1) * (one >= 0) for one in group])
        total = torch.zeros(len(rows)).index_add_(0, torch.tensor(group).clamp(min=0), weight)
        weight = weight / total[torch.tensor(group).clamp(min=0)]
        return Decision(torch.tensor(rows), torch.tensor(group), weight if rng.random() < 0.5 else None)


class RandomStage(StandIn):
    """Decides by ``choices`` after the attention."""

    def __init__(self, choices: Choices) -> None:
        super().__init__(*choices.acts)
        self.choices = choices

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        return self.choices.decide(layer, video.index.tolist())


class RandomStageOnInput(RandomStage):
    """Decides by ``choices`` on the states that enter a layer."""

    site = "input"


def run_choices(batch: Batch, choices: Choices) -> Tensor:
    """Return the logits of the last column of one row, from a loop over the layers of the bare host."""
    videos = [{column: token for token, column in enumerate(own.flatten().tolist())} for own in grid_columns(batch)]

    def reduce(number: int, hidden: Tensor, left: list[int], received: Tensor) -> tuple[Tensor, list[int]]:
        if number not in choices.acts:
            return hidden, list(range(len(left)))
        new, stay = hidden.clone(), set(range(len(left)))
        for video in videos:
            places = [place for place, column in enumerate(left) if column in video]
            decision = choices.decide(number, [video[left[place]] for place in places])
            stay -= set(places) - {places[row] for row in decision.rows.tolist()}
            for group, row in enumerate(decision.rows.tolist()) if decision.group is not None else ():
                members = [token for token in range(len(places)) if decision.group[token] == group]
                weights = [1 / len(members) if decision.weight is None else decision.weight[one] for one in members]
                new[places[row]] = sum(w * hidden[places[one]] for w, one in zip(weights, members, strict=True))
        return new, sorted(stay)

    before_layers = choices.site == "input"
    return loop_over_layers(batch, **{"on_input" if before_layers else "after_attention": reduce})[0]
