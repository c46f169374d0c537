"""Scene means: frames clustered into scenes, each fused into one frame of tokens; fila before it has learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .base import Compressor
from .errors import ConfigError
from .kmeans import kmeans
from .ops import Budget, segment_median, segment_sum, split_cells
from .tokens import Compressed, VideoTokens


@dataclass(frozen=True)
class Scenes:
    """S scenes of a video of T frames, ordered by their representative frames.

    Attributes:
        representatives: (S,) int64 frames, strictly ascending.
        scene: (M,) int64 and frame: (M,) int64, the memberships, sorted by scene and then by time.
        frame_scene: (T,) int64 scene to which a frame is counted, -1 where it is in none.
        frames: (S,) int64 number of frames in the cluster of each scene.
    """

    representatives: Tensor
    scene: Tensor
    frame: Tensor
    frame_scene: Tensor
    frames: Tensor


class SceneMean(Compressor):
    """Fuses alike frames, wherever they are in the video, into scenes; the training-free twin of ``fila``.

    Frame means are clustered by deterministic K-means; the frame nearest to a centre represents the scene (FiLA-Video,
    arXiv 2504.20384). Rule for exactly k tokens, with P = H*W cells a frame: S = ceil(k / P) scenes give P tokens
    each, a weighted mean of the members place by place (here equal weights). The scene of the fewest frames (the
    later one of equals) gives only the k - (S-1)*P tokens that are left, by fusing near-square rectangles of its
    cells.

    Members are, by ``members``:
      ``"similar"`` (the paper): the representative and the r frames of the video most similar to it (cosine of frame
      means), a frame perhaps in several scenes or in none; r is cut to ceil(T / S) - 1, so that a generous budget is
      not spent on blurring. ``"cluster"``: all frames of the scene's cluster, every frame in exactly one scene.
    A frame is counted (``assign``, ``size``) to the scene that it represents, or else to the most similar one it is a
    member of.

    Args:
        budget: retention ratio or tokens per video.
        members: see above.
        r: further members of a scene if they are chosen by similarity.
        time_weight: weight of the position in time against that of the content when frames are clustered; 0 ignores
            time as the paper does, large values give scenes of consecutive frames.

    Raises:
        ConfigError: a parameter out of range.
    """

    name = "scene_mean"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        members: Literal["similar", "cluster"] = "similar",
        r: int = 3,
        time_weight: float = 0.0,
    ) -> None:
        super().__init__(budget)
        if members not in ("similar", "cluster"):
            raise ConfigError(f"{self.name}: members must be 'similar' or 'cluster', got {members!r}")
        if r < 0 or time_weight < 0:
            raise ConfigError(f"{self.name}: r and time_weight must not be negative, got {r} and {time_weight}")
        self.members, self.r, self.time_weight = members, r, time_weight

    def logits(self, video: VideoTokens, scenes: Scenes) -> Tensor:
        """(M, P, 1 | D) logits of the fusing weights of each member's cells, fp32 or wider; here all equal."""
        wide = torch.promote_types(video.features.dtype, torch.float32)
        return torch.zeros(len(scenes.frame), video.per_frame, 1, dtype=wide, device=video.features.device)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        scenes = self.scenes(video, -(-k // video.per_frame))
        rows, anchors = _layout(scenes, video.grid, k)
        assign = torch.where(scenes.frame_scene[:, None] < 0, -1, rows[scenes.frame_scene]).reshape(-1)
        return replace(
            video,
            features=_fuse(video, self.logits(video, scenes), scenes, rows, k),
            index=anchors,
            size=torch.bincount(assign + 1, minlength=k + 1)[1:],
            assign=assign,
        )

    @torch.no_grad()
    def scenes(self, video: VideoTokens, count: int) -> Scenes:
        """Find ``count`` scenes; 1 <= count <= T."""
        means = torch.stack([frame.double().mean(dim=(0, 1)) for frame in video.as_grid()])
        points = _with_time(means, self.time_weight)
        labels, centres = kmeans(points, count)
        frames = torch.bincount(labels, minlength=count)
        distance = (points - centres[labels]).square().sum(-1)
        order = torch.sort(distance, stable=True).indices
        order = order[torch.sort(labels[order], stable=True).indices]  # by cluster, the nearest to its centre first
        representatives, order = torch.sort(order[frames.cumsum(0) - frames])
        own = torch.argsort(order)[labels]
        similarity = _cosine(means[representatives], means)
        similarity[own[representatives], representatives] = torch.inf  # a representative is in its scene first of all
        member = torch.zeros_like(similarity, dtype=torch.bool)
        if self.members == "cluster":
            member[own, torch.arange(len(own), device=own.device)] = True
        else:
            r = min(self.r, -(-len(means) // count) - 1)
            nearest = torch.sort(similarity, dim=1, descending=True, stable=True).indices[:, : r + 1]
            member.scatter_(1, nearest, True)
        best = torch.where(member, similarity, -torch.inf)
        counted = torch.where(member.any(0), (best == best.amax(0)).to(torch.uint8).argmax(0), -1)
        scene, frame = member.nonzero(as_tuple=True)
        return Scenes(representatives, scene, frame, counted, frames[order])


def _with_time(means: Tensor, weight: float) -> Tensor:
    """Frame means with the position in time as one more coordinate, of ``weight`` times their own spread."""
    if weight == 0:
        return means
    spread = (means - means.mean(0)).square().sum(-1).mean().sqrt()
    position = torch.linspace(-1, 1, len(means), dtype=means.dtype, device=means.device) * 3**0.5  # of spread 1
    return torch.cat([means, (weight * spread * position)[:, None]], dim=1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T


def _layout(scenes: Scenes, grid: tuple[int, int, int], k: int) -> tuple[Tensor, Tensor]:
    """Output row of each scene's cells (S, P), and the (k,) anchors: places in the representatives' frames."""
    _, height, width = grid
    count, cells, device = len(scenes.representatives), height * width, scenes.frame.device
    per_scene = torch.full((count,), cells, device=device)
    smallest = int((scenes.frames == scenes.frames.min()).nonzero()[-1])
    per_scene[smallest] = rest = k - (count - 1) * cells
    groups = torch.arange(cells, device=device).repeat(count, 1)
    groups[smallest] = split_cells(height, width, rest, device)
    rows = groups + (per_scene.cumsum(0) - per_scene)[:, None]
    middle = segment_median(rows.reshape(-1), k)
    return rows, scenes.representatives[middle // cells] * cells + middle % cells


def _fuse(video: VideoTokens, logits: Tensor, scenes: Scenes, rows: Tensor, k: int) -> Tensor:
    """(k, D): each output row is the softmax-weighted sum of the member cells that belong to it."""
    source = video.features.reshape(*video.grid[:1], video.per_frame, -1)[scenes.frame].flatten(0, 1)
    target = rows[scenes.scene].reshape(-1)
    logits = logits.flatten(0, 1)
    peak = logits.new_zeros(k, logits.shape[1])
    peak = peak.scatter_reduce(0, target[:, None].expand_as(logits), logits.detach(), "amax", include_self=False)
    weight = (logits - peak[target]).exp()  # softmax over the cells of an output row
    total = segment_sum(weight, target, k)
    return (segment_sum(weight * source, target, k) / total).to(video.features.dtype)
