"""From the inputs of a host to shorter inputs of the same host: encode the video, compress it, compact the prompt.

One code path for the attach hooks, for training and for the ablation.
Dimensions: B rows, V videos, L columns before, L' columns after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family, family_of
from framefold.errors import InputError

from .checks import check_counts, check_end, check_inputs, check_labels, check_tokens
from .columns import Positions, choose_columns, move_columns, prompt_mask, shorten
from .compaction import Compaction, compact
from .question import Query, embed_queries
from .vision import encode, encode_images

COMPACTED_NAME = "framefold_mark"  # attribute under which a Mark travels


@dataclass(frozen=True, eq=False)
class CompactedPrompt:
    """What the attach hooks need to know of a compacted prompt; travels on the host's encoder output and on its cache.

    Attributes:
        compaction: the map between the columns before and after.
        mask: (B, L') attention mask of the prompt.
        next_position: (B,) position of the column after the prompt in a decode loop that gives none.
        axes: sizes of the dimensions that positions have in front of (B, L').
    """

    compaction: Compaction
    mask: Tensor
    next_position: Tensor
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Inputs of a host after compression.

    Attributes:
        kwargs: ready for ``model(**kwargs)``: no pixels, the features under ``mm_encoder_outputs``.
        tokens: the compressed tokens of each video, in (row, column) order.
        losses: mean over the videos of each loss that the compressor returned.
        scores: of each video, the (N,) scores of its tokens, where the compressor returns them.
        compaction: the map between the columns before and after.
        prompt: what continues a decode loop over the shorter prompt; None where there was nothing to do.
    """

    kwargs: dict[str, Any]
    tokens: list[VideoTokens]
    losses: dict[str, Tensor]
    compaction: Compaction
    prompt: CompactedPrompt | None = None
    scores: tuple[Tensor | None, ...] = ()


def prepare(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    compressor: Callable[..., Compressed],
    *,
    encoded: Sequence[Encoded] | None = None,
    query: Query = None,
    tokenizer: Any = None,
    times: Sequence[Tensor | None] | None = None,
    positions: Positions = "preserve",
    generation: bool = False,
) -> Prepared:
    """Compress the videos of a batch and shorten its prompts to match; the model need not be attached to.

    Args:
        inputs: keyword arguments of the host's forward. Without video, or with video that is encoded already under
            ``mm_encoder_outputs``, they come back untouched.
        compressor: called with (VideoTokens, query) for each video.
        encoded: what :func:`encode` returned for these inputs, which then need not hold pixels.
        query: the question about all videos, or a list with one a video: text or (Q, D) embeddings. A query-aware
            compressor gets what the prompt asks where this is None.
        tokenizer: the host's tokenizer or processor, for finding the question; None: the one beside its weights.
        times: (T,) seconds of the frames of each video, where the host's own arguments do not tell.
        positions: "preserve" gives a token the position of its anchor, "compact" numbers the shorter prompt anew.
        generation: prepare for ``model.generate`` rather than a forward: its rule for positions, padding on the left.
            Do not add ``use_cache=False`` unless a compressor is attached: generate drops masks of ones, and then the
            host takes gaps in the positions for packed sequences.

    Raises:
        InputError: the inputs do not fit each other, see the message; always before the language model runs.
        ContractError: the compressor returned NaN, no tokens, unsorted anchors or another width.
        UnsupportedHostError: see :func:`~framefold.adapters.hosts.base.family.family_of`.
    """
    family = family_of(model)
    if positions not in ("preserve", "compact"):
        raise InputError(f"positions must be 'preserve' or 'compact', got {positions!r}")
    given = dict(inputs.get("mm_encoder_outputs") or {})
    if encoded is None and inputs.get(family.pixels) is None:
        return _untouched(family, model, inputs)
    if given.get(family.modality) is not None:
        raise InputError("the video comes both raw (or encoded=) and under mm_encoder_outputs: drop one of them")
    check_inputs(inputs, positions)

    needs_attention = getattr(compressor, "needs_attention", False)
    clips = list(encode(model, inputs, needs_attention) if encoded is None else encoded)
    ids = inputs["input_ids"]
    where = family.placeholders(model, inputs).nonzero()
    rows = check_counts(ids, where, clips)
    wanted = getattr(compressor, "query_aware", False)
    queries = embed_queries(model, family, inputs, where, clips, query, wanted, tokenizer)
    tokens, losses, scores = _compress(compressor, clips, queries, times, ids.device)
    keep, streams = choose_columns(ids, where, clips, tokens)
    check_labels(inputs.get("labels"), keep)
    if generation and positions == "preserve":
        check_end(keep, prompt_mask(inputs))
    compaction, layers = shorten(inputs, keep, where, streams, rows.tolist(), generation)

    kwargs = {name: value for name, value in inputs.items() if name not in family.vision_inputs}
    kwargs |= move_columns(model, family, inputs, compaction, positions, generation)
    packed = family.pack(layers)
    kwargs["mm_encoder_outputs"] = {**given, **encode_images(model, inputs), family.modality: packed}
    prompt = _compacted_prompt(family, kwargs, compaction, positions)
    setattr(packed, COMPACTED_NAME, prompt)
    return Prepared(kwargs, [out for out in tokens if out is not None], losses, compaction, prompt, scores)


def _compacted_prompt(
    family: Family, kwargs: Mapping[str, Any], compaction: Compaction, positions: Positions
) -> CompactedPrompt:
    ids, mask = kwargs["position_ids"], kwargs["attention_mask"]
    columns = compaction.n_before if positions == "preserve" else compaction.n_after
    axes = ids[-3:].shape[:-2]  # without the row of text positions that generate needs
    return CompactedPrompt(compaction, mask, family.next_position(ids, mask, columns), axes)


def _untouched(family: Family, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Prepared:
    ids = inputs.get("input_ids")
    shape = ids if ids is not None else inputs["inputs_embeds"][..., 0]
    if ids is not None and not inputs.get("mm_encoder_outputs") and bool(family.placeholders(model, inputs).any()):
        raise InputError(f"the prompts hold video placeholders, but there is neither {family.pixels} nor encoded=")
    everything = torch.ones(shape.shape, dtype=torch.bool, device=shape.device)
    return Prepared(dict(inputs), [], {}, compact(everything, everything))


def _compress(
    compressor: Callable[..., Compressed],
    clips: list[Encoded],
    queries: list[Tensor | None],
    times: Any,
    device: torch.device,
) -> tuple[list[VideoTokens | None], dict[str, Tensor], tuple[Tensor | None, ...]]:
    """What the compressor makes of each video, None for stills, the means of its losses, and the scores of videos."""
    videos = [clip for clip in clips if not clip.is_still]
    times = [None] * len(videos) if times is None else times
    if not isinstance(times, (list, tuple, Tensor)):
        raise InputError(f"times must be a list with the (T,) seconds of each video, got {type(times).__name__}")
    if len(times) != len(videos):
        raise InputError(f"times must have one entry for each of the {len(videos)} videos, got {len(times)}")
    tokens, scores = [], []
    losses: dict[str, list[Tensor]] = {}
    for clip, asked, seconds in zip(videos, queries, times, strict=True):
        seconds = clip.times if seconds is None else seconds
        video = VideoTokens.from_grid(clip.features.to(device), times=seconds, attention=clip.attention)
        out = check_tokens(compressor(video, asked), video)
        tokens.append(out.tokens)
        scores.append(out.scores)
        for name, loss in out.losses.items():
            losses.setdefault(name, []).append(loss)
    made = iter(tokens)
    means = {name: torch.stack(values).mean() for name, values in losses.items()}
    return [None if clip.is_still else next(made) for clip in clips], means, tuple(scores)
