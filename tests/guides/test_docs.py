"""Everything that stands in docs/ is tried: commands and Python in the order of each guide, pictures, links, tables.

Commands of ``framefold`` and Python run as they stand, in a scratch checkout, with options of smaller runs appended.
What is for GPUs is first refused as it stands, then runs on the CPU; scripts of ``framefold launch`` meet a cluster
that notes what they start, which then runs in one process. Pushing goes to a Hub on this machine.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from framefold import __main__ as command
from framefold.adapters.pretrained.card import WRITTEN
from framefold.training.module import CompressorModule
from tests.support.guides.blocks import ROOT, Block, broken_links
from tests.support.guides.guide_sandbox import Desk, Unknown
from tests.support.processes import needs_torchvision

GUIDES = sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))
# What must have been read before, because a guide goes on with its files.
BEFORE = {"docs/share.md": ["docs/first_adapter.md"]}
PICTURES = {"docs/kept.png": "docs/first_adapter.md", "docs/accuracy.png": "docs/read_the_ablation.md"}

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="commands for GPUs would run on them")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    made.close()


def read(desk: Desk, guide: str) -> str:
    """What a guide's commands print."""
    for before in BEFORE.get(guide, ()):
        desk.read(before)
    return "\n".join(desk.read(guide))


@no_gpu
@needs_torchvision
@pytest.mark.timeout(280)
@pytest.mark.parametrize("guide", GUIDES)
def test_every_line_of_a_guide_runs(guide: str, desk: Desk) -> None:
    assert read(desk, guide)


def test_there_is_a_guide_for_each_job() -> None:
    names = "add_compressor add_host_family cluster first_adapter own_videos read_the_ablation share"
    assert [Path(guide).stem for guide in GUIDES] == names.split()


@no_gpu
@needs_torchvision
@pytest.mark.timeout(280)
def test_what_was_shared_is_on_the_hub_with_its_card_and_tag(desk: Desk) -> None:
    text = read(desk, "docs/share.md")
    found = desk.hub.repositories["me/fila-tinyhost"]
    assert set(found.files) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    assert found.tags == {"v1": found.branches["main"]} and desk.hub.repositories["me/fila-copy"].private
    card = found.files["README.md"].decode()
    assert WRITTEN in card and card.count("| fila") and "scene_mean" in card
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert "allow_other_host=True takes it all the same" in text and "newer than 1: upgrade framefold" in text


@no_gpu
@needs_torchvision
@pytest.mark.timeout(280)
def test_what_guides_say_of_their_output_is_so(desk: Desk) -> None:
    assert "10 of 96 tokens" in read(desk, "docs/first_adapter.md")
    assert "12 of 128" in read(desk, "docs/add_compressor.md") and "passed" in read(desk, "docs/add_compressor.md")
    assert "5 of 24 tokens, generated" in read(desk, "docs/add_host_family.md")
    zero = desk.folder / "runs" / "cluster"
    assert read(desk, "docs/cluster.md").count("fit: 2 steps done") == 8
    assert (zero / "plain" / "model.safetensors").is_file() and (zero / "fila" / "config.json").is_file()


@no_gpu
@needs_torchvision
@pytest.mark.timeout(280)
@pytest.mark.parametrize(("picture", "guide"), PICTURES.items())
def test_a_picture_is_made_by_a_command_of_its_guide(picture: str, guide: str, desk: Desk) -> None:
    read(desk, guide)
    committed, made = ROOT / picture, desk.folder / picture
    assert f"]({committed.name})" in (ROOT / guide).read_text()
    assert committed.stat().st_size < 150_000
    assert size_of(made)[0] == size_of(committed)[0]
    if picture == "docs/kept.png":  # by the command as it stands
        from PIL import Image

        ours, theirs = (np.asarray(Image.open(file).convert("L"), np.float32) for file in (made, committed))
        assert ours.shape == theirs.shape and np.abs(ours - theirs).mean() < 2


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    head = file.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_pictures_are_those_that_guides_show() -> None:
    assert sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.png")) == sorted(PICTURES)


