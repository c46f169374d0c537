"""A script, not a test: the tables of docs/long_video.md. Usage: python -m tests.support.memory_curves

Hosts are of the real classes with random weights, in fp32 on the CPU. Peaks are those of the allocator.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
import transformers
from torch import Tensor

import framefold
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.prompt.prepare import prepare
from framefold.adapters.hosts.prompt.vision import encode
from framefold.training.memory.checkpointing import checkpoint_layers
from tests.support.hosts.tiny_families import IMAGE, VIDEO
from tests.support.peak_memory import peak_bytes

MIB = 2**20
GRID, WIDTH = (8, 8), 256


def llava(vision_depth: int, layers: int) -> Any:
    """Return a LLaVA-OneVision with a narrow tower for frames of 224 pixels, and a language model of width 256."""
    vision = dict(
        model_type="siglip_vision_model", hidden_size=192, intermediate_size=512, num_hidden_layers=vision_depth,
        num_attention_heads=4, image_size=224, patch_size=14, vision_use_head=False,
    )  # fmt: skip
    text = dict(
        model_type="qwen2", vocab_size=8000, hidden_size=WIDTH, intermediate_size=704, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, video_token_index=VIDEO
    )
    torch.manual_seed(0)
    model = transformers.LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def prompt(frames: int) -> dict[str, Tensor]:
    """Return a prompt with a video of some frames and a question."""
    ids = torch.tensor([[5, *[VIDEO] * (frames * GRID[0] * GRID[1] + 1), *range(3, 40)]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def towers(counts: tuple[int, ...] = (16, 64, 256), chunk: int = 16) -> None:
    """Print the peak of the vision encoder over the number of frames, without and with chunks."""
    model = llava(vision_depth=6, layers=1)
    print(f"| frames | all at once | vision_chunk {chunk} | features | same to the bit |\n|---|---|---|---|---|")
    for count in counts:
        inputs = {**prompt(count), "pixel_values_videos": torch.randn(1, count, 3, 224, 224)}
        outputs: list[Tensor] = []
        cells = []
        for setting in (None, chunk):
            run = functools.partial(_encode_into, outputs, model, inputs, setting)
            cells.append(f"{peak_bytes(run) / MIB:.0f} MiB")
        size, same = outputs[0].numel() * 4 / MIB, torch.equal(*outputs)
        difference = float((outputs[0] - outputs[1]).abs().max())
        print(f"| {count} | {' | '.join(cells)} | {size:.0f} MiB | {'yes' if same else difference} |", flush=True)


def _encode_into(outputs: list[Tensor], model: Any, inputs: dict[str, Any], setting: int | None) -> None:
    outputs.append(encode(model, inputs, vision_chunk=setting)[0].features)


def steps(counts: tuple[int, ...] = (16, 32), layers: int = 12) -> None:
    """Print the peak of a forward and backward pass through the language model, without and with checkpointing."""
    print(f"\n| visual tokens | {layers} layers | with checkpointing | ratio | seconds |\n|---|---|---|---|---|")
    models = [llava(vision_depth=1, layers=layers) for _ in range(2)]
    checkpoint_layers(models[1])
    for count in counts:
        peaks, seconds = [], []
        for model in models:
            scale = torch.ones(WIDTH, requires_grad=True)
            torch.manual_seed(0)
            newline = torch.randn(1, WIDTH)
            on_grid = torch.arange(count * GRID[0] * GRID[1] + 1) < count * GRID[0] * GRID[1]
            clip = Encoded(torch.randn(count, *GRID, WIDTH) * scale, newline, on_grid)
            kwargs = prepare(model, prompt(count), framefold.build("identity"), encoded=[clip]).kwargs

            def step(kwargs: dict[str, Any] = kwargs, model: Any = model, scale: Tensor = scale) -> None:
                logits = model(**kwargs, use_cache=False, logits_to_keep=2).logits
                torch.autograd.grad(logits.logsumexp(-1).sum(), scale)

            start = time.process_time()
            peaks.append(peak_bytes(step) / MIB)
            seconds.append(time.process_time() - start)
        cells = [f"{peak:.0f} MiB" for peak in peaks] + [f"{peaks[1] / peaks[0]:.2f}"]
        print(
            f"| {count * GRID[0] * GRID[1]} | {' | '.join(cells)} | {seconds[0]:.1f} and {seconds[1]:.1f} |", flush=True
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    towers()
    steps()
