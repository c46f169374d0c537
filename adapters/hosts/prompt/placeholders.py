"""Prompts that hold one placeholder for a whole video, as the data of QTSplus does (arXiv 2511.11910)."""

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
    """Repeat the one placeholder of each video for each of its tokens, as processors write prompts.

    The new columns are copies of the old one, without labels. Rows that end up shorter than others get padding on the
    side where the mask has some, else on the right.

    Args:
        inputs: ``input_ids`` (B, L) and, where they are, the other arguments with one value a column.
        placeholder: its id.
        counts: tokens of each video, in (row, column) order.
        pad: id for new padding.

    Returns:
        The inputs with (B, L') columns.

    Raises:
        InputError: not as many placeholders as counts, or a count below 1.
    """
    ids: Tensor = inputs["input_ids"]
    where = ids == placeholder
    if int(where.sum()) != len(counts) or min(counts, default=1) < 1:
        raise InputError(f"{int(where.sum())} placeholders for videos of {list(counts)} tokens: there must be one each")
    times = torch.ones_like(ids)
    times[where] = torch.tensor(counts, dtype=ids.dtype, device=ids.device)
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    left = bool((mask[:, 0] == 0).any())
    given = {name: inputs[name] for name in COLUMNS if inputs.get(name) is not None}
    given |= {"input_ids": ids, "attention_mask": mask}
    if "labels" in given:
        given["labels"] = given["labels"].masked_fill(where, -100)
    out = dict(inputs)
    for name, values in given.items():
        rows = [row.repeat_interleave(count) for row, count in zip(values, times, strict=True)]
        fill = pad if name == "input_ids" else COLUMNS[name]
        out[name] = pad_sequence(rows, True, fill, padding_side="left" if left else "right")
    return out
