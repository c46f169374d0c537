"""Scene means: frames are clustered into scenes, each fused into one frame of tokens; ``fila`` before training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.kmeans import kmeans
from framefold.adapters.ops.partition import split_cells
from framefold.adapters.ops.segments import segment_median, segment_sum
from framefold.errors import ConfigError


@dataclass(frozen=True)
class Scenes:
    """S scenes of a video of T frames with M memberships, ordered by their representative frames.

    Attributes:
        representatives: (S,) int64 frames, strictly ascending.
        scene: (M,) int64 scene of each membership; memberships are sorted by scene and then by time.
        frame: (M,) int64 frame of each membership.
        frame_scene: (T,) int64 scene to which each frame is assigned, -1 if it belongs to none.
        frames: (S,) int64 number of frames in the cluster of each scene.
    """

    representatives: Tensor
    scene: Tensor
    frame: Tensor
    frame_scene: Tensor
    frames: Tensor


Members = Literal["similar", "similar_in_cluster", "cluster"]

# Members besides the representative. fila has weights for each, so a config could otherwise request any amount of
# memory.
MAX_MEMBERS = 4096


class SceneMean(Compressor):
    """Fuses similar frames from anywhere in the video into scenes; the training-free counterpart of ``fila``.

    Frame means are clustered by deterministic k-means, and the frame nearest to a centre represents the scene
    (FiLA-Video, arXiv 2504.20384, where each scene gives all P = H*W tokens of a frame).

    Rule for exactly k tokens of T frames: a scene gives C = ceil(k / scene_goal) tokens, at least ceil(k / T) and at
    most P, one for each near-square rectangle of a frame. There are S = ceil(k / C) scenes, so small budgets lose
    detail before they lose scenes. The scene with the fewest frames (the last one of equals) gives only the remaining k
    - (S - 1) * C tokens, from larger rectangles. A token is the weighted mean of the cells of its rectangle in all
    members of its scene; here, all weights are equal.

    The value of ``members`` determines which frames belong to a scene:

    - ``"similar"`` (the paper): the representative and the r frames of the video most similar to it (by the cosine of
      frame means). A frame may belong to several scenes or to none. r is limited to ceil(T / S) - 1, because more
      members would only blur the scenes of a large budget.
    - ``"similar_in_cluster"``: the same, among the frames of the cluster. A frame belongs to at most one scene.
    - ``"cluster"``: all frames of the cluster. Every frame belongs to exactly one scene.

    A frame is assigned (``assign``, ``size``) to the scene that it represents, or else to the most similar scene of
    which it is a member.

    Args:
        budget: retention ratio or tokens per video.
        members: see above.
        r: number of further members of a scene if they are selected by similarity.
        scene_goal: number of scenes to reach before a scene gets all its tokens; None: ceil(T / (r + 1)), the ratio of
            the paper; 1 gives whole frames at every budget.
        time_weight: weight of the position in time relative to the content when frames are clustered; 0 ignores time,
            as the paper does; large values give scenes of consecutive frames.
        unit_norm: cluster the directions of frame means, so that frames that differ only in magnitude are similar.

    Raises:
        ConfigError: a parameter is out of range.
    """

    name = "scene_mean"
    keeps = "means of the frames of K-means scenes"
    cost = "one pass over the tokens, and k-means of the T frame means"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        members: Members = "similar",
        r: int = 3,
        scene_goal: int | None = None,
        time_weight: float = 0.0,
        unit_norm: bool = False,
    ) -> None:
        super().__init__(budget)
        if members not in get_args(Members):
            raise ConfigError(f"{self.name}: members must be one of {get_args(Members)}, got {members!r}")
        if not 0 <= r <= MAX_MEMBERS or time_weight < 0 or scene_goal is not None and scene_goal < 1:
            raise ConfigError(f"{self.name}: out of range: r={r}, {time_weight=}, {scene_goal=}")
        self.members, self.r, self.scene_goal = members, r, scene_goal
        self.time_weight, self.unit_norm = time_weight, unit_norm

    def logits(self, video: VideoTokens, scenes: Scenes, content: Tensor | None = None) -> Tensor:
        """Return (M, P, 1 | D) logits of the fusion weights of the cells of each member; all equal here.

        Args:
            video: the dense video.
            scenes: its scenes.
            content: (N,) learned scores of its tokens.
        """
        wide = torch.promote_types(video.features.dtype, torch.float32)
        return torch.zeros(len(scenes.frame), video.per_frame, 1, dtype=wide, device=video.features.device)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        return self.fuse(video, k)

    def fuse(self, video: VideoTokens, k: int, content: Tensor | None = None) -> VideoTokens:
        """Return k weighted means of cells; see :meth:`logits` for ``content``."""
        frames = video.grid[0]
        goal = self.scene_goal or -(-frames // (self.r + 1))
        cells = min(max(-(-k // goal), -(-k // frames)), video.per_frame)
        scenes = self.scenes(video, -(-k // cells))
        rows, anchors = _layout(scenes, video.grid[1:], cells, k)
        assign = torch.where(scenes.frame_scene[:, None] < 0, -1, rows[scenes.frame_scene]).reshape(-1)
        return replace(
            video,
            features=_fuse(video, self.logits(video, scenes, content), scenes, rows, k),
            index=anchors,
            size=torch.bincount(assign + 1, minlength=k + 1)[1:],
            assign=assign,
        )

    @torch.no_grad()
    def scenes(self, video: VideoTokens, count: int) -> Scenes:
        """Find ``count`` scenes, 1 <= count <= T."""
        wide = torch.promote_types(video.features.dtype, torch.float32)
        means = torch.stack([frame.to(wide).mean(dim=(0, 1)) for frame in video.as_grid()]).double()
        points = _with_time(_unit(means) if self.unit_norm else means, self.time_weight)
        labels, centres = kmeans(points, count)
        frames = torch.bincount(labels, minlength=count)
        distance = (points - centres[labels]).square().sum(-1)
        order = torch.sort(distance, stable=True).indices
        order = order[torch.sort(labels[order], stable=True).indices]  # by cluster, then by distance to its centre
        representatives, order = torch.sort(order[frames.cumsum(0) - frames])
        cluster_scene = torch.argsort(order)[labels]
        similarity = _unit(means[representatives]) @ _unit(means).T
        # A representative always belongs to its own scene.
        similarity[cluster_scene[representatives], representatives] = torch.inf
        member = self._members(similarity, cluster_scene)
        best = torch.where(member, similarity, -torch.inf)
        assigned = torch.where(member.any(0), (best == best.amax(0)).to(torch.uint8).argmax(0), -1)
        scene, frame = member.nonzero(as_tuple=True)
        return Scenes(representatives, scene, frame, assigned, frames[order])

    def _members(self, similarity: Tensor, cluster_scene: Tensor) -> Tensor:
        """Return (S, T) bool, whether a frame is a member of a scene.

        Args:
            similarity: (S, T) similarity of the frames to the representatives.
            cluster_scene: (T,) scene of the cluster of each frame.
        """
        count, frames = similarity.shape
        inside = cluster_scene == torch.arange(count, device=cluster_scene.device)[:, None]
        if self.members == "cluster":
            return inside
        near = similarity if self.members == "similar" else similarity.masked_fill(~inside, -torch.inf)
        r = min(self.r, -(-frames // count) - 1)
        nearest = torch.sort(near, dim=1, descending=True, stable=True).indices[:, : r + 1]
        member = torch.zeros_like(inside).scatter_(1, nearest, True)
        return member if self.members == "similar" else member & inside


def _with_time(means: Tensor, weight: float) -> Tensor:
    """Append the position in time as a coordinate whose spread is ``weight`` times that of the points."""
    if weight == 0:
        return means
    spread = (means - means.mean(0)).square().sum(-1).mean().sqrt()
    position = torch.linspace(-1, 1, len(means), dtype=means.dtype, device=means.device) * 3**0.5  # of spread 1
    return torch.cat([means, (weight * spread * position)[:, None]], dim=1)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def _layout(scenes: Scenes, grid: tuple[int, int], cells: int, k: int) -> tuple[Tensor, Tensor]:
    """Return the (S, H*W) output row of the cells of each scene, and the (k,) anchors in the representative frames."""
    count, device = len(scenes.representatives), scenes.frame.device
    smallest = int((scenes.frames == scenes.frames.min()).nonzero()[-1])
    tokens = torch.full((count,), cells, device=device)  # of each scene
    tokens[smallest] = rest = k - (count - 1) * cells
    groups = split_cells(*grid, cells, device).repeat(count, 1)
    groups[smallest] = split_cells(*grid, rest, device)
    rows = groups + (tokens.cumsum(0) - tokens)[:, None]
    middle = segment_median(rows.reshape(-1), k)
    per_frame = grid[0] * grid[1]
    return rows, scenes.representatives[middle // per_frame] * per_frame + middle % per_frame


def _fuse(video: VideoTokens, logits: Tensor, scenes: Scenes, rows: Tensor, k: int) -> Tensor:
    """Return (k, D) features: each output row is the softmax-weighted sum of its cells in all members."""
    source = video.features.reshape(*video.grid[:1], video.per_frame, -1)[scenes.frame].flatten(0, 1)
    target = rows[scenes.scene].reshape(-1)
    logits = logits.flatten(0, 1)
    peak = logits.new_zeros(k, logits.shape[1])
    peak = peak.scatter_reduce(0, target[:, None].expand_as(logits), logits.detach(), "amax", include_self=False)
    weight = (logits - peak[target]).exp()  # softmax over the cells of an output row
    total = segment_sum(weight, target, k)
    return (segment_sum(weight * source, target, k) / total).to(video.features.dtype)
