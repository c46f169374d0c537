"""Creation and saving of a tinyhost: a stock LLaVA-OneVision of tiny size with a word-level tokenizer.

The folder is an ordinary transformers checkpoint (LLaVA-OneVision class, tokenizer, processor files) that transformers
loads without Framefold.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from framefold.data.synthetic.questions import VOCABULARY
from framefold.files import replace_files

SPECIAL = ("<pad>", "<unk>", "</s>", "<user>", "<assistant>", "<image>", "<video>")

# The video comes first regardless of the order of the parts, so that all questions about it share one prefix.
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


@dataclass(frozen=True)
class Architecture:
    """Sizes of a new host; image and patch are in pixels, the others as in transformers' configs."""

    image: int = 64
    patch: int = 8
    vision_width: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    vision_ff: int = 288
    vision_use_head: bool = False
    text_width: int = 128
    text_layers: int = 4
    text_heads: int = 4
    text_ff: int = 384


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer over the closed vocabulary of the synthetic task."""
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
    """Return a stock LLaVA-OneVision model of tiny size with random weights."""
    config = _config(architecture)
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config)
    model.generation_config.pad_token_id = SPECIAL.index("<pad>")
    model.generation_config.eos_token_id = SPECIAL.index("</s>")
    return model


def _config(a: Architecture) -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": a.vision_width,
            "intermediate_size": a.vision_ff,
            "num_hidden_layers": a.vision_layers,
            "num_attention_heads": a.vision_heads,
            "image_size": a.image,
            "patch_size": a.patch,
            "vision_use_head": a.vision_use_head,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(SPECIAL) + len(VOCABULARY),
            "hidden_size": a.text_width,
            "intermediate_size": a.text_ff,
            "num_hidden_layers": a.text_layers,
            "num_attention_heads": a.text_heads,
            "num_key_value_heads": a.text_heads,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "pad_token_id": SPECIAL.index("<pad>"),
            "eos_token_id": SPECIAL.index("</s>"),
        },
        image_token_index=SPECIAL.index("<image>"),
        video_token_index=SPECIAL.index("<video>"),
        image_grid_pinpoints=[[a.image, a.image]],
        tie_word_embeddings=True,
    )


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
    """Return the rows (and columns) of the token grid of a frame, after LLaVA-OneVision's 2x2 pooling."""
    vision: Any = model.config.vision_config
    return math.ceil(vision.image_size // vision.patch_size / 2)


def save_host(model: LlavaOnevisionForConditionalGeneration, out: str | os.PathLike[str]) -> Path:
    """Write a host folder; no file is replaced before all are written, and other files in the folder remain."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    vision: Any = model.config.vision_config
    with tempfile.TemporaryDirectory(dir=out, prefix=".saving-") as name:
        staging = Path(name)
        model.save_pretrained(staging)
        build_tokenizer().save_pretrained(staging)
        for file, content in _processor_files(vision.image_size, vision.patch_size).items():
            (staging / file).write_text(json.dumps(content, indent=2) + "\n")
        replace_files({out / file.name: partial(shutil.copyfile, file) for file in sorted(staging.iterdir())})
    return out
