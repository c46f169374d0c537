"""Folders of small random hosts that vLLM's CPU kernels accept, and prompts for them.

The tiny hosts of the other tests have heads of 8 channels, for which the engine has no kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import framefold

WIDTH = 64
FRAMES_PER_SECOND = 2.0
MARKS = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
GLM_MARKS = [
    "<|im_start|>", "<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>", "<|begin_of_video|>",
    "<|end_of_video|>",
]  # fmt: skip
INTERN_MARKS = ["<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
INTERN_NAMES = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}  # fmt: skip
ONE_VIDEO = ("llava_next_video", "glm4v")  # in a prompt
SIZES = {
    "llava_onevision": (64, 64),
    "llava_next_video": (64, 64),
    "internvl": (64, 64),
}  # of hosts whose frames have one size
PATCH = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16, "qwen3_vl_moe": 16, "qwen3_5": 16, "glm4v": 14}
TEXT = dict(
    hidden_size=WIDTH, intermediate_size=96, num_attention_heads=2, num_key_value_heads=2, bos_token_id=None,
    max_position_embeddings=8192, tie_word_embeddings=False,
)  # fmt: skip
VISION = dict(
    hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=WIDTH, spatial_merge_size=2,
    temporal_patch_size=2,
)  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}


def save_host(kind: str, folder: Path) -> Path:
    """Write a random host of a family with its processor."""
    marks, names = MARKS, ["vision_start", "vision_end", "image", "video"]
    if kind == "glm4v":
        marks, names = GLM_MARKS, ["image_start", "image_end", "image", "video", "video_start", "video_end"]
    if kind == "internvl":
        marks = INTERN_MARKS
    tokenizer = _tokenizer(marks, INTERN_NAMES if kind == "internvl" else {})
    ids = tokenizer.convert_tokens_to_ids(marks[1:])
    special = {f"{name}_token_id": value for name, value in zip(names, ids, strict=True)}
    text = TEXT | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = CONFIGS[kind](text, special)
    cls = getattr(transformers, config.architectures[0])
    torch.manual_seed(0)
    model = cls._from_config(config, dtype=torch.float32)
    _enlarge(model)
    model.eval().save_pretrained(folder)
    if kind == "qwen3_vl_moe":
        _transpose_experts(folder / "model.safetensors")
    _processor(kind, tokenizer).save_pretrained(folder)
    return folder


def save_adapter(name: str, folder: Path, noise: float = 0.05) -> Path:
    """Write an adapter with random weights for these hosts, so far from their start."""
    torch.manual_seed(3)
    compressor = framefold.build(name, budget=0.25)
    compressor.materialize(WIDTH, (4, 6))
    with torch.no_grad():
        for parameter in compressor.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    compressor.save_pretrained(folder)
    return folder


def _tokenizer(marks: list[str], names: dict[str, str]) -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE(vocab={letter: i + 1 for i, letter in enumerate(letters)} | {"<pad>": 0}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytes_, pad_token="<pad>", eos_token="<|im_end|>", extra_special_tokens=names
    )
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer


def _qwen2_5_vl(text: dict[str, Any], special: dict[str, int]) -> Any:
    vision = VISION | dict(depth=2, window_size=112, fullatt_block_indexes=[1], tokens_per_second=2, patch_size=14)
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config=text | {"num_hidden_layers": 2, "rope_parameters": ROPE},
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config


def _qwen3_vl(text: dict[str, Any], special: dict[str, int]) -> Any:
    vision = VISION | dict(depth=3, num_position_embeddings=64, deepstack_visual_indexes=[0, 1], patch_size=16)
    rope = ROPE | {"mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
        vision_config=vision,
        text_config=text | {"head_dim": 32, "num_hidden_layers": 4, "rope_parameters": rope},
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    config.architectures = ["Qwen3VLForConditionalGeneration"]
    return config


def _qwen2_vl(text: dict[str, Any], special: dict[str, int]) -> Any:
    vision = dict(
        depth=2, embed_dim=32, hidden_size=WIDTH, num_heads=2, mlp_ratio=2, patch_size=14, spatial_merge_size=2,
        temporal_patch_size=2,
    )  # fmt: skip
    config = transformers.Qwen2VLConfig(
        vision_config=vision, text_config=text | {"num_hidden_layers": 2, "rope_parameters": ROPE},
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    return config


def _qwen3_vl_moe(text: dict[str, Any], special: dict[str, int]) -> Any:
    vision = VISION | dict(depth=3, num_position_embeddings=64, deepstack_visual_indexes=[0, 1], patch_size=16)
    # norm_topk_prob is in the published configurations, and transformers always does so.
    experts = dict(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=96, decoder_sparse_step=1, norm_topk_prob=True
    )  # fmt: skip
    rope = ROPE | {"mrope_interleaved": True}
    config = transformers.Qwen3VLMoeConfig(
        vision_config=vision,
        text_config=text | experts | {"head_dim": 32, "num_hidden_layers": 3, "rope_parameters": rope},
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    config.architectures = ["Qwen3VLMoeForConditionalGeneration"]
    return config


def _qwen3_5(text: dict[str, Any], special: dict[str, int]) -> Any:
    layers = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
    linear = dict(linear_key_head_dim=64, linear_value_head_dim=64, linear_num_key_heads=2, linear_num_value_heads=2)
    rope = ROPE | {"mrope_interleaved": True, "partial_rotary_factor": 1.0}
    config = transformers.Qwen3_5Config(
        vision_config=VISION | dict(depth=2, num_position_embeddings=64, patch_size=16),
        text_config=text
        | linear
        | {"head_dim": 32, "num_hidden_layers": 4, "layer_types": layers, "rope_parameters": rope},
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    config.architectures = ["Qwen3_5ForConditionalGeneration"]
    return config


def _llava_next_video(text: dict[str, Any], special: dict[str, int]) -> Any:
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=8
    )
    ids = {"image_token_index": special["image_token_id"], "video_token_index": special["video_token_id"]}
    config = transformers.LlavaNextVideoConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**text | {"num_hidden_layers": 2}),
        spatial_pool_mode="average", spatial_pool_stride=2, vision_feature_layer=-2, tie_word_embeddings=False, **ids,
    )  # fmt: skip
    config.architectures = ["LlavaNextVideoForConditionalGeneration"]
    return config


def _glm4v(text: dict[str, Any], special: dict[str, int]) -> Any:
    vision = VISION | dict(depth=2, intermediate_size=64, image_size=112, patch_size=14)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}
    # The engine has the biases only with attention_bias, transformers always.
    language = {"num_hidden_layers": 2, "rope_parameters": rope, "attention_bias": True}
    config = transformers.Glm4vConfig(
        vision_config=vision, text_config=text | language,
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    config.architectures = ["Glm4vForConditionalGeneration"]
    return config


def _internvl(text: dict[str, Any], special: dict[str, int]) -> Any:
    vision = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 64],
        patch_size=[8, 8],
    )  # fmt: skip
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=transformers.Qwen2Config(**text | {"num_hidden_layers": 2}),
        image_token_id=special["image_token_id"], image_seq_length=16, tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures = ["InternVLForConditionalGeneration"]
    return config


CONFIGS = {
    "qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl, "qwen3_vl_moe": _qwen3_vl_moe,
    "qwen3_5": _qwen3_5, "glm4v": _glm4v, "internvl": _internvl, "llava_next_video": _llava_next_video,
}  # fmt: skip


def _transpose_experts(file: Path) -> None:
    """Store experts as published checkpoints do; transformers transposes them when it loads such a file, not back."""
    weights = load_file(file)
    experts = {name for name in weights if ".experts." in name}
    assert experts
    save_file(
        {name: value.transpose(1, 2).contiguous() if name in experts else value for name, value in weights.items()},
        file,
        {"format": "pt"},
    )


def _enlarge(model: Any) -> None:
    """Scale weights so that a token at a wrong place changes the answer."""
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.mul_(8 if parameter.ndim >= 2 else 1)
        model.lm_head.weight.mul_(8)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "bias" in name:
                parameter.normal_(std=0.02)
            elif "visual" in name and parameter.ndim >= 2:
                parameter.mul_(3)


def _processor(kind: str, tokenizer: Any) -> Any:
    if kind == "llava_next_video":
        size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
        return transformers.LlavaNextVideoProcessor(
            video_processor=transformers.LlavaNextVideoVideoProcessor(**size),
            image_processor=transformers.LlavaNextImageProcessor(**size),
            tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
            video_token="<|video_pad|>", image_token="<|image_pad|>", chat_template="{{ messages }}",
        )  # fmt: skip
    if kind == "internvl":
        square = {"size": {"height": 64, "width": 64}}
        return transformers.InternVLProcessor(
            image_processor=transformers.GotOcr2ImageProcessor(**square), tokenizer=tokenizer,
            video_processor=transformers.InternVLVideoProcessor(**square), image_seq_length=16,
            chat_template="{{ messages }}",
        )  # fmt: skip
    patch = PATCH[kind]
    sizes = {"shortest_edge": 4 * patch**2, "longest_edge": 4 * patch**2 * 768}
    pictures: dict[str, Any] = {"patch_size": patch, "size": sizes}
    if kind in ("qwen2_vl", "qwen2_5_vl"):
        cls = transformers.Qwen2VLProcessor if kind == "qwen2_vl" else transformers.Qwen2_5_VLProcessor
        films: Any = transformers.Qwen2VLVideoProcessor(patch_size=patch, size=sizes)
    elif kind == "glm4v":
        cls, films = transformers.Glm4vProcessor, transformers.Glm4vVideoProcessor(patch_size=patch, size=sizes)
    else:
        cls, films = transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor(patch_size=patch, size=sizes)
        pictures |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    image = transformers.Glm4vImageProcessor if kind == "glm4v" else transformers.Qwen2VLImageProcessor
    return cls(
        image_processor=image(**pictures),
        tokenizer=tokenizer,
        video_processor=films,
        chat_template="{{ messages }}",
    )


@dataclass(frozen=True)
class Clip:
    """A video as arrays.

    Attributes:
        frames: (T, H, W, 3) uint8.
        fps: frames per second.
    """

    frames: np.ndarray
    fps: float = FRAMES_PER_SECOND

    @property
    def metadata(self) -> dict[str, Any]:
        """What both processors are told about the frames."""
        count = len(self.frames)
        return {
            "fps": self.fps, "duration": count / self.fps, "total_num_frames": count,
            "frames_indices": list(range(count)), "video_backend": "opencv",
        }  # fmt: skip


def random_clip(kind: str, frames: int, seed: int, cells: tuple[int, int] = (4, 6), fps: float = 2.0) -> Clip:
    """Return a video of scenes with noise, ``cells`` patches high and wide (fixed for hosts with one size)."""
    generator = np.random.default_rng(seed)
    h, w = SIZES[kind] if kind in SIZES else (PATCH[kind] * cell for cell in cells)
    scenes = generator.integers(0, 255, (1 + frames // 4, h, w, 3))
    noisy = scenes[np.arange(frames) // 4] + generator.integers(-20, 20, (frames, h, w, 3))
    return Clip(np.clip(noisy, 0, 255).astype(np.uint8), fps)


@dataclass(frozen=True)
class Prompt:
    """A prompt with its media, and the question that a compressor gets."""

    text: str
    clips: Sequence[Clip] = ()
    images: Sequence[Any] = ()
    question: str | None = None


def prompts(kind: str) -> dict[str, Prompt]:
    """Return prompts with one or two videos, beside images, and without any."""
    video, image = "<|vision_start|><|video_pad|><|vision_end|>", "<|vision_start|><|image_pad|><|vision_end|>"
    before, question, end = "<|im_start|>user\nab ", " what happens?", "<|im_end|>\n<|im_start|>assistant\n"
    if kind == "llava_onevision":
        video, image, before, question, end = "<video>", "<image>", "<user> ", " what happens first ? ", "<assistant>"
    if kind == "glm4v":
        video, image = "<|begin_of_video|><|video|><|end_of_video|>", "<|begin_of_image|><|image|><|end_of_image|>"
        end = "\n<|im_start|>assistant\n"
    if kind == "internvl":
        video, image = "<video>", "<IMG_CONTEXT>"
    sizes = [(4, 6), (6, 6), (4, 6), (6, 6), (4, 6), (6, 6)]
    lengths = [16, 8, 12, 24, 16, 16 if kind in SIZES else 8]
    clips = [
        random_clip(kind, frames, seed, cells, 1.0 + seed % 3)
        for seed, (frames, cells) in enumerate(zip(lengths, sizes, strict=True))
    ]
    made = {
        f"video {i}": Prompt(before + video + question + end, [clips[i]]) for i in range(4)
    } | {
        "other question": Prompt(before + video + " who is it then ? " + end, [clips[0]]),
        "same question again": Prompt(before + video + question + end, [clips[0]]),
        "two equal videos": Prompt(before + video + " and " + video + question + end, [clips[0], clips[0]]),
        "adjacent videos": Prompt(before + video + video + question + end, [clips[4], clips[5]]),
        "video first": Prompt(video + question + end, [clips[2]]),
        "text only": Prompt(before + question + end),
    }  # fmt: skip
    if kind in ONE_VIDEO:
        made = {name: prompt for name, prompt in made.items() if len(prompt.clips) < 2}
    if kind.startswith("llava"):
        return made
    picture = Image.fromarray(random_clip(kind, 1, 7, (6, 4)).frames[0])
    alone = {"image only": Prompt(before + image + question + end, [], [picture])}
    if kind in ONE_VIDEO:
        return made | alone
    return made | alone | {
        "image, video": Prompt(before + image + " then " + video + question + end, [clips[4]], [picture]),
        "video, image": Prompt(before + video + " then " + image + question + end, [clips[4]], [picture]),
    }  # fmt: skip
