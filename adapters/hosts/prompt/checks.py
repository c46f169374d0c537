"""Validate the inputs of a host and the tokens of a compressor before the language model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.errors import ContractError, InputError


def check_inputs(inputs: Mapping[str, Any], positions: str) -> None:
    """Check the arguments that accompany a video.

    Raises:
        InputError: an argument cannot be compressed together with a video; the message says what to pass instead.
    """
    ids, mask, position_ids = (inputs.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
    embeds = inputs.get("inputs_embeds")
    if ids is None:
        raise InputError("pass input_ids, or inputs_embeds (batch, columns, width), with a video")
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        got = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"input_ids must be a tensor (batch, columns), got {got}")
    if embeds is not None and (not isinstance(embeds, Tensor) or embeds.shape[:-1] != ids.shape):
        got = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise InputError(f"inputs_embeds must be (batch, columns, width) with input_ids {tuple(ids.shape)}, got {got}")
    for name in ("attention_mask", "labels", "shift_labels", "token_type_ids", "mm_token_type_ids"):
        value = inputs.get(name)
        if value is not None and (not isinstance(value, Tensor) or value.shape != ids.shape):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} must be (batch, columns) = {tuple(ids.shape)} with a video, got {shape}")
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise InputError("a new video cannot follow a filled cache: pass the full conversation without the cache")
    if position_ids is None:
        return
    if positions == "compact":
        raise InputError("position_ids were given, but positions='compact' renumbers the prompt: drop one of them")
    packed = mask is None and position_ids.ndim == 2 and bool((position_ids.diff(dim=-1) != 1).any())
    if packed:
        raise InputError("packed sequences (position_ids with gaps, no attention_mask) cannot contain a video")


def check_counts(ids: Tensor, where: Tensor, clips: Sequence[Encoded]) -> Tensor:
    """Check that every video fills consecutive placeholders of one row.

    Args:
        ids: (B, L) prompts.
        where: (P, 2) row and column of every placeholder, in order.
        clips: the encoded videos and stills.

    Returns:
        (V,) int64 row of each video.

    Raises:
        InputError: there are more or fewer video tokens than placeholders, or the counts of a row do not match.
    """
    lengths = torch.tensor([len(clip) for clip in clips], device=ids.device)
    ends = lengths.cumsum(0)
    total = int(lengths.sum())
    per_row = torch.bincount(where[:, 0], minlength=len(ids)).tolist()
    counts = f"{len(clips)} videos of {lengths.tolist()} tokens, prompts with {per_row} placeholders"
    if not clips:
        raise InputError("there are no videos to compress")
    if total > len(where):
        raise InputError(f"more videos than placeholders: {counts}")
    if total < len(where):
        raise InputError(f"fewer videos than placeholders: {counts}")
    first, last = where[ends - lengths, 0], where[ends - 1, 0]
    if bool((first != last).any()):
        raise InputError(f"the placeholders of the rows do not match the videos: {counts}")
    return first


def labels_of(inputs: Mapping[str, Any]) -> Tensor | None:
    """Return the (B, L) label of each column, also if the caller passes them as labels of the column before."""
    shifted = inputs.get("shift_labels")
    if shifted is None:
        return inputs.get("labels")
    return torch.nn.functional.pad(shifted, (1, 0), value=-100)[:, :-1]


def check_labels(labels: Tensor | None, keep: Tensor) -> None:
    """Refuse to drop columns with labels.

    Raises:
        InputError: labels would be lost; the message says how many.
    """
    lost = 0 if labels is None else int(((labels != -100) & ~keep).sum())
    if lost:
        raise InputError(f"{lost} labels are on placeholders that are dropped: set labels to -100 on the video")


def check_end(keep: Tensor, mask: Tensor) -> None:
    """Refuse to generate from a prompt whose last token is dropped, because the answer would continue an earlier token.

    Args:
        keep: (B, L) bool, columns to keep.
        mask: (B, L) attention mask.

    Raises:
        InputError: the last token of a prompt is dropped; the message names the rows.
    """
    last = (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(-1, keepdim=True)
    rows = (~keep.gather(1, last)[:, 0]).nonzero()[:, 0].tolist()
    if rows:
        raise InputError(
            f"prompts {rows} end in a video whose last tokens are dropped: put the question after the video"
        )


def check_tokens(out: Any, video: VideoTokens) -> Compressed:
    """Check the result of a compressor for a video.

    Raises:
        ContractError: the result is no Compressed, has no tokens, NaN, another width or dtype, unsorted anchors, or
            anchors outside the grid; or its key_bias is not one finite number per token.
    """
    if not isinstance(out, Compressed) or not isinstance(out.tokens, VideoTokens):
        raise ContractError(f"the compressor must return Compressed, got {type(out).__name__}")
    features, index = out.tokens.features, out.tokens.index
    if len(features) == 0:
        raise ContractError("the compressor returned no tokens")
    if features.ndim != 2 or features.shape[1] != video.width or features.dtype != video.features.dtype:
        raise ContractError(
            f"the compressor changed width or dtype: (N, {video.width}) {video.features.dtype} became"
            f" {tuple(features.shape)} {features.dtype}"
        )
    if index.shape != features.shape[:1]:
        raise ContractError(f"the compressor returned {len(features)} tokens with {tuple(index.shape)} anchors")
    if bool((index[1:] <= index[:-1]).any()):
        raise ContractError("the compressor returned anchors that are not strictly ascending")
    if int(index[0]) < 0 or int(index[-1]) >= len(video):
        raise ContractError(f"the compressor returned anchors outside the grid of {len(video)} tokens")
    bias = out.key_bias
    if bias is not None and (bias.shape != index.shape or not bool(torch.isfinite(bias.detach()).all())):
        raise ContractError("the compressor returned a key_bias that is not one finite number per token")
    if not bool(torch.isfinite(torch.stack(torch.aminmax(features.detach()))).all()):
        raise ContractError("the compressor returned NaN or infinite features")
    return out
