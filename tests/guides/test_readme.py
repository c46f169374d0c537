"""Every command and all Python code of README and CONTRIBUTING run, at a smaller scale and in their order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framefold.data.synthetic.questions import VOCABULARY
from tests.support.guides.blocks import ROOT, blocks, parse, size_of
from tests.support.guides.guide_sandbox import GuideSandbox
from tests.support.limits import HANG
from tests.support.processes import needs_torchvision

PICTURE = "answers.webp"
MAKE = ("make setup", "make demo", "make test")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuideSandbox]:
    sandbox = GuideSandbox(tmp_path_factory.mktemp("readme"))
    yield sandbox
    sandbox.close()


def test_readme_shows_the_two_commands() -> None:
    text = "\n".join(blocks("README.md", "bash"))
    assert all(command in text for command in MAKE)


@needs_torchvision
@pytest.mark.timeout(2 * HANG)
def test_every_command_of_the_readme_runs(sandbox: GuideSandbox) -> None:
    commands = [command for block in parse("README.md") if block.language == "bash" for command in block.commands()]
    for number, line in commands:
        if not line.startswith((*MAKE, "source .venv/bin/activate")):
            sandbox.run_command(line, f"README.md:{number}")
    assert len(sandbox.outputs["README.md"]) >= 7
    assert f"](docs/{PICTURE})" in (ROOT / "README.md").read_text()
    sizes = [size_of(folder / PICTURE) for folder in (sandbox.folder / "runs" / "readme", ROOT / "docs")]
    assert sizes[0] == sizes[1] and (ROOT / "docs" / PICTURE).stat().st_size < 150_000


@needs_torchvision
@pytest.mark.timeout(2 * HANG)
def test_the_python_of_the_readme_runs_and_answers_about_a_video_file(sandbox: GuideSandbox) -> None:
    sandbox.run_command("framefold view --out runs/readme/video.mp4 --difficulty hard", "README.md:python")
    code = "\n".join(blocks("README.md", "python"))
    assert "framefold.answer" in code and "AutoProcessor.from_pretrained(host)" in code
    printed = sandbox.run_python(code, "README.md:python")
    assert printed.splitlines()[-1].strip() in VOCABULARY, printed


def test_the_python_of_the_contributing_guide_is_a_complete_method_and_a_complete_family(sandbox: GuideSandbox) -> None:
    check = """
import framefold, torch
video = framefold.VideoTokens.from_grid(torch.arange(1.0, 9).reshape(2, 2, 2, 1))
assert framefold.build("small_norm", 3)(video).tokens.index.tolist() == [0, 1, 2]
assert "my_vl" in framefold.list_families()
"""
    sandbox.run_python("\n".join([*blocks("CONTRIBUTING.md", "python"), check]), "CONTRIBUTING.md:python")


def test_every_registered_compressor_has_a_row_in_the_catalogue() -> None:
    import framefold

    text = (ROOT / "docs" / "compressors.md").read_text()
    assert [name for name in framefold.list_compressors() if f"| `{name}` |" not in text] == []


def test_every_host_family_has_a_row_in_the_guide() -> None:
    import framefold

    text = (ROOT / "docs" / "hosts.md").read_text()
    assert [name for name in framefold.list_families() if f"`{name}`" not in text] == []


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 850


@needs_torchvision
def test_token_counts_of_the_readme_are_those_of_the_processor() -> None:
    import torch
    from transformers import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    metadata = VideoMetadata(total_num_frames=64, fps=2.0, width=640, height=360, duration=32.0)
    metadata.frames_indices = list(range(64))
    processor = Qwen2VLVideoProcessor()
    inputs = processor(
        videos=[torch.zeros(64, 3, 360, 640, dtype=torch.uint8)],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    tokens = int(inputs["video_grid_thw"].prod()) // processor.merge_size**2
    assert f"| Qwen2.5-VL | {tokens:,} | {round(0.1 * tokens):,} |" in (ROOT / "README.md").read_text()
