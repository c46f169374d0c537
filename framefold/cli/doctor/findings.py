"""Findings of ``framefold doctor``, and the packages that it checks. Imports no third-party package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from framefold.messages import install_command

State = Literal["found", "missing", "broken", "low"]


@dataclass(frozen=True)
class Finding:
    """The state of one package, device, tool or resource.

    Attributes:
        group: heading under which it is listed.
        name: name of what was checked.
        state: "found"; "missing"; "broken", if it is present but unusable; "low", if there is too little of it.
        detail: version, amount or problem.
        disables: what does not work without it.
        get: how to install or obtain it.
        required: whether the base install is unusable without it.
    """

    group: str
    name: str
    state: State
    detail: str = ""
    disables: str = ""
    get: str = ""
    required: bool = False


@dataclass(frozen=True)
class Package:
    """A Python package.

    Attributes:
        module: name under which it is imported.
        disables: what does not work without it.
        extra: extra of framefold that installs it; "" for the base install, None if no extra does.
        distribution: its name for pip, if different from the module name.
        get: command that installs it; by default that of the extra.
    """

    module: str
    disables: str
    extra: str | None = ""
    distribution: str = ""
    get: str = ""

    @property
    def pip_name(self) -> str:
        """Name of the package for pip."""
        return self.distribution or self.module.replace("_", "-")

    def finding(self, state: State, detail: str = "") -> Finding:
        """Return the finding of this package."""
        group = "base install" if self.extra == "" else f"extra '{self.extra}'" if self.extra else "optional"
        get = self.get or (install_command(self.extra) if self.extra else f"pip install '{self.requirement()}'")
        disables, get = ("", "") if state == "found" else (self.disables, get)
        return Finding(group, self.pip_name, state, detail, disables, get, required=self.extra == "")

    def version(self) -> str | None:
        """Return the installed version without importing the package; None if pip does not know it."""
        try:
            return metadata.version(self.pip_name)
        except metadata.PackageNotFoundError:
            return None

    def requirement(self) -> str:
        """Return the requirement of framefold, such as "torch>=2.8"; the name alone if there is none."""
        try:
            requirements = metadata.requires("framefold") or []
        except metadata.PackageNotFoundError:  # framefold runs from a folder and is not installed
            requirements = []
        texts = [text.partition(";")[0].strip() for text in requirements]
        return next((text for text in texts if re.split(r"[\[<>=!~ ]", text)[0] == self.pip_name), self.pip_name)

    def too_old(self, version: str) -> bool:
        """Return whether a version is below the requirement."""
        oldest = re.search(r">=\s*([\d.]+)", self.requirement())
        return oldest is not None and _numbers(version) < _numbers(oldest[1])


def _numbers(version: str) -> list[int]:
    """Return [2, 13, 0] for "2.13+cpu"."""
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return numbers + [0] * (3 - len(numbers))


GROUPS = (
    "base install",
    *(f"extra '{name}'" for name in ("hosts", "train", "lora", "report", "natural", "wandb", "mamba")),
    "optional",
)

GROUPS += ("GPUs", "distributed", "DeepSpeed", "FFmpeg", "machine", "folders", "job")

MAMBA = "the fast scan of storm on GPUs; a slower one that needs more memory is used instead"

BUILD_MAMBA = f"{install_command('mamba', '--no-build-isolation')} (needs a CUDA toolkit)"

# Each list is imported in a process of its own, in this order; the processes run in parallel.
PACKAGE_LISTS: tuple[tuple[Package, ...], ...] = (
    (
        Package("torch", "everything"),
        Package("transformers", "hosts: attach, fit, ablate, answer", "hosts"),
        Package("torchmetrics", "fit and validate", "train"),
        Package("pytorch_lightning", "fit and validate", "train"),
        Package("peft", "LoRA: stage/sft, save_peft, load_peft", "lora"),
        Package("triton", "mamba-ssm's kernels, torch.compile on GPUs", None, get="installed with torch for CUDA"),
        Package("mamba_ssm", MAMBA, "mamba", get=BUILD_MAMBA),
        Package("causal_conv1d", "mamba-ssm, which imports it", "mamba", get=BUILD_MAMBA),
    ),
    (
        Package("numpy", "everything"),
        Package("scipy", "compressors that use connected components; confidence intervals in reports"),
        Package("safetensors", "loading and saving adapters"),
        Package("huggingface_hub", "hosts and adapters from the Hub"),
        Package("typing_extensions", "everything"),
        Package("deepspeed", "the strategies deepspeed_stage_1, 2 and 3 (not DDP)", "train"),
        Package("webdataset", "shards: writing, checking, training", "train"),
        Package("ijson", "importing annotations in JSON: shards import", "train"),
        Package("tensorboard", "TensorBoard logs of fit", "train"),
        Package("wandb", "logging to Weights & Biases: logger/wandb", "wandb"),
        Package(
            "lmms_eval",
            "public benchmarks (Video-MME, MLVU ...)",
            None,
            get="make lmms in a checkout, or an environment of its own: it pins versions of other packages",
        ),
    ),
    (
        Package("rich", "progress bars of fit, tables with lines", "train"),
        Package("jsonargparse", "every verb except doctor", "train"),
        Package("filelock", "writing shards", "train"),
        Package("shtab", "shell completion: framefold completion", "train"),
        Package("psutil", "answer, bench", "train"),
        Package("PIL", "video processors of hosts: answer, show", "train", "pillow"),
        Package("av", "reading and writing video files and video shards", "train"),
        Package("matplotlib", "plots of report; view, show", "report"),
        Package("plotly", "plots of the page of report", "report"),
        Package("skimage", "photographs as backgrounds of synthetic videos: style natural", "natural", "scikit-image"),
        Package("torchvision", "video processors of hosts: answer, show", None),
    ),
    (
        Package(
            "vllm",
            "serving hosts with compressors: framefold serve",
            None,
            get="pip install 'vllm>=0.33,<0.34' on a machine with a GPU; on CPUs, make serving in a checkout",
        ),
    ),
)

PACKAGES = {package.module: package for packages in PACKAGE_LISTS for package in packages}


def plugins() -> tuple[Package, ...]:
    """Return the plug-ins with compressors; the module of such a package is the value of its entry point."""
    packages = {}
    for entry in metadata.entry_points(group="framefold.compressors"):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "the package"
        advice = f"repair {origin}, whose entry point {entry.name} is {entry.value}"
        name = f"plug-in {entry.name}"
        packages[entry.value] = Package(entry.value, f"the compressor {entry.name}", None, name, advice)
    return tuple(packages.values())
