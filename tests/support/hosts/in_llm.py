"""Stand-ins that act inside the language model, and what hosts should return with them.

Nothing here calls the hooks under test, except that :func:`recording_runs` tells which columns were dropped. What is
dropped is masked in the bare host, and what is merged is computed by a loop over the host's layers.

Dimensions: B rows, L columns, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from framefold.adapters import Compressor, VideoTokens
from framefold.adapters.base.in_llm import Decision, InLLM
from framefold.adapters.compressors.sttm import STTM
from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.hosts.hooks import layer_hooks
from framefold.adapters.hosts.hooks.layer_run import LayerRun
from framefold.adapters.ops.selection import exact_topk
from tests.support.fusion_rule import FusionByTheRule
from tests.support.hosts.bare_hosts import Batch, Host
from tests.support.hosts.layer_loop import loop_over_layers
from tests.support.hosts.oracles import grid_columns

LAYERS = 4  # of the hosts of these tests


class StandIn(InLLM):
    """Acts in given layers; no number of tokens is binding."""

    def __init__(self, *acts: int) -> None:
        super().__init__()
        self.layers = acts

    def acts(self, layers: int) -> tuple[int, ...]:
        return self.layers

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        return (0,) * len(self.layers)


class KeepAll(StandIn):
    """Reads attention and keeps every token."""

    reads = True

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        assert received is not None and len(received) == len(video) and bool((received > 0).all())
        return Decision(torch.arange(len(video)))


class KeepAllOnInput(StandIn):
    """Keeps every token before a layer."""

    site = "input"

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        return Decision(torch.arange(len(video)))


class KeepThird(StandIn):
    """Keeps a third of the tokens, those that the prompt attends to most."""

    reads = True

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        assert received is not None
        return Decision(exact_topk(received, -(-len(video) // 3)))


class KeepAboveMean(StandIn):
    """Keeps the tokens whose attention is above the mean, so that counts differ by video."""

    reads = True

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        assert received is not None
        return Decision((received >= received.mean()).nonzero()[:, 0])


def pair_frames(video: VideoTokens) -> Decision:
    """Return the decision to join the tokens of two frames at each place."""
    frame, place = video.index // video.per_frame, video.index % video.per_frame
    _, group = (frame // 2 * video.per_frame + place).unique(return_inverse=True)
    first = torch.stack([(group == g).nonzero()[0, 0] for g in range(int(group.max()) + 1)])
    order = first.argsort()
    return Decision(first[order], order.argsort()[group])


class JoinPairs(StandIn):
    """Joins pairs of frames after the attention of a layer."""

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        return pair_frames(video)


class JoinPairsOnInput(JoinPairs):
    """Joins pairs of frames before a layer."""

    site = "input"


class Acting(Compressor):
    """Keeps every second token, or all, and has a stand-in that acts inside the language model."""

    exact_budget = False

    def __init__(self, in_llm: InLLM | None = None, every: int = 1) -> None:
        super().__init__(1.0)
        self.name, self.in_llm, self.every = "acting", in_llm, every

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video.keep(torch.arange(0, len(video), self.every))


@contextmanager
def recording_runs() -> Iterator[list[LayerRun]]:
    """Collect the runs of all prompts."""
    runs: list[LayerRun] = []
    original = layer_hooks.start_run

    def start(*args: Any) -> Any:
        run, changes = original(*args)
        runs.append(run)
        return run, changes

    layer_hooks.start_run = start
    try:
        yield runs
    finally:
        layer_hooks.start_run = original


@contextmanager
def masking(host: Host, run: LayerRun) -> Iterator[None]:
    """Mask, in each layer of a host with eager attention, the columns that a run no longer has there."""

    def mask_columns(number: int, layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        gone, mask = run.layout(number).where < 0, kwargs["attention_mask"]
        gone = torch.nn.functional.pad(gone, (0, mask.shape[-1] - gone.shape[1]))[:, None, None]
        return args, {**kwargs, "attention_mask": mask.masked_fill(gone, torch.finfo(mask.dtype).min)}

    layers = host.language.layers
    hooks = [
        layer.register_forward_pre_hook(functools.partial(mask_columns, number), with_kwargs=True)
        for number, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def kept_columns(run: LayerRun) -> Tensor:
    """Return a (B, L) mask of the columns that the last layer has."""
    return (run.last.where >= 0) & run.mask


def run_joined(batch: Batch, layer: int, on_input: bool) -> tuple[Tensor, list[int]]:
    """Return the logits of the last column of one row, joining pairs of frames, and the length of each layer.

    Args:
        batch: one row without padding, for a host with eager attention.
        layer: layer that joins.
        on_input: before this layer, or after its attention.
    """
    pairs = _pairs(batch)

    def join(number: int, hidden: Tensor, left: list[int], received: Tensor) -> tuple[Tensor, list[int]]:
        if number != layer:
            return hidden, list(range(len(left)))
        return _join(hidden, left, pairs), [place for place, column in enumerate(left) if column not in pairs]

    return loop_over_layers(batch, on_input=join) if on_input else loop_over_layers(batch, join)


def run_fusion(batch: Batch, budget: float, threshold: float, least: float) -> tuple[Tensor, list[int]]:
    """Return the same for FrameFusion; there is one video."""
    (columns,) = grid_columns(batch)
    columns = columns.flatten().tolist()
    index = {column: token for token, column in enumerate(columns)}
    k = budget_tokens(budget, len(columns))
    rule = FusionByTheRule(LAYERS, k, len(columns) // batch.frames[0][0], threshold, least)

    def fuse(number: int, hidden: Tensor, left: list[int], received: Tensor) -> tuple[Tensor, list[int]]:
        if number == LAYERS - 1:
            return hidden, list(range(len(left)))
        visual = [place for place, column in enumerate(left) if column in index]
        tokens = [index[left[place]] for place in visual]
        members = rule.step(number, hidden[visual], tokens, received[visual].tolist())
        new = hidden.clone()
        for row, group in members.items():
            new[visual[row]] = hidden[[visual[member] for member in group]].mean(0)
        gone = set(visual) - {visual[row] for row in members}
        return new, [place for place in range(len(left)) if place not in gone]

    return loop_over_layers(batch, fuse)


def run_sttm(batch: Batch, budget: float, layer: int) -> tuple[Tensor, list[int]]:
    """Return the same for STTM before a layer; there is one video, without padding in front of it."""
    (columns,) = grid_columns(batch)
    n, frames = columns.numel(), batch.frames[0][0]
    k = (LAYERS * budget_tokens(budget, n) - layer * n) // (LAYERS - layer)

    def merge(number: int, hidden: Tensor, left: list[int], received: Tensor) -> tuple[Tensor, list[int]]:
        if number != layer:
            return hidden, list(range(len(left)))
        states = hidden[columns.flatten()]
        groups = STTM(k).groups(VideoTokens.from_grid(states.view(frames, *batch.host.tiny.grid, -1)), k).flatten()
        new, stay = hidden.clone(), set(range(len(left))) - set(columns.flatten().tolist())
        for group in range(k):
            members = (groups == group).nonzero()[:, 0]
            first = int(columns.flatten()[members[0]])
            new[first] = states[members].mean(0)
            stay.add(first)
        return new, sorted(stay)

    return loop_over_layers(batch, on_input=merge)


def _pairs(batch: Batch) -> dict[int, int]:
    """Return, by column, the column of the same place in the frame before, for every second frame."""
    pairs = {}
    for frames, columns in zip(batch.frames[0], grid_columns(batch), strict=True):
        grid = columns.view(frames, -1).tolist()
        for first, second in zip(grid[::2], grid[1::2], strict=False):
            pairs |= dict(zip(second, first, strict=True))
    return pairs


def _join(hidden: Tensor, left: Sequence[int], pairs: dict[int, int]) -> Tensor:
    hidden = hidden.clone()
    for second, first in pairs.items():
        a, b = left.index(first), left.index(second)
        hidden[a] = (hidden[a] + hidden[b]) / 2
    return hidden


Make = Callable[[], InLLM]
KEEPING: dict[str, Make] = {
    "after one attention": functools.partial(KeepAll, 1),
    "after two": functools.partial(KeepAll, 0, 2),
    "on input": functools.partial(KeepAllOnInput, 2),
}
DROPPING: dict[str, Make] = {
    "once": functools.partial(KeepThird, 1),
    "twice": functools.partial(KeepThird, 0, 1),
    "different counts": functools.partial(KeepAboveMean, 0),
}
