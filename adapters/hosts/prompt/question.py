"""The question of each video as embeddings: what the caller says, or what the prompt asks.

Dimensions: B rows, L columns, Q tokens of a question, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family
from framefold.errors import InputError

from .find_question import REMEDY, TurnMarkers, tokenizer_of

VideoQuery = Tensor | str | None

Query = VideoQuery | Sequence[VideoQuery]


def embed_queries(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    where: Tensor,
    clips: Sequence[Encoded],
    query: Query,
    wanted: bool,
    tokenizer: Any,
) -> list[Tensor | None]:
    """(Q, D) embeddings of the question about each video that is no still, by the host's own input embeddings.

    Args:
        where: (P, 2) row and column of every placeholder.
        query: of all videos, or a list with one entry a video; None is looked for in the prompt.
        wanted: the compressor is query-aware; without, nothing is looked for.
        tokenizer: tokenizer or processor of the host; None: the one beside the weights it was loaded from.

    Raises:
        InputError: not one entry a video, no tokenizer is to be had, or there is no question beside a video.
    """
    videos = sum(not clip.is_still for clip in clips)
    if query is not None and not isinstance(query, (Tensor, str, list, tuple)):
        raise InputError(f"query must be text, a tensor (Q, D), or a list with one a video, got {type(query).__name__}")
    given = [query] * videos if query is None or isinstance(query, (Tensor, str)) else list(query)
    if wrong := [type(one).__name__ for one in given if one is not None and not isinstance(one, (Tensor, str))]:
        raise InputError(f"each query must be text or a tensor (Q, D), got {wrong[0]}")
    if len(given) != videos:
        raise InputError(f"query must have one entry for each of the {videos} videos, got {len(given)}")
    out: list[Tensor | None] = []
    texts: dict[int, Tensor] = {}  # ids of those that are to be embedded, by their place
    start = 0
    for clip in clips:
        places = where[start : start + len(clip)]
        start += len(clip)
        if clip.is_still:
            continue
        asked = given[len(out)]
        if isinstance(asked, str):
            texts[len(out)] = _ids_of(asked, _turns(model, tokenizer).tokenizer)
        elif asked is None and wanted:
            texts[len(out)] = _find(family, inputs, places, _turns(model, tokenizer))
        out.append(asked if isinstance(asked, Tensor) else None)
    for place, embedded in zip(texts, _embed(model, list(texts.values())), strict=True):
        out[place] = embedded
    return out


def _turns(model: PreTrainedModel, tokenizer: Any) -> TurnMarkers:
    try:
        return _learn(tokenizer_of(model) if tokenizer is None else tokenizer)
    except InputError as error:
        raise InputError(f"cannot tell the question to a query-aware compressor: {error}") from error


_learn = functools.lru_cache(maxsize=8)(TurnMarkers.from_tokenizer)


def _find(family: Family, inputs: Mapping[str, Any], places: Tensor, turns: TurnMarkers) -> Tensor:
    number = places[0, 0]
    mask, labels = inputs.get("attention_mask"), inputs.get("labels")
    row: Tensor = inputs["input_ids"][number]
    video = torch.zeros_like(row, dtype=torch.bool)
    video[places[:, 1]] = True
    columns = turns.question(row, video, family.frame_text)
    if mask is not None:
        columns = columns[mask[number, columns] != 0]
    if labels is not None:  # an answer to learn, in a prompt without a template that tells it from the question
        columns = columns[labels[number, columns] == -100]
    if not len(columns):
        raise InputError(f"the turn of a video holds no question for a query-aware compressor: {REMEDY}")
    return row[columns]


def _ids_of(text: str, tokenizer: Any) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError("the query is an empty text")
    return torch.tensor(ids)


def _embed(model: PreTrainedModel, texts: list[Tensor]) -> list[Tensor]:
    """(Q, D) embeddings of each text, in one call: under ZeRO-3, ranks with more questions must not make more."""
    if not texts:
        return []
    embeddings: Any = model.get_input_embeddings()
    ids = torch.cat([text.to(model.device) for text in texts])
    return list(embeddings(ids).split([len(text) for text in texts]))
