"""Findings of ``framefold doctor`` about the machine itself. Imports no third-party package.

``torch.utils.collect_env`` is not used here: it needs torch, waits for ``nvidia-smi`` without a limit, does not report
why ``nvidia-smi`` failed, and ignores the limits of containers.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from framefold.version import __version__

from .findings import Finding

GIB = 2**30

MACHINE, FOLDERS, JOB = "machine", "folders", "job"


def machine_findings() -> list[Finding]:
    """Return all findings about the machine."""
    return [*_base(), _driver(), *_build_tools(), _chromium(), *_amounts(), *_folders(), _hub(), _slurm()]


def _base() -> list[Finding]:
    folder = Path(__file__).resolve().parents[3]
    return [
        Finding("base install", "Python", "found", f"{platform.python_version()}, {sys.executable}", required=True),
        Finding("base install", "framefold", "found", f"{__version__}, {folder}", required=True),
    ]


def _driver() -> Finding:
    """Ask nvidia-smi for the driver; it takes seconds on some machines and does not return on broken ones."""
    name, disables = "NVIDIA driver", "NVIDIA GPUs"
    if shutil.which("nvidia-smi") is None:
        return Finding("GPUs", name, "missing", "there is no nvidia-smi", disables, "install the NVIDIA driver")
    query = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        text = " ".join(str(getattr(error, "stdout", None) or error).split())[:300]
        return Finding("GPUs", name, "broken", text, disables, "reinstall the NVIDIA driver")
    gpus = [line.strip() for line in done.stdout.splitlines()]
    return Finding("GPUs", name, "found", f"{gpus[0].partition(',')[0]}, {len(gpus)} GPUs" if gpus else "no GPU")


def _build_tools() -> list[Finding]:
    disables = "DeepSpeed ops that are built on first use: offload_optimizer, ZeRO on CPUs"
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX") or "c++", "g++", "clang++"])), None)
    ninja, own = shutil.which("ninja"), Path(sys.executable).with_name("ninja")
    advice = f"put {own.parent} on PATH (activate the environment)" if own.exists() else "pip install ninja"
    return [
        Finding("DeepSpeed", "C++ compiler", "found", compiler)
        if compiler
        else Finding(
            "DeepSpeed", "C++ compiler", "missing", "", disables, "apt-get install g++, or a module of the cluster"
        ),
        Finding("DeepSpeed", "ninja", "found", ninja)
        if ninja
        else Finding("DeepSpeed", "ninja", "missing", "", disables, advice),
    ]


def _chromium() -> Finding:
    browser = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if browser:
        return Finding("optional", "chromium", "found", browser)
    return Finding("optional", "chromium", "missing", "", "tests of HTML pages", "apt-get install chromium")


def _amounts() -> list[Finding]:
    free, total = memory_limits()
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    disables = "data.workers: loader workers pass frames in shared memory"
    many = "many data.workers: every prefetched batch keeps some files open"
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    space = f"{shared / GIB:.1f} GiB free"
    return [
        Finding(MACHINE, "CPU cores", "found", f"{usable_cores():g} for this process"),
        _amount("memory", free / GIB, 4, text, "hosts with billions of parameters", "a larger machine or job"),
        _amount(
            "shared memory (/dev/shm)", shared / GIB, 1, space, disables, "docker run --shm-size=16g, or --ipc=host"
        ),
        _amount("open files (ulimit -n)", files, 1024, f"{files}, at most {most}", many, "ulimit -n 65536"),
    ]


def _amount(name: str, amount: float, least: float, detail: str, disables: str, get: str) -> Finding:
    """Return a finding that is "low" below some amount."""
    if amount < least:
        return Finding(MACHINE, name, "low", detail, disables, get)
    return Finding(MACHINE, name, "found", detail)


def memory_limits() -> tuple[int, int]:
    """Return free and total bytes of main memory, within the limits of a container or job."""
    facts: dict[str, int] = {}
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            facts[name] = int(rest.split()[0]) * 1024
    free, total = facts.get("MemAvailable", 0), facts.get("MemTotal", 0)
    for folder in _cgroups():
        with suppress(OSError, ValueError):  # ValueError: "max", no limit
            limit = int((folder / "memory.max").read_text())
            free = min(free, limit - int((folder / "memory.current").read_text()))
            total = min(total, limit)
    return max(free, 0), total


def usable_cores() -> float:
    """Return the number of CPU cores that this process may use, by affinity and by the quota of a container or job."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _cgroups():
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            count = min(count, int(quota) / int(period))
    return count


