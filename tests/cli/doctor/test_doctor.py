"""framefold doctor names what is broken, hangs or is missing, and continues with everything else."""

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
from framefold.cli.doctor.doctor import _plain_lines, doctor
from framefold.cli.doctor.findings import GROUPS, PACKAGE_LISTS, PACKAGES, Finding, Package
from framefold.cli.doctor.probes import _check_torch, check_package
from tests.support.limits import HANG
from tests.support.paths import ROOT
from tests.support.plugins import declare

# Fake packages. The doctor finds no other ones, so its check takes little time.
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
    "deepspeed": "",  # without the modules that its check imports
}


def write_package(folder: Path, name: str, code: str, version: str = "99.0") -> None:
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


@pytest.mark.timeout(HANG)
def test_this_machine_has_everything_that_the_tests_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--timeout", "200"]) == 0  # 9 s on two idle cores
    report = json.loads(capsys.readouterr().out)
    rows = by_name([Finding(**row) for row in report["rows"]])
    assert report["ok"] is True
    for name in ("torch", "transformers", "scipy", "deepspeed", "av", "peft", "gloo", "libx264 (encoder)", "CPU cores"):
        assert rows[name].state == "found", rows[name]
    version, _, build = torch.__version__.partition("+")
    assert version in rows["torch"].detail
    assert torch.version.cuda is None or f"CUDA {torch.version.cuda}" in rows["torch"].detail, build
    assert (rows["NCCL"].state == "found") == torch.distributed.is_nccl_available()
    assert all(row.disables for row in rows.values() if row.state != "found")
    assert {row.pip_name for row in PACKAGES.values()} <= rows.keys()


@pytest.mark.timeout(HANG)
def test_packages_that_raise_crash_or_hang_are_named_and_do_not_affect_others(tmp_path: Path) -> None:
    for name, code in FAKES.items():
        write_package(tmp_path, name, code)
    script = textwrap.dedent(
        f"""
        import sys
        sys.path[:] = [{str(tmp_path)!r}, {str(ROOT)!r}, *(p for p in sys.path if p and "site-packages" not in p)]
        from framefold.__main__ import main
        sys.exit(main(["doctor", "--json", "true", "--timeout", "6"]))
        """
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True, cwd=tmp_path)
    try:
        out, _ = run.communicate(timeout=HANG)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 1
    report = json.loads(out)
    rows = by_name([Finding(**row) for row in report["rows"]])
    assert report["ok"] is False
    for name, text in {
        "transformers": "99.0 OSError: libfoo.so: cannot open shared object file",
        "torchmetrics": "missing_helper",
        "pytorch-lightning": "SystemExit: go away",
        "peft": "SIGSEGV",
        "triton": "with status 0",
        "numpy": "did not finish within 6 s",
        "deepspeed": "ModuleNotFoundError",
        "torch": "99.0 ",  # an empty module
    }.items():
        assert rows[name].state == "broken" and text in rows[name].detail, rows[name]
    assert rows["scipy"].state == "found" and rows["scipy"].detail == "99.0"  # imported after one that hung
    assert rows["mamba-ssm"].state == rows["safetensors"].state == rows["rich"].state == "missing"
    assert rows["jsonargparse"].state == "missing" and "[train]'" in rows["jsonargparse"].get
    assert not running(int((tmp_path / "numpy" / "pid").read_text()))


