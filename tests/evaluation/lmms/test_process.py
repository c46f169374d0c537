"""lmms-eval's process is found, and ends together with its children when it is interrupted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from framefold.errors import MissingExtraError
from framefold.evaluation.lmms import process
from tests.support.lmms.lmms_fixtures import STUB, environment, gone, wait_for
from tests.support.paths import ROOT


def test_missing_lmms_eval_is_an_error_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"'make lmms' .* pip install -e '.*\[lmms\]'"):
        process.find_lmms_eval()
    (tmp_path / "lmms-eval/lmms_eval").mkdir(parents=True)
    (tmp_path / "lmms-eval/lmms_eval/__init__.py").touch()
    assert process.find_lmms_eval() == tmp_path / "lmms-eval"


def test_separate_packages_of_lmms_eval_hide_nothing_of_the_environment() -> None:
    def names(file: str) -> set[str]:
        lines = (line.partition("==") for line in (ROOT / file).read_text().splitlines() if not line.startswith("#"))
        pinned = [(name.lower().replace("_", "-"), version) for name, _, version in lines]
        assert all(version for _, version in pinned)
        return {name for name, _ in pinned}

    separate = names("constraints-lmms.txt")
    assert "lmms-eval" in separate and separate & names("constraints.txt") == set()
    assert separate.isdisjoint({"torch", "torchvision", "triton"}) and not any("nvidia" in name for name in separate)


def test_interrupt_ends_the_process_and_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MODULE", "tests.support.lmms.sleeper")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pids = tmp_path / "pids"

    def interrupt() -> None:
        if pids.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.supervise(pids, tmp_path / "log", interrupt)
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: gone(pid), 60)


def test_tests_use_the_stub_if_asked_to(tmp_path: Path) -> None:
    code = "import lmms_eval; print(lmms_eval.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path, stub=True), capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).is_relative_to(STUB)
