"""What an attached host must equal, built by hand from what the bare host gives its language model.

Nothing here calls the code under test: columns are found in the prompts, features are read off the bare host, and
the shorter prompt goes straight into the language model, one row at a time and without padding.
Dimensions: L columns before, N columns of a row after, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters import Compressed, VideoTokens
from tests.support.hosts.bare_hosts import Batch, Host

TOLERANCE = 2e-5  # fp32
WIDE = 1000 * TOLERANCE  # what a control must differ by at least


def grid_columns(batch: Batch) -> list[Tensor]:
    """Per video of the only row, the columns of its grid; a newline or a CLS token lies on no grid."""
    host, out = batch.host, []
    columns = (batch.inputs["input_ids"][0] == host.tiny.placeholder).nonzero()[batch.stills :, 0]
    for t in batch.frames[0]:
        mine = columns[: host.tiny.video(t).count(host.tiny.placeholder)]
        columns = columns[len(mine) :]
        if host.name == "llava_onevision":
            mine = mine[:-1]
        elif host.name == "video_llava":
            mine = mine.view(t, -1)[:, 1:].flatten()
        assert len(mine) == t * host.tiny.tokens
        out.append(mine)
    assert not len(columns)
    return out


@dataclass(frozen=True)
class Short:
    """One row after compression.

    Attributes:
        columns: (N,) columns that stay, counted from the first of the row that is no padding.
        embeds: (N, D) what the language model gets at them.
        positions: (N,) or (3, N), those of the original columns.
        layers: per deepstack layer, (N, D), zero where there is text.
        visual: (N,) bool, placeholders.
    """

    columns: Tensor
    embeds: Tensor
    positions: Tensor
    layers: list[Tensor]
    visual: Tensor


def shorten(batch: Batch, compressor: Callable[[VideoTokens], Compressed]) -> list[Short]:
    """Every row, compressed by hand and alone."""
    return [shorten_row(row, compressor) for row in batch.singles]


def shorten_row(batch: Batch, compressor: Callable[[VideoTokens], Compressed]) -> Short:
    """The only row, without padding, compressed by hand."""
    host, seen = batch.host, batch.seen
    visual, layers = seen.visual[0], [torch.zeros_like(seen.embeds[0]) for _ in seen.layers]
    for layer, features in zip(layers, seen.layers, strict=True):
        layer[visual] = features
    embeds, keep = seen.embeds[0].clone(), torch.ones_like(visual)
    for t, columns in zip(batch.frames[0], grid_columns(batch), strict=True):
        tokens = compressor(VideoTokens.from_grid(embeds[columns].view(t, *host.tiny.grid, -1))).tokens
        keep[columns] = False
        keep[columns[tokens.index]] = True
        for layer in layers:
            layer[columns[tokens.index]] = merged(layer[columns], tokens)
        embeds[columns[tokens.index]] = tokens.features.detach()
    stay = keep.nonzero()[:, 0]
    return Short(stay, embeds[stay], seen.positions[..., 0, stay], [layer[stay] for layer in layers], visual[stay])


def merged(layer: Tensor, tokens: VideoTokens) -> Tensor:
    """(N, D) mean over the originals of each token; its anchor where it has none."""
    means = []
    for token, anchor in enumerate(tokens.index.tolist()):
        originals = layer[tokens.assign == token]
        means.append(originals.mean(0) if len(originals) else layer[anchor])
    return torch.stack(means)


def run_short(host: Host, short: Short, positions: Tensor | None = None) -> Tensor:
    """(N, vocabulary) logits of a shortened row, by the language model of the bare host alone."""
    positions = short.positions if positions is None else positions
    arguments = {"attention_mask": torch.ones(1, len(short.columns), dtype=torch.long)}
    if short.layers:
        arguments["visual_pos_masks"] = short.visual[None]
        arguments["deepstack_visual_embeds"] = [layer[short.visual] for layer in short.layers]
    with torch.no_grad():
        output = host.language(
            inputs_embeds=short.embeds[None], position_ids=positions[..., None, :], use_cache=False, **arguments
        )
        return host.model.lm_head(output.last_hidden_state)[0]


def run_masked(batch: Batch, shorts: list[Short], positions: Tensor | None = None) -> list[Tensor]:
    """Per row, (N, vocabulary) logits of the bare host at full length with the dropped columns masked out."""
    ids = batch.inputs["input_ids"]
    mask = torch.zeros_like(ids)
    columns = [short.columns + first for short, first in zip(shorts, batch.starts, strict=True)]
    for row, mine in enumerate(columns):
        mask[row, mine] = 1
    positions = batch.seen.positions if positions is None else positions
    with torch.no_grad():
        logits = batch.host.model(**batch.inputs | {"attention_mask": mask, "position_ids": positions}).logits
    return [logits[row, mine] for row, mine in enumerate(columns)]


def rows_of(logits: Tensor, shorts: list[Short], side: str) -> list[Tensor]:
    """The rows of what an attached host returned, without their padding."""
    counts = [len(short.columns) for short in shorts]
    assert logits.shape[1] == max(counts)
    return [row[-n:] if side == "left" else row[:n] for row, n in zip(logits, counts, strict=True)]


def relative(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Root mean square of the difference over that of what is expected; for bf16, where a last bit weighs much."""
    differences, values = (torch.cat([x.float().flatten() for x in parts]) for parts in (found, expected))
    return float((differences - values).norm() / values.norm())


def worst(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest absolute difference."""
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
