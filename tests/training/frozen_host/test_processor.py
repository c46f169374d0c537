"""The embedded host's processor files are ones that transformers loads and applies.

Video processors need torchvision, whose wheels are built for CUDA and break ``import transformers`` beside a CPU build
of torch. ``make setup`` therefore puts it into a folder of its own, and only this test's subprocess sees it, with the
two operators that are missing on the CPU declared beforehand.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TORCHVISION = Path(sys.prefix) / "torchvision"

SCRIPT = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor x) -> Tensor")
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration
from framefold.data.synthetic.generate import generate
from framefold.training.frozen_host.load import load_host

processor = AutoProcessor.from_pretrained("checkpoints/tinyhost")
model = LlavaOnevisionForConditionalGeneration.from_pretrained("checkpoints/tinyhost").eval()
video = generate(0, split="test", frames=16)
question = video.questions[0].text
parts = [{"type": "video"}, {"type": "text", "text": question}]
prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
inputs = processor(text=[prompt], videos=[torch.from_numpy(video.frames).movedim(-1, 1)], return_tensors="pt")
ours = load_host("checkpoints/tinyhost").pixel_values(video.frames)
print("pixels", float((inputs["pixel_values_videos"] - ours).abs().max()))
print("placeholders", int((inputs["input_ids"] == model.config.video_token_id).sum()))
new = model.generate(**inputs, max_new_tokens=1)[0, inputs["input_ids"].shape[1] :]
print("answer", processor.decode(new))
"""


@pytest.mark.skipif(not TORCHVISION.is_dir(), reason="torchvision is not beside this environment (make setup)")
def test_transformers_loads_the_processor_and_it_agrees_with_ours() -> None:
    env = {**os.environ, "PYTHONPATH": str(TORCHVISION), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
    assert float(said["pixels"]) < 1e-5
    assert int(said["placeholders"]) == 16 * 16 + 1
    from framefold.data.synthetic.questions import VOCABULARY

    assert said["answer"].strip() in VOCABULARY
