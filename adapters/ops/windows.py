"""Windows that tile a video, and the sets of static and other tokens in them.

Dimensions: T frames of P positions; W windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .selection import first_argmax
from .similarity import temporal_similarities


def still_windows(similar: Tensor, longest: int | None = None) -> tuple[Tensor, int]:
    """Tile a video with the windows in which most tokens repeat, by dynamic programming.

    A window of frames a ... b gains (b - a) tokens for each position that is similar over all of its frames; a window
    of one frame gains none. Of tilings with the same gain, the one with the shortest last window is returned, and so on
    backwards.

    Args:
        similar: (T - 1, P) bool, whether a position is similar in a frame and the next one.
        longest: maximum frames of a window; None: no limit.

    Returns:
        (W, 2) int64 first and last frame of each window, on the CPU; and the gain of the tiling.
    """
    frames, positions = len(similar) + 1, similar.shape[1]
    similar = similar.cpu().long()
    run = torch.zeros(positions, dtype=torch.long)  # similar links that end at the current frame
    best, first = torch.zeros(frames + 1, dtype=torch.long), torch.zeros(frames, dtype=torch.long)
    for end in range(frames):  # best[end + 1] is the gain of the best tiling of frames 0 ... end
        if end > 0:
            run = (run + 1) * similar[end - 1]
        most = min(end + 1, longest or frames)
        at_least = torch.bincount(run, minlength=frames).flip(0).cumsum(0).flip(0)  # positions by length of their run
        links = torch.arange(most)
        gains = best[end + 1 - most : end + 1].flip(0) + links * at_least[:most]
        links_taken = int(first_argmax(gains))
        best[end + 1], first[end] = gains[links_taken], end - links_taken
    windows, end = [], frames - 1
    while end >= 0:
        windows.append((int(first[end]), end))
        end = int(first[end]) - 1
    return torch.tensor(windows[::-1]), int(best[frames])


def still_tiling(video: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """Tile a video with the windows in which most tokens repeat, where similarities above ``tau`` count as equal.

    Args:
        video: (T, P, D) features, as :func:`~framefold.adapters.ops.similarity.rescale_if_extreme` returns them.
        tau: cosine similarity of a position with the next frame.

    Returns:
        (W, 2) int64 first and last frame of each window, (W, P) bool static positions, and the (T - 1, P) similarities.
    """
    similarity = temporal_similarities(video)
    similar = similarity > tau
    windows, _ = still_windows(similar)
    return windows, static_positions(windows, similar), similarity


@dataclass(frozen=True)
class TokenSet:
    """Positions of consecutive frames: static ones, joined over the frames, or dynamic ones, each a point of its own.

    Attributes:
        first: first frame.
        last: last frame.
        positions: (q,) int64, ascending.
        is_static: each position is one point, the mean over the frames; otherwise each token is a point.
    """

    first: int
    last: int
    positions: Tensor
    is_static: bool

    def __len__(self) -> int:
        return len(self.positions) * (1 if self.is_static else self.last - self.first + 1)

    def rows(self, per_frame: int) -> Tensor:
        """Return the (n, L) int64 tokens of each point in a video of ``per_frame`` tokens a frame."""
        frames = torch.arange(self.first, self.last + 1, device=self.positions.device)
        rows = frames * per_frame + self.positions[:, None]
        return rows if self.is_static else rows.T.reshape(-1, 1)

    def points(self, video: Tensor) -> Tensor:
        """Return (n, ...) points of (T, P, ...) values, in fp32 or wider."""
        frames, all_positions = video[self.first : self.last + 1], len(self.positions) == video.shape[1]
        wide = torch.promote_types(video.dtype, torch.float32)
        if not self.is_static:
            chosen = frames if all_positions else frames[:, self.positions]
            return chosen.flatten(0, 1).to(wide)
        total = frames[0].to(wide)
        for frame in frames[1:]:
            total = total + frame
        return (total if all_positions else total[self.positions]) / len(frames)


def window_sets(windows: Tensor, static: Tensor, points: int = 0) -> list[TokenSet]:
    """Return the sets of a tiling: of each window its static positions, then the others frame by frame.

    Args:
        windows: (W, 2) int64 first and last frame of each window.
        static: (W, P) bool, the positions that are joined over the frames of the window.
        points: put consecutive frames of a window into one set while it has at most so many points.
    """
    sets = []
    for (first, last), joined in zip(windows.tolist(), static, strict=True):
        sets.append(TokenSet(first, last, joined.nonzero()[:, 0], True))
        dynamic = (~joined).nonzero()[:, 0]
        step = max(1, points // max(1, len(dynamic)))
        sets += [TokenSet(t, min(t + step - 1, last), dynamic, False) for t in range(first, last + 1, step)]
    return [one for one in sets if len(one)]


def static_positions(windows: Tensor, similar: Tensor) -> Tensor:
    """Return (W, P) bool, the positions that are similar in all consecutive frames of a window; none of one frame.

    Args:
        windows: (W, 2) int64.
        similar: (T - 1, P) bool.
    """
    spans = [similar[first:last] for first, last in windows.tolist()]
    return torch.stack([span.all(0) if len(span) else similar.new_zeros(similar.shape[1]) for span in spans])
