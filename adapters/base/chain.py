"""Chains: compressors one after the other under one budget, such as ``storm+st_simdiff``.

Dimensions: T frames of P = H*W tokens, N = T*P in, K out, D width; T' frames are left between stages.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from framefold.adapters.core.budget import AUTO, Budget, budget_tokens
from framefold.adapters.core.parameters import check_params, init_params
from framefold.adapters.core.registry import JOINT, get, make, register_chain_factory
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.segments import segment_sum
from framefold.errors import InputError, UnknownCompressorError
from framefold.messages import short

from .chain_stages import Run, Seen, are_frames, compose, encode_stage, frames_for, handed_on, scores_of, stage_budget
from .compressor import Compressor

MOST_STAGES = 8


class Chain(Compressor):
    """Runs registered compressors in order; the last one meets the budget.

    ``build("storm+st_simdiff", 0.1, storm={"layers": 1})`` makes the class for that name: a keyword for each stage
    (``pool`` and ``pool_2`` where one occurs twice) with a dict of that stage's own parameters. A chain is trained,
    saved and loaded as one adapter, and is in no list of registered names. Each stage but the last is either

    - an encoder (``encodes``): its learned part alone is run, not its reduction; or
    - a reducer, which must leave whole frames, such as ``uniform``, ``pool``, or ``scene_mean`` and ``fila`` with
      ``scene_goal=1``. The next stage sees them as a video of fewer frames, at the times of their anchors.

    With r reducers to come, the last stage included, that reduce n tokens to k, the first of them gets T' = the whole
    number nearest to (n^(r-1) * k)^(1/r) / P, so that all take equal ratios (a single one: the geometric middle of n
    and k), but at least ceil(k / P). Received attention of a merged token is the mean over those it stands for, on the
    scale of the others.

    The output is in terms of the original video: ``assign`` goes through all stages, a token that one of them drops is
    dropped. Losses are named by their stage (``qtsplus/kv``). ``scores`` are those of the stage that scores, each
    original token with that of its row; None where several stages do, or tokens were dropped before.

    At the start of training a chain is its ``counterpart``, to the bit: without its encoders, which start at identity,
    and with other trained stages replaced by their own.

    Args:
        budget: retention ratio or tokens per video of the whole chain; "auto" where the last stage predicts it.

    Raises:
        ConfigError: parameters of a stage are unknown, of a wrong type or out of range.
        InputError: a stage before the last does not leave whole frames, or what the stages themselves raise.
    """

    parts: ClassVar[tuple[type[Compressor], ...]] = ()
    labels: ClassVar[tuple[str, ...]] = ()  # keyword of each part

    def __init__(self, budget: Budget | str = 0.25, **params: dict[str, Any]) -> None:
        super().__init__(budget)
        checked = check_params(type(self), params)
        budgets = [*[1.0] * (len(self.parts) - 1), self.budget]
        stages = zip(self.parts, budgets, self.labels, strict=True)
        self.stages = nn.ModuleList(make(part, own, checked.get(label, {})) for part, own, label in stages)
        self.exact_budget, self.predicts_budget = self._last.exact_budget, self._last.predicts_budget

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        seen, runs = self._front(video, k, query)
        last, dense = self._last, seen.video
        last.budget = self.budget if self.budget == AUTO or len(dense) == len(video) else stage_budget(last, k, dense)
        runs.append(Run(self.labels[-1], last(dense, query), seen.assign))
        tokens = runs[-1].out.tokens
        out = replace(
            video,
            features=self._touched(tokens.features),
            index=seen.index[tokens.index],
            size=segment_sum(dense.size, tokens.assign, len(tokens)),
            assign=compose(seen.assign, tokens.assign),
        )
        losses = {f"{run.label}/{name}": loss for run in runs for name, loss in run.out.losses.items()}
        return Compressed(out, losses, scores_of(runs))

    def limit(self, n: int) -> int:
        return self._last.limit(n)

    def encode(self, video: VideoTokens, query: Tensor | None = None) -> VideoTokens:
        for stage in self._stages:
            video = encode_stage(stage, video, query)
        return video

    def events(self, video: VideoTokens) -> Tensor | None:
        """(N,) bool, the tokens whose row is an event for the last stage, in the video that it sees.

        None where it does not look, or where the stages before it need more than the video.
        """
        if self.query_aware or self.needs_attention:
            return None
        k = self.limit(len(video)) if self.budget == AUTO else budget_tokens(self.budget, len(video))
        self.materialize(video.width, video.grid[1:], video.features.device)
        seen, _ = self._front(video, k, None)
        events = self._last.events(seen.video)
        return None if events is None else torch.cat([events, events.new_zeros(1)])[seen.assign]

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        for stage in self._stages:  # frames are left whole, so all see the same (H, W)
            stage.materialize(width, grid, device)

    def synchronize(self) -> None:
        for stage in self._stages:
            stage.synchronize()

    @classmethod
    def upgrade_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        parts = dict(zip(cls.labels, cls.parts, strict=True))
        known = {
            label: parts[label].upgrade_params(own) for label, own in params.items() if _is_stage(label, own, parts)
        }
        return {**params, **known}

    def params(self) -> dict[str, Any]:
        return {label: stage.params() for label, stage in zip(self.labels, self._stages, strict=True)}

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (self.parts,), self.__dict__  # the class is made on demand: no import finds it by its name

    @property
    def _stages(self) -> list[Compressor]:
        return cast(list[Compressor], list(self.stages))

    @property
    def _last(self) -> Compressor:
        return cast(Compressor, self.stages[-1])

    def _touched(self, features: Tensor) -> Tensor:
        """The same features, with gradients for the parameters of encoders' reductions, which are not run."""
        for stage in self._stages[:-1]:
            if stage.encodes and torch.is_grad_enabled():
                features = features + stage.touch()
        return features

    def _front(self, video: VideoTokens, k: int, query: Tensor | None) -> tuple[Seen, list[Run]]:
        """Run all stages but the last: what that one sees, and what the reducers returned."""
        seen, runs = Seen(video, video.index, video.assign), []
        for i, (label, stage) in enumerate(zip(self.labels[:-1], self._stages[:-1], strict=True)):
            if stage.encodes:
                seen = replace(seen, video=encode_stage(stage, seen.video, query))
                continue
            reducers = 1 + sum(not part.encodes for part in self.parts[i:-1])
            stage.budget = stage_budget(stage, frames_for(k, seen.video, reducers) * video.per_frame, seen.video)
            runs.append(Run(label, stage(seen.video, query), seen.assign))
            tokens = runs[-1].out.tokens
            if not are_frames(tokens) or len(tokens) < k:
                raise InputError(
                    f"{self.name}: {label} left {len(tokens)} tokens, but it must leave whole frames of"
                    f" {video.per_frame}, and at least the budget of {k}: before the last stage there can be encoders,"
                    " uniform, pool with spatial=1, or scene_mean and fila with scene_goal=1"
                )
            assign = compose(seen.assign, tokens.assign)
            seen = Seen(handed_on(seen.video, tokens), seen.index[tokens.index], assign)
        return seen, runs


