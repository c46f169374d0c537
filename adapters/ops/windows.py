"""Windows that tile a video: the tiling that makes most tokens redundant, as in HoliTom and Tango.

Dimensions: T frames of P positions; W windows.
"""

from __future__ import annotations

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
