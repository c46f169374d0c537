"""What one stage of a chain hands on to the next: whole frames as a video of their own, and the books between them.

Dimensions: T frames of P = H*W tokens, N = T*P in the original, N' what a stage sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.segments import segment_mean, segment_sum
from framefold.errors import ContractError

from .compressor import Compressor


@dataclass(frozen=True)
class Seen:
    """What a stage sees: a dense video, (N',) the original anchors of its tokens, (N,) the rows of the originals."""

    video: VideoTokens
    index: Tensor
    assign: Tensor


@dataclass(frozen=True)
class Run:
    """What a reducer returned, and (N,) the rows of the original tokens in what it saw."""

    label: str
    out: Compressed
    assign: Tensor


def frames_for(k: int, video: VideoTokens, reducers: int) -> int:
    """T', the number of frames that the first of so many reducers leaves on the way to k tokens."""
    goal = (len(video) ** (reducers - 1) * k) ** (1 / reducers)
    return max(-(-k // video.per_frame), round(goal / video.per_frame))


def stage_budget(stage: Compressor, tokens: int, video: VideoTokens) -> Budget:
    """A budget of so many tokens; as a ratio for variants that follow a release, which may know nothing else."""
    return tokens if stage.exact_budget else tokens / len(video)


def encode_stage(stage: Compressor, video: VideoTokens, query: Tensor | None) -> VideoTokens:
    """A dense video through the encoder of a stage, of which the features alone are taken.

    Raises:
        ContractError: it changed the grid, the number or width of the tokens, or the dtype.
    """
    out = stage.encode(video, query)
    before, after = video.features, out.features
    if out.grid != video.grid or after.shape != before.shape or after.dtype != before.dtype:
        raise ContractError(
            f"the encoder of {stage.name} made {out.grid}, {tuple(after.shape)}, {after.dtype} of"
            f" {video.grid}, {tuple(before.shape)}, {before.dtype}: it must leave them as they are"
        )
    return replace(video, features=after)


def are_frames(tokens: VideoTokens) -> bool:
    """Whether anchors are all places of some frames, in their order."""
    if len(tokens) % tokens.per_frame:
        return False
    rows = tokens.index.reshape(-1, tokens.per_frame)
    places = torch.arange(tokens.per_frame, device=rows.device)
    return bool((rows % tokens.per_frame == places).all() & (rows - rows[:, :1] == places).all())


def handed_on(video: VideoTokens, tokens: VideoTokens) -> VideoTokens:
    """Whole frames that a reducer left of a dense video, as a dense video of their own."""
    count, cells = len(tokens), video.per_frame
    ids = torch.arange(count, device=tokens.index.device)
    attention = video.attention
    if attention is not None:
        attention = segment_mean(attention[:, None], video.size, tokens.assign, count)[:, 0]
    return VideoTokens(
        features=tokens.features,
        grid=(count // cells, *video.grid[1:]),
        index=ids,
        size=segment_sum(video.size, tokens.assign, count),  # so that mergers behind weigh by what a token stands for
        assign=ids,
        times=video.times[tokens.index[::cells] // cells],
        attention=attention,
    )


def compose(first: Tensor, then: Tensor) -> Tensor:
    """(N,) rows after two assignments; -1 where either drops a token."""
    return torch.cat([then, then.new_tensor([-1])])[first]  # -1 reads the extra last entry


def scores_of(runs: list[Run]) -> Tensor | None:
    """(N,) scores of the one reducer that scores, by original tokens; None: several do, or some tokens have none."""
    scored = [(run.out.scores, run.assign) for run in runs if run.out.scores is not None]
    if len(scored) != 1 or bool((scored[0][1] < 0).any()):
        return None
    scores, assign = scored[0]
    return scores[assign]
