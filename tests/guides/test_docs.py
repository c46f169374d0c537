"""The guides in docs: commands and Python code run in their order; pictures, links and tables are current."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from framefold import __main__ as command
from framefold.adapters.pretrained.card import GENERATED_MARK
from framefold.evaluation.results.measures import MEASURES
from framefold.training.module import CompressorModule
from tests.support.guides.blocks import ROOT, Block, broken_links, size_of
from tests.support.guides.guide_sandbox import GuideSandbox, UnknownCommandError
from tests.support.limits import HANG
from tests.support.processes import needs_torchvision

GUIDES = sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))
DOCUMENTS = [*GUIDES, "README.md", "CONTRIBUTING.md", "data/README.md"]
# Guides that continue with the files of others.
BEFORE = {"docs/share.md": ["docs/first_adapter.md"]}
PICTURES = {"docs/kept.webp": "docs/first_adapter.md", "docs/accuracy.png": "docs/read_the_ablation.md"}
README_PICTURE = "docs/answers.webp"  # test_readme.py draws it
# Guides without commands or code.
TEXTS = {"docs/published_tables.md", "docs/results.md"}

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="commands for GPUs would run on them")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuideSandbox]:
    sandbox = GuideSandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.close()


def output_of(sandbox: GuideSandbox, guide: str) -> str:
    """Return what the commands of a guide print."""
    for before in BEFORE.get(guide, ()):
        sandbox.run_guide(before)
    return "\n".join(sandbox.run_guide(guide))


@no_gpu
@needs_torchvision
@pytest.mark.timeout(2 * HANG)
@pytest.mark.parametrize("guide", sorted({*GUIDES} - TEXTS))
def test_every_line_of_a_guide_runs(guide: str, sandbox: GuideSandbox) -> None:
    assert output_of(sandbox, guide)


def test_there_is_a_guide_for_each_job() -> None:
    names = (
        "add_compressor add_host_family cluster commands compressors first_adapter gpu_box hosts import_data install"
    )
    names += " long_video own_videos published_tables read_the_ablation results serve share train_with_trainers"
    assert [Path(guide).stem for guide in GUIDES] == names.split()


@no_gpu
@needs_torchvision
@pytest.mark.timeout(2 * HANG)
def test_the_shared_adapter_is_on_the_hub_with_its_card_and_tag(sandbox: GuideSandbox) -> None:
    text = output_of(sandbox, "docs/share.md")
    found = sandbox.hub.repositories["me/fila-tinyhost"]
    assert set(found.files) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    assert found.tags == {"v1": found.branches["main"]} and sandbox.hub.repositories["me/fila-copy"].private
    card = found.files["README.md"].decode()
    assert GENERATED_MARK in card and card.count("| fila") and "scene_mean" in card
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert "allow_other_host=True" in text and "newer than 1: upgrade framefold" in text


@no_gpu
@needs_torchvision
@pytest.mark.timeout(2 * HANG)
def test_outputs_quoted_in_guides_are_printed(sandbox: GuideSandbox) -> None:
    assert "10 of 96 tokens" in output_of(sandbox, "docs/first_adapter.md")
    assert "12 of 128" in output_of(sandbox, "docs/add_compressor.md") and "passed" in output_of(
        sandbox, "docs/add_compressor.md"
    )
    assert "5 of 24 tokens, generated" in output_of(sandbox, "docs/add_host_family.md")
    assert "trained with flops kv smooth and" in output_of(sandbox, "docs/train_with_trainers.md")
    zero = sandbox.folder / "runs" / "cluster"
    assert output_of(sandbox, "docs/cluster.md").count("fit: 2 steps done") == 8
    assert (zero / "plain" / "model.safetensors").is_file() and (zero / "fila" / "config.json").is_file()


@no_gpu
@needs_torchvision
@pytest.mark.timeout(2 * HANG)
@pytest.mark.parametrize(("picture", "guide"), PICTURES.items())
def test_a_picture_is_drawn_by_a_command_of_its_guide(picture: str, guide: str, sandbox: GuideSandbox) -> None:
    output_of(sandbox, guide)
    committed, drawn = ROOT / picture, sandbox.folder / picture
    assert f"]({committed.name})" in (ROOT / guide).read_text()
    assert committed.stat().st_size < 150_000
    assert size_of(drawn)[0] == size_of(committed)[0]
    if picture == "docs/kept.webp":  # its command runs as written
        from PIL import Image

        ours, theirs = (np.asarray(Image.open(file).convert("L"), np.float32) for file in (drawn, committed))
        assert ours.shape == theirs.shape and np.abs(ours - theirs).mean() < 2


def test_every_picture_in_docs_is_shown_by_a_guide() -> None:
    assert sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.[pw]*")) == sorted(
        [*PICTURES, README_PICTURE]
    )


def test_links_lead_somewhere() -> None:
    assert {file: broken for file in DOCUMENTS if (broken := broken_links(file))} == {}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.md"
    file.write_text("# One\n\n## A b?\n\n[a](x.md#a-b) [b](#one) [c](#two) [d](y.md) [e](https://nowhere.invalid)\n")
    assert broken_links(str(file)) == ["#two", "y.md"]


def test_a_command_that_the_sandbox_cannot_run_is_an_error(sandbox: GuideSandbox) -> None:
    for language, text in (
        ("bash", "wget https://example.org/x.tar\n"),
        ("bash", "make demo\n"),
        ("bash", "DEBUG=1 pip install x\n"),
        ("console", "$ ls\n"),
    ):
        with pytest.raises(UnknownCommandError):
            sandbox.run_block("docs/none.md", Block(language, text, 1))


@needs_torchvision
def test_a_command_that_fails_fails_the_guide(sandbox: GuideSandbox) -> None:
    for language, text, message in (
        ("bash", "framefold shards synt --out runs/none\n", "docs/none.md:1"),
        ("bash", "framefold export --checkpoint uniform --otu runs/none\n", "docs/none.md:1"),
        ("python", "import framefold\nframefold_\n", "NameError"),
        ("python", "# adapters/compressors/pool.py\npass\n", "differs from the guide"),
    ):
        with pytest.raises(AssertionError, match=message):
            sandbox.run_block("docs/none.md", Block(language, text, 1))


def test_commands_in_the_text_have_verbs_and_options_that_exist() -> None:
    wrong = []
    for document in DOCUMENTS:
        text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
        for line in re.findall(r"`framefold ([a-z][^`]*)`", text):
            words = [*itertools.takewhile(lambda word: word != "--", shlex.split(" ".join(line.split())))]
            options = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
            verb = " ".join(words[:2]) if " ".join(words[:2]) in command.FUNCTIONS else words[0]
            if words == [verb] and any(name.startswith(f"{verb} ") for name in command.FUNCTIONS):
                continue  # a group of verbs, such as shards
            if verb not in {**command.LIGHTNING, **command.FUNCTIONS} or not options <= options_of(verb):
                wrong.append(f"{document}: framefold {line}")
    assert wrong == []


def options_of(verb: str) -> set[str]:
    """Return the names of the options of a verb; of ``fit``, those that the documents mention."""
    if verb in command.LIGHTNING:
        settings = inspect.signature(CompressorModule).parameters
        return {"help", "config", "resume", *(f"model.{name}" for name in settings)}
    module, _, name = command.FUNCTIONS[verb][0].partition(":")
    return {
        "help",
        "config",
        *inspect.signature(getattr(importlib.import_module(f"framefold.{module}"), name)).parameters,
    }


def test_configurations_in_the_text_are_packaged() -> None:
    folders = "|".join(folder.name for folder in (ROOT / "configs").iterdir() if any(folder.glob("*.yaml")))
    missing = [
        f"{document}: {name}"
        for document in DOCUMENTS
        for name in re.findall(rf"[` ]((?:{folders})/\w+)[`\s]", (ROOT / document).read_text())
        if not (ROOT / "configs" / f"{name}.yaml").is_file() and not (ROOT / name).is_dir()
    ]
    assert missing == []


def test_measures_named_in_the_guide_are_in_the_report() -> None:
    section = (ROOT / "docs/read_the_ablation.md").read_text().partition("## Cost\n")[2].partition("\n## ")[0]
    named = {" ".join(name.split()) for name in re.findall(r"`([^`]+)`", section)} - {"qtsplus"}
    assert named and named <= {measure.title for measure in MEASURES}
