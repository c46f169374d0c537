"""Importing framefold makes torchvision importable; if it is missing, the error names the command that installs it.

transformers looks for torchvision only once, so this needs a process in which it has not been imported yet. The same
process checks that transformers loads and applies the processor files of tinyhost.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from framefold import torchvision_finder
from framefold.data.synthetic.questions import VOCABULARY
from framefold.errors import MissingExtraError
from framefold.training.frozen_host import torchvision
from tests.support.processes import SETUP_FOLDER, needs_torchvision, python

COMMAND = ["answer", "--host", "checkpoints/tinyhost", "--video", "x.mp4", "--question", "x", "--compressor", "uniform"]

SCRIPT = """
import os, sys
sys.path = [path for path in sys.path if os.path.basename(path) != "torchvision"]  # a .pth file of make setup adds it
prefix, sys.prefix = sys.prefix, "/nowhere"
from framefold.__main__ import main
words = sys.argv[1:]
print("missing", main(words), "transformers" in sys.modules, flush=True)
sys.prefix = prefix
if not os.fork():
    import transformers
    print("late", main(words), flush=True)
    os._exit(0)
os.wait()
for name in [name for name in sys.modules if name.partition(".")[0] == "framefold"]:
    del sys.modules[name]
import framefold
import torch
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration, Qwen2VLVideoProcessor
from framefold.data.synthetic.generate import generate
from framefold.training.frozen_host.load import load_host

processor = AutoProcessor.from_pretrained("checkpoints/tinyhost")
model = LlavaOnevisionForConditionalGeneration.from_pretrained("checkpoints/tinyhost").eval()
video = generate(0, split="test", frames=16)
parts = [{"type": "video"}, {"type": "text", "text": video.questions[0].text}]
prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
inputs = processor(text=[prompt], videos=[torch.from_numpy(video.frames).movedim(-1, 1)], return_tensors="pt")
ours = load_host("checkpoints/tinyhost").pixel_values(video.frames)
print("pixels", float((inputs["pixel_values_videos"] - ours).abs().max()))
print("placeholders", int((inputs["input_ids"] == model.config.video_token_id).sum()))
new = model.generate(**inputs, max_new_tokens=1)[0, inputs["input_ids"].shape[1] :]
print("answer", processor.decode(new))
qwen = Qwen2VLVideoProcessor(min_pixels=28 * 28, max_pixels=64 * 64)
frames = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
print("qwen", *qwen(videos=[frames], return_tensors="pt")["video_grid_thw"][0].tolist())
"""

STARTUP = """
import site, sys
site.addsitedir(sys.argv[1])  # as Python does with its own folders of packages when it starts
import torchvision, transformers
print("framefold" in sys.modules, transformers.utils.is_torchvision_available(), torchvision.__name__)
"""


def _in_site_packages() -> bool:
    spec = find_spec("torchvision")
    return spec is not None and SETUP_FOLDER not in Path(str(spec.origin)).parents


@pytest.fixture(scope="module")
def finished() -> CompletedProcess[str]:
    return python("-c", SCRIPT, *COMMAND)


@pytest.fixture
def printed(finished: CompletedProcess[str]) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in finished.stdout.splitlines() if " " in line)


@pytest.mark.skipif(_in_site_packages(), reason="torchvision is installed among the other packages")
def test_missing_torchvision_is_reported_with_its_install_command(
    finished: CompletedProcess[str], printed: dict[str, str]
) -> None:
    errors = [line for line in finished.stderr.splitlines() if line.startswith("framefold:")]
    assert printed["missing"] == "2 False", finished.stderr  # transformers was not imported
    where = "" if torch.version.cuda or torch.version.hip else "--no-deps --target /nowhere/torchvision "
    assert "torchvision is not installed" in errors[0] and f"pip install {where}'torchvision==0." in errors[0]
    if SETUP_FOLDER.is_dir():
        assert printed["late"] == "2"
        assert len(errors) == 2 and "import framefold before transformers" in errors[1]


@needs_torchvision
def test_transformers_loads_the_processor_of_tinyhost_and_agrees_with_ours(
    finished: CompletedProcess[str], printed: dict[str, str]
) -> None:
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert float(printed["pixels"]) < 1e-5
    assert int(printed["placeholders"]) == 16 * 16 + 1
    assert printed["answer"].strip() in VOCABULARY
    assert printed["qwen"] == "2 4 4"


@needs_torchvision
def test_the_startup_file_of_make_setup_makes_torchvision_importable_without_framefold(tmp_path: Path) -> None:
    torchvision_finder.write_startup_file(str(tmp_path))
    done = python("-c", STARTUP, str(tmp_path))
    assert done.stdout.split() == ["False", "True", "torchvision"], done.stderr[-2000:]


def test_the_finder_leaves_other_modules_and_other_errors_alone(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('no such device')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    finder = torchvision_finder.TorchvisionFinder()
    assert finder.find_spec("torchvision.ops") is None and finder.find_spec("json") is None
    spec = finder.find_spec("torchvision")
    assert spec is not None and spec.loader is not None
    with pytest.raises(RuntimeError, match="no such device"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_named_version_fits_this_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.search(r"torchvision==(\d+\.\d+)\.\*", torchvision._advice())
    assert named is not None
    installed = [path.name for path in SETUP_FOLDER.glob("torchvision-*.dist-info")]
    assert all(name.startswith(f"torchvision-{named[1]}.") for name in installed)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert torchvision._advice() == f"pip install 'torchvision=={named[1]}.*'"


def test_missing_pillow_is_reported_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision, "_importable", lambda name: name != "PIL")
    with pytest.raises(MissingExtraError, match="pip install pillow"):
        torchvision.find_torchvision()
