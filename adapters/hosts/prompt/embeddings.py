"""Find the token ids of prompts that are passed as embeddings.

Dimensions: B rows, L columns, D width, N vectors, V ids of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.family import Family

FILTERS = 8  # components that are compared before entire vectors

AT_ONCE = 64  # vectors that are compared with the vocabulary at once


def with_ids(model: PreTrainedModel, family: Family, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add (B, L) ``input_ids`` to inputs that have only ``inputs_embeds``.

    As in the hosts, a column is a placeholder if it equals the embedding of the placeholder. Columns that are no
    embedding of the vocabulary, such as a soft prompt, have negative ids, equal ones where the columns are equal.
    """
    embeds = inputs.get("inputs_embeds")
    if inputs.get("input_ids") is not None or not isinstance(embeds, Tensor) or embeds.ndim != 3:
        return inputs
    embeds, embedding = embeds.detach(), model.get_input_embeddings()
    ids = embeds.new_full(embeds.shape[:2], -1, dtype=torch.long)
    known = torch.zeros_like(ids, dtype=torch.bool)
    video = family.placeholder_id(model)
    image = getattr(model.config, "image_token_id", None)
    image = video if image is None else image
    for written, id in ((image, image), (video, video), (family.embedded_placeholder_id(model), video)):
        column = (embeds == embed_id(model, written, embeds.device)).all(-1)
        ids, known = ids.masked_fill(column, id), known | column
    if not bool(known.all()):
        scale = getattr(embedding, "embed_scale", None)  # by which some modules multiply their weights
        ids[~known] = _look_up(embeds[~known], getattr(embedding, "weight", None), scale)
    return {**inputs, "input_ids": ids}


def embed_id(model: PreTrainedModel, id: int, device: torch.device) -> Tensor:
    """Return the (D,) input embedding of a token."""
    embeddings: Any = model.get_input_embeddings()
    return embeddings(torch.full((), id, dtype=torch.long, device=device)).detach()


def _look_up(vectors: Tensor, table: Any, scale: Tensor | None = None) -> Tensor:
    """Return the (N,) rows of the scaled (V, D) table that equal the (N, D) vectors; below 0 where none does."""
    distinct, inverse = vectors.unique(dim=0, return_inverse=True)
    found = -1 - torch.arange(len(distinct), device=vectors.device)
    width = vectors.shape[1]
    # the table may be split among devices or not be loaded
    if type(table) is not nn.Parameter or table.shape[1:] != (width,) or table.device != vectors.device:
        return found[inverse]
    table = table.detach()
    factor = torch.ones((), dtype=table.dtype, device=table.device) if scale is None else scale.to(table)
    for start in range(0, len(distinct), AT_ONCE):
        part = distinct[start : start + AT_ONCE]
        rows, ids = (part[:, :1] == table[:, 0] * factor).nonzero(as_tuple=True)
        for column in range(0, width, -(-width // FILTERS)):
            same = part[rows, column] == table[ids, column] * factor
            rows, ids = rows[same], ids[same]
        same = (part[rows] == table[ids] * factor).all(-1)
        found[start + rows[same]] = ids[same]
    return found[inverse]
