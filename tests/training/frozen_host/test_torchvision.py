"""torchvision is found where it is, made to import, and where it is missing the command that installs it is named."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
import torch

from framefold.errors import MissingExtraError
from framefold.training.frozen_host import torchvision as find_torchvision
from tests.support.processes import BESIDE, python

CALL = ["answer", "--host", "checkpoints/tinyhost", "--video", "x.mp4", "--question", "x", "--compressor", "uniform"]
ABSENT = """
import sys
prefix, sys.prefix = sys.prefix, "/nowhere"
from framefold.__main__ import main
words = sys.argv[1:]
print(main(words), "transformers" in sys.modules)
import transformers
sys.prefix = prefix
print(main(words))
"""


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_without_torchvision_the_command_that_installs_it_is_named() -> None:
    done = python("-c", ABSENT, *CALL)
    before, *after = done.stderr.splitlines()
    assert done.stdout.splitlines()[0] == "2 False", done.stderr  # and nothing was loaded
    where = "" if torch.version.cuda or torch.version.hip else "--no-deps --target /nowhere/torchvision "
    assert "torchvision is not installed" in before and f"pip install {where}'torchvision==0." in before
    if BESIDE.is_dir():  # found too late
        assert done.stdout.splitlines()[1] == "2"
        assert len(after) == 1 and "before importing transformers" in after[0]


def test_the_version_that_is_named_belongs_to_this_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.search(r"torchvision==(\d+\.\d+)\.\*", find_torchvision._advice())
    assert named is not None
    installed = [path.name for path in BESIDE.glob("torchvision-*.dist-info")]
    assert all(name.startswith(f"torchvision-{named[1]}.") for name in installed)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert find_torchvision._advice() == f"pip install 'torchvision=={named[1]}.*'"


def test_without_pillow_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_torchvision, "_importable", lambda name: name != "PIL")
    with pytest.raises(MissingExtraError, match="pip install pillow"):
        find_torchvision.find_torchvision()
