"""QTSplus: a query-aware selector that scores visual tokens by cross-attention of the question (arXiv 2511.11910)."""

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
from framefold.adapters.layers.budget_head import BudgetHead
from framefold.adapters.layers.cross_attention import LMBlock
from framefold.adapters.layers.soft_threshold import threshold
from framefold.adapters.layers.time_encoding import TIME_FEATURES, time_features
from framefold.adapters.ops.partition import even_positions
from framefold.adapters.ops.selection import exact_topk
from framefold.adapters.reference import qtsplus as release
from framefold.errors import ConfigError, InputError

EPS = 1e-12  # hosts' features differ in scale by orders of magnitude, and the smaller ones are not noise

MOST = 2**20  # of any size: a config must not ask for billions


class QTSplus(Compressor):
    """Keeps the tokens that the question attends to most, spends a share of the budget on coverage, and re-encodes.

    A token's score is the logarithm of its largest attention weight over heads and words of the question, in the last
    scoring block. Of k tokens, round(coverage * k) are evenly spaced among those that relevance leaves, the others are
    those of highest score. Re-encoding is self-attention among the kept tokens; it starts as the identity.

    While training, relevant tokens are drawn: scores against the soft threshold that keeps as many in expectation, in
    units of ``tau``, plus logistic noise. The gate acts as a log-bias (of value zero) on the attention to a token while
    re-encoding: a factor on the token itself would be undone by the host's norms and carry almost no gradient. The
    scores are returned for distillation, which is what teaches selection (``training/losses.py``).

    With ``budget="auto"`` a head reads a ratio between rho_min and rho_max off question and scores, and its cost enters
    the losses ("flops", "kv", "smooth").

    ``variant="official"`` is the release (:mod:`~framefold.adapters.reference.qtsplus`), one video at a time: scores
    are attention weights, there is no coverage and no encoding of time, re-encoding starts at random. At inference a
    given budget is met exactly; while training the gate draws the tokens, in any number, and scales them. "auto" is the
    release's rule; its mean of ratios counts every call, and is saved nowhere.

    Args:
        budget: retention ratio or tokens per video, or "auto".
        variant: "exact", or "official" for the release, which ignores coverage and noise.
        coverage: share of the budget that goes to evenly spaced tokens.
        scoring_layers, reencode_layers: numbers of blocks.
        heads, kv_heads: of attention; None: one for 64 channels, and as many of keys and values.
        tau: temperature of the gate. noise: scale of the logistic noise while training.
        rho_min, rho_max: range of predicted ratios. n_max: most tokens that "auto" keeps.
        cost_flops, cost_kv, cost_smooth: weights of the losses of a predicted budget.
        budget_head: have the head that predicts budgets; None: if the budget is "auto".
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter out of range.
        InputError: the video has another width than the weights.
    """

    name = "qtsplus"
    trainable: ClassVar[bool] = True
    query_aware: ClassVar[bool] = True
    predicts_budget = True

    def __init__(
        self,
        budget: Budget | str = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        coverage: float = 0.5,
        scoring_layers: int = 1,
        reencode_layers: int = 1,
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
        self.heads, self.kv_heads, self.tau, self.noise, self.dim = heads, kv_heads, tau, noise, dim
        self.rho_min, self.rho_max, self.n_max = rho_min, rho_max, n_max
        self.cost_flops, self.cost_kv, self.cost_smooth = cost_flops, cost_kv, cost_smooth
        self.budget_head = self.budget == AUTO if budget_head is None else budget_head
        self._check()
        self.predicts_budget = self.budget_head
        self.budget = budget  # again, now that it is known whether there is a head
        self.ratios = release.RunningMean()  # of "official"
        self.exact_budget = variant == "exact"  # so far, as modules start in training mode
        self.scoring: nn.ModuleList | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def _check(self) -> None:
        sizes = ("scoring_layers", "n_max", "heads", "kv_heads", "dim")
        wrong = [key for key in sizes if (value := getattr(self, key)) is not None and not 1 <= value <= MOST]
        wrong += [key for key in ("cost_flops", "cost_kv", "cost_smooth", "noise") if getattr(self, key) < 0]
        wrong += [] if self.variant in ("exact", "official") else ["variant"]
        wrong += [] if 0 <= self.coverage <= 1 else ["coverage"]
        wrong += [] if 0 <= self.reencode_layers <= MOST else ["reencode_layers"]
        wrong += [] if self.tau > 0 else ["tau"]
        wrong += [] if 0 < self.rho_min <= self.rho_max <= 1 else ["rho_min", "rho_max"]
        if wrong:
            raise ConfigError(
                f"{self.name}: out of range: " + ", ".join(f"{key}={getattr(self, key)}" for key in wrong)
            )

    @classmethod
    def upgrade_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Read ``variant: corrected``, which framefold 0.1.0 wrote, as ``exact``."""
        return {**params, "variant": "exact"} if params.get("variant") == "corrected" else dict(params)

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = self.dim or width
        if width != self.dim:
            raise InputError(f"{self.name} has weights for tokens of width {self.dim}, the video has {width}")
        if self.scoring is None:
            self.heads = self.heads or max(1, width // 64)
            self.kv_heads = self.kv_heads or self.heads
            self.make_layers(width, self.heads, self.kv_heads)
            self.to(device)

    def make_layers(self, width: int, heads: int, kv_heads: int) -> None:
        """(Re)create all modules."""
        last, ours = self.scoring_layers - 1, self.variant == "exact"
        block = partial(LMBlock, width, heads, kv_heads, key_bias=not ours)
        blocks = [block(scores_only=ours and i == last) for i in range(self.scoring_layers)]
        again = [block(identity=ours) for _ in range(self.reencode_layers)]
        self.scoring, self.reencode = nn.ModuleList(blocks), nn.ModuleList(again)
        if ours:
            self.time = nn.Linear(TIME_FEATURES, width, bias=False)
            nn.init.zeros_(self.time.weight)
        self.head = BudgetHead(width, self.rho_min, self.rho_max) if self.budget_head else None

    def init_from_layers(self, layers: Sequence[Mapping[str, Tensor]], heads: int, kv_heads: int) -> dict[str, bool]:
        """Scoring blocks take over the last decoder layer, re-encoding block i takes over layer i.

        All modules are made again, with the heads of the host. Output projections of the re-encoding stay zero unless
        the variant is "official", so that it still starts as the identity.

        Raises:
            ConfigError: the width is not known yet, or does not divide into the heads.
        """
        if self.scoring is None or self.dim is None:
            raise ConfigError(f"{self.name} has no weights yet: materialize() it, or give it a dim")
        like = next(self.parameters())
        self.make_layers(self.dim, heads, kv_heads)
        self.heads, self.kv_heads = heads, kv_heads
        self.to(like.device, like.dtype).train(self.training)
        zero = () if self.variant == "official" else ("o_proj.weight",)
        fitted: dict[str, bool] = {}
        for name, blocks, keep in (("scoring", self.scoring, ()), ("reencode", self.reencode, zero)):
            for i, block in enumerate(blocks):
                layer = layers[-1 if name == "scoring" else min(i, len(layers) - 1)]
                assert isinstance(block, LMBlock)
                fitted |= {f"{name}.{i}.{key}": fits for key, fits in block.copy_layer(layer, keep).items()}
        return fitted

    def limit(self, n: int) -> int:
        return n if self.variant == "official" and self.training else min(n, self.n_max)

    def train(self, mode: bool = True) -> QTSplus:
        """The released gate keeps any number of tokens while training."""
        self.exact_budget = self.variant == "exact" or not mode
        return super().train(mode)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        assert query is not None and self.scoring is not None  # forward() has seen to both
        if self.variant == "official":
            return self._release(video, k, query)
        dtype = self.time.weight.dtype
        x, question = video.features.to(dtype), query.to(dtype)
        place = self.time(time_features(video).to(dtype))
        scores = self.score(x, question, place)
        losses: dict[str, Tensor] = {}
        wanted: Tensor = scores.new_tensor(float(k))
        if self.head is not None:
            ratio = self.head(question, scores)
            losses = self._costs(ratio, len(video))
            if self.budget == AUTO:
                wanted = (ratio * len(video)).clamp(1, k)
                k = min(k, int(torch.ceil(wanted.detach())))
        rows, log_gate = self._select(scores, k, wanted)
        kept = video.keep(rows)
        change = self._reencode(kept.features, place[rows], log_gate)
        return Compressed(replace(kept, features=kept.features + change.to(kept.features.dtype)), losses, scores)

    def _reencode(self, tokens: Tensor, place: Tensor, log_gate: Tensor) -> Tensor:
        """(K, D) change of the kept tokens, made in units of each token's RMS: one learning rate suits all hosts."""
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add(EPS).sqrt()
        start = x = (wide / scale).to(place.dtype)
        blocks: Any = self.reencode
        for block in blocks:
            x = block.reencode(x, place, log_gate)
        # Without blocks, scores would get no gradient.
        return (x - start).to(wide.dtype) * scale + 0.0 * log_gate.sum()

    def score(self, x: Tensor, question: Tensor, place: Tensor) -> Tensor:
        """(N,) logarithms of the largest attention weights, fp32 or wider.

        Args:
            x: (N, D) tokens. question: (L, D). place: (N, D) encoding of their times.
        """
        assert self.scoring is not None
        blocks: Any = self.scoring
        for block in blocks[:-1]:
            question, _ = block(question, x, place)
        log_attention: Tensor = blocks[-1].log_attention(question, x, place)
        return log_attention.amax((0, 1))

    def _select(self, scores: Tensor, k: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to keep (K,), and the (K,) log-gates: zeros whose gradients are those of the gates.

        Args:
            wanted: scalar, the number of tokens before it was rounded to k.
        """
        count = k - round(self.coverage * k)
        relevance, gate = scores, 0.0 * scores
        if 0 < count < len(scores):
            expected = (wanted * (count / k)).clamp(1e-3, len(scores) - 1e-3)
            margin = (scores - threshold(scores, expected, self.tau)) / self.tau
            gate = logsigmoid(margin)
            relevance = margin + self.noise * _logistic(margin) if self.training else scores
        relevant = torch.zeros_like(scores, dtype=torch.bool)
        relevant[exact_topk(relevance.detach(), count)] = True
        rest = (~relevant).nonzero()[:, 0]
        covering = rest[even_positions(len(rest), k - count, rest.device)]
        rows = torch.cat([relevant.nonzero()[:, 0], covering]).sort().values
        gate = torch.where(relevant, gate, 0.0 * gate)[rows]
        return rows, gate - gate.detach()

    def _release(self, video: VideoTokens, k: int, query: Tensor) -> Compressed:
        """What the release makes of one video; parameters that it leaves without a gradient are touched."""
        dtype = next(self.parameters()).dtype
        x, question = video.features.to(dtype), query.to(dtype)
        assert self.scoring is not None
        r = release.score(self.scoring, x, question).r
        count, losses = r.new_tensor(float(k)), {}
        if self.budget == AUTO:
            assert self.head is not None
            ratio = release.predict_ratio(self.head, question, r)
            mean = self.ratios.add(ratio.detach()[None])
            losses = self._weighted(release.costs(ratio[None], len(video), self.n_max, mean))
            count, k = ratio * len(video), release.count_tokens(ratio, len(video), k)
        if self.training:
            gate = release.draw_gate(r, count, self.tau)
            rows, tokens = gate.rows, release.gather(x, gate)
        else:
            rows = release.top_rows(r, k)
            tokens = x[rows]
        tokens = release.reencode(self.reencode, [tokens])[0] + self.touch()
        scores = r.float().clamp(min=torch.finfo(torch.float32).tiny).log()
        return Compressed(replace(video.keep(rows), features=tokens.to(video.features.dtype)), losses, scores)

    def _costs(self, ratio: Tensor, n: int) -> dict[str, Tensor]:
        """Losses of the predicted ratio while it is learned; zeros where the budget is given, for the gradients."""
        assert self.head is not None
        if not self.training:
            return {}
        if self.budget != AUTO:
            return {"flops": 0.0 * ratio}
        return self._weighted(self.head.costs(ratio, n, self.n_max))

    def _weighted(self, costs: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = {"flops": self.cost_flops, "kv": self.cost_kv, "smooth": self.cost_smooth}
        return {name: weights[name] * cost for name, cost in costs.items()}

    def synchronize(self) -> None:
        if self.head is not None:
            self.head.synchronize()


def _logistic(like: Tensor) -> Tensor:
    """Noise that makes the larger of two Gumbel-perturbed logits a draw with the probability of the gate."""
    uniform = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
    return uniform.logit()
