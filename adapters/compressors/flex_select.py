"""FlexSelect: a small trained selector that predicts how the language model ranks the tokens (arXiv 2506.00993)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from framefold.adapters.base.trained_selector import TrainedSelector
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.cross_attention import CrossAttentionBlock, RMSNorm
from framefold.adapters.layers.time_encoding import TIME_FEATURES, time_features
from framefold.adapters.ops.selection import top_and_even
from framefold.errors import ConfigError

EPS = 1e-12  # small, because the scale of features differs between hosts by orders of magnitude

MAX_LAYERS = 64


class FlexSelect(TrainedSelector):
    """Keeps the tokens that a small network, which reads tokens and question, ranks highest.

    Tokens, their change since the frame before, and words are projected to the width ``inner``. In ``layers`` - 1
    blocks of self-attention, the tokens of each frame and a copy of the words read each other. The learned score of a
    token is the largest product of its key with the query of a word, over heads and words, in the last block: the order
    of its attention, without the softmax that would make scores depend on the length of the video. It is added to the
    scores of ``counterpart``, to which a fresh selector is equal bit by bit.

    The answer loss does not train it. The losses ``rank`` and ``attention`` teach it how the question attends to the
    tokens in the host on all tokens, and ``evidence`` annotated evidence. Ranks know no budget, so that one training
    serves all.

    Args:
        budget: retention ratio or tokens per video.
        counterpart: registered name of the training-free selector that it starts from.
        inner: width of the network.
        heads: number of attention heads.
        layers: number of blocks, the last of which only scores.
        coverage: fraction of the budget for evenly spaced tokens, see
            :class:`~framefold.adapters.base.trained_selector.TrainedSelector`.
        dim: token width D; None: that of the first video.

    Raises:
        UnknownCompressorError, ConfigError: a parameter is out of range, or ``counterpart`` gives tokens no scores.
        InputError: the width of the video is not that of the weights.
    """

    name = "flex_select"
    paper = "FlexSelect, arXiv 2506.00993"
    keeps = "tokens that a small network expects the host's question to attend to"
    cost = "self-attention of a small width within each frame, question included"
    licence = "none"
    deviations = (
        "a small network that reads frame by frame, instead of a language model; scores before the softmax, which start"
        " at a training-free score; the release misses budgets by its groups of frames"
    )
    query_aware: ClassVar[bool] = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        counterpart: str = "mean_similarity",
        inner: int = 256,
        heads: int = 4,
        layers: int = 2,
        coverage: float = 0.0,
        dim: int | None = None,
    ) -> None:
        super().__init__(budget, counterpart, inner, coverage, dim)
        if heads < 1 or inner % heads or not 1 <= layers <= MAX_LAYERS:
            raise ConfigError(
                f"flex_select: inner must be divisible by heads, and layers be 1 to {MAX_LAYERS}, got inner={inner},"
                f" heads={heads} and layers={layers}"
            )
        self.heads, self.layers = heads, layers
        self.blocks: nn.ModuleList | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.blocks is not None:
            return
        self.token_norm, self.word_norm = RMSNorm(width, EPS), RMSNorm(width, EPS)
        self.token_proj, self.word_proj = nn.Linear(width, self.inner), nn.Linear(width, self.inner)
        self.change_proj = nn.Linear(width, self.inner, bias=False)
        self.time = nn.Linear(TIME_FEATURES, self.inner, bias=False)
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(self.inner, self.heads, self.heads, scores_only=last, key_bias=False)
            for last in (number == self.layers - 1 for number in range(self.layers))
        )
        last: Any = self.blocks[-1]
        for parameter in last.q_proj.parameters():
            nn.init.zeros_(parameter)
        self.to(device)

    def learned(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        assert query is not None and self.blocks is not None  # checked and created by forward()
        dtype = self.time.weight.dtype
        frames = self.token_norm(video.features.to(dtype)).view(video.grid[0], video.per_frame, -1)
        change = torch.cat([torch.zeros_like(frames[:1]), frames[1:] - frames[:-1]])
        time = self.time(time_features(video).to(dtype)).view(*frames.shape[:2], -1)
        tokens = self.token_proj(frames) + self.change_proj(change) + time
        words = self.word_proj(self.word_norm(query.to(dtype))).expand(len(frames), -1, -1)
        blocks: Any = self.blocks
        for block in blocks[:-1]:
            both = block.reencode(torch.cat([tokens, words.to(tokens.dtype)], 1))
            tokens, words = both[:, : video.per_frame], both[:, video.per_frame :]
        logits: Tensor = blocks[-1].logits(words, blocks[-1].project_keys(tokens))
        return logits.amax((1, 2)).flatten()  # of (T, heads, words, tokens of a frame)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        scores = self.score(video, query)
        rows, _ = top_and_even(scores.detach(), self.by_score(k), k)
        return Compressed(self.keep(video, rows), scores=scores)
