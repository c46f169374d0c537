"""A tiny host with random weights of the real class of every family, and prompts as its processor would write them.

Tests iterate over ``HOSTS``, a dictionary by ``model_type``. Parts of a prompt: a positive number is a number of words,
a negative one the number of frames of a video, counted on the token grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor

VOCAB, PAD, START, END, IMAGE, VIDEO = 64, 0, 58, 59, 60, 61
TIME = 57  # represents the text that some processors write at each frame
FIRST_WORD, LAST_WORD = 3, 57  # words are FIRST_WORD <= id < LAST_WORD
Part = int


@dataclass(frozen=True)
class TinyHost:
    """Recipe of the tiny host of one family and its inputs.

    Attributes:
        config: builds the configuration.
        tokens: number of placeholders of a frame that are on the grid.
        video: returns the ids of a video of some frames.
        vision: returns the arguments of the vision side, from the frames of the videos of each row and a generator.
        mrope: whether positions have three axes.
        placeholder: token id of a video's placeholders.
        grid: (H, W) of the token grid.
        token_types: whether the host reads ``mm_token_type_ids``; by default if positions have three axes.
        video_type: value of ``mm_token_type_ids`` at a video's placeholders.
        full_attention: whether every layer attends to all columns before its own, and to no others. Masking a column
            then equals dropping it, which it does not in layers with a state or with a window of some columns.
    """

    config: Callable[[], Any]
    tokens: int
    video: Callable[[int], list[int]]
    vision: Callable[[list[list[int]], torch.Generator], dict[str, Any]]
    mrope: bool = False
    placeholder: int = VIDEO
    grid: tuple[int, int] = (2, 2)
    token_types: bool | None = None
    video_type: int = 2
    full_attention: bool = True

    @property
    def reads_types(self) -> bool:
        """Whether prompts need ``mm_token_type_ids``."""
        return self.mrope if self.token_types is None else self.token_types

    def build(
        self, attention: str = "sdpa", dtype: torch.dtype = torch.float32, seed: int = 0, layers: int | None = None
    ) -> Any:
        """Build the host with random weights, frozen and in eval mode; mistakes change its logits visibly.

        Args:
            attention: its attention implementation.
            dtype: dtype of its weights.
            seed: of its weights.
            layers: number of decoder layers, if not the usual one; for hosts with full attention only.
        """
        config = self.config()
        if layers is not None:
            text = config.get_text_config()
            assert self.full_attention
            text.num_hidden_layers = layers
            if getattr(text, "layer_types", None):
                text.layer_types = ["full_attention"] * layers
        torch.manual_seed(seed)
        cls = getattr(transformers, config.architectures[0])
        model = cls._from_config(config, attn_implementation=attention, dtype=dtype)
        with torch.no_grad():
            base = model.base_model
            language = language_of(base)
            for name, parameter in language.named_parameters():
                if parameter.ndim >= 2 and ".linear_attn." not in name:  # whose norms would also amplify rounding
                    parameter.mul_(8)
            amplify(base, config.model_type)
            model.lm_head.weight.mul_(8)
            model.lm_head.weight[LAST_WORD:] = 0  # so that no marks and placeholders are generated
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 and "bias" in name:
                    parameter.normal_(std=0.02)
        return model.eval().requires_grad_(False)

    def inputs(self, *rows: Sequence[Part], side: str = "left", seed: int = 1, mask: bool = True) -> dict[str, Any]:
        """Return the arguments of the host for a batch of prompts, padded on one side."""
        generator = torch.Generator().manual_seed(seed)
        ids = [self._ids(row, generator) for row in rows]
        length = max(map(len, ids))
        columns = [pad(row, length, side) for row in ids]
        out: dict[str, Any] = {"input_ids": torch.tensor([row for row, _ in columns])}
        if mask:
            out["attention_mask"] = torch.tensor([ones for _, ones in columns])
        videos = [[-part for part in row if part < 0] for row in rows]
        if any(videos):
            out |= self.vision(videos, generator)
        if self.reads_types:
            out["mm_token_type_ids"] = (out["input_ids"] == self.placeholder).int() * self.video_type
        return out

    def _ids(self, row: Sequence[Part], generator: torch.Generator) -> list[int]:
        ids: list[int] = []
        for part in row:
            ids += self.video(-part) if part < 0 else words(part, generator)
        return ids


def amplify(base: Any, model_type: str) -> None:
    """Enlarge features of a host that would be too small to be noticed, as they are next to or in embeddings."""
    parts = {"molmo2": ("multi_modal_projector", 24), "qwen3_omni_moe_thinker": ("audio_tower", 4)}
    name, factor = parts.get(model_type, ("", 1))
    for parameter in base.get_submodule(name).parameters() if name else ():
        parameter.mul_(factor)


def language_of(base: Any) -> Any:
    """Return the language model of a base model, by the names that hosts have for it."""
    names = ("language_model", "text_model", "model")
    return next(getattr(base, name) for name in names if hasattr(base, name))


def words(count: int, generator: torch.Generator) -> list[int]:
    """Return random ids that are neither special nor placeholders."""
    return torch.randint(FIRST_WORD, LAST_WORD, (count,), generator=generator).tolist()


def pad(row: list[int], length: int, side: str) -> tuple[list[int], list[int]]:
    """Return the row and its mask, padded to a length."""
    missing = [PAD] * (length - len(row))
    if side == "left":
        return missing + row, [0] * len(missing) + [1] * len(row)
    return row + missing, [1] * len(row) + [0] * len(missing)


TEXT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=PAD, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
SPECIAL = dict(image_token_id=IMAGE, video_token_id=VIDEO)
MARKS = dict(vision_start_token_id=START, vision_end_token_id=END)
PATCHES = dict(patch_size=4, spatial_merge_size=2, temporal_patch_size=2, in_channels=3)
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
GRID = (4, 6)  # patches of a frame; 2 x 3 tokens, so that exchanged sides make a difference


def _patches(videos: list[list[int]], generator: torch.Generator, width: int) -> dict[str, Any]:
    frames = [t for row in videos for t in row]
    pixels = torch.randn(sum(frames) * GRID[0] * GRID[1], width, generator=generator)
    return {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[t, *GRID] for t in frames])}


def _qwen(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    return _patches(videos, generator, 3 * 2 * 4 * 4)


def _qwen_2_5(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    seconds = torch.tensor([0.5 + i for i, _ in enumerate(t for row in videos for t in row)])
    return _qwen(videos, generator) | {"second_per_grid_ts": seconds}


def _video_llama(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    sizes = torch.full((sum(map(len, videos)),), 2)
    return _patches(videos, generator, 3 * 4 * 4) | {"video_merge_sizes": sizes}


def _gemma(videos: list[list[int]], generator: torch.Generator, side: int, width: int) -> dict[str, Any]:
    counts = [t for row in videos for t in row]
    h, w = GRID[0] // side, GRID[1] // side
    columns, rows = torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")
    places = torch.full((sum(counts), h * w + 12 // side**2, 2), -1)  # the processor pads frames
    places[:, : h * w] = torch.stack([columns, rows], -1).flatten(0, 1)
    pixels = torch.rand(*places.shape[:2], width, generator=generator) * (places[..., :1] >= 0)
    return {
        "pixel_values_videos": pixels, "video_position_ids": places, "num_frames_per_video": torch.tensor(counts)
    }  # fmt: skip


def _gemma4_video(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    return _gemma(videos, generator, 1, 3 * 4 * 4)


def _gemma4_unified_video(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    return _gemma(videos, generator, 2, 3 * 8 * 8)


def _pooled(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    counts = [t for row in videos for t in row]
    frames = sum(counts)
    corners = torch.tensor([0, 2, 8, 10])[:, None] + torch.tensor([0, 1, 4, 5])  # 2 x 2 of 4 x 4 patches are a token
    pooling = (torch.arange(frames)[:, None, None] * 16 + corners).flatten(0, 1)
    pixels = torch.rand(frames, 16, 3 * 4 * 4, generator=generator)
    grids = torch.tensor([[t, 2, 2] for t in counts])
    return {"pixel_values_videos": pixels, "video_token_pooling": pooling, "video_grids": grids}


def _clips(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    frames = [t for row in videos for t in row]
    clips = [torch.randn(t, 3, 16, 16, generator=generator) for t in frames]
    return {"pixel_values_videos": torch.stack(clips) if len(set(frames)) == 1 else clips}


def _images(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    return {"pixel_values": torch.randn(sum(map(sum, videos)), 3, 16, 16, generator=generator)}


def _padded_images(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    counts = [sum(row) for row in videos]
    pixels = torch.randn(len(videos), max(counts), 3, 16, 16, generator=generator)
    for row, count in enumerate(counts):
        pixels[row, count:] = 0  # the processor fills missing images with zeros
    return {"pixel_values": pixels}


def _omni(videos: list[list[int]], generator: torch.Generator) -> dict[str, Any]:
    out = _qwen(videos, generator)
    return out | {"video_second_per_grid": torch.linspace(0.2, 2, len(out["video_grid_thw"]))}


def marked_run(placeholder: int, per_frame: int) -> Callable[[int], list[int]]:
    """Return one run of placeholders per video, between marks."""
    return lambda frames: [START, *[placeholder] * (frames * per_frame), END]


def run(placeholder: int, per_frame: int, tail: int = 0) -> Callable[[int], list[int]]:
    """Return one run of placeholders per video."""
    return lambda frames: [placeholder] * (frames * per_frame + tail)


def runs(placeholder: int, per_frame: int, start: Sequence[int] = (TIME, START)) -> Callable[[int], list[int]]:
    """Return one run of placeholders per frame, between marks."""
    return lambda frames: [*start, *[placeholder] * per_frame, END] * frames


def _config(name: str, architecture: str, **fields: Any) -> Any:
    config = getattr(transformers, name)(**fields)
    config.architectures = [architecture]
    return config


def _qwen2_vl() -> Any:
    vision = dict(depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2, **PATCHES)
    text = {**TEXT, "rope_parameters": dict(MROPE)}
    return _config("Qwen2VLConfig", "Qwen2VLForConditionalGeneration", vision_config=vision, text_config=text,
                   **SPECIAL, **MARKS)  # fmt: skip


def _qwen2_5_vl() -> Any:
    vision = dict(depth=2, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32, window_size=16,
                  fullatt_block_indexes=[1], tokens_per_second=2, **PATCHES)  # fmt: skip
    text = {**TEXT, "rope_parameters": dict(MROPE)}
    return _config("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", vision_config=vision, text_config=text,
                   **SPECIAL, **MARKS)  # fmt: skip


def _qwen3(name: str, architecture: str, **text: Any) -> Any:
    vision = dict(depth=3, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32,
                  num_position_embeddings=16, deepstack_visual_indexes=[0, 1], **PATCHES)  # fmt: skip
    rope = {**MROPE, "mrope_interleaved": True}
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope, "num_hidden_layers": 3, **text}
    return _config(name, architecture, vision_config=vision, text_config=text, **SPECIAL, **MARKS)


def _qwen3_vl() -> Any:
    return _qwen3("Qwen3VLConfig", "Qwen3VLForConditionalGeneration")


def _qwen3_vl_moe() -> Any:
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1)
    return _qwen3("Qwen3VLMoeConfig", "Qwen3VLMoeForConditionalGeneration", **experts)


AUDIO = 62
OMNI = dict(audio_start_token_id=63, audio_end_token_id=56, vision_start_token_id=START, user_token_id=55)


def _qwen2_5_omni() -> Any:
    vision = dict(depth=2, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32, window_size=16,
                  fullatt_block_indexes=[1], **PATCHES)  # fmt: skip
    audio = dict(num_mel_bins=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, d_model=16,
                 n_window=4, output_dim=32)  # fmt: skip
    text = {**TEXT, "rope_parameters": dict(MROPE)}
    return _config("Qwen2_5OmniThinkerConfig", "Qwen2_5OmniThinkerForConditionalGeneration", vision_config=vision,
                   audio_config=audio, text_config=text, image_token_index=IMAGE, video_token_index=VIDEO,
                   audio_token_index=AUDIO, seconds_per_chunk=1, **OMNI)  # fmt: skip


def _qwen3_omni_moe() -> Any:
    vision = dict(depth=3, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32,
                  num_position_embeddings=16, deepstack_visual_indexes=[0, 1], **PATCHES)  # fmt: skip
    audio = dict(num_mel_bins=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, d_model=16,
                 n_window=50, n_window_infer=100, output_dim=32, downsample_hidden_size=8)  # fmt: skip
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    text = {**TEXT, "head_dim": 8, "rope_parameters": {**MROPE, "mrope_interleaved": True}, "num_hidden_layers": 3,
            **experts}  # fmt: skip
    return _config("Qwen3OmniMoeThinkerConfig", "Qwen3OmniMoeThinkerForConditionalGeneration", vision_config=vision,
                   audio_config=audio, text_config=text, audio_token_id=AUDIO,
                   **SPECIAL, **OMNI)  # fmt: skip


def _qwen3_5(name: str, architecture: str, **text: Any) -> Any:
    vision = dict(depth=3, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32,
                  num_position_embeddings=16, **PATCHES)  # fmt: skip
    recurrent = dict(linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4)
    rope = {**MROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0}
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope, "layer_types": ["linear_attention", "full_attention"],
            **recurrent, **text}  # fmt: skip
    return _config(name, architecture, vision_config=vision, text_config=text, **SPECIAL, **MARKS)


def _qwen3_5_dense() -> Any:
    return _qwen3_5("Qwen3_5Config", "Qwen3_5ForConditionalGeneration")


def _qwen3_5_moe() -> Any:
    experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16)
    return _qwen3_5("Qwen3_5MoeConfig", "Qwen3_5MoeForConditionalGeneration", **experts)


GEMMA = dict(
    boi_token_id=START, eoi_token_id=END, boa_token_id=62, eoa_token_index=63, audio_token_id=62, audio_config=None,
    tie_word_embeddings=False, **SPECIAL,
)  # fmt: skip
SLIDING = dict(
    head_dim=8, global_head_dim=8, sliding_window=9, use_bidirectional_attention="vision", tie_word_embeddings=False,
    layer_types=["sliding_attention", "full_attention"],
)  # fmt: skip


def _gemma4() -> Any:
    """As in the smallest checkpoints, layers have embeddings of their own, and the last ones share keys and values."""
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=2, head_dim=8, pooling_kernel_size=2, patch_size=4, position_embedding_size=32,
                  rope_parameters={"rope_type": "default", "rope_theta": 100.0})  # fmt: skip
    shared = dict(num_hidden_layers=4, num_kv_shared_layers=2, layer_types=SLIDING["layer_types"] * 2,
                  hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCAB)  # fmt: skip
    return _config("Gemma4Config", "Gemma4ForConditionalGeneration", vision_config=vision,
                   text_config={**TEXT, **SLIDING, **shared}, **GEMMA)  # fmt: skip


def _gemma4_unified() -> Any:
    vision = dict(patch_size=4, pooling_kernel_size=2, mm_embed_dim=16, mm_posemb_size=32, output_proj_dims=16)
    return _config("Gemma4UnifiedConfig", "Gemma4UnifiedForConditionalGeneration", vision_config=vision,
                   text_config={**TEXT, **SLIDING}, **GEMMA)  # fmt: skip


def _glm4v(name: str = "Glm4v", text_type: str = "glm4v_text", **text: Any) -> Any:
    vision = dict(depth=2, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32, image_size=16,
                  **PATCHES)  # fmt: skip
    vision["model_type"] = text_type.replace("text", "vision")
    text = {**TEXT, "model_type": text_type, "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}, **text}
    marks = dict(image_start_token_id=START, image_end_token_id=END, video_start_token_id=62, video_end_token_id=63)
    return _config(f"{name}Config", f"{name}ForConditionalGeneration", vision_config=vision, text_config=text,
                   **SPECIAL, **marks)  # fmt: skip


def _molmo2() -> Any:
    heads = dict(num_attention_heads=2, num_key_value_heads=2, head_dim=8, hidden_size=16, intermediate_size=32)
    vision = dict(num_hidden_layers=3, image_size=[16, 16], patch_size=4, **heads)
    adapter = dict(vision_feature_layer=[-1, -2], text_hidden_size=32, **heads)
    marks = dict(image_start_token_id=62, image_end_token_id=63, low_res_image_start_token_id=62)
    return _config("Molmo2Config", "Molmo2ForConditionalGeneration", vision_config=vision, adapter_config=adapter,
                   text_config=dict(TEXT, head_dim=8, additional_vocab_size=8), image_patch_id=IMAGE,
                   frame_start_token_id=START, frame_end_token_id=END, **marks)  # fmt: skip


def _glm46v() -> Any:
    return _glm4v("Glm46V")


def _glm4v_moe() -> Any:
    """As in the checkpoints, the first layer has no experts."""
    experts = dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1,
                   first_k_dense_replace=1)  # fmt: skip
    return _glm4v("Glm4vMoe", "glm4v_moe_text", **experts)


VIT = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16,
           patch_size=4)  # fmt: skip


def _llava_onevision() -> Any:
    vision = {**VIT, "model_type": "siglip_vision_model", "vision_use_head": False}
    return _config("LlavaOnevisionConfig", "LlavaOnevisionForConditionalGeneration", vision_config=vision,
                   text_config={**TEXT, "model_type": "qwen2"}, image_token_index=IMAGE, video_token_index=VIDEO,
                   image_grid_pinpoints=[[16, 16]])  # fmt: skip


def _llava(name: str, architecture: str, **fields: Any) -> Any:
    vision = {**VIT, "model_type": "clip_vision_model", "num_hidden_layers": 3}
    return _config(name, architecture, vision_config=vision, text_config={**TEXT, "model_type": "llama"},
                   image_token_index=IMAGE, video_token_index=VIDEO, **fields)  # fmt: skip


def _llava_next_video() -> Any:
    return _llava("LlavaNextVideoConfig", "LlavaNextVideoForConditionalGeneration", image_grid_pinpoints=[[16, 16]])


def _video_llava() -> Any:
    return _llava("VideoLlavaConfig", "VideoLlavaForConditionalGeneration")


def _video_llama_3() -> Any:
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=4)
    return _config("VideoLlama3Config", "VideoLlama3ForConditionalGeneration", vision_config=vision,
                   text_config={**TEXT, "model_type": "qwen2"}, **SPECIAL)  # fmt: skip


def _internvl() -> Any:
    vision = {**VIT, "image_size": [16, 16], "patch_size": [4, 4]}
    return _config("InternVLConfig", "InternVLForConditionalGeneration", vision_config=vision,
                   text_config={**TEXT, "model_type": "qwen2"}, image_token_id=IMAGE, image_seq_length=4,
                   tie_word_embeddings=False)  # fmt: skip


def _smolvlm() -> Any:
    return _config("SmolVLMConfig", "SmolVLMForConditionalGeneration", vision_config=dict(VIT),
                   text_config={**TEXT, "model_type": "llama"}, image_token_id=IMAGE, scale_factor=2)  # fmt: skip


_GEMMA = {"grid": (2, 3), "token_types": True, "full_attention": False}
HOSTS: dict[str, TinyHost] = {
    "gemma4": TinyHost(_gemma4, 6, runs(VIDEO, 6), _gemma4_video, **_GEMMA),
    "gemma4_unified": TinyHost(_gemma4_unified, 6, runs(VIDEO, 6), _gemma4_unified_video, **_GEMMA),
    "glm46v": TinyHost(_glm46v, 6, runs(IMAGE, 6, [START]), _qwen, True, IMAGE, (2, 3)),
    "glm4v_moe": TinyHost(_glm4v_moe, 6, runs(IMAGE, 6, [START]), _qwen, True, IMAGE, (2, 3)),
    "glm4v": TinyHost(_glm4v, 6, runs(IMAGE, 6, [START]), _qwen, True, IMAGE, (2, 3)),
    "internvl": TinyHost(_internvl, 4, runs(IMAGE, 4), _images, placeholder=IMAGE),
    "llava_next_video": TinyHost(_llava_next_video, 4, run(VIDEO, 4), _clips),
    "llava_onevision": TinyHost(_llava_onevision, 4, run(VIDEO, 4, 1), _clips),
    "molmo2": TinyHost(
        _molmo2, 4, runs(IMAGE, 4), _pooled, placeholder=IMAGE, token_types=True, video_type=1, full_attention=False
    ),
    "qwen2_5_vl": TinyHost(_qwen2_5_vl, 6, run(VIDEO, 6), _qwen_2_5, True, grid=(2, 3)),
    "qwen2_vl": TinyHost(_qwen2_vl, 6, run(VIDEO, 6), _qwen, True, grid=(2, 3)),
    "qwen2_5_omni_thinker": TinyHost(
        _qwen2_5_omni, 6, marked_run(VIDEO, 6), _omni, True, grid=(2, 3), token_types=False
    ),
    "qwen3_omni_moe_thinker": TinyHost(
        _qwen3_omni_moe, 6, marked_run(VIDEO, 6), _omni, True, grid=(2, 3), token_types=False
    ),
    "qwen3_5": TinyHost(_qwen3_5_dense, 6, runs(VIDEO, 6), _qwen, True, grid=(2, 3), full_attention=False),
    "qwen3_5_moe": TinyHost(_qwen3_5_moe, 6, runs(VIDEO, 6), _qwen, True, grid=(2, 3), full_attention=False),
    "qwen3_vl": TinyHost(_qwen3_vl, 6, runs(VIDEO, 6), _qwen, True, grid=(2, 3)),
    "qwen3_vl_moe": TinyHost(_qwen3_vl_moe, 6, runs(VIDEO, 6), _qwen, True, grid=(2, 3)),
    "smolvlm": TinyHost(_smolvlm, 4, runs(IMAGE, 4), _padded_images, placeholder=IMAGE),
    "video_llama_3": TinyHost(_video_llama_3, 6, run(VIDEO, 6), _video_llama, grid=(2, 3)),
    "video_llava": TinyHost(_video_llava, 16, run(VIDEO, 17), _clips, grid=(4, 4)),
}


WITHOUT_ENCODER = ["gemma4_unified"]  # of vision, so there is no attention among patches

# The bare hosts of this version take no raw video, so there is nothing to compare with.
UNTESTED = ["gemma4", "gemma4_unified"] if Version(transformers.__version__) < Version("5.23") else []
for _name in UNTESTED:
    del HOSTS[_name]


def without(inputs: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the inputs without some of them."""
    return {name: value for name, value in inputs.items() if name not in names}


def labels_of(inputs: dict[str, Any], last: int = 3) -> Tensor:
    """Return labels on the last columns of each prompt; for padding on the left."""
    labels = inputs["input_ids"].clone()
    labels[:, :-last] = -100
    return labels