@pytest.mark.parametrize("file", [*GUIDES, "README.md", "CONTRIBUTING.md", "data/README.md"])
def test_links_lead_somewhere(file: str) -> None:
    assert broken_links(file) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.md"
    file.write_text("# One\n\n## A b?\n\n[a](x.md#a-b) [b](#one) [c](#two) [d](y.md) [e](https://nowhere.invalid)\n")
    assert broken_links(str(file)) == ["#two", "y.md"]


def test_a_line_that_nobody_can_run_is_no_line_of_a_guide(desk: Desk) -> None:
    for text in ("wget https://example.org/x.tar\n", "make demo\n", "DEBUG=1 pip install x\n"):
        with pytest.raises(Unknown):
            desk._do("docs/none.md", Block("bash", text, 1))
    with pytest.raises(Unknown):
        desk._do("docs/none.md", Block("console", "$ ls\n", 1))


@needs_torchvision
def test_a_command_that_fails_fails_the_guide(desk: Desk) -> None:
    desk.outputs["docs/none.md"] = []
    for text in ("framefold shards synt --out runs/none\n", "framefold export --checkpoint uniform --otu runs/none\n"):
        with pytest.raises(AssertionError, match="docs/none.md:1"):
            desk._do("docs/none.md", Block("bash", text, 1))
    with pytest.raises(AssertionError, match="NameError"):
        desk._do("docs/none.md", Block("python", "import framefold\nframefold_\n", 1))
    with pytest.raises(AssertionError, match="another file"):
        desk._do("docs/none.md", Block("python", "# adapters/pool.py\npass\n", 1))


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_in_the_text_have_verbs_and_options_that_exist(guide: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / guide).read_text(), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"`framefold ([a-z][^`]*)`", text):
        words = shlex.split(" ".join(line.split()))
        given = {word[2:] for word in words if word.startswith("--")}
        verb = " ".join(words[:2]) if " ".join(words[:2]) in command.FUNCTIONS else words[0]
        assert given <= options_of(verb), f"{guide}: framefold {line}"


def options_of(verb: str) -> set[str]:
    """Names of the options of a verb, of ``fit`` those that guides name."""
    if verb in command.LIGHTNING:
        settings = inspect.signature(CompressorModule).parameters
        return {"help", "config", "resume", *(f"model.{name}" for name in settings)}
    module, _, name = command.FUNCTIONS[verb][0].partition(":")
    return {
        "help",
        "config",
        *inspect.signature(getattr(importlib.import_module(f"framefold.{module}"), name)).parameters,
    }


@pytest.mark.parametrize("guide", GUIDES)
def test_configurations_in_the_text_are_packaged(guide: str) -> None:
    folders = "|".join(folder.name for folder in (ROOT / "configs").iterdir() if folder.is_dir())
    names = re.findall(rf"[` ]((?:{folders})/\w+)[`\s]", (ROOT / guide).read_text())
    assert [name for name in names if not (ROOT / "configs" / f"{name}.yaml").is_file()] == []


def test_numbers_of_the_ablation_are_those_of_the_readme() -> None:
    """The rows that no adapter changes, which stand in README's table of the same videos."""
    readme, guide = (rows_of((ROOT / file).read_text()) for file in ("README.md", "docs/read_the_ablation.md"))
    for name in ("st_simdiff", "scene_mean", "uniform", "oracle"):
        assert guide[name] == readme[name][1:4], name


def rows_of(text: str) -> dict[str, list[str]]:
    """First rows of the tables of a text by their first cell."""
    rows: dict[str, list[str]] = {}
    for line in re.findall(r"^\| (.+) \|$", text, re.MULTILINE):
        name, *cells = (cell.strip() for cell in line.split("|"))
        rows.setdefault(name, cells)
    return rows