def test_plugins_that_cannot_be_imported_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in {
        "good": "Own = 3",
        "broken": "raise RuntimeError('no licence')",
        "ends": "import os; os._exit(3)",
    }.items():
        write_package(tmp_path, f"package_{name}", code, version="1.0")
        declare(tmp_path, f"package_{name}", **{name: f"package_{name}:Own"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("framefold.cli.doctor.doctor.PACKAGE_LISTS", ())
    rows = by_name(doctor(HANG))
    assert rows["plug-in good"].state == "found"
    for name, text in {
        "broken": "RuntimeError: no licence",
        "ends": "its import ended the process with status 3",
    }.items():
        row = rows[f"plug-in {name}"]
        assert row.state == "broken" and text in row.detail and not row.required
        assert f"package_{name} 1.0" in row.get and f"package_{name}:Own" in row.get


def test_a_hanging_import_is_killed_when_doctor_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "numpy", FAKES["numpy"])
    monkeypatch.syspath_prepend(str(tmp_path))
    pid = tmp_path / "numpy" / "pid"

    def interrupted() -> list[Finding]:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr("framefold.cli.doctor.doctor.machine_findings", interrupted)
    with pytest.raises(KeyboardInterrupt):
        doctor()
    assert not running(int(pid.read_text()))


def test_an_old_package_is_broken_and_a_folder_without_code_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "webdataset", "", version="0.2")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("webdataset", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # so that the previous state is restored afterwards
        del sys.modules[name]
    (row,) = check_package("webdataset")
    assert row.state == "broken" and "0.2 is too old" in row.detail and "webdataset>=1.0" in row.detail
    (row,) = check_package("wandb")
    assert row.state == "missing"


def test_versions_are_compared_as_numbers() -> None:
    package = PACKAGES["torch"]
    assert package.requirement() == "torch>=2.8"
    assert not any(map(package.too_old, ("2.8", "2.8.0+cpu", "2.13.0")))
    assert all(map(package.too_old, ("2.7.9", "1.0")))
    assert not Package("nothing_of_ours", "").too_old("1.0")


def test_every_package_of_an_extra_is_checked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    checked = {
        (package.extra, package.pip_name.replace("_", "-")) for packages in PACKAGE_LISTS for package in packages
    }
    for extra in ("", "hosts", "train", "lora", "mamba", "report"):
        for requirement in groups[extra]:
            name = requirement.split(">")[0].split("[")[0].replace("_", "-")
            assert (extra, name) in checked or requirement in groups["hosts"] and ("hosts", name) in checked
    assert {package.finding("found").group for package in PACKAGES.values()} <= set(GROUPS)


def test_memory_and_cores_respect_the_limits_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("memory.max", str(3 * 2**30)), ("memory.current", str(2**30)), ("cpu.max", "50000 100000")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(doctor_machine, "_cgroups", lambda: [tmp_path])
    assert doctor_machine.memory_limits() == (2 * 2**30, 3 * 2**30)
    assert doctor_machine.usable_cores() == 0.5
    rows = by_name(doctor_machine.machine_findings())
    assert rows["memory"].state == "low" and rows["memory"].detail == "2.0 of 3.0 GiB free" and rows["memory"].disables
    for name in ("memory.max", "cpu.max"):
        (tmp_path / name).write_text("max 100000" if name == "cpu.max" else "max")
    assert doctor_machine.memory_limits()[1] > 3 * 2**30 and doctor_machine.usable_cores() >= 1


def test_a_folder_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))  # fails for root, too
    monkeypatch.chdir(tmp_path)
    rows = by_name(doctor_machine.machine_findings())
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
def test_slurm_jobs_whose_tasks_lightning_ignores_are_broken(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: str, text: str
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    row = by_name(doctor_machine.machine_findings())["SLURM"]
    assert (row.state, text in row.detail) == (state, True), row


def test_offline_flags_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    row = by_name(doctor_machine.machine_findings())["Hub access"]
    assert row.state == "missing" and "HF_HUB_OFFLINE=1" in row.detail
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert by_name(doctor_machine.machine_findings())["Hub access"].state == "found"


def test_ninja_next_to_python_is_missing_unless_it_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python", "ninja"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    rows = by_name(doctor_machine.machine_findings())
    assert rows["ninja"].state == rows["C++ compiler"].state == "missing"
    assert f"put {tmp_path} on PATH" in rows["ninja"].get
    monkeypatch.setenv("PATH", str(tmp_path))
    assert by_name(doctor_machine.machine_findings())["ninja"].state == "found"


class FakeTorch:
    """A fake torch module of a machine with one GPU, with the functions that doctor calls."""

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
    ("module", "name", "state", "text"),
    [
        (FakeTorch(), "GPU 0", "found", "NVIDIA H100, 70 of 80 GiB free, compute capability 9.0"),
        (FakeTorch(works=False), "GPU 0", "broken", "no kernel image"),
        (FakeTorch(major=7), "GPU 0", "low", "compute capability 7.0"),
        (FakeTorch(count=0), "GPU", "missing", "built for CUDA 13.0, but finds no GPU"),
        (FakeTorch(count=0, cuda=None), "GPU", "missing", "built for CPUs"),
    ],
)
def test_a_gpu_is_found_only_if_it_computes(module: FakeTorch, name: str, state: str, text: str) -> None:
    row = by_name(_check_torch(module)[1])[name]
    assert row.state == state and text in row.detail and bool(row.disables) == (state != "found")


@pytest.mark.parametrize(
    ("script", "state", "text"),
    [
        ("echo '580.65, NVIDIA H100'; echo '580.65, NVIDIA H100'", "found", "580.65, 2 GPUs"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "broken", "NVIDIA-SMI has failed"),
    ],
)
def test_driver_finding_reports_the_output_of_nvidia_smi(
    tmp_path, monkeypatch, script: str, state: str, text: str
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    row = by_name(doctor_machine.machine_findings())["NVIDIA driver"]
    assert row.state == state and text in row.detail


def test_output_names_what_is_disabled_and_how_to_get_it(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    rows = [
        Finding("base install", "torch", "found", "2.13", required=True),
        Finding("optional", "wandb", "missing", "", "logging to [bold]W&B", "pip install wandb"),
    ]
    text = "\n".join(_plain_lines(rows))
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


def test_wrong_options_end_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        (["--timeout", "0"], "positive"),
        (["--timeout", "soon"], "soon"),
        (["--jso"], "--jso"),
        (["x"], "x"),
    ):
        assert main(["doctor", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and text in err and "framefold doctor --help" in err, words
