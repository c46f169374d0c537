"""framefold without transformers: adapters, compressors, the Hub and the verbs work, and the rest names the extra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cases import case
from tests.support.hub.loopback_hub import Hub
from tests.support.limits import HANG
from tests.support.paths import ROOT

ABSENT = 'raise ModuleNotFoundError("No module named \'transformers\'", name="transformers")\n'
HINT = f"transformers is not installed (extra 'hosts'): pip install -e '{ROOT}[hosts]'"
WORK = {
    "--help": "attach",
    "--version": "framefold",
    "doctor": "the base install is complete",
    "list compressors": "qtsplus",
    "list configs": "trainer/cpu",
    "help fila": "framefold.build(",
    "help evs+fila": "fila:",
    "help trainer/cpu": "trainer:",
    "fit --help": "--trainer",
    "bench compress --compressors fila evs --frames 4 --grid [2,2] --width 16 --budgets 0.5": "evs",
    "bench compress --help": "--out",
    "shards synth --out synth --videos 1 --frames 16": "",
    "launch torchrun --help": "--out",
    "completion bash": "complete",
}
NEED_HOSTS = ("list hosts", "help llava_onevision", "list losses", "serve nowhere", "bench attach", "fit")
PUSH = """
import sys, framefold
compressor = framefold.build("fila", 0.2, dim=8, grid=[2, 2])
print(compressor.push_to_hub("me/fila"))
again = framefold.load("me/fila")
assert all((value == again.state_dict()[name]).all() for name, value in compressor.state_dict().items())
assert "transformers" not in sys.modules
"""
VERBS = """
import contextlib, io, json, sys
from framefold.__main__ import main
results = {}
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(line.split())
    results[line] = status, out.getvalue(), err.getvalue()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a package ``transformers`` that, first on the path, cannot be found: also in further processes."""
    package = tmp_path_factory.mktemp("absent") / "transformers"
    package.mkdir()
    (package / "__init__.py").write_text(ABSENT)
    return package.parent


def python(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""} | more
    command = [sys.executable, *words]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=HANG)


@pytest.mark.timeout(HANG)
def test_shipped_adapters_and_all_compressors_run_and_hosts_name_their_extra(folder: Path) -> None:
    done = python(folder, str(ROOT / "tests/support/base_install.py"), str(ROOT / "checkpoints"))
    assert done.returncode == 0, done.stderr[-2000:]
    shipped = [file.parent for file in (ROOT / "checkpoints").rglob("config.json") if "tinyhost" not in file.parts[-2]]
    lines = done.stdout.splitlines()
    assert len(shipped) >= 12 and {line.partition(":")[0] for line in lines} >= {*map(str, shipped)}
    assert f"framefold.attach: MissingExtraError: {HINT}" in lines


@pytest.mark.timeout(HANG)
def test_an_adapter_is_pushed_to_the_hub_and_loaded_from_there(folder: Path) -> None:
    with Hub().running() as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = python(folder, "-c", PUSH, HF_TOKEN="hf_write", HF_HUB_OFFLINE="0", **env)
    assert done.returncode == 0 and "me/fila" in done.stdout, done.stderr[-2000:]


@pytest.mark.timeout(HANG)
def test_verbs_work_or_name_the_extra(folder: Path) -> None:
    done = python(folder, "-c", VERBS, json.dumps([*WORK, *NEED_HOSTS]))
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])
    for line, text in WORK.items():
        with case(line):
            status, out, err = results[line]
            assert status == 0 and text in out, (out[-500:], err[-2000:])
    for line in NEED_HOSTS:
        with case(line):
            assert results[line] == [2, "", f"framefold: error: {HINT}\n"]
    assert f"get it: {HINT.partition(': ')[2]}" in results["doctor"][1]