def _cgroups() -> list[Path]:
    """Return the control group (version 2) of this process and its ancestors, each of which may set a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    inside = root / own.strip("/")
    return [folder for folder in (inside, *inside.parents) if folder.is_relative_to(root)]


def _folders() -> list[Finding]:
    home, cache = Path.home(), Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or cache / "huggingface") / "hub"
    built = os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions"
    kernels = os.environ.get("TRITON_CACHE_DIR") or Path(os.environ.get("TRITON_HOME") or home) / ".triton" / "cache"
    return [
        _folder("runs", Path("runs").absolute(), 5, "checkpoints and logs", "another --trainer.default_root_dir"),
        _folder(
            "Hugging Face cache", Path(hub), 20, "hosts from the Hub (a 7B host needs 16 GB)", "HF_HOME=(a folder)"
        ),
        _folder("DeepSpeed's built ops", Path(built), 1, "ops built on first use", "TORCH_EXTENSIONS_DIR=(a folder)"),
        _folder("Triton's kernels", Path(kernels), 1, "mamba-ssm", "TRITON_CACHE_DIR=(a folder, preferably local)"),
        _folder("temporary files", Path(tempfile.gettempdir()), 1, "most verbs", "TMPDIR=(a folder)"),
    ]


def _folder(name: str, path: Path, least: float, disables: str, get: str) -> Finding:
    """Check that a folder, or its nearest existing ancestor, is writable and has some GiB of free space."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        return Finding(FOLDERS, name, "broken", f"{path}: cannot write in {existing}: {error.strerror}", disables, get)
    kind = _file_system(existing)
    detail = f"{path}, {free / GIB:.0f} GiB free{kind and f' on {kind}'}"
    return (
        Finding(FOLDERS, name, "low", detail, disables, get)
        if free < least * GIB
        else Finding(FOLDERS, name, "found", detail)
    )


def _file_system(path: Path) -> str:
    """Return the type of a path's file system, such as nfs4 or lustre; shared ones are slow for many small files."""
    kinds: dict[Path, str] = {}
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount_point, kind, *_ = line.split()
            kinds[Path(mount_point)] = kind
    real = path.resolve()
    return next((kinds[folder] for folder in (real, *real.parents) if folder in kinds), "")


def _hub() -> Finding:
    flags = [f"{name}={os.environ[name]}" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if name in os.environ]
    offline = any(flag.partition("=")[2].upper() in ("1", "ON", "YES", "TRUE") for flag in flags)
    if offline:
        get = "unset them to download; compute nodes without a network need HF_HUB_OFFLINE=1"
        return Finding(
            JOB, "Hub access", "missing", f"offline: {', '.join(flags)}", "downloading hosts that are not cached", get
        )
    return Finding(JOB, "Hub access", "found", ", ".join(["not switched off", *flags]))


def _slurm() -> Finding:
    """Check whether Lightning will use the tasks of the current SLURM job as ranks."""
    job, name = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NAME", "")
    if job is None:
        return Finding(JOB, "SLURM", "missing", "not inside a job", "srun and requeueing", "framefold launch slurm")
    tasks, nodes = os.environ.get("SLURM_NTASKS"), os.environ.get("SLURM_NNODES", "?")
    detail = f"job {job} ({name}), {nodes} nodes, {tasks or '?'} tasks"
    disables = "ranks by srun"
    if name in ("bash", "interactive"):
        get = "another --job-name: Lightning does not use the tasks of a job with this name as ranks"
        return Finding(JOB, "SLURM", "broken", detail, disables, get)
    if int(tasks or 1) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        get = "--ntasks-per-node instead of --ntasks, as Lightning requires"
        return Finding(JOB, "SLURM", "broken", detail, disables, get)
    return Finding(
        JOB, "SLURM", "found", detail if "SLURM_PROCID" in os.environ else f"{detail}; start ranks with srun"
    )
