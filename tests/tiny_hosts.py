"""Tiny random-init hosts of the real transformers classes, and prompts for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

VOCAB, PAD, IMAGE, VIDEO = 64, 0, 60, 61
SIDE = 2  # tokens a frame: 2 x 2


def llava_onevision(attention: str = "eager", seed: int = 0, **text: Any) -> LlavaOnevisionForConditionalGeneration:
    """Two layers, width 32, 2 x 2 tokens a frame; fp32, frozen, eval mode."""
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4,
        vision_use_head=False,
    )  # fmt: skip
    sizes = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    language = Qwen2Config(**{**sizes, "num_key_value_heads": 2, "pad_token_id": PAD, "eos_token_id": None, **text})
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=language, image_token_index=IMAGE, video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 16]],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)  # logits of a spread that makes mistakes visible
        model.lm_head.weight.mul_(8)
    return model.eval().requires_grad_(False)


def video(frames: int = 8, videos: int = 1, seed: int = 1) -> Tensor:
    """(videos, frames, 3, 16, 16) pixels."""
    return torch.randn(videos, frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def prompt(*parts: int, seed: int = 2) -> list[int]:
    """Token ids: a positive part is that many random words, a negative one a video of that many frames (and its newline)."""
    words = torch.randint(3, 58, (256,), generator=torch.Generator().manual_seed(seed)).tolist()
    ids: list[int] = []
    for part in parts:
        ids += [VIDEO] * (-part * SIDE * SIDE + 1) if part < 0 else [words.pop() for _ in range(part)]
    return ids


def batch(*rows: list[int], side: str = "left") -> dict[str, Tensor]:
    """Pad rows of ids to one length: input_ids and attention_mask."""
    length = max(map(len, rows))
    pads = [[PAD] * (length - len(row)) for row in rows]
    ids = [pad + row if side == "left" else row + pad for pad, row in zip(pads, rows, strict=True)]
    ones = [[0] * len(pad) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(pad)
            for pad, row in zip(pads, rows, strict=True)]  # fmt: skip
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ones)}
