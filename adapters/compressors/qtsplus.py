"""QTSplus: query-aware selection by cross-attention from the question to the tokens (arXiv 2511.11910)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import AUTO, Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.budget_head import BudgetHead
from framefold.adapters.layers.context_network import ContextNetwork, check_context, unit_frames
from framefold.adapters.layers.cross_attention import CrossAttentionBlock
from framefold.adapters.layers.soft_threshold import soft_threshold
from framefold.adapters.layers.time_encoding import TIME_FEATURES, time_features
from framefold.adapters.ops.selection import top_and_even
from framefold.adapters.reference import qtsplus as release
from framefold.errors import ConfigError

EPS = 1e-12  # small, because the scale of features differs between hosts by orders of magnitude
MAX_SIZE = 2**20  # of any size parameter; a config could otherwise request any amount of memory


class QTSplus(Compressor):
    """Keeps the tokens that the question attends to most, some tokens for coverage, and re-encodes them.

    The score of a token is the logarithm of its largest attention weight over heads and words of the question, in the
    last scoring block. Of k tokens, round(coverage * k) are evenly spaced among those that are not selected by score;
    the others have the highest scores. Re-encoding is self-attention among the kept tokens and starts as the identity.

    During training, the selection by score is sampled: logistic noise is added to the scores minus the soft threshold
    that keeps as many tokens in expectation, in units of ``tau``. The gate is a log-bias (of value zero) on attention
    to a token in the re-encoding; multiplied by the token itself, the norms of the host would cancel it. The scores are
    returned for distillation (``training/losses.py``), which trains the selection.

    With ``budget="auto"``, a head predicts a ratio between rho_min and rho_max from question and scores; its cost is
    added to the losses ("flops", "kv", "smooth").

    ``variant="official"`` is the release (:mod:`~framefold.adapters.reference.qtsplus`), applied to single videos:
    scores are attention weights, there is no coverage and no encoding of time, and re-encoding starts with random
    weights. At inference, a given budget is met exactly; during training, the gate samples any number of tokens and
    scales them. "auto" follows the rule of the release, whose mean of ratios includes every call and is not saved.

    Args:
        budget: retention ratio or tokens per video, or "auto".
        variant: "exact", or "official" for the release, which ignores coverage and noise.
        coverage: fraction of the budget for evenly spaced tokens.
        scoring_layers: number of scoring blocks.
        reencode_layers: number of re-encoding blocks.
        context: widths of the layers of a network that adds the surroundings of a token to its keys, see
            :class:`~framefold.adapters.layers.context_network.ContextNetwork`; empty: none, as in "official".
        heads: number of attention heads; None: one per 64 channels.
        kv_heads: number of key-value heads; None: as many as heads.
        tau: temperature of the gate.
        noise: scale of the logistic noise during training.
        rho_min: lower bound of predicted ratios; 0 only for "official".
        rho_max: upper bound of predicted ratios.
        n_max: maximum number of tokens that "auto" keeps.
        cost_flops: weight of the loss "flops" of a predicted budget.
        cost_kv: the same of the loss "kv".
        cost_smooth: the same of the loss "smooth".
        budget_head: create the head that predicts budgets; None: if the budget is "auto".
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError, InputError: a parameter is out of range; the width of the video is not that of the weights.
    """

    name = "qtsplus"
    paper = "QTSplus, arXiv 2511.11910"
    keeps = "tokens that the question attends to, and evenly spaced tokens"
    cost = "keys of all tokens per scoring block, and self-attention among the k kept tokens"
    growth = "quadratic"
    licence = "MIT"
    deviations = "adds evenly spaced tokens, encodes time, re-encodes from the identity, and never samples the count"
    trainable: ClassVar[bool] = True
    query_aware: ClassVar[bool] = True
    returns_scores = True
    predicts_budget = True

    def __init__(
        self,
        budget: Budget | str = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        coverage: float = 0.5,
        scoring_layers: int = 1,
        reencode_layers: int = 1,
        context: tuple[int, ...] = (),
        heads: int | None = None,
        kv_heads: int | None = None,
        tau: float = 0.5,
        noise: float = 1.0,
        rho_min: float = 0.05,
        rho_max: float = 0.5,
        n_max: int = 2560,
        cost_flops: float = 0.1,
        cost_kv: float = 0.17,
        cost_smooth: float = 0.05,
        budget_head: bool | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(budget)
        self.variant = variant
        self.coverage, self.scoring_layers, self.reencode_layers = coverage, scoring_layers, reencode_layers
        self.heads, self.kv_heads, self.dim, self.n_max, self.context = heads, kv_heads, dim, n_max, context
        self.tau, self.noise, self.rho_min, self.rho_max = tau, noise, rho_min, rho_max
        self.cost_flops, self.cost_kv, self.cost_smooth = cost_flops, cost_kv, cost_smooth
        self.budget_head = self.budget == AUTO if budget_head is None else budget_head
        check_context(self.name, context)
        self._check()
        self.predicts_budget, self.ratios = self.budget_head, release.RunningMean()  # ratios for "official"
        self.budget, self.exact_budget = budget, variant == "exact"  # "auto" is valid only with a head; see train()
        self.scoring: nn.ModuleList | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def _check(self) -> None:
        sizes = ("scoring_layers", "n_max", "heads", "kv_heads", "dim")
        wrong = [key for key in sizes if (value := getattr(self, key)) is not None and not 1 <= value <= MAX_SIZE]
        wrong += [key for key in ("cost_flops", "cost_kv", "cost_smooth", "noise") if getattr(self, key) < 0]
        fits = {"variant": self.variant in ("exact", "official"), "coverage": 0 <= self.coverage <= 1}
        fits |= {"reencode_layers": 0 <= self.reencode_layers <= MAX_SIZE, "tau": self.tau > 0}
        fits |= {"context": not self.context or self.variant == "exact"}
        wrong += [key for key, fit in fits.items() if not fit]
        least = self.rho_min > 0 or self.rho_min == 0 < self.rho_max and self.variant == "official"
        wrong += [] if least and self.rho_min <= self.rho_max <= 1 else ["rho_min", "rho_max"]
        if wrong:
            values = ", ".join(f"{key}={getattr(self, key)}" for key in wrong)
            raise ConfigError(f"{self.name}: out of range: {values}")

    @classmethod
    def upgrade_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Convert ``variant: corrected``, which framefold 0.1.0 saved, to ``exact``."""
        return {**params, "variant": "exact"} if params.get("variant") == "corrected" else dict(params)

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.scoring is None:
            self.heads = self.heads or max(1, width // 64)
            self.kv_heads = self.kv_heads or self.heads
            self._create_modules(width, self.heads, self.kv_heads)
            self.to(device)

    def _create_modules(self, width: int, heads: int, kv_heads: int) -> None:
        last, exact = self.scoring_layers - 1, self.variant == "exact"
        block = partial(CrossAttentionBlock, width, heads, kv_heads, key_bias=not exact)
        scoring = [block(scores_only=exact and i == last) for i in range(self.scoring_layers)]
        reencode = [block(identity=exact) for _ in range(self.reencode_layers)]
        self.scoring, self.reencode = nn.ModuleList(scoring), nn.ModuleList(reencode)
        if exact:
            self.time = nn.Linear(TIME_FEATURES, width, bias=False)
            nn.init.zeros_(self.time.weight)
        self.surroundings = ContextNetwork(width, self.context, width) if exact and self.context else None
        self.head = BudgetHead(width, self.rho_min, self.rho_max) if self.budget_head else None

    def init_from_layers(self, layers: Sequence[Mapping[str, Tensor]], heads: int, kv_heads: int) -> dict[str, bool]:
        """Initialize scoring blocks from the last decoder layer, and re-encoding block i from layer i.

        All modules are recreated with the heads of the host. Output projections of the re-encoding stay zero unless the
        variant is "official", so that it still starts as the identity.

        Raises:
            ConfigError: the parameters have not been created, or the width is not divisible by the heads.
        """
        if self.scoring is None or self.dim is None:
            raise ConfigError(f"{self.name} has no weights yet: call materialize(), or set dim")
        like = next(self.parameters())
        self._create_modules(self.dim, heads, kv_heads)
        self.heads, self.kv_heads = heads, kv_heads
        self.to(like.device, like.dtype).train(self.training)
        zero = () if self.variant == "official" else ("o_proj.weight",)
        fitted: dict[str, bool] = {}
        for name, blocks, keep in (("scoring", self.scoring, ()), ("reencode", self.reencode, zero)):
            for i, block in enumerate(blocks):
                layer = layers[-1 if name == "scoring" else min(i, len(layers) - 1)]
                assert isinstance(block, CrossAttentionBlock)
                fitted |= {f"{name}.{i}.{key}": fits for key, fits in block.copy_layer(layer, keep).items()}
        return fitted

    def limit(self, n: int) -> int:
        return n if self.variant == "official" and self.training else min(n, self.n_max)

    def train(self, mode: bool = True) -> QTSplus:
        """Set the mode; in training mode, the gate of ``official`` keeps any number of tokens."""
        self.exact_budget = self.variant == "exact" or not mode
        return super().train(mode)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        assert query is not None and self.scoring is not None  # checked and created by forward()
        if self.variant == "official":
            return self._compress_official(video, k, query)
        question = query.to(self.time.weight.dtype)
        position, keys = video.once(self, partial(self._read_video, video))
        scores = self.score(video, question, position, keys)
        losses: dict[str, Tensor] = {}
        expected: Tensor = scores.new_tensor(float(k))
        if self.head is not None:
            ratio = self.head(question, scores)
            losses = self._costs(ratio, len(video))
            if self.budget == AUTO:
                expected = (ratio * len(video)).clamp(1, k)
                k = min(k, int(torch.ceil(expected.detach())))
        rows, log_gate = self._select(scores, k, expected)
        kept = video.keep(rows)
        change = self._reencode(kept.features, position[rows], log_gate)
        return Compressed(replace(kept, features=kept.features + change.to(kept.features.dtype)), losses, scores)

    def _reencode(self, tokens: Tensor, position: Tensor, log_gate: Tensor) -> Tensor:
        """Return the (K, D) change of the kept tokens, computed in units of their RMS to suit hosts of any scale."""
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add(EPS).sqrt()
        start = x = (wide / scale).to(position.dtype)
        blocks: Any = self.reencode
        for block in blocks:
            x = block.reencode(x, position, log_gate)
        return (x - start).to(wide.dtype) * scale + 0.0 * log_gate.sum()  # which the scores need if there are no blocks

    def _read_video(self, video: VideoTokens) -> tuple[Tensor, Tensor]:
        """Return (N, D) of time and surroundings, which is added to the tokens, and the keys of the last block."""
        dtype = self.time.weight.dtype
        position = self.time(time_features(video).to(dtype))
        if self.surroundings is not None:
            position = position + self.surroundings(unit_frames(video.features, video.grid)).to(dtype)
        last: Any = self.scoring[-1]  # type: ignore[index]
        return position, last.project_keys(video.features.to(dtype), position)

    def score(self, video: VideoTokens, question: Tensor, position: Tensor, keys: Tensor) -> Tensor:
        """Return the (N,) logarithms of the largest attention weights, in fp32 or wider; see :meth:`_read_video`."""
        assert self.scoring is not None
        blocks: Any = self.scoring
        for block in blocks[:-1]:
            question, _ = block(question, video.features.to(position.dtype), position)
        logits: Tensor = blocks[-1].logits(question, keys)
        return logits.log_softmax(-1).amax((0, 1))

    def _select(self, scores: Tensor, k: int, expected: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (k,) rows to keep, and their log-gates, zeros with the gradients of the gates.

        ``expected`` is a scalar, the number of tokens before rounding to k.
        """
        count = k - round(self.coverage * k)
        relevance, gate = scores, 0.0 * scores
        if 0 < count < len(scores):
            kept = (expected * (count / k)).clamp(1e-3, len(scores) - 1e-3)
            margin = (scores - soft_threshold(scores, kept, self.tau)) / self.tau
            gate = logsigmoid(margin)
            relevance = margin + self.noise * _logistic(margin) if self.training else scores
        rows, by_score = top_and_even(relevance.detach(), count, k)
        gate = gate[rows] * by_score
        return rows, gate - gate.detach()

    def _compress_official(self, video: VideoTokens, k: int, query: Tensor) -> Compressed:
        """Apply the release to one video; parameters that it does not train get gradients of zero."""
        dtype = next(self.parameters()).dtype
        x, question = video.features.to(dtype), query.to(dtype)
        assert self.scoring is not None
        r = release.score_tokens(self.scoring, x, question).r
        count, losses = r.new_tensor(float(k)), {}
        if self.budget == AUTO:
            assert self.head is not None
            ratio = release.predict_ratio(self.head, question, r)
            mean = self.ratios.add(ratio.detach()[None])
            losses = self._weighted(release.budget_costs(ratio[None], len(video), self.n_max, mean))
            count, k = ratio * len(video), release.count_tokens(ratio, len(video), k)
        if self.training:
            gate = release.sample_gate(r, count, self.tau)
            rows, tokens = gate.rows, release.gate_tokens(x, gate)
        else:
            rows = release.top_rows(r, k)
            tokens = x[rows]
        tokens = release.reencode(self.reencode, [tokens])[0] + self.zero_times_parameters()
        scores = r.float().clamp(min=torch.finfo(torch.float32).tiny).log()
        return Compressed(replace(video.keep(rows), features=tokens.to(video.features.dtype)), losses, scores)

    def _costs(self, ratio: Tensor, n: int) -> dict[str, Tensor]:
        """Return the losses of a predicted ratio during training; zero for a given budget, to provide gradients."""
        assert self.head is not None
        if not self.training:
            return {}
        return self._weighted(self.head.costs(ratio, n, self.n_max)) if self.budget == AUTO else {"flops": 0.0 * ratio}

    def _weighted(self, costs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: getattr(self, f"cost_{name}") * cost for name, cost in costs.items()}

    def synchronize(self) -> None:
        if self.head is not None:
            self.head.synchronize()


def _logistic(like: Tensor) -> Tensor:
    """Sample logistic noise, the difference of two Gumbel variables, which samples a gate with its probability."""
    return torch.rand_like(like).clamp(1e-6, 1 - 1e-6).logit()
