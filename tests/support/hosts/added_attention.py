"""Slow-Fast's cross-attention in the attention function of a host, one text column and head at a time.

Nothing here calls the hooks under test: the host's own attention function is replaced.

Dimensions: L columns of the shortened prompt, S slow tokens of a row, D width, h heads, d head width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import framefold
from framefold.adapters.hosts import prepare
from tests.support.hosts.bare_hosts import Batch, Host
from tests.support.hosts.oracles import grid_columns

NAME = "slow_fast_cross_attention"
FAST = "slow_fast"


def trained(budget: float = 0.5, **params: Any) -> Any:
    """Return a compressor whose weights are made and moved when :func:`move` is called after it was attached."""
    return framefold.build(NAME, budget, **params)


@torch.no_grad()
def move(compressor: Any, alpha: float = 0.9) -> None:
    """Give all layers an alpha, and weights that do not depend on the initial ones."""
    generator = torch.Generator().manual_seed(11)
    for name, parameter in compressor.named_parameters():
        if name.endswith("alpha"):
            parameter.fill_(alpha)
        else:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def slow_tokens(batch: Batch) -> list[Tensor]:
    """Return the (S, D) tokens of all videos of each row before compression."""
    rows = []
    for row in batch.rows_alone:
        embeds = row.language_inputs.embeds[0]
        videos = [embeds[columns.flatten()] for columns in grid_columns(row)] if row.frames[0] else []
        rows.append(torch.cat(videos) if videos else embeds[:0])
    return rows


def text_columns(batch: Batch, budget: float) -> list[list[int]]:
    """Return the columns of each row of the shortened prompt that are neither padding nor placeholders."""
    host, compressor = batch.host, framefold.build(FAST, budget)
    with torch.no_grad():
        kwargs = prepare(host.model, batch.attached_inputs, compressor).kwargs
    text = (kwargs["input_ids"] != host.tiny.placeholder) & kwargs["attention_mask"].bool()
    return [row.nonzero()[:, 0].tolist() for row in text]


@contextmanager
def reference(host: Host, compressor: Any, slow: Sequence[Tensor], columns: Sequence[Sequence[int]]) -> Iterator[None]:
    """Let the eager attention function of a host add the cross-attention of a compressor.

    Args:
        host: a host with eager attention and without this compressor.
        compressor: whose weights are read.
        slow: for each row, the slow tokens.
        columns: for each row, the text columns.
    """
    layers = {layer.self_attn: number for number, layer in enumerate(host.language.layers)}
    file: Any = sys.modules[type(host.language.layers[0].self_attn).__module__]
    original: Callable[..., Any] = file.eager_attention_forward

    def attend(module: Any, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        out, weights = original(module, query, *args, **kwargs)
        number = layers.get(module)
        block = None if number is None else dict(compressor.in_llm.blocks.items()).get(str(number))
        if block is None:
            return out, weights
        rows = []
        for row, own in enumerate(out):
            parts = [_column(block, query[row], own, slow[row], number, columns[row]) for number in range(len(own))]
            rows.append(torch.stack(parts))
        return torch.stack(rows), weights

    file.eager_attention_forward = attend
    try:
        yield
    finally:
        file.eager_attention_forward = original


def _column(block: Any, query: Tensor, out: Tensor, slow: Tensor, column: int, text: Sequence[int]) -> Tensor:
    """Return the (h, d) output of one column, with what is added if it is text.

    Args:
        block: weights of the layer.
        query: (h, L, d).
        out: (L, h, d).
        slow: (S, D).
        column: number of the column.
        text: the text columns.
    """
    mine = out[column]
    if column not in text or not len(slow):
        return mine
    heads, width = mine.shape
    scaled = slow / slow.square().mean(1, keepdim=True).sqrt()
    projected = scaled @ block.kv_proj.weight.T + block.kv_proj.bias
    half = projected.shape[1] // 2
    group = heads // (half // width)
    gate = torch.tanh(block.gate.weight[0] @ mine.flatten() + block.gate.bias[0]) * torch.tanh(block.alpha[0])
    added = []
    for head in range(heads):
        first = head // group * width
        keys, values = projected[:, first : first + width], projected[:, half + first : half + first + width]
        logits = keys @ query[head, column] / width**0.5
        added.append(gate * (logits.softmax(0) @ values))
    return mine + torch.stack(added)