@cache
def _chain_of(parts: tuple[type[Compressor], ...]) -> type[Chain]:
    name, last = JOINT.join(part.name for part in parts), parts[-1]
    places, labels, seen = _counterparts(parts), [], Counter[str]()
    for part in parts:
        seen[part.name] += 1
        labels.append(part.name if seen[part.name] == 1 else f"{part.name}_{seen[part.name]}")
    fields = {
        "__doc__": f"The chain {name}, see :class:`Chain`; a dict of parameters for each of {', '.join(labels)}.",
        "__module__": __name__,
        "__signature__": _signature(name, labels),
        "parts": parts,
        "labels": tuple(labels),
        "trainable": any(part.trainable for part in parts),
        "counterpart": None if places is None else JOINT.join(other for _, other in places),
        "query_aware": any(part.query_aware for part in parts),
        "needs_attention": any(part.needs_attention for part in parts),
        "encodes": all(part.encodes for part in parts),
        "predicts_budget": last.predicts_budget,
        "exact_budget": last.exact_budget,
    }
    made = cast(type[Chain], type(f"Chain[{name}]", (Chain,), fields))
    made.name = name  # not among the fields, which would register it
    return made


def chain_class(name: str) -> type[Chain]:
    """The class of a chain: names of registered compressors, joined by "+"; the same one at each call.

    Raises:
        UnknownCompressorError: a stage is not registered, there are too many, or their names cannot be keywords.
    """
    stages = name.split(JOINT, MOST_STAGES)
    if len(stages) > MOST_STAGES:
        raise UnknownCompressorError(f"a chain has at most {MOST_STAGES} stages, {short(name)} has more")
    try:
        return _chain_of(tuple(get(stage) for stage in stages))
    except UnknownCompressorError as error:
        raise UnknownCompressorError(f"{short(name)} is no chain of registered names: {error}") from error


def counterpart_params(cls: type[Compressor], params: Mapping[str, Any]) -> dict[str, Any]:
    """Those parameters of a trained compressor that its training-free counterpart has too; in a chain by stages."""
    if cls.counterpart is None:
        return {}
    other = get(cls.counterpart)
    if not issubclass(cls, Chain):
        return {name: value for name, value in params.items() if name in init_params(other)}
    taken = []
    for i, _ in _counterparts(cls.parts) or ():
        part, values = cls.parts[i], params.get(cls.labels[i], {})
        taken.append(counterpart_params(part, values) if part.trainable else dict(values))
    return dict(zip(other.labels, taken, strict=True)) if issubclass(other, Chain) else taken[0]


def _blank(parts: tuple[type[Compressor], ...]) -> Chain:
    cls = _chain_of(parts)
    return cls.__new__(cls)


def _signature(name: str, labels: list[str]) -> inspect.Signature:
    word = inspect.Parameter.POSITIONAL_OR_KEYWORD
    budget = inspect.Parameter("budget", word, default=0.25, annotation=Budget | str)
    try:
        only = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([budget, *(inspect.Parameter(n, only, default={}, annotation=dict) for n in labels)])
    except ValueError as error:
        raise UnknownCompressorError(f"the stages of {name} cannot be keywords of one call: {error}") from error


def _counterparts(parts: tuple[type[Compressor], ...]) -> list[tuple[int, str]] | None:
    """Which parts the training-free counterpart keeps, and what stands there; None if there is no counterpart."""
    if not any(part.trainable for part in parts):
        return None
    kept = []
    for i, part in enumerate(parts):
        if not part.trainable:
            kept.append((i, part.name))
        elif part.counterpart is None:
            return None
        elif i + 1 == len(parts) or not part.encodes:
            kept.append((i, part.counterpart))
    return kept


def _is_stage(label: str, params: Any, parts: Mapping[str, type[Compressor]]) -> bool:
    return label in parts and isinstance(params, Mapping)


register_chain_factory(chain_class)
