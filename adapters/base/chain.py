"""Chains: compressors that run one after the other under one budget, such as ``storm+st_simdiff``.

Dimensions: T frames of P = H*W tokens, N = T*P in, K out, D width; T' frames remain between stages.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from framefold.adapters.core.budget import AUTO, Budget, budget_tokens
from framefold.adapters.core.language_model import LanguageModelShape
from framefold.adapters.core.parameters import check_params
from framefold.adapters.core.registry import (
    CHAIN_SEPARATOR,
    compressor_class,
    create_compressor,
    register_chain_factory,
)
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.segments import segment_sum
from framefold.errors import ConfigError, InputError, UnknownCompressorError
from framefold.messages import short

from .chain_stages import (
    StageInput,
    StageOutput,
    compose_assignments,
    frames_as_video,
    is_whole_frames,
    original_scores,
    run_encoder,
    stage_budget,
    target_frames,
    tokens_before_last,
)
from .compressor import Compressor

MAX_STAGES = 8


class Chain(Compressor):
    """Runs registered compressors in order; the last one meets the budget.

    ``build("storm+st_simdiff", 0.1, storm={"layers": 1})`` creates the class for that name. It has a keyword for each
    stage (``pool`` and ``pool_2`` if one occurs twice) that takes a dict of the parameters of that stage. A chain is
    trained, saved and loaded as one adapter; it is not listed among the registered names. Each stage but the last is
    either

    - an encoder (``encodes``), of which only the learned encoder is run, not the reduction; or
    - a reducer that keeps whole frames, such as ``uniform``, ``pool``, or ``scene_mean`` and ``fila`` with
      ``scene_goal=1``. The next stage receives them as a video of fewer frames, at the times of their anchors.

    If r reducers remain, including the last stage, and must reduce n tokens to k, the first of them keeps T' frames,
    the integer nearest to (n^(r-1) * k)^(1/r) / P, so that all have equal ratios (for r = 2, the geometric mean of n
    and k), but at least ceil(k / P). The received attention of a merged token is the mean over the tokens it
    represents.

    The output refers to the original video: ``assign`` is composed over all stages. Losses are prefixed with their
    stage (``qtsplus/kv``). ``scores`` are those of the only stage that scores, expanded to the original tokens; None
    if several stages score, or if tokens were dropped before.

    Before training, a chain equals its ``counterpart`` bit by bit: the chain without its encoders, which start as the
    identity, and with the other trainable stages replaced by their own counterparts.

    Args:
        budget: retention ratio or tokens per video of the whole chain; "auto" if the last stage predicts it.

    Raises:
        ConfigError: parameters of a stage are unknown, of a wrong type or out of range.
        InputError: a stage before the last does not keep whole frames; or an error of a stage.
    """

    stage_classes: ClassVar[tuple[type[Compressor], ...]] = ()
    stage_names: ClassVar[tuple[str, ...]] = ()  # keyword of each stage

    def __init__(self, budget: Budget | str = 0.25, **params: dict[str, Any]) -> None:
        super().__init__(budget)
        checked = check_params(type(self), params)
        budgets = [*[1.0] * (len(self.stage_classes) - 1), self.budget]
        stages = zip(self.stage_classes, budgets, self.stage_names, strict=True)
        self.stages = nn.ModuleList(create_compressor(cls, own, checked.get(name, {})) for cls, own, name in stages)
        self.exact_budget, self.predicts_budget = self._last.exact_budget, self._last.predicts_budget
        self.query_aware = any(stage.query_aware for stage in self._stages)  # type: ignore[misc]
        self.needs_attention = any(stage.needs_attention for stage in self._stages)
        self.returns_scores = any(stage.returns_scores for stage in self._stages)
        self.counterpart, _ = self.counterpart_of(checked)
        self.biases_keys = self._last.biases_keys
        self.__dict__["in_llm"] = self._last.in_llm  # not a second submodule
        if any(stage.in_llm is not None for stage in self._stages[:-1]):
            raise ConfigError(f"{self.name}: only the last stage may act inside the language model")

    @property
    def needs_query(self) -> bool:
        return any(stage.needs_query for stage in self._stages)

    def entering(self, k: int, n: int, per_frame: int = 1) -> int:
        encodes = [cls.encodes for cls in self.stage_classes[:-1]]
        return self._last.entering(k, tokens_before_last(k, n, per_frame, encodes))

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        if self.budget != AUTO:
            k = budget_tokens(self.budget, len(video))  # without what the last stage adds to it
        leading = partial(self._run_leading_stages, video, k, query)
        reads_question = any(stage.query_aware for stage in self._stages[:-1])
        last_input, outputs = leading() if reads_question else video.once(self, leading)
        last, dense = self._last, last_input.video
        last.budget = self.budget if self.budget == AUTO or len(dense) == len(video) else stage_budget(last, k, dense)
        outputs = [*outputs, StageOutput(self.stage_names[-1], last(dense, query), last_input.assign)]
        tokens = outputs[-1].out.tokens
        out = replace(
            video,
            features=self._with_zero_gradients(tokens.features),
            index=last_input.index[tokens.index],
            size=segment_sum(dense.size, tokens.assign, len(tokens)),
            assign=compose_assignments(last_input.assign, tokens.assign),
        )
        losses = {f"{output.label}/{name}": loss for output in outputs for name, loss in output.out.losses.items()}
        reads = {name: stage.query_aware for name, stage in zip(self.stage_names, self._stages, strict=True)}
        scoring = [output for output in outputs if reads[output.label] == self.query_aware]
        return Compressed(out, losses, original_scores(scoring), outputs[-1].out.handover, outputs[-1].out.key_bias)

    def limit(self, n: int) -> int:
        return self._last.limit(n)

    def encode(self, video: VideoTokens, query: Tensor | None = None) -> VideoTokens:
        for stage in self._stages:
            video = run_encoder(stage, video, query)
        return video

    def events(self, video: VideoTokens) -> Tensor | None:
        """Return (N,) bool, the tokens whose row in the input of the last stage is an event for that stage.

        None if the last stage detects no events, or if a stage needs a question, or attention that the video lacks.
        """
        if self.query_aware or self.needs_attention and video.attention is None:
            return None
        k = self.limit(len(video)) if self.budget == AUTO else budget_tokens(self.budget, len(video))
        self.materialize(video.width, video.grid[1:], video.features.device)
        last_input, _ = self._run_leading_stages(video, k, None)
        events = self._last.events(last_input.video)
        return None if events is None else torch.cat([events, events.new_zeros(1)])[last_input.assign]

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        for stage in self._stages:  # reducers keep whole frames, so all stages have the same (H, W)
            stage.materialize(width, grid, device)

    def materialize_in_llm(self, shape: LanguageModelShape, device: torch.device | None = None) -> None:
        self._last.materialize_in_llm(shape, device)

    def synchronize(self) -> None:
        for stage in self._stages:
            stage.synchronize()

    @classmethod
    def upgrade_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        classes = dict(zip(cls.stage_names, cls.stage_classes, strict=True))
        known = ((name, own) for name, own in params.items() if name in classes and isinstance(own, Mapping))
        return {**params, **{name: classes[name].upgrade_params(own) for name, own in known}}

    @classmethod
    def counterpart_of(cls, params: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        kept = _counterparts(cls.stage_classes, [params.get(name, {}) for name in cls.stage_names])
        if kept is None:
            return None, {}
        name, values = CHAIN_SEPARATOR.join(other for other, _ in kept), [own for _, own in kept]
        return name, values[0] if len(values) == 1 else dict(zip(chain_class(name).stage_names, values, strict=True))

    def params(self) -> dict[str, Any]:
        return {name: stage.params() for name, stage in zip(self.stage_names, self._stages, strict=True)}

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is created on demand, so pickle cannot import it by name.
        return _new_chain, (self.stage_classes,), self.__dict__

    @property
    def _stages(self) -> list[Compressor]:
        return cast(list[Compressor], list(self.stages))

    @property
    def _last(self) -> Compressor:
        return cast(Compressor, self.stages[-1])

    def _with_zero_gradients(self, features: Tensor) -> Tensor:
        """Return the same features, with zero gradients for parameters of encoders' reductions, which are not run."""
        for stage in self._stages[:-1]:
            if stage.encodes and torch.is_grad_enabled():
                features = features + stage.zero_times_parameters()
        return features

    def _run_leading_stages(
        self, video: VideoTokens, k: int, query: Tensor | None
    ) -> tuple[StageInput, list[StageOutput]]:
        """Run all stages but the last; return the input of the last stage and the outputs of the reducers."""
        current, outputs = StageInput(video, video.index, video.assign), []
        for i, (name, stage) in enumerate(zip(self.stage_names[:-1], self._stages[:-1], strict=True)):
            if stage.encodes:
                current = replace(current, video=run_encoder(stage, current.video, query))
                continue
            reducers = 1 + sum(not cls.encodes for cls in self.stage_classes[i:-1])
            frames = target_frames(k, len(current.video), video.per_frame, reducers)
            stage.budget = stage_budget(stage, frames * video.per_frame, current.video)
            outputs.append(StageOutput(name, stage(current.video, query), current.assign))
            tokens = outputs[-1].out.tokens
            if not is_whole_frames(tokens) or len(tokens) < k:
                raise InputError(
                    f"{self.name}: {name} kept {len(tokens)} tokens, but it must keep whole frames of"
                    f" {video.per_frame} tokens, and at least the budget of {k}: use encoders, uniform, pool with"
                    " spatial=1, or scene_mean and fila with scene_goal=1 before the last stage"
                )
            assign = compose_assignments(current.assign, tokens.assign)
            current = StageInput(frames_as_video(current.video, tokens), current.index[tokens.index], assign)
        return current, outputs


