"""Intermediate results of a chain: the remaining frames as a video, and the index maps between stages.

Dimensions: T frames of P = H*W tokens, N = T*P in the original video, N' in the input of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.segments import segment_mean, segment_sum
from framefold.errors import ContractError

from .compressor import Compressor


@dataclass(frozen=True)
class StageInput:
    """The input of a stage and its relation to the original video.

    Attributes:
        video: dense video of N' tokens.
        index: (N',) anchors of these tokens in the original video.
        assign: (N,) row in ``video`` of each original token, -1 if it was dropped.
    """

    video: VideoTokens
    index: Tensor
    assign: Tensor


@dataclass(frozen=True)
class StageOutput:
    """The output of a reducing stage.

    Attributes:
        label: keyword of the stage.
        out: what the stage returned.
        assign: (N,) row in the input of the stage of each original token.
    """

    label: str
    out: Compressed
    assign: Tensor


def target_frames(k: int, n: int, per_frame: int, reducers: int) -> int:
    """Return T', the number of frames that the first of ``reducers`` stages keeps of n tokens on the way to k."""
    goal = (n ** (reducers - 1) * k) ** (1 / reducers)
    return max(-(-k // per_frame), round(goal / per_frame))


def tokens_before_last(k: int, n: int, per_frame: int, encodes: Sequence[bool]) -> int:
    """Return the number of tokens that the last stage gets of n on the way to k.

    Args:
        k: budget of the chain.
        n: number of tokens of the video.
        per_frame: number of tokens of a frame.
        encodes: for each stage but the last, whether it is an encoder.
    """
    for stage, is_encoder in enumerate(encodes):
        if not is_encoder:
            reducers = 1 + sum(not other for other in encodes[stage:])
            n = per_frame * target_frames(k, n, per_frame, reducers)
    return n


def stage_budget(stage: Compressor, tokens: int, video: VideoTokens) -> Budget:
    """Return a budget of ``tokens``, as a ratio for variants that may accept nothing else."""
    return tokens if stage.exact_budget else tokens / len(video)


def run_encoder(stage: Compressor, video: VideoTokens, query: Tensor | None) -> VideoTokens:
    """Replace the features of a dense video with those that the encoder of a stage returns.

    Raises:
        ContractError: the encoder changed the grid, the number or width of the tokens, or the dtype.
    """
    out = stage.encode(video, query)
    before, after = video.features, out.features
    if out.grid != video.grid or after.shape != before.shape or after.dtype != before.dtype:
        raise ContractError(
            f"the encoder of {stage.name} returned {out.grid}, {tuple(after.shape)}, {after.dtype} for"
            f" {video.grid}, {tuple(before.shape)}, {before.dtype}: it must not change them"
        )
    return replace(video, features=after)


def is_whole_frames(tokens: VideoTokens) -> bool:
    """Whether the anchors are all positions of some frames, in order."""
    if len(tokens) % tokens.per_frame:
        return False
    rows = tokens.index.reshape(-1, tokens.per_frame)
    places = torch.arange(tokens.per_frame, device=rows.device)
    return bool((rows % tokens.per_frame == places).all() & (rows - rows[:, :1] == places).all())


def frames_as_video(video: VideoTokens, tokens: VideoTokens) -> VideoTokens:
    """Return the whole frames that a reducer kept of a dense video as a dense video of fewer frames."""
    count, cells = len(tokens), video.per_frame
    ids = torch.arange(count, device=tokens.index.device)
    attention = video.attention
    if attention is not None:
        attention = segment_mean(attention[:, None], video.size, tokens.assign, count)[:, 0]
    return VideoTokens(
        features=tokens.features,
        grid=(count // cells, *video.grid[1:]),
        index=ids,
        size=segment_sum(video.size, tokens.assign, count),  # later mergers weight each token by what it represents
        assign=ids,
        times=video.times[tokens.index[::cells] // cells],
        attention=attention,
    )


def compose_assignments(first: Tensor, then: Tensor) -> Tensor:
    """Return the (N,) rows after two assignments; -1 if either drops the token."""
    return torch.cat([then, then.new_tensor([-1])])[first]  # index -1 reads the extra last entry, which is -1


def original_scores(outputs: list[StageOutput]) -> Tensor | None:
    """Return the (N,) scores of the original tokens; None unless one stage scores and no token was dropped before."""
    scored = [(output.out.scores, output.assign) for output in outputs if output.out.scores is not None]
    if len(scored) != 1 or bool((scored[0][1] < 0).any()):
        return None
    scores, assign = scored[0]
    return scores[assign]
