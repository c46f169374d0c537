"""Expected results of an attached host, computed from the inputs of the bare host's language model.

Nothing here calls the code under test: columns are found in the prompts, features are recorded in the bare host, and
the shorter prompt is passed directly to the language model, one row at a time and without padding.

Dimensions: L columns before, N columns of a row after, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from framefold.adapters import Compressed, VideoTokens
from tests.support.hosts.bare_hosts import Batch, Host

TOLERANCE = 2e-5  # fp32
CONTROL = 1000 * TOLERANCE  # least difference of a control with a mistake


def grid_columns(batch: Batch) -> list[Tensor]:
    """Return, per video of the only row, the columns of its grid, without newline and CLS tokens."""
    host, out = batch.host, []
    columns = (batch.inputs["input_ids"][0] == host.tiny.placeholder).nonzero()[batch.stills :, 0]
    for t in batch.frames[0]:
        video = columns[: host.tiny.video(t).count(host.tiny.placeholder)]
        columns = columns[len(video) :]
        if host.name == "llava_onevision":
            video = video[:-1]
        elif host.name == "video_llava":
            video = video.view(t, -1)[:, 1:].flatten()
        assert len(video) == t * host.tiny.tokens
        out.append(video)
    assert not len(columns)
    return out


@dataclass(frozen=True)
class ShortRow:
    """One row after compression.

    Attributes:
        columns: (N,) kept columns, counted from the first column of the row that is not padding.
        embeds: (N, D) inputs of the language model at these columns.
        positions: (N,) or (3, N) positions of the original columns.
        layers: per deepstack layer, (N, D) features, zero for text.
        visual: (N,) bool, placeholders.
        named: further arguments of the language model, (N, ...).
    """

    columns: Tensor
    embeds: Tensor
    positions: Tensor
    layers: list[Tensor]
    visual: Tensor
    named: dict[str, Tensor]


def shorten(batch: Batch, compressor: Callable[[VideoTokens], Compressed]) -> list[ShortRow]:
    """Compress each row by hand, without the other rows."""
    return [shorten_row(row, compressor) for row in batch.rows_alone]


def shorten_row(batch: Batch, compressor: Callable[[VideoTokens], Compressed]) -> ShortRow:
    """Compress the only row of a batch without padding by hand."""
    host, full = batch.host, batch.language_inputs
    visual, layers = full.visual[0], [torch.zeros_like(full.embeds[0]) for _ in full.layers]
    for layer, features in zip(layers, full.layers, strict=True):
        layer[visual] = features
    embeds, keep = full.embeds[0].clone(), torch.ones_like(visual)
    added = placeholder_embedding(host)
    for t, columns in zip(batch.frames[0], grid_columns(batch), strict=True):
        tokens = compressor(VideoTokens.from_grid((embeds[columns] - added).view(t, *host.tiny.grid, -1))).tokens
        keep[columns] = False
        keep[columns[tokens.index]] = True
        for layer in layers:
            layer[columns[tokens.index]] = merged(layer[columns], tokens)
        embeds[columns[tokens.index]] = tokens.features.detach() + added
    kept = keep.nonzero()[:, 0]
    positions, named = full.positions[..., 0, kept], {name: value[0, kept] for name, value in full.named.items()}
    return ShortRow(kept, embeds[kept], positions, [layer[kept] for layer in layers], visual[kept], named)


def placeholder_embedding(host: Host) -> Tensor:
    """Return the (D,) embedding to which the host adds the features of a video; zeros where they replace it."""
    embedding = host.model.get_input_embeddings()(torch.tensor(host.tiny.placeholder)).detach()
    return embedding if host.name == "molmo2" else torch.zeros_like(embedding)


def merged(layer: Tensor, tokens: VideoTokens) -> Tensor:
    """Return the (N, D) mean over the originals of each token, or the features at its anchor if it has none."""
    means = []
    for token, anchor in enumerate(tokens.index.tolist()):
        originals = layer[tokens.assign == token]
        means.append(originals.mean(0) if len(originals) else layer[anchor])
    return torch.stack(means)


def run_short(host: Host, short: ShortRow) -> Tensor:
    """Return the (N, vocabulary) logits of a shortened row, computed by the bare host's language model."""
    arguments: dict[str, Any] = {name: value[None] for name, value in short.named.items()}
    arguments["attention_mask"] = mask_of(host, short)
    if short.layers:
        arguments["visual_pos_masks"] = short.visual[None]
        arguments["deepstack_visual_embeds"] = [layer[short.visual] for layer in short.layers]
    with torch.no_grad():
        output = host.language(
            inputs_embeds=short.embeds[None], position_ids=short.positions[..., None, :], use_cache=False, **arguments
        )
        return host.model.lm_head(output.last_hidden_state)[0]