def chain_class(name: str) -> type[Chain]:
    """Return the class of a chain, given names of registered compressors joined by "+"; the same class on every call.

    Raises:
        UnknownCompressorError: a stage is not registered, there are too many stages, or a name cannot be a keyword.
    """
    stages = name.split(CHAIN_SEPARATOR, MAX_STAGES)
    if len(stages) > MAX_STAGES:
        raise UnknownCompressorError(f"a chain has at most {MAX_STAGES} stages, {short(name)} has more")
    try:
        return _chain_of(tuple(compressor_class(stage) for stage in stages))
    except UnknownCompressorError as error:
        raise UnknownCompressorError(f"{short(name)} is not a chain of registered names: {error}") from error


@cache
def _chain_of(classes: tuple[type[Compressor], ...]) -> type[Chain]:
    name, last = CHAIN_SEPARATOR.join(cls.name for cls in classes), classes[-1]
    counterparts, names, count = _counterparts(classes, [{} for _ in classes]), [], Counter[str]()
    for cls in classes:
        count[cls.name] += 1
        names.append(cls.name if count[cls.name] == 1 else f"{cls.name}_{count[cls.name]}")
    fields = {
        "__doc__": f"The chain {name}, see :class:`Chain`; a dict of parameters for each of {', '.join(names)}.",
        "__module__": __name__,
        "__signature__": _signature(name, names),
        "stage_classes": classes,
        "stage_names": tuple(names),
        "trainable": any(cls.trainable for cls in classes),
        "counterpart": None if counterparts is None else CHAIN_SEPARATOR.join(other for other, _ in counterparts),
        "query_aware": any(cls.query_aware for cls in classes),
        "needs_attention": any(cls.needs_attention for cls in classes),
        "encodes": all(cls.encodes for cls in classes),
        "predicts_budget": last.predicts_budget,
        "exact_budget": last.exact_budget,
    }
    chain = cast(type[Chain], type(f"Chain[{name}]", (Chain,), fields))
    chain.name = name  # not in the fields, because defining it in the class body would register the class
    return chain


def _new_chain(classes: tuple[type[Compressor], ...]) -> Chain:
    """Create an uninitialized chain, for pickle."""
    cls = _chain_of(classes)
    return cls.__new__(cls)


def _signature(name: str, stages: list[str]) -> inspect.Signature:
    budget = inspect.Parameter("budget", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=0.25, annotation=Budget | str)
    try:
        only = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([budget, *(inspect.Parameter(s, only, default={}, annotation=dict) for s in stages)])
    except ValueError as error:
        raise UnknownCompressorError(f"the stages of {name} cannot be keywords of one call: {error}") from error


def _counterparts(
    classes: tuple[type[Compressor], ...], params: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, Any]]] | None:
    """Return name and parameters of each stage of the training-free counterpart; None if there is no counterpart."""
    if not any(cls.trainable for cls in classes):
        return None
    kept: list[tuple[str, dict[str, Any]]] = []
    for i, (cls, own) in enumerate(zip(classes, params, strict=True)):
        name, values = cls.counterpart_of(own) if cls.trainable else (cls.name, dict(own))
        if name is None:
            return None
        if i + 1 == len(classes) or not (cls.trainable and cls.encodes):
            kept.append((name, values))
    return kept


register_chain_factory(chain_class)
