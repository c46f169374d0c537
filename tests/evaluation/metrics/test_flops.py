"""Operations of attention that is added, compared with those that torch counts."""

from __future__ import annotations

import torch

from framefold.adapters.core.language_model import LanguageModelShape
from framefold.adapters.layers.gated_cross_attention import GatedCrossAttention
from framefold.evaluation.metrics.flops import added_attention_flops, count_flops


@torch.no_grad()
def test_the_formula_of_added_attention_is_what_torch_counts() -> None:
    shape, text, tokens = LanguageModelShape(layers=4, width=32, heads=4, kv_heads=2, head_width=10), 7, 19
    block = GatedCrossAttention(shape.width, shape.heads, shape.kv_heads, shape.head_width)

    def run() -> None:
        keys, values = block.keys_and_values(torch.randn(1, tokens, shape.width))
        query, out = torch.randn(1, shape.heads, text, shape.head_width), torch.randn(1, text, shape.heads, 10)
        block(query, out, keys, values, torch.ones(1, tokens, dtype=torch.bool))

    assert added_attention_flops(shape, 1, text, tokens) == count_flops(run)
    assert added_attention_flops(shape, 3, text, tokens) == 3 * count_flops(run)
