"""A script, not a test: the tables of docs/long_video.md. Usage: python -m tests.support.memory_curves

Hosts are of the real classes with random weights, in fp32 on the CPU. Peaks are those of the allocator.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from torch import Tensor

import framefold
from framefold.adapters.hosts.prompt.prepare import prepare
from framefold.adapters.hosts.prompt.vision import encode
from framefold.training.memory.checkpointing import checkpoint_layers
from tests.support.hosts.tiny_families import MARKS, SPECIAL, START, VIDEO
from tests.support.peak_memory import peak_bytes

MIB = 2**20


def qwen(vision_depth: int, layers: int) -> Any:
    """Return a Qwen2.5-VL with a narrow tower for frames of 224 pixels, and a language model of width 512."""
    vision = dict(
        depth=vision_depth, hidden_size=320, intermediate_size=860, num_heads=4, out_hidden_size=512, patch_size=14,
        spatial_merge_size=2, temporal_patch_size=2, window_size=112, fullatt_block_indexes=[vision_depth - 1],
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    text = dict(
        vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=2, rope_parameters=rope, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **SPECIAL, **MARKS)
    torch.manual_seed(0)
    model = transformers.Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def video(frames: int) -> dict[str, Tensor]:
    """Return the arguments for a video of some frames and a question."""
    steps, side = frames // 2, 16
    ids = torch.tensor([[START, *[VIDEO] * (steps * side * side // 4), *range(3, 40)]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == VIDEO).int() * 2,
        "pixel_values_videos": torch.randn(steps * side * side, 3 * 2 * 14 * 14),
        "video_grid_thw": torch.tensor([[steps, side, side]]),
    }


def towers(counts: tuple[int, ...] = (16, 64, 256), chunk: int = 16) -> None:
    """Print the peak of the vision encoder over the number of frames, without and with chunks."""
    model = qwen(vision_depth=8, layers=1)
    print(f"| frames | all at once | vision_chunk {chunk} | features | same to the bit |\n|---|---|---|---|---|")
    for count in counts:
        inputs, cells = video(count), []
        outputs = []
        for setting in (None, chunk):
            start = time.perf_counter()
            peak = peak_bytes(lambda s=setting, i=inputs: encode(model, i, vision_chunk=s))
            outputs.append(encode(model, inputs, vision_chunk=setting)[0].features)
            cells.append(f"{peak / MIB:.0f} MiB ({time.perf_counter() - start:.1f} s)")
        size, same = outputs[0].numel() * 4 / MIB, torch.equal(*outputs)
        difference = float((outputs[0] - outputs[1]).abs().max())
        print(f"| {count} | {' | '.join(cells)} | {size:.0f} MiB | {'yes' if same else difference} |", flush=True)


def steps(counts: tuple[int, ...] = (16, 64, 256), layers: int = 12) -> None:
    """Print the peak of a forward and backward pass through the language model, without and with checkpointing."""
    print(f"\n| visual tokens | {layers} layers | with checkpointing |\n|---|---|---|")
    peaks: dict[int, list[str]] = {count: [] for count in counts}
    for on in (False, True):
        model = qwen(vision_depth=1, layers=layers)
        if on:
            checkpoint_layers(model)
        for count in counts:
            inputs = video(count)
            clips = encode(model, inputs)
            scale = torch.ones(512, requires_grad=True)
            clips = [type(clip)(clip.features * scale, clip.extra, clip.on_grid) for clip in clips]
            kwargs = prepare(model, inputs, framefold.build("identity"), encoded=clips).kwargs

            def step(kwargs: dict[str, Any] = kwargs, model: Any = model, scale: Tensor = scale) -> None:
                loss = model(**kwargs, use_cache=False, logits_to_keep=2).logits.float().logsumexp(-1).sum()
                torch.autograd.grad(loss, scale)

            start = time.perf_counter()
            peaks[count].append(f"{peak_bytes(step) / MIB:.0f} MiB ({time.perf_counter() - start:.1f} s)")
    for count in counts:
        print(f"| {count // 2 * 64} | {' | '.join(peaks[count])} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    towers()
    steps()
