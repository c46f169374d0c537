"""Question about each video as embeddings, from the caller or from the prompt.

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
from framefold.adapters.hosts.base.family import Family, family_of
from framefold.adapters.hosts.base.offload import execution_device
from framefold.errors import InputError

from .checks import labels_of
from .find_question import TurnMarkers, tokenizer_of
from .row_text import REMEDY

VideoQuery = Tensor | str | None

Query = VideoQuery | Sequence[VideoQuery]


def embed_queries(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    where: Tensor,
    clips: Sequence[Encoded],
    query: Query,
    query_aware: bool,
    tokenizer: Any,
) -> list[Tensor | None]:
    """Return the (Q, D) embeddings of the question about each video, computed by the host's input embeddings.

    Args:
        model: the host.
        family: family of the host.
        inputs: the host's inputs.
        where: (P, 2) row and column of every placeholder.
        clips: the encoded videos and stills; stills have no question.
        query: question about all videos, or a list with one entry per video; None is searched for in the prompt.
        query_aware: whether the compressor needs a question; if not, prompts are not searched.
        tokenizer: tokenizer or processor of the host. If None, the tokenizer next to the weights it was loaded from.

    Raises:
        InputError: there is not one entry per video, no tokenizer is available, or the prompt has no question.
    """
    queries = _check_queries(query, sum(not clip.is_still for clip in clips))
    out: list[Tensor | None] = []
    token_ids: dict[int, Tensor] = {}  # of the questions to embed, by index of the video
    start = 0
    for clip in clips:
        placeholders = where[start : start + len(clip)]
        start += len(clip)
        if clip.is_still:
            continue
        question = queries[len(out)]
        if isinstance(question, str):
            token_ids[len(out)] = _tokenize(question, _turn_markers(model, tokenizer).tokenizer)
        elif question is None and query_aware:
            token_ids[len(out)] = _find_question(family, inputs, placeholders, _turn_markers(model, tokenizer))
        out.append(question if isinstance(question, Tensor) else None)
    for index, embedded in zip(token_ids, _embed(model, list(token_ids.values())), strict=True):
        out[index] = embedded
    return out


def query_or_none(model: PreTrainedModel, inputs: Mapping[str, Any], tokenizer: Any, question: str) -> str | None:
    """Return None if a question can be found in its prompt, otherwise its text, to be passed as query.

    It cannot be found if the chat template is unusual, or if the tokenizer knows none of its words.

    Args:
        model: the host.
        inputs: the host's inputs for one video.
        tokenizer: tokenizer or processor of the host.
        question: text of the question.
    """
    family = family_of(model)
    try:
        _find_question(family, inputs, family.placeholders(model, inputs).nonzero(), _turn_markers(model, tokenizer))
    except InputError:
        return question
    return None


def _check_queries(query: Query, videos: int) -> list[VideoQuery]:
    """Return one entry per video."""
    if query is not None and not isinstance(query, (Tensor, str, list, tuple)):
        raise InputError(
            f"query must be text, a tensor (Q, D), or a list with one entry per video, got {type(query).__name__}"
        )
    queries = [query] * videos if query is None or isinstance(query, (Tensor, str)) else list(query)
    if wrong := [type(one).__name__ for one in queries if one is not None and not isinstance(one, (Tensor, str))]:
        raise InputError(f"each query must be text or a tensor (Q, D), got {wrong[0]}")
    if len(queries) != videos:
        raise InputError(f"query must have one entry for each of the {videos} videos, got {len(queries)}")
    return queries


def _turn_markers(model: PreTrainedModel, tokenizer: Any) -> TurnMarkers:
    try:
        return _cached_markers(tokenizer_of(model) if tokenizer is None else tokenizer)
    except InputError as error:
        raise InputError(f"cannot find the question for a query-aware compressor: {error}") from error


_cached_markers = functools.lru_cache(maxsize=8)(TurnMarkers.from_tokenizer)


def _find_question(family: Family, inputs: Mapping[str, Any], placeholders: Tensor, turns: TurnMarkers) -> Tensor:
    number = placeholders[0, 0]
    mask, labels = inputs.get("attention_mask"), labels_of(inputs)
    row: Tensor = inputs["input_ids"][number]
    video = torch.zeros_like(row, dtype=torch.bool)
    video[placeholders[:, 1]] = True
    columns = turns.question(row, video, family.frame_text)
    if mask is not None:
        columns = columns[mask[number, columns] != 0]
    if labels is not None:  # exclude answers to learn, which prompts without a template do not separate
        columns = columns[labels[number, columns] == -100]
    if not len(columns):
        raise InputError(f"the turn of a video contains no question for a query-aware compressor: {REMEDY}")
    return row[columns]


def _tokenize(text: str, tokenizer: Any) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError("the query is an empty text")
    return torch.tensor(ids)


def _embed(model: PreTrainedModel, texts: list[Tensor]) -> list[Tensor]:
    """Return the (Q, D) embeddings of each text.

    All texts are embedded in one call, because under ZeRO-3 all ranks must make the same number of calls.
    """
    if not texts:
        return []
    embeddings: Any = model.get_input_embeddings()
    ids = torch.cat([text.to(execution_device(model)) for text in texts])
    return list(embeddings(ids).split([len(text) for text in texts]))
