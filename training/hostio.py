"""The embedded host on disk: make a fresh one, save it whole, load it frozen.

The folder is an ordinary transformers checkpoint (LLaVA-OneVision class, tokenizer, processor files): nothing here is
needed to use it with transformers alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from ..adapters.errors import FramefoldError
from ..data.synthetic import VOCABULARY

SPECIAL = ("<pad>", "<unk>", "</s>", "<user>", "<assistant>", "<image>", "<video>")
# The video comes first whatever the order of the parts, so that all questions about it share one prefix.
CHAT_TEMPLATE = """
{%- for message in messages -%}
{%- set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content -%}
{{- '<' ~ message.role ~ '>' -}}
{%- for part in parts if part.type in ('image', 'video') -%}{{- '<' ~ part.type ~ '>' -}}{%- endfor -%}
{%- for part in parts if part.type == 'text' -%}{{- ' ' ~ part.text -}}{%- endfor -%}
{%- if message.role == 'assistant' -%}{{- '</s>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}
""".strip()


class HostError(FramefoldError, ValueError):
    """A host folder or host setting that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a fresh host; image and patch in pixels, the rest in units of transformers' configs."""

    image: int = 64
    patch: int = 8
    vision_width: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    vision_ff: int = 288
    text_width: int = 128
    text_layers: int = 4
    text_heads: int = 4
    text_ff: int = 384


@dataclass(frozen=True)
class Host:
    """A frozen video-LLM in eval mode with what its inputs need."""

    model: LlavaOnevisionForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixel_values(self, frames: np.ndarray | Sequence[np.ndarray]) -> Tensor:
        """uint8 frames (T, S, S, 3), or equally long videos of them, to normalised pixels (B, T, 3, size, size)."""
        videos = torch.from_numpy(np.asarray(frames))
        if videos.ndim == 4:
            videos = videos[None]
        if videos.ndim != 5 or videos.shape[-1] != 3 or videos.dtype != torch.uint8:
            raise HostError(f"frames must be uint8 (T, S, S, 3), got {videos.dtype} {tuple(videos.shape)}")
        pixels = videos.movedim(-1, 2).float() / 255
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            flat = F.interpolate(pixels.flatten(0, 1), size=size, mode="bicubic", antialias=True)
            pixels = flat.clamp(0, 1).unflatten(0, pixels.shape[:2])
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, T, 3, S, S) to the host's own visual tokens (B, T*H*W + 1, D); the last is the newline."""
        return self.model.get_video_features(pixels, return_dict=True).pooler_output


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the closed vocabulary of the synthetic task."""
    words = {word: i for i, word in enumerate((*SPECIAL, *VOCABULARY))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        extra_special_tokens={
            "image_token": "<image>",
            "video_token": "<video>",
            "user_token": "<user>",
            "assistant_token": "<assistant>",
        },
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def build_host(architecture: Architecture = Architecture(), seed: int = 0) -> LlavaOnevisionForConditionalGeneration:  # noqa: B008
    """A stock LLaVA-OneVision model of tiny size with random weights."""
    tokenizer, a = build_tokenizer(), architecture
    ids = {name: i for i, name in enumerate(SPECIAL)}
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": a.vision_width,
            "intermediate_size": a.vision_ff,
            "num_hidden_layers": a.vision_layers,
            "num_attention_heads": a.vision_heads,
            "image_size": a.image,
            "patch_size": a.patch,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": a.text_width,
            "intermediate_size": a.text_ff,
            "num_hidden_layers": a.text_layers,
            "num_attention_heads": a.text_heads,
            "num_key_value_heads": a.text_heads,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "pad_token_id": ids["<pad>"],
            "eos_token_id": ids["</s>"],
        },
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=[[a.image, a.image]],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config)
    model.generation_config.pad_token_id = ids["<pad>"]
    model.generation_config.eos_token_id = ids["</s>"]
    return model


def _processor_files(image: int, patch: int) -> dict[str, dict[str, Any]]:
    common = {
        "do_resize": True,
        "size": {"height": image, "width": image},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_convert_rgb": True,
    }
    picture = {
        **common,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[image, image]],
    }
    video = {**common, "video_processor_type": "LlavaOnevisionVideoProcessor", "do_sample_frames": False}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": (image // patch) ** 2,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        "image_token": "<image>",
        "video_token": "<video>",
    }
    return {
        "preprocessor_config.json": picture,
        "video_preprocessor_config.json": video,
        "processor_config.json": processor,
    }


def grid_side(model: LlavaOnevisionForConditionalGeneration) -> int:
    """Rows (and columns) of a frame's visual tokens, after LLaVA-OneVision's 2x2 pooling."""
    vision: Any = model.config.vision_config
    return math.ceil(vision.image_size // vision.patch_size / 2)


def save_host(model: LlavaOnevisionForConditionalGeneration, out: str | os.PathLike[str]) -> Path:
    """Write a whole host folder; files appear whole or not at all, and other files in the folder stay."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    staging = out / f".saving-{os.getpid()}"
    try:
        model.save_pretrained(staging)
        build_tokenizer().save_pretrained(staging)
        vision: Any = model.config.vision_config
        for name, content in _processor_files(vision.image_size, vision.patch_size).items():
            (staging / name).write_text(json.dumps(content, indent=2) + "\n")
        for file in sorted(staging.iterdir()):
            file.chmod(0o644)
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A bar for 3 MB of weights would stand in front of what a user waits for."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def load_host(path: str | os.PathLike[str] = "checkpoints/tinyhost") -> Host:
    """Load a host folder, frozen and in eval mode, in fp32.

    Raises HostError if the folder is not there, not whole, or not a LLaVA-OneVision checkpoint.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise HostError(f"no host in {folder}: make one with 'framefold host train --out {folder}'")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind != "llava_onevision":
            raise HostError(f"{folder} holds a {kind!r} model; load_host reads 'llava_onevision' checkpoints only")
        video = json.loads((folder / "video_preprocessor_config.json").read_text())
        with _no_progress_bar():
            model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, json.JSONDecodeError) as error:
        raise HostError(
            f"the host in {folder} is not whole ({error}); make it again with 'framefold host train'"
        ) from error
    model.eval().requires_grad_(False)
    size = video["size"]
    return Host(model, tokenizer, size["height"], tuple(video["image_mean"]), tuple(video["image_std"]))
