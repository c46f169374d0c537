"""Positions of compressed media in a prompt of vLLM, equal to those of ``framefold.attach``.

vLLM numbers the uncompressed prompt and repairs the positions when the features arrive. Here nothing is repaired:

- Before a medium is encoded, all positions outside of it are known: text, then the distance by which the medium moves
  the text behind it. :func:`initial_positions` numbers them.
- The features of a medium arrive with further channels: the position of each row relative to the start of the medium.
  :func:`write_positions` adds the start. The result depends only on the prompt and these channels, so it is the same
  for a prompt in chunks, with a cached prefix, after preemption, and if it is computed twice.

vLLM gives features the dtype of the model. The integers in the channels are therefore split into digits of base 256,
which bfloat16 and float16 represent exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framefold.errors import ContractError, InputError

AXES = 3  # time, height, width
FIELDS = AXES + 2  # positions relative to the medium, row in the medium, lead
DIGITS = 3
BASE_BITS = 8
LARGEST = (1 << BASE_BITS * DIGITS) - 1
CHANNELS = FIELDS * DIGITS

Grid = tuple[int, int, int]


class Medium(NamedTuple):
    """A video or image in the prompt.

    Attributes:
        offset: index of its first row.
        rows: number of its rows, including text between frames.
        advance: how far it moves the text behind it.
    """

    offset: int
    rows: int
    advance: int


def initial_positions(length: int, media: Sequence[Medium]) -> tuple[Tensor, int]:
    """Number a prompt before its media are encoded.

    Args:
        length: number of rows of the prompt.
        media: the media, in any order.

    Returns:
        (3, length) positions, final except inside the media, and the difference between the position of the first
        generated token and ``length``.
    """
    parts, row, position = [], 0, 0
    for medium in sorted(media):
        text = medium.offset - row
        parts += [torch.arange(text) + position, torch.full((medium.rows,), position + text)]
        position += text + medium.advance
        row = medium.offset + medium.rows
    parts.append(torch.arange(length - row) + position)
    position += length - row
    return torch.cat(parts).expand(AXES, -1).clone(), position - length


def position_channels(relative: Tensor, lead: int, like: Tensor) -> Tensor:
    """Encode the positions of a medium's rows as channels beside its features.

    Args:
        relative: (N, 3) positions relative to the start of the medium.
        lead: number of its rows before its first placeholder in the prompt.
        like: tensor whose dtype and device the result has.

    Returns:
        (N, CHANNELS) channels.

    Raises:
        InputError: a position is negative or larger than the channels can represent.
    """
    count = len(relative)
    relative = relative.cpu().long()
    smallest, largest = int(relative.min()), max(int(relative.max()), count, lead)
    if smallest < 0 or largest > LARGEST:
        raise InputError(f"positions of a medium must be from 0 to {LARGEST}, got {smallest} to {largest}")
    fields = torch.cat([relative, torch.arange(count)[:, None], torch.full((count, 1), lead)], 1)
    digits = torch.stack([(fields >> (BASE_BITS * digit)) & ((1 << BASE_BITS) - 1) for digit in range(DIGITS)], 2)
    return digits.flatten(1).to(like)


def read_channels(channels: Tensor) -> Tensor:
    """Return the (N, FIELDS) int64 numbers that :func:`position_channels` encoded: t, h, w, row, lead."""
    digits = channels.long().unflatten(1, (FIELDS, DIGITS))
    return (digits << (BASE_BITS * torch.arange(DIGITS, device=digits.device))).sum(-1)


def write_positions(
    placeholders: Tensor, pieces: Sequence[Tensor], positions: Tensor, computed: int
) -> tuple[list[Tensor], Tensor, int]:
    """Write the positions inside the media whose features have arrived.

    Args:
        placeholders: (length,) bool, the placeholders of media in the prompt.
        pieces: features with position channels of the media, or of the parts of them, that are computed in this step,
            in the order of the prompt.
        positions: (3, length) positions so far.
        computed: number of rows that earlier steps computed, or that were cached.

    Returns:
        The features without the channels, the positions, and the difference between the position of the first
        generated token and ``length``.

    Raises:
        ContractError: there are more pieces than media in the prompt.
    """
    positions = positions.clone()
    features, row = [], computed
    for piece in pieces:
        fields = read_channels(piece[:, -CHANNELS:])
        features.append(piece[:, :-CHANNELS])
        first, lead = int(fields[0, AXES]), int(fields[0, AXES + 1])
        # A piece that is not the beginning of its medium is the first of this step, and begins where the step begins.
        start = row - first if first else _next_placeholder(placeholders, row) - lead
        base = int(positions[:, start - 1].max()) + 1 if start else 0
        row = start + first + len(fields)
        positions[:, start + first : row] = (fields[:, :AXES].T + base).to(positions)
    return features, positions, int(positions[:, -1].max()) + 1 - positions.shape[1]


def _next_placeholder(placeholders: Tensor, row: int) -> int:
    found = placeholders[row:].nonzero()
    if not len(found):
        raise ContractError(f"a medium has features, but the prompt has no placeholder at or behind row {row}")
    return row + int(found[0])


def media_grid_positions(grid: Grid, interval: float | Tensor = 1.0) -> Tensor:
    """Return the (T*H*W, 3) positions of a grid relative to its start, with one frame every ``interval`` positions."""
    t, h, w = grid
    time = (torch.arange(t) * interval).long()
    return torch.stack(torch.meshgrid(time, torch.arange(h), torch.arange(w), indexing="ij"), -1).flatten(0, 2)


def line_positions(rows: Tensor) -> Tensor:
    """Return the (N, 3) positions of rows that are numbered like text; three equal axes are plain rotary positions."""
    return rows[:, None].expand(-1, AXES)


def anchor_mask(anchors: Tensor, length: int) -> Tensor:
    """Return the (length,) bool mask, on the CPU, of the tokens of a video that are anchors."""
    mask = torch.zeros(length, dtype=torch.bool)
    mask[anchors.cpu()] = True
    return mask


def framed_rows(kept: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """Return the positions of a video with text between its frames that is numbered like text, as in InternVL.

    Args:
        kept: (T*H*W,) bool, the anchors of the tokens that are kept.
        starts: row before the tokens of each frame.
        length: number of rows, text and kept tokens.

    Returns:
        (length,) positions relative to the start of the video.
    """
    frames = kept.unflatten(0, (len(starts), -1))
    exists = torch.ones(length + int((~kept).sum()), dtype=torch.bool)
    dropped = 0
    for start, frame in zip(starts, frames, strict=True):
        first = start + 1 + dropped
        exists[first : first + len(frame)] = frame
        dropped += int((~frame).sum())
    return exists.nonzero()[:, 0]


def framed_positions(grid: Grid, kept: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """Return the positions of a video with text between its frames, as in Qwen3-VL.

    Text is numbered as everywhere, and each frame moves it by the longer side of its grid, however many of its tokens
    are kept.

    Args:
        grid: (T, H, W) of the tokens.
        kept: (T*H*W,) bool, the anchors of the tokens that are kept.
        starts: row of the mark behind which the tokens of each frame follow.
        length: number of rows, text and kept tokens.

    Returns:
        (length, 3) positions relative to the start of the video.
    """
    _, h, w = grid
    frame = media_grid_positions((1, h, w))
    parts, row, position = [], 0, 0
    for start, tokens in zip(starts, kept.cpu().unflatten(0, (len(starts), h * w)), strict=True):
        text = start + 1 - row
        parts.append(line_positions(torch.arange(text) + position))
        position += text
        parts.append(frame[tokens] + position)
        position += max(h, w)
        row = start + 1 + len(parts[-1])
    parts.append(line_positions(torch.arange(length - row) + position))
    return torch.cat(parts)


class MediaPositions:
    """Mixin for a model class of vLLM, before its own base: the positions of its prompts.

    The class defines :meth:`advance`, and its ``embed_multimodal`` returns features with :func:`position_channels`.
    """

    config: Any

    def placeholder_ids(self) -> tuple[int, ...]:
        """Return the token ids of placeholders of images and videos."""
        return self.config.image_token_id, self.config.video_token_id

    def advance(self, feature: Any) -> int:
        """Return how far a medium moves the text behind it, from those of its fields that vLLM keeps on the CPU."""
        raise NotImplementedError

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """See ``SupportsMRoPE`` of vLLM."""
        media = [
            Medium(feature.mm_position.offset, feature.mm_position.length, self.advance(feature))
            for feature in mm_features
        ]
        return initial_positions(len(input_tokens), media)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """See ``SupportsMultiModalPruning`` of vLLM."""
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        placeholders = torch.isin(ids, torch.tensor(self.placeholder_ids(), device=ids.device))
        return write_positions(placeholders, multimodal_embeddings, mrope_positions, num_computed_tokens)
