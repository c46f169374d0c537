"""Temporal merging of DyCoke (its stage 1) as released."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.errors import InputError


def released_references(frames: int) -> list[int | None]:
    """Return the frame with which each frame is compared, or None if it is kept whole.

    Of a group of four frames, frames 1 and 3 are compared with frames 0 and 2, and frame 2 with frame 0. The loop that
    compares frames 2 ends four frames before the end of the video, and an odd number of frames loses the last one, so
    the list has an even length.

    Raises:
        InputError: fewer than five frames, on which the release fails.
    """
    if frames < 5:
        raise InputError(f"dycoke: variant='official' needs at least 5 frames, got {frames}: use variant='exact'")
    references: list[int | None] = []
    for t in range(frames - frames % 2):
        late = t % 4 == 2 and t - 2 < frames - 4
        references.append(t - 1 if t % 2 else t - 2 if late else None)
    return references


def released_rows(video: Tensor, rate: float) -> Tensor:
    """Return the rows of the flattened video that the release keeps, in its order.

    A frame that is compared keeps int((1 - rate) * P) tokens, those least similar to the same place of the other frame,
    by rising similarity.

    Args:
        video: (T, P, D) features.
        rate: fraction of a compared frame to drop.

    Raises:
        InputError: fewer than five frames.
    """
    per_frame = video.shape[1]
    keep, places = int((1 - rate) * per_frame), torch.arange(per_frame, device=video.device)
    rows = []
    for t, reference in enumerate(released_references(len(video))):
        kept = places
        if reference is not None:
            now, before = torch.nn.functional.normalize(video[[t, reference]].float(), dim=-1)  # as there
            cosine = torch.cosine_similarity(now, before, dim=-1)
            kept = torch.sort(cosine, stable=True).indices[:keep]
        rows.append(t * per_frame + kept)
    return torch.cat(rows)
