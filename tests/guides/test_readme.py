"""Every command and all Python of README and CONTRIBUTING run, in miniature, in the order in which they stand there."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.guides.blocks import ROOT, blocks, smaller


def commands() -> list[str]:
    lines = [line for block in blocks("README.md", "bash") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith("framefold ")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder that has what a checkout has, and keeps what the commands write."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("checkpoints", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_readme_shows_the_two_commands() -> None:
    text = "\n".join(blocks("README.md", "bash"))
    assert "make demo" in text and "make test" in text


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs(command: str, desk: Path) -> None:
    words = shlex.split(command)[1:]
    call = [sys.executable, "-m", "framefold", *words, *smaller(words)]
    done = subprocess.run(
        call, cwd=desk, capture_output=True, text=True, timeout=280, env={**os.environ, "COLUMNS": "99"}
    )
    assert done.returncode == 0, f"{shlex.join(call)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_the_python_of_the_readme_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    code = "\n".join(blocks("README.md", "python"))
    assert "framefold.attach" in code
    exec(compile(code, "README.md", "exec"), {})


def test_the_compressor_of_the_contributing_guide_is_a_whole_method(monkeypatch: pytest.MonkeyPatch) -> None:
    from framefold.adapters.core import registry

    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    code = blocks("CONTRIBUTING.md", "python")[0].replace("from .", "from framefold.adapters.")
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "framefold.adapters.small_norm"})
    import torch

    import framefold

    video = framefold.VideoTokens.from_grid(torch.arange(1.0, 9).reshape(2, 2, 2, 1))
    assert framefold.build("small_norm", 3)(video).tokens.index.tolist() == [0, 1, 2]


def test_every_registered_compressor_has_a_line_in_the_readme() -> None:
    import framefold

    text = (ROOT / "README.md").read_text()
    assert [name for name in framefold.list_compressors() if f"| `{name}` |" not in text] == []
