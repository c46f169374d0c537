"""Windows that tile a video: the tiling that makes most tokens redundant, as in HoliTom and Tango.

Dimensions: T frames of P positions; W windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
        links_taken = int((gains == gains.max()).to(torch.uint8).argmax())
        best[end + 1], first[end] = gains[links_taken], end - links_taken
    windows, end = [], frames - 1
    while end >= 0:
        windows.append((int(first[end]), end))
        end = int(first[end]) - 1
    return torch.tensor(windows[::-1]), int(best[frames])


@dataclass(frozen=True)
class TokenSet:
    """Positions of consecutive frames; each position is joined over the frames into one point.

    Attributes:
        first: first frame.
        last: last frame.
        positions: (q,) int64, ascending.
    """

    first: int
    last: int
    positions: Tensor

    @property
    def is_static(self) -> bool:
        """Whether the set spans several frames."""
        return self.last > self.first

    def rows(self, per_frame: int) -> Tensor:
        """Return the (q, L) int64 tokens of each point in a video of ``per_frame`` tokens a frame."""
        frames = torch.arange(self.first, self.last + 1, device=self.positions.device)
        return frames * per_frame + self.positions[:, None]

    def points(self, video: Tensor) -> Tensor:
        """Return (q, ...) means over the frames of (T, P, ...) values, in fp32 or wider."""
        frames = video[self.first : self.last + 1]
        total = frames[0].to(torch.promote_types(video.dtype, torch.float32))
        for frame in frames[1:]:
            total = total + frame
        chosen = total if len(self.positions) == len(total) else total[self.positions]
        return chosen / len(frames) if self.is_static else chosen


def window_sets(windows: Tensor, static: Tensor) -> list[TokenSet]:
    """Return the sets of a tiling: of each window its static positions, then the other positions of each frame.

    Args:
        windows: (W, 2) int64 first and last frame of each window.
        static: (W, P) bool, the positions that are joined over the frames of the window.
    """
    sets = []
    for (first, last), joined in zip(windows.tolist(), static, strict=True):
        dynamic = (~joined).nonzero()[:, 0]
        sets.append(TokenSet(first, last, joined.nonzero()[:, 0]))
        sets += [TokenSet(t, t, dynamic) for t in range(first, last + 1)]
    return [one for one in sets if len(one.positions)]


def static_positions(windows: Tensor, similar: Tensor) -> Tensor:
    """Return (W, P) bool, the positions that are similar in all consecutive frames of a window; none of one frame.

    Args:
        windows: (W, 2) int64.
        similar: (T - 1, P) bool.
    """
    spans = [similar[first:last] for first, last in windows.tolist()]
    return torch.stack([span.all(0) if len(span) else similar.new_zeros(similar.shape[1]) for span in spans])
