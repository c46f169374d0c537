"""framefold doctor: what is broken, hangs or is missing is named, and takes nothing else down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from framefold.__main__ import main
from framefold.cli.doctor import machine as doctor_machine
from framefold.cli.doctor.doctor import _plain, doctor
from framefold.cli.doctor.probes import _torch, examine
from framefold.cli.doctor.rows import GROUPS, LANES, PACKAGES, Finding, Package
from tests.support.paths import ROOT

# Imitations of packages: no module but these is found in them, so that a doctor of them takes no time.
FAKES = {
    "torch": "",
    "transformers": "raise OSError('libfoo.so: cannot open shared object file')",
    "torchmetrics": "import missing_helper",
    "pytorch_lightning": "import sys; sys.exit('go away')",
    "peft": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "triton": "import os; os._exit(0)",
    "numpy": "import subprocess, time, pathlib\n"
    "pathlib.Path(__file__).with_name('pid').write_text(str(subprocess.Popen(['sleep', '600']).pid))\n"
    "time.sleep(600)",
    "scipy": "",
    "deepspeed": "",  # without the modules that are looked into
}


def fake(folder: Path, name: str, code: str, version: str = "99.0") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def by_name(rows: list[Finding]) -> dict[str, Finding]:
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(120)
def test_this_machine_has_what_the_tests_run_on(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert main(["doctor", "--json"]) == 0
    took = time.monotonic() - start
    told = json.loads(capsys.readouterr().out)
    rows = by_name([Finding(**row) for row in told["rows"]])
    assert told["ok"] is True and took < 60  # 10 s on two free cores
    for name in ("torch", "transformers", "scipy", "deepspeed", "av", "peft", "gloo", "libx264 (encoder)", "CPU cores"):
        assert rows[name].state == "found", rows[name]
    assert torch.__version__ in rows["torch"].detail
    assert (rows["NCCL"].state == "found") == torch.distributed.is_nccl_available()
    assert all(row.disables for row in rows.values() if row.state != "found")
    assert {row.pip_name for row in PACKAGES.values()} <= rows.keys()


@pytest.mark.timeout(120)
def test_what_raises_crashes_or_hangs_is_named_and_takes_nothing_else_down(tmp_path: Path) -> None:
    for name, code in FAKES.items():
        fake(tmp_path, name, code)
    script = textwrap.dedent(
        f"""
        import sys
        sys.path[:] = [{str(tmp_path)!r}, {str(ROOT)!r}, *(p for p in sys.path if p and "site-packages" not in p)]
        from framefold.__main__ import main
        sys.exit(main(["doctor", "--json", "true", "--timeout", "3"]))
        """
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True, cwd=tmp_path)
    try:
        out, _ = run.communicate(timeout=100)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 1
    told = json.loads(out)
    rows = by_name([Finding(**row) for row in told["rows"]])
    assert told["ok"] is False
    for name, text in {
        "transformers": "99.0 OSError: libfoo.so: cannot open shared object file",
        "torchmetrics": "missing_helper",
        "pytorch-lightning": "SystemExit: go away",
        "peft": "SIGSEGV",
        "triton": "with status 0",
        "numpy": "did not end in 3 s",
        "deepspeed": "ModuleNotFoundError",
        "torch": "99.0 ",  # an empty module
    }.items():
        assert rows[name].state == "broken" and text in rows[name].detail, rows[name]
    assert rows["scipy"].state == "found" and rows["scipy"].detail == "99.0"  # behind one that hung
    assert rows["mamba-ssm"].state == rows["safetensors"].state == rows["rich"].state == "missing"
    assert rows["jsonargparse"].state == "missing" and "framefold[train]" in rows["jsonargparse"].get
    assert not running(int((tmp_path / "numpy" / "pid").read_text()))


def test_an_import_that_does_not_end_is_killed_when_doctor_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, "numpy", FAKES["numpy"])
    monkeypatch.syspath_prepend(str(tmp_path))

    def interrupted() -> list[Finding]:
        while not (tmp_path / "numpy" / "pid").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr("framefold.cli.doctor.machine.machine_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        doctor()
    assert not running(int((tmp_path / "numpy" / "pid").read_text()))


def test_an_old_package_and_a_folder_that_is_none_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, "webdataset", "", version="0.2")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("webdataset", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # so that what was there, or nothing, is there afterwards
        del sys.modules[name]
    (row,) = examine("webdataset")
    assert row.state == "broken" and "0.2 is too old" in row.detail and "webdataset>=1.0" in row.detail
    (row,) = examine("wandb")
    assert row.state == "missing"


@pytest.mark.parametrize(
    ("version", "old"), [("2.8", False), ("2.8.0+cpu", False), ("2.13.0", False), ("2.7.9", True), ("1.0", True)]
)
def test_versions_are_compared_as_numbers(version: str, old: bool) -> None:
    assert PACKAGES["torch"].wanted() == "torch>=2.8"
    assert PACKAGES["torch"].too_old(version) is old
    assert not Package("nothing_of_ours", "").too_old(version)


def test_every_package_of_an_extra_is_looked_at() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    looked_at = {(package.extra, package.pip_name.replace("_", "-")) for lane in LANES for package in lane}
    for extra in ("", "train", "lora", "mamba", "report"):
        for requirement in groups[extra]:
            name = requirement.split(">")[0].split("[")[0].replace("_", "-")
            assert (extra, name) in looked_at
    assert {package.row("found").group for package in PACKAGES.values()} <= set(GROUPS)


def test_memory_and_cores_are_those_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("memory.max", str(3 * 2**30)), ("memory.current", str(2**30)), ("cpu.max", "50000 100000")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(doctor_machine, "_cgroups", lambda: [tmp_path])
    assert doctor_machine.memory() == (2 * 2**30, 3 * 2**30)
    assert doctor_machine.cores() == 0.5
    rows = by_name(doctor_machine.machine_rows())
    assert rows["memory"].state == "low" and rows["memory"].detail == "2.0 of 3.0 GiB free" and rows["memory"].disables
    for name in ("memory.max", "cpu.max"):
        (tmp_path / name).write_text("max 100000" if name == "cpu.max" else "max")
    assert doctor_machine.memory()[1] > 3 * 2**30 and doctor_machine.cores() >= 1


def test_a_folder_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))  # holds for root, too
    monkeypatch.chdir(tmp_path)
    rows = by_name(doctor_machine.machine_rows())
    row = rows["Hugging Face cache"]
    assert row.state == "broken" and str(tmp_path / "file") in row.detail and "HF_HOME" in row.get
    assert rows["runs"].state == "found" and rows["runs"].detail.startswith(f"{tmp_path / 'runs'}, ")
    assert not (tmp_path / "runs").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("variables", "state", "text"),
    [
        ({}, "missing", "not inside a job"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "fit"}, "found", "start ranks with srun"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "bash"}, "broken", "bash"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "4"}, "broken", "4 tasks"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0"},
            "found",
            "4 tasks",
        ),
    ],
)
def test_jobs_that_lightning_would_not_take_for_jobs_are_broken(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: str, text: str
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    row = by_name(doctor_machine.machine_rows())["SLURM"]
    assert (row.state, text in row.detail) == (state, True), row


def test_offline_flags_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    row = by_name(doctor_machine.machine_rows())["Hub access"]
    assert row.state == "missing" and "HF_HUB_OFFLINE=1" in row.detail
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert by_name(doctor_machine.machine_rows())["Hub access"].state == "found"


def test_ninja_beside_python_is_of_no_use_unless_it_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python", "ninja"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    rows = by_name(doctor_machine.machine_rows())
    assert rows["ninja"].state == rows["C++ compiler"].state == "missing"
    assert f"put {tmp_path} on PATH" in rows["ninja"].get
    monkeypatch.setenv("PATH", str(tmp_path))
    assert by_name(doctor_machine.machine_rows())["ninja"].state == "found"


class Card:
    """torch of a machine with one GPU, as far as doctor looks at it."""

    def __init__(self, major: int = 9, works: bool = True, cuda: str | None = "13.0", count: int = 1) -> None:
        facts = SimpleNamespace(name="NVIDIA H100", major=major, minor=0)
        self.cuda = SimpleNamespace(
            is_available=lambda: count > 0,
            device_count=lambda: count,
            get_device_properties=lambda index: facts,
            mem_get_info=lambda index: (70 * 2**30, 80 * 2**30),
            nccl=SimpleNamespace(version=lambda: (2, 29, 7)),
        )
        self.version = SimpleNamespace(cuda=cuda, hip=None)
        self.works = works

    def ones(self, *size: int, device: str) -> torch.Tensor:
        if not self.works:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return torch.ones(*size)


@pytest.mark.parametrize(
    ("card", "name", "state", "text"),
    [
        (Card(), "GPU 0", "found", "NVIDIA H100, 70 of 80 GiB free, compute capability 9.0"),
        (Card(works=False), "GPU 0", "broken", "no kernel image"),
        (Card(major=7), "GPU 0", "low", "compute capability 7.0"),
        (Card(count=0), "GPU", "missing", "built for CUDA 13.0, and finds none"),
        (Card(count=0, cuda=None), "GPU", "missing", "built for CPUs"),
    ],
)
def test_a_gpu_is_found_if_it_computes(card: Card, name: str, state: str, text: str) -> None:
    row = by_name(_torch(card)[1])[name]
    assert row.state == state and text in row.detail and bool(row.disables) == (state != "found")


@pytest.mark.parametrize(
    ("script", "state", "text"),
    [
        ("echo '580.65, NVIDIA H100'; echo '580.65, NVIDIA H100'", "found", "580.65, 2 GPUs"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "broken", "NVIDIA-SMI has failed"),
    ],
)
def test_the_driver_says_what_nvidia_smi_says(tmp_path, monkeypatch, script: str, state: str, text: str) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    row = by_name(doctor_machine.machine_rows())["NVIDIA driver"]
    assert row.state == state and text in row.detail


def test_plain_text_says_what_is_disabled_and_how_to_get_it(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    rows = [
        Finding("base install", "torch", "found", "2.13", required=True),
        Finding("optional", "wandb", "missing", "", "logging to [bold]W&B", "pip install wandb"),
    ]
    text = "\n".join(_plain(rows))
    assert "found   torch  2.13" in text and "disables: logging" in text and "get it: pip install wandb" in text
    monkeypatch.setattr("framefold.cli.doctor.doctor.doctor", lambda timeout: rows)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == f"{text}\n1 found, 1 missing, 0 low, 0 broken: the base install is complete\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    rows.append(Finding("extra 'train'", "rich", "found"))
    assert main(["doctor"]) == 0
    assert "[bold]W&B" in capsys.readouterr().out
    rows[0] = Finding("base install", "torch", "broken", required=True)
    assert main(["doctor"]) == 1
    assert "the base install is NOT complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [(["--timeout", "0"], "positive"), (["--timeout", "soon"], "soon"), (["--jso"], "--jso"), (["x"], "x")],
)
def test_wrong_options_end_with_one_line(capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    assert main(["doctor", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and text in err and "framefold doctor --help" in err
