"""A tiny LLaVA-OneVision host with random weights, prompts for it, and two compressors for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

from framefold.adapters import Compressed, Compressor, VideoTokens

VOCAB, PAD, IMAGE, VIDEO = 64, 0, 60, 61
SIDE = 2  # a frame has 2 x 2 tokens


def llava_onevision(attention: str = "eager", seed: int = 0, **text: Any) -> LlavaOnevisionForConditionalGeneration:
    """Return a host of two layers, width 32 and 2 x 2 tokens per frame; fp32, frozen, in eval mode."""
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
                parameter.mul_(8)  # so that mistakes change the logits visibly
        model.lm_head.weight.mul_(8)
    return model.eval().requires_grad_(False)


def video(frames: int = 8, videos: int = 1, seed: int = 1) -> Tensor:
    """Return (videos, frames, 3, 16, 16) pixels."""
    return torch.randn(videos, frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def prompt(*parts: int, seed: int = 2) -> list[int]:
    """Return token ids: a positive part is a number of random words, a negative one a number of frames of a video."""
    words = torch.randint(3, 58, (256,), generator=torch.Generator().manual_seed(seed)).tolist()
    ids: list[int] = []
    for part in parts:
        ids += [VIDEO] * (-part * SIDE * SIDE + 1) if part < 0 else [words.pop() for _ in range(part)]
    return ids


def batch(*rows: list[int], side: str = "left") -> dict[str, Tensor]:
    """Pad rows of ids to the same length; return input_ids and attention_mask."""
    length = max(map(len, rows))
    pads = [[PAD] * (length - len(row)) for row in rows]
    ids = [pad + row if side == "left" else row + pad for pad, row in zip(pads, rows, strict=True)]
    ones = [[0] * len(pad) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(pad)
            for pad, row in zip(pads, rows, strict=True)]  # fmt: skip
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ones)}


class TopNorm(Compressor):
    """Keeps the tokens of largest norm, scaled by a learned (D,) vector; without a class attribute ``name`` it is
    unregistered."""

    trainable = True

    def __init__(self, budget: float | int = 0.25) -> None:
        super().__init__(budget)
        self.name = "top_norm"
        self.scale: nn.Parameter | None = None

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        if self.scale is None:
            self.scale = nn.Parameter(torch.ones(width, device=device))

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        rows = video.features.norm(dim=-1).topk(k).indices.sort().values
        kept = video.keep(rows)
        assert self.scale is not None
        loss = self.scale.square().mean()
        return Compressed(replace(kept, features=kept.features * self.scale), {"scale": loss})


class Positive(Compressor):
    """Keeps the tokens whose first feature is positive, so counts differ by video."""

    exact_budget = False

    def __init__(self) -> None:
        super().__init__(1.0)
        self.name = "positive"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video.keep((video.features[:, 0] > 0).nonzero()[:, 0])


def single() -> dict[str, Any]:
    """Return one row: five words, a video of eight frames, six words; 44 columns."""
    return {**batch(prompt(5, -8, 6)), "pixel_values_videos": video(8)}


def pair(side: str = "left") -> dict[str, Any]:
    """Return two rows with eight frames each, of 44 and 45 columns."""
    return {**batch(prompt(5, -8, 6), prompt(9, -8, 3, seed=7), side=side), "pixel_values_videos": video(8, 2)}
