"""Host folders with tiny random weights and the real processor of each family, at tiny sizes.

Call :func:`~framefold.training.frozen_host.torchvision.find_torchvision` before importing this module. Frames of
16 x 24 pixels give the token grids of ``tiny_families.HOSTS``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as SMOL_TEMPLATE

from framefold.adapters import Compressor, VideoTokens
from tests.support.hosts.tiny_families import END, HOSTS, IMAGE, START, VIDEO, VOCAB

# words of templates, processors and a question
WORDS = ("<pad>", "<unk>", "</s>", "what", "is", "it", "user", "assistant", "seconds", "Time", "s", "Frame", "from",
         "User", "Assistant", "You", "are", "provided", "the", "following", "series", "of", "frames", "a", "H", "MM",
         "SS", "video", *"[]?:.,<>0123456789")  # fmt: skip
TEMPLATE = """
{%- for message in messages -%}user: {% for part in message.content -%}
{%- if part.type == 'video' -%}VISION{%- else -%}{{ ' ' ~ part.text }}{%- endif -%}
{%- endfor -%}{%- endfor -%}
{%- if add_generation_prompt %} assistant:{% endif -%}
"""
QWEN = {"<|vision_start|>": START, "<|vision_end|>": END, "<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO}
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
GLM = {
    **{"<|begin_of_image|>": START, "<|end_of_image|>": END, "<|image|>": IMAGE, "<|video|>": VIDEO},
    **{"<|begin_of_video|>": 62, "<|end_of_video|>": 63},
}
OMNI = {
    **{"<|vision_bos|>": START, "<|vision_eos|>": END, "<|IMAGE|>": IMAGE, "<|VIDEO|>": VIDEO},
    **{"<|AUDIO|>": 62, "<|audio_bos|>": 63, "<|audio_eos|>": 56},
}
MOLMO = {
    **{"<im_patch>": IMAGE, "<frame_start>": START, "<frame_end>": END, "<|video|>": VIDEO, "<im_start>": 62},
    **{"<im_col>": 49, "<low_res_im_start>": 50, "<im_end>": 63, "<im_low>": 51, "<|image|>": 52},
}
LLAVA = {"<image>": IMAGE, "<video>": VIDEO}
INTERN = {"<img>": START, "</img>": END, "<IMG_CONTEXT>": IMAGE, "<video>": VIDEO}
GEMMA = {
    **{"<|image>": START, "<image|>": END, "<|image|>": IMAGE, "<|video|>": VIDEO},
    **{"<|audio|>": 62, "<|audio>": 63, "<audio|>": 56},
}
SMOL = {
    **{"<fake_token_around_image>": START, "<global-img>": 62, "<end_of_utterance>": 63, "<|im_start|>": END},
    **LLAVA,
}
GEMMA_NAMES = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
    "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip
OMNI_NAMES = {
    "image_token": "<|IMAGE|>", "video_token": "<|VIDEO|>", "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}  # fmt: skip
NAMES = {  # attributes of the tokenizer that processors read
    "gemma4": GEMMA_NAMES,
    "gemma4_unified": GEMMA_NAMES,
    "qwen2_5_omni_thinker": OMNI_NAMES,
    "qwen3_omni_moe_thinker": OMNI_NAMES,
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
}  # fmt: skip
PATCHES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
FRAME = {"shortest_edge": 64, "longest_edge": 16 * 24}
CLIP = {"shortest_edge": 64, "longest_edge": 64 * 16 * 24}  # for all frames together
POOLED = {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70, "do_resize": False}
OMNI_VIDEO, WHISPER = "<|vision_bos|><|VIDEO|><|vision_eos|>", {"feature_extractor": "WhisperFeatureExtractor"}
SQUARE = {"height": 16, "width": 16}
CROP = {"size": {"shortest_edge": 16}, "crop_size": SQUARE}

# model_type: prefix of the classes, special tokens, text of a video in the template, settings of the image processor,
# of the video processor and of the processor
FAMILIES: dict[str, tuple[str, dict[str, int], str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma4": ("Gemma4", GEMMA, "<|video|>", POOLED, POOLED, {"feature_extractor": "Gemma4AudioFeatureExtractor"}),
    "gemma4_unified": (
        "Gemma4Unified", GEMMA, "<|video|>", POOLED, POOLED,
        {"feature_extractor": "Gemma4UnifiedAudioFeatureExtractor"},
    ),
    "glm46v": ("Glm46V", GLM, "<|begin_of_video|><|video|><|end_of_video|>", {}, {**PATCHES, "size": CLIP}, {}),
    "glm4v_moe": ("Glm4v", GLM, "<|begin_of_video|><|video|><|end_of_video|>", {}, {**PATCHES, "size": CLIP}, {}),
    "glm4v": ("Glm4v", GLM, "<|begin_of_video|><|video|><|end_of_video|>", {}, {**PATCHES, "size": CLIP}, {}),
    "internvl": ("InternVL", INTERN, "<video>", {"size": SQUARE}, {"size": SQUARE}, {"image_seq_length": 4}),
    "llava_next_video": ("LlavaNextVideo", LLAVA, "<video>", CROP, CROP, {"patch_size": 4}),
    "llava_onevision": (
        "LlavaOnevision", LLAVA, "<video>", {"size": SQUARE}, {"size": SQUARE},
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "molmo2": (
        "Molmo2", MOLMO, "<|video|>", {}, {"size": SQUARE, "patch_size": 4, "pooling_size": [2, 2]}, {},
    ),
    "qwen2_5_vl": ("Qwen2_5_VL", QWEN, QWEN_VIDEO, {}, {**PATCHES, "size": FRAME}, {}),
    "qwen2_vl": ("Qwen2VL", QWEN, QWEN_VIDEO, {}, {**PATCHES, "size": FRAME}, {}),
    "qwen2_5_omni_thinker": ("Qwen2_5Omni", OMNI, OMNI_VIDEO, {}, {**PATCHES, "size": FRAME}, WHISPER),
    "qwen3_omni_moe_thinker": ("Qwen3OmniMoe", OMNI, OMNI_VIDEO, {}, {**PATCHES, "size": FRAME}, WHISPER),
    "qwen3_5": ("Qwen3VL", QWEN, "<|video_pad|>", {}, {**PATCHES, "size": CLIP}, {}),
    "qwen3_5_moe": ("Qwen3VL", QWEN, "<|video_pad|>", {}, {**PATCHES, "size": CLIP}, {}),
    "qwen3_vl": ("Qwen3VL", QWEN, "<|video_pad|>", {}, {**PATCHES, "size": CLIP}, {}),
    "qwen3_vl_moe": ("Qwen3VL", QWEN, "<|video_pad|>", {}, {**PATCHES, "size": CLIP}, {}),
    "smolvlm": (
        "SmolVLM", SMOL, "<video>", {},
        {"size": {"longest_edge": 16}, "max_image_size": {"longest_edge": 16}}, {"image_seq_len": 4},
    ),
    "video_llama_3": (
        "VideoLlama3", QWEN, "<|video_pad|>", {}, {**PATCHES, "temporal_patch_size": 1, "size": CLIP}, {},
    ),
    "video_llava": ("VideoLlava", LLAVA, "<video>", CROP, CROP, {"patch_size": 4}),
}  # fmt: skip
IMAGE_PROCESSORS = {
    "InternVL": "GotOcr2ImageProcessor",
    "LlavaNextVideo": "LlavaNextImageProcessor",
    "Qwen2_5Omni": "Qwen2VLImageProcessor",
    "Qwen2_5_VL": "Qwen2VLImageProcessor",
    "Qwen3OmniMoe": "Qwen2VLImageProcessor",
    "Qwen3VL": "Qwen2VLImageProcessor",
}
VIDEO_PROCESSORS = dict.fromkeys(("Qwen2_5Omni", "Qwen2_5_VL", "Qwen3OmniMoe"), "Qwen2VLVideoProcessor")


def save_host(model_type: str, folder: Path) -> Path:
    """Write model, tokenizer, chat template and processor of one family as a folder that transformers loads."""
    prefix, special, video, image_settings, video_settings, settings = FAMILIES[model_type]
    HOSTS[model_type].build().save_pretrained(folder)
    tokenizer = build_tokenizer(special, NAMES.get(model_type, {}))
    image = _class(IMAGE_PROCESSORS.get(prefix, f"{prefix}ImageProcessor"))(**image_settings)
    clips = _class(VIDEO_PROCESSORS.get(prefix, f"{prefix}VideoProcessor"))(**video_settings)
    settings = {name: _class(value)() if name == "feature_extractor" else value for name, value in settings.items()}
    cls: Any = _class(f"{prefix}Processor")  # omni ones have a size of frames that no saved setting replaces
    cls.videos_kwargs = {key: value for key, value in getattr(cls, "videos_kwargs", {}).items() if key != "size"}
    processor = cls(
        image_processor=image,
        tokenizer=tokenizer,
        video_processor=clips,
        # SmolVLM's processor always uses its own template for videos
        chat_template=SMOL_TEMPLATE if prefix == "SmolVLM" else TEMPLATE.replace("VISION", video).strip(),
        **settings,
    )
    processor.save_pretrained(folder)
    return folder


def build_tokenizer(special: dict[str, int], names: dict[str, str]) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer whose special tokens have the ids of the tiny hosts."""
    words = {word: i for i, word in enumerate(WORDS)} | special
    words |= {f"<free{i}>": i for i in set(range(VOCAB)) - set(words.values())}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), digits])
    tokenizer.add_special_tokens(["<pad>", "<unk>", "</s>", *special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        padding_side="left",
        extra_special_tokens=names,
    )


class Probe(Compressor):
    """Keeps the first tokens and records video and question; without a class attribute ``name`` it is unregistered."""

    query_aware = True
    video: VideoTokens
    query: torch.Tensor

    def __init__(self, budget: float | int = 0.25) -> None:
        super().__init__(budget)
        self.name = "probe"

    def compress(self, video: VideoTokens, k: int, query: torch.Tensor | None) -> VideoTokens:
        assert query is not None
        Probe.video, Probe.query = video, query
        return video.keep(torch.arange(k))


def _class(name: str) -> Callable[..., Any]:
    return getattr(transformers, name)
