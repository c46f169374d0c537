"""Turn the inputs of a host into shorter inputs of the same host: encode the video, compress it, compact the prompt.

The attach hooks, training and the ablation share this code path.

Dimensions: B rows, V videos, L columns before, L' columns after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family, family_of
from framefold.adapters.hosts.base.image_runs import CLIPS
from framefold.adapters.hosts.base.offload import weights_device
from framefold.errors import InputError

from .checks import check_counts, check_end, check_inputs, check_labels, check_tokens, labels_of
from .columns import Positions, check_positions, choose_columns, move_columns, prompt_mask, shorten
from .compaction import Compaction, compact
from .embeddings import with_ids
from .frame_clips import name_clips
from .places import VideoPlace, check_key_bias, place_videos, plan_in_llm
from .question import Query, embed_queries
from .vision import encode, encode_images

COMPACTED_NAME = "framefold_mark"  # attribute under which a CompactedPrompt is attached


@dataclass(frozen=True, eq=False)
class CompactedPrompt:
    """Description of a compacted prompt for the attach hooks, stored on the host's encoder output and on its cache.

    Attributes:
        compaction: map between the columns before and after.
        mask: (B, L') attention mask of the prompt.
        next_position: (B,) position of the column after the prompt, for a decode loop that passes no positions.
        axes: sizes of the leading dimensions of positions, before (B, L').
        places: where the tokens of each video are, in (row, column) order.
        visual: (B, L') bool, placeholders of videos and images; None unless the layers of the host need it.
    """

    compaction: Compaction
    mask: Tensor
    next_position: Tensor
    axes: tuple[int, ...]
    places: tuple[VideoPlace, ...] = ()
    visual: Tensor | None = None

    def without_places(self) -> CompactedPrompt:
        """Return what a decode loop needs; caches are copied, and modules of a compressor must not be."""
        return replace(self, places=(), visual=None)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Inputs of a host after compression.

    Attributes:
        kwargs: arguments for ``model(**kwargs)``, without pixels, with the features under ``mm_encoder_outputs``.
        tokens: the compressed tokens of each video, in (row, column) order.
        losses: mean over the videos of each loss that the compressor returned.
        compaction: map between the columns before and after.
        prompt: values that continue a decode loop over the shorter prompt; None if there was nothing to compress.
        scores: for each video, the (N,) scores of its tokens, if the compressor returned them.
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
    vision_chunk: int | None = None,
) -> Prepared:
    """Compress the videos of a batch and shorten its prompts to match. No compressor needs to be attached.

    Args:
        model: the host.
        inputs: keyword arguments of the host's forward. They are returned unchanged if there is no video, or if the
            video is already encoded under ``mm_encoder_outputs``.
        compressor: called with (VideoTokens, query) for each video.
        encoded: result of :func:`~framefold.adapters.hosts.prompt.vision.encode` for these inputs; pixels are then not
            needed.
        query: the question about all videos, or a list with one entry per video: text or (Q, D) embeddings. Where it is
            None, a query-aware compressor gets the question of the prompt.
        tokenizer: the host's tokenizer or processor, used to find the question, and the videos among the images of a
            host that takes frames as images. If None, the one next to its weights.
        times: (T,) seconds of the frames of each video, if the host's own arguments do not contain them.
        positions: "preserve" gives a token the position of its anchor; "compact" renumbers the shorter prompt;
            "all_axes" is for Qwen2-VL and Qwen2.5-VL, see :func:`~framefold.adapters.hosts.hooks.attach.attach`.
        generation: prepare for ``model.generate`` instead of a forward: its positions, and padding on the left. Do not
            add ``use_cache=False`` unless a compressor is attached: generate drops masks of ones, and the host then
            treats gaps in the positions as packed sequences.
        vision_chunk: see :func:`~framefold.adapters.hosts.prompt.vision.encode`.

    Raises:
        InputError: the inputs are inconsistent; always raised before the language model runs.
        ContractError: the compressor returned NaN, no tokens, unsorted anchors or another width.
        UnsupportedHostError: see :func:`~framefold.adapters.hosts.base.family.family_of`.
    """
    family = family_of(model)
    check_positions(positions, family)
    encoder_outputs = dict(inputs.get("mm_encoder_outputs") or {})
    completed = _with_ids_and_clips(model, family, inputs, encoded, tokenizer)
    if completed is None:
        return _unchanged(family, model, inputs)
    given, inputs = inputs, completed
    if encoder_outputs.get(family.modality) is not None:
        raise InputError("the video is passed both raw (or as encoded=) and in mm_encoder_outputs: drop one of them")
    check_inputs(inputs, positions)

    needs_attention = getattr(compressor, "needs_attention", False)
    if encoded is None:
        encoded = encode(model, inputs, needs_attention, vision_chunk=vision_chunk)
    clips = list(encoded)
    ids = inputs["input_ids"]
    where = family.placeholders(model, inputs).nonzero()
    rows = check_counts(ids, where, clips)
    needs_query = getattr(compressor, "needs_query", getattr(compressor, "query_aware", False))
    queries = embed_queries(model, family, inputs, where, clips, query, needs_query, tokenizer)
    of_row = getattr(compressor, "of_row", None)  # compressors that differ by row
    compressors = [of_row(row, len(ids)) if of_row else compressor for row in rows.tolist()]
    first = compressors[0]
    device = weights_device(first, ids.device) if isinstance(first, nn.Module) else ids.device
    clips = [clip.to(device) for clip in clips]  # the vision side may be on another device
    outputs, losses = _compress(compressors, clips, queries, times)
    tokens = [None if out is None else out.tokens for out in outputs]
    plans = [
        None if out is None else plan_in_llm(model, family, own, out)
        for own, out in zip(compressors, outputs, strict=True)
    ]
    check_key_bias(model, outputs, plans, generation)
    keep, streams = choose_columns(ids, where, clips, tokens)
    check_labels(labels_of(inputs), keep)
    if generation and positions == "preserve":
        check_end(keep, prompt_mask(inputs))
    images = family.image_placeholders(model, inputs)
    compaction, layers = shorten(
        inputs, keep, where, streams, rows.tolist(), generation, images, family.builds_mask_twice, family.pads_left
    )

    kwargs = {name: value for name, value in given.items() if name not in family.vision_inputs}
    embedded = given.get("input_ids") is None
    kwargs |= move_columns(model, family, inputs, compaction, positions, generation, embedded)
    packed = family.pack(layers)
    kwargs["mm_encoder_outputs"] = {**encoder_outputs, **encode_images(model, inputs), family.modality: packed}
    places = place_videos(where, rows.tolist(), clips, outputs, plans, compaction)
    visual = None
    if any(plans):
        visual = compaction.gather(family.placeholders(model, inputs) | images, 0) | compaction.filler
    prompt = _compacted_prompt(family, kwargs, compaction, positions, places, visual)
    setattr(packed, COMPACTED_NAME, prompt)
    videos = [out for out in outputs if out is not None]
    scores = tuple(out.scores for out in videos)
    return Prepared(kwargs, [out.tokens for out in videos], losses, compaction, prompt, scores)


def _with_ids_and_clips(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    encoded: Sequence[Encoded] | None,
    tokenizer: Any,
) -> Mapping[str, Any] | None:
    """Add what the inputs may lack: the ids of embeddings, and the clips among images; None if there is no video."""
    if encoded is not None:
        return with_ids(model, family, inputs)
    if inputs.get(family.pixels) is None:
        return None
    inputs = name_clips(model, family, with_ids(model, family, inputs), tokenizer)
    return inputs if family.has_video(model, inputs) else None


def _compacted_prompt(
    family: Family,
    kwargs: Mapping[str, Any],
    compaction: Compaction,
    positions: Positions,
    places: tuple[VideoPlace, ...],
    visual: Tensor | None,
) -> CompactedPrompt:
    ids, mask = kwargs["position_ids"], kwargs["attention_mask"]
    columns = compaction.n_after if positions == "compact" else compaction.n_before
    axes = ids[-3:].shape[:-2]  # without the row of text positions that generate needs
    return CompactedPrompt(compaction, mask, family.next_position(ids, mask, columns), axes, places, visual)


def _unchanged(family: Family, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Prepared:
    ids = inputs.get("input_ids")
    shape = ids if ids is not None else inputs["inputs_embeds"][..., 0]
    lacks_pixels = ids is not None and inputs.get(family.pixels) is None and not inputs.get("mm_encoder_outputs")
    if lacks_pixels and bool(family.placeholders(model, inputs).any()):
        raise InputError(f"the prompts contain video placeholders, but there is neither {family.pixels} nor encoded=")
    everything = torch.ones(shape.shape, dtype=torch.bool, device=shape.device)
    unchanged = {name: value for name, value in inputs.items() if name != CLIPS}
    return Prepared(unchanged, [], {}, compact(everything, everything))


def _compress(
    compressors: Sequence[Callable[..., Compressed]],
    clips: list[Encoded],
    queries: list[Tensor | None],
    times: Any,
) -> tuple[list[Compressed | None], dict[str, Tensor]]:
    """Compress each video.

    Returns:
        The result for each video, None for stills; and the means of the losses.
    """
    videos = [pair for pair in zip(compressors, clips, strict=True) if not pair[1].is_still]
    times = [None] * len(videos) if times is None else times
    if not isinstance(times, (list, tuple, Tensor)):
        raise InputError(f"times must be a list with the (T,) seconds of each video, got {type(times).__name__}")
    if len(times) != len(videos):
        raise InputError(f"times must have one entry for each of the {len(videos)} videos, got {len(times)}")
    outputs = []
    losses: dict[str, list[Tensor]] = {}
    wrapped: dict[tuple[int, ...], VideoTokens] = {}  # rows that ask about the same video share what is computed of it
    for (compressor, clip), question, seconds in zip(videos, queries, times, strict=True):
        seconds = clip.times if seconds is None else seconds
        same = id(clip.features), id(seconds), id(clip.attention)
        if same not in wrapped:
            video = VideoTokens.from_grid(clip.features, times=seconds, attention=clip.attention)
            wrapped[same] = replace(video, cache={})
        video = wrapped[same]
        question = None if question is None else question.to(clip.features.device)
        outputs.append(check_tokens(compressor(video, question), video))
        for name, loss in outputs[-1].losses.items():
            losses.setdefault(name, []).append(loss)
    compressed = iter(outputs)
    means = {name: torch.stack(values).mean() for name, values in losses.items()}
    return [None if clip.is_still else next(compressed) for clip in clips], means
