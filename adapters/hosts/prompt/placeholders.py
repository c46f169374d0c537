"""Expand prompts that have a single placeholder per video, as in the data of QTSplus (arXiv 2511.11910)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from framefold.errors import InputError

COLUMNS = {"attention_mask": 0, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}


def expand_placeholders(
    inputs: Mapping[str, Any], placeholder: int, counts: Sequence[int], pad: int = 0
) -> dict[str, Any]:
    """Repeat the single placeholder of each video once per token, as processors write prompts.

    The new columns are copies of the old one, without labels. Shorter rows are padded on the side where the mask has
    padding, otherwise on the right.

    Args:
        inputs: ``input_ids`` (B, L) and, if present, the other arguments with one value per column.
        placeholder: token id of the placeholder.
        counts: number of tokens of each video, in (row, column) order.
        pad: token id of new padding.

    Returns:
        The inputs with (B, L') columns.

    Raises:
        InputError: the numbers of placeholders and counts differ, or a count is below 1.
    """
    ids: Tensor = inputs["input_ids"]
    where = ids == placeholder
    if int(where.sum()) != len(counts) or min(counts, default=1) < 1:
        raise InputError(
            f"{int(where.sum())} placeholders for videos of {list(counts)} tokens: each video needs one placeholder and"
            " at least one token"
        )
    repeats = torch.ones_like(ids)
    repeats[where] = torch.tensor(counts, dtype=ids.dtype, device=ids.device)
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    left = bool((mask[:, 0] == 0).any())
    columns = {name: inputs[name] for name in COLUMNS if inputs.get(name) is not None}
    columns |= {"input_ids": ids, "attention_mask": mask}
    if "labels" in columns:
        columns["labels"] = columns["labels"].masked_fill(where, -100)
    out = dict(inputs)
    for name, values in columns.items():
        rows = [row.repeat_interleave(count) for row, count in zip(values, repeats, strict=True)]
        fill = pad if name == "input_ids" else COLUMNS[name]
        out[name] = pad_sequence(rows, True, fill, padding_side="left" if left else "right")
    return out
