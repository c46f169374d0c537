"""The lines of ``framefold doctor`` about the machine itself. Imports nothing that may be missing."""

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

from framefold import __version__

from .rows import Finding

GIB = 2**30

MACHINE, FOLDERS, JOB = "machine", "folders", "job"


def machine_rows() -> list[Finding]:
    """All of them."""
    return [*_base(), _driver(), *_build_tools(), _chromium(), *_amounts(), *_folders(), _hub(), _slurm()]


def _base() -> list[Finding]:
    where = Path(__file__).resolve().parents[3]
    return [
        Finding("base install", "Python", "found", f"{platform.python_version()}, {sys.executable}", required=True),
        Finding("base install", "framefold", "found", f"{__version__}, {where}", required=True),
    ]


def _driver() -> Finding:
    """What nvidia-smi says of the driver; it takes seconds on some machines, and for ever on broken ones."""
    name, disables = "NVIDIA driver", "GPUs of NVIDIA"
    if shutil.which("nvidia-smi") is None:
        return Finding("GPUs", name, "missing", "there is no nvidia-smi", disables, "the driver of the system")
    query = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", None) or str(error)
        return Finding("GPUs", name, "broken", " ".join(str(said).split())[:300], disables, "the driver of the system")
    cards = [line.strip() for line in done.stdout.splitlines()]
    return Finding("GPUs", name, "found", f"{cards[0].partition(',')[0]}, {len(cards)} GPUs" if cards else "no GPU")


def _build_tools() -> list[Finding]:
    disables = "DeepSpeed ops that are built when needed: offload_optimizer, ZeRO on CPUs"
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX") or "c++", "g++", "clang++"])), None)
    ninja, here = shutil.which("ninja"), Path(sys.executable).with_name("ninja")
    advice = f"put {here.parent} on PATH (activate the environment)" if here.exists() else "pip install ninja"
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
    place = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if place:
        return Finding("optional", "chromium", "found", place)
    return Finding("optional", "chromium", "missing", "", "tests of HTML pages", "apt-get install chromium")


def _amounts() -> list[Finding]:
    free, total = memory()
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    disables = "data.workers: processes that read ahead hand over frames in it"
    many = "many data.workers: every batch on its way takes some"
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    space = f"{shared / GIB:.1f} GiB free"
    return [
        Finding(MACHINE, "CPU cores", "found", f"{cores():g} for this process"),
        _enough("memory", free / GIB, 4, text, "hosts of billions of parameters", "a larger machine, or job"),
        _enough(
            "shared memory (/dev/shm)", shared / GIB, 1, space, disables, "docker run --shm-size=16g, or --ipc=host"
        ),
        _enough("open files (ulimit -n)", files, 1024, f"{files}, at most {most}", many, "ulimit -n 65536"),
    ]


def _enough(name: str, amount: float, least: float, detail: str, disables: str, get: str) -> Finding:
    """A line that is "low" below some amount."""
    if amount < least:
        return Finding(MACHINE, name, "low", detail, disables, get)
    return Finding(MACHINE, name, "found", detail)


def memory() -> tuple[int, int]:
    """Bytes that are free and all there are, within the limit of a container or job."""
    facts: dict[str, int] = {}
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            facts[name] = int(rest.split()[0]) * 1024
    free, total = facts.get("MemAvailable", 0), facts.get("MemTotal", 0)
    for folder in _cgroups():
        with suppress(OSError, ValueError):  # ValueError: "max"
            limit = int((folder / "memory.max").read_text())
            free = min(free, limit - int((folder / "memory.current").read_text()))
            total = min(total, limit)
    return max(free, 0), total


def cores() -> float:
    """CPU cores that this process may use: by affinity, and by the quota of a container or job."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _cgroups():
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            count = min(count, int(quota) / int(period))
    return count


def _cgroups() -> list[Path]:
    """This process' control group (version 2) and those above it: each may set a limit."""
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
            "Hugging Face cache", Path(hub), 20, "hosts from the Hub (a 7B host takes 16 GB)", "HF_HOME=(a folder)"
        ),
        _folder("DeepSpeed's built ops", Path(built), 1, "ops built when needed", "TORCH_EXTENSIONS_DIR=(a folder)"),
        _folder("Triton's kernels", Path(kernels), 1, "mamba-ssm", "TRITON_CACHE_DIR=(a folder, best a local one)"),
        _folder("temporary files", Path(tempfile.gettempdir()), 1, "most of it", "TMPDIR=(a folder)"),
    ]


def _folder(name: str, path: Path, least: float, disables: str, get: str) -> Finding:
    """Whether a folder, or the nearest there is above it, can be written to, and how much is free there."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(FOLDERS, name, "broken", f"{path}: cannot write in {there}: {error.strerror}", disables, get)
    kind = _file_system(there)
    detail = f"{path}, {free / GIB:.0f} GiB free{kind and f' on {kind}'}"
    return (
        Finding(FOLDERS, name, "low", detail, disables, get)
        if free < least * GIB
        else Finding(FOLDERS, name, "found", detail)
    )


def _file_system(path: Path) -> str:
    """Its type, such as nfs4 or lustre: on shared ones many small files are slow."""
    kinds: dict[Path, str] = {}
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, kind, *_ = line.split()
            kinds[Path(place)] = kind
    real = path.resolve()
    return next((kinds[folder] for folder in (real, *real.parents) if folder in kinds), "")


def _hub() -> Finding:
    flags = [f"{name}={os.environ[name]}" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if name in os.environ]
    offline = any(flag.partition("=")[2].upper() in ("1", "ON", "YES", "TRUE") for flag in flags)
    if offline:
        get = "unset them to fetch; compute nodes without a network want HF_HUB_OFFLINE=1"
        return Finding(
            JOB, "Hub access", "missing", f"offline: {', '.join(flags)}", "fetching hosts that are not cached", get
        )
    return Finding(JOB, "Hub access", "found", ", ".join(["not switched off", *flags]))


def _slurm() -> Finding:
    """Inside a job: whether Lightning will take its tasks for ranks."""
    job, name = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NAME", "")
    if job is None:
        return Finding(
            JOB, "SLURM", "missing", "not inside a job", "srun and going back to the queue", "framefold launch slurm"
        )
    tasks, nodes = os.environ.get("SLURM_NTASKS"), os.environ.get("SLURM_NNODES", "?")
    detail = f"job {job} ({name}), {nodes} nodes, {tasks or '?'} tasks"
    disables = "ranks by srun"
    if name in ("bash", "interactive"):
        get = "another --job-name: by this one Lightning tells that tasks are no ranks"
        return Finding(JOB, "SLURM", "broken", detail, disables, get)
    if int(tasks or 1) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        get = "--ntasks-per-node instead of --ntasks: Lightning asks for it"
        return Finding(JOB, "SLURM", "broken", detail, disables, get)
    return Finding(
        JOB, "SLURM", "found", detail if "SLURM_PROCID" in os.environ else f"{detail}; start ranks with srun"
    )