def mask_of(host: Host, short: ShortRow) -> Any:
    """Return the attention mask of a shortened row in the form that the language model expects.

    The columns of a frame's run of placeholders also see later ones of that run: in gemma4 in the layers with a window
    and inside of it, in gemma4_unified in all layers.
    """
    count, config = len(short.columns), host.language.config
    if host.name == "molmo2":  # all placeholders see each other
        sees = torch.ones(count, count, dtype=torch.bool).tril() | (short.visual[:, None] & short.visual)
        low = torch.finfo(short.embeds.dtype).min
        return torch.zeros(count, count, dtype=short.embeds.dtype).masked_fill(~sees, low)[None, None]
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return torch.ones(1, count, dtype=torch.long)
    begins = short.visual & ~torch.nn.functional.pad(short.visual, (1, 0))[:-1]
    run = begins.cumsum(0).masked_fill(~short.visual, -1)
    same = (run[:, None] == run) & short.visual
    at = torch.arange(count)
    causal, window = at[:, None] >= at, at > at[:, None] - config.sliding_window
    masks = {"full_attention": causal, "sliding_attention": (causal | same) & window}
    if host.name == "gemma4_unified":
        masks = {"full_attention": causal | same, "sliding_attention": causal & window | same}
    low = torch.finfo(short.embeds.dtype).min
    return {kind: torch.zeros_like(sees, dtype=short.embeds.dtype).masked_fill(~sees, low)[None, None]
            for kind, sees in masks.items()}  # fmt: skip


def run_kept(batch: Batch, shorts: list[ShortRow], positions: Tensor | None = None) -> list[Tensor]:
    """Return, per row, the (N, vocabulary) logits of the bare host on the kept columns, and on no others.

    Where masking a column is not the same as dropping it, the language model gets a prompt built by hand.

    Args:
        batch: prompts.
        shorts: its rows after compression.
        positions: (1, L) or (3, 1, L) positions of all columns of a single row, if not those of the host.
    """
    if batch.host.tiny.full_attention:
        return run_masked(batch, shorts, positions)
    if positions is not None:
        shorts = [replace(short, positions=positions[..., 0, short.columns]) for short in shorts]
    return [run_short(batch.host, short) for short in shorts]


def run_masked(batch: Batch, shorts: list[ShortRow], positions: Tensor | None = None) -> list[Tensor]:
    """Return, per row, the (N, vocabulary) logits of the bare host with the dropped columns masked out."""
    ids = batch.inputs["input_ids"]
    mask = torch.zeros_like(ids)
    columns = [short.columns + first for short, first in zip(shorts, batch.starts, strict=True)]
    for row, kept in enumerate(columns):
        mask[row, kept] = 1
    positions = batch.language_inputs.positions if positions is None else positions
    with torch.no_grad():
        logits = batch.host.model(**batch.inputs | {"attention_mask": mask, "position_ids": positions}).logits
    return [logits[row, kept] for row, kept in enumerate(columns)]


def rows_of(logits: Tensor, shorts: list[ShortRow], side: str) -> list[Tensor]:
    """Return the rows of the logits of an attached host, without their padding."""
    counts = [len(short.columns) for short in shorts]
    assert logits.shape[1] == max(counts)
    return [row[-n:] if side == "left" else row[:n] for row, n in zip(logits, counts, strict=True)]


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the root mean square of the difference relative to the expected values; for bf16."""
    differences, values = (torch.cat([x.float().flatten() for x in parts]) for parts in (found, expected))
    return float((differences - values).norm() / values.norm())


def max_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest absolute difference."""
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
