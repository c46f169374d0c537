"""Servers of these tests leave no processes behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.limits import HANG
from tests.support.paths import ROOT
from tests.support.serving.guarded import guarded

# A server with a child that writes its process id.
SERVER = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    " open(sys.argv[1], 'w').write(f'{child.pid} '); time.sleep(600)"
)


def child_of(file: Path) -> int:
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        if file.is_file() and file.read_text().endswith(" "):
            return int(file.read_text())
        time.sleep(0.05)
    pytest.fail("the server has not started")


def gone(pid: int) -> bool:
    """Wait until a process has ended; a zombie has."""
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_server_ends_with_its_children_when_the_test_does(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path / "child")]
    with guarded(command, tmp_path / "log", HANG, tmp_path, dict(os.environ)) as guard:
        child = child_of(tmp_path / "child")
        assert guard.poll() is None
    assert gone(child)


def test_a_server_ends_with_its_children_when_the_test_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tests.support.serving.guarded import guarded\n"
        f"with guarded([sys.executable, '-c', {SERVER!r}, 'child'], Path('log'), {HANG}, Path(), dict(os.environ)):\n"
        "    input()"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    test = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=env, stdin=subprocess.PIPE)
    child = child_of(tmp_path / "child")
    test.kill()
    test.wait()
    assert gone(child)


def test_a_server_ends_with_its_children_at_the_time_limit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path / "child")]
    with guarded(command, tmp_path / "log", 5, tmp_path, dict(os.environ)) as guard:
        child = child_of(tmp_path / "child")
        assert guard.wait(HANG) < 0 or guard.returncode > 0
        assert gone(child)
