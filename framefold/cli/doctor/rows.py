"""What a line of ``framefold doctor`` holds, and which packages it looks at. Imports nothing that may be missing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

State = Literal["found", "missing", "broken", "low"]


@dataclass(frozen=True)
class Finding:
    """One thing that this machine has or lacks.

    Attributes:
        group, name: what it is.
        state: "found"; "missing"; "broken": there, but of no use; "low": there is too little of it.
        detail: version or amount, or what is wrong.
        disables: what does not work without it.
        get: how to come by it.
        required: the base install is of no use without it.
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
    """A Python package by the name that is imported.

    Attributes:
        disables: what does not work without it.
        extra: of framefold, that brings it; "": the base install; None: none does.
        distribution: its name for pip, where that is another.
        get: the command that installs it; from the extra where empty.
    """

    module: str
    disables: str
    extra: str | None = ""
    distribution: str = ""
    get: str = ""

    @property
    def pip_name(self) -> str:
        """What pip calls it."""
        return self.distribution or self.module.replace("_", "-")

    def row(self, state: State, detail: str = "") -> Finding:
        """Its line."""
        group = "base install" if self.extra == "" else f"extra '{self.extra}'" if self.extra else "optional"
        get = self.get or (f"pip install 'framefold[{self.extra}]'" if self.extra else f"pip install '{self.wanted()}'")
        fine = state == "found"
        disables, get = ("", "") if fine else (self.disables, get)
        return Finding(group, self.pip_name, state, detail, disables, get, required=self.extra == "")

    def version(self) -> str | None:
        """The installed version, without importing it; None where pip knows of none."""
        try:
            return metadata.version(self.pip_name)
        except metadata.PackageNotFoundError:
            return None

    def wanted(self) -> str:
        """What framefold asks for, such as "torch>=2.8"."""
        try:
            asked = metadata.requires("framefold") or []
        except metadata.PackageNotFoundError:  # runs from a folder
            asked = []
        found = [text.partition(";")[0].strip() for text in asked]
        return next((text for text in found if re.split(r"[\[<>=!~ ]", text)[0] == self.pip_name), self.pip_name)

    def too_old(self, version: str) -> bool:
        """Whether a version is below what framefold asks for."""
        oldest = re.search(r">=\s*([\d.]+)", self.wanted())
        return oldest is not None and _numbers(version) < _numbers(oldest[1])


def _numbers(version: str) -> list[int]:
    """[2, 13, 0] of "2.13+cpu"."""
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return numbers + [0] * (3 - len(numbers))


GROUPS = ("base install", *(f"extra '{name}'" for name in ("train", "lora", "report", "wandb", "mamba")), "optional")

GROUPS += ("GPUs", "distributed", "DeepSpeed", "FFmpeg", "machine", "folders", "job")

MAMBA = "the fast scan of storm on GPUs: it runs our plain one instead, slower and in more memory"

BESIDE_TORCH = "pip install --no-build-isolation 'framefold[mamba]', which needs a CUDA toolkit"

# Lanes run side by side, the packages of one in this order and in one process.
LANES: tuple[tuple[Package, ...], ...] = (
    (
        Package("torch", "everything"),
        Package("transformers", "hosts: attach, fit, ablate, answer"),
        Package("torchmetrics", "fit and validate", "train"),
        Package("pytorch_lightning", "fit and validate", "train"),
        Package("peft", "LoRA: stage/sft, save_peft, load_peft", "lora"),
        Package("triton", "mamba-ssm's kernels, torch.compile on GPUs", None, get="it comes with torch for CUDA"),
        Package("mamba_ssm", MAMBA, "mamba", get=BESIDE_TORCH),
        Package("causal_conv1d", "mamba-ssm, which imports it", "mamba", get=BESIDE_TORCH),
    ),
    (
        Package("numpy", "everything"),
        Package("scipy", "compressors that find connected components, intervals of reports"),
        Package("safetensors", "loading and saving adapters"),
        Package("huggingface_hub", "hosts and adapters from the Hub"),
        Package("deepspeed", "the strategies deepspeed_stage_1, 2 and 3 (ddp stays)", "train"),
        Package("webdataset", "shards: writing, checking, training on them", "train"),
        Package("tensorboard", "TensorBoard logs of fit", "train"),
        Package("wandb", "logging to Weights & Biases: logger/wandb", "wandb"),
        Package(
            "lmms_eval",
            "public benchmarks (Video-MME, MLVU ...)",
            None,
            get="an environment of its own: it pins others' versions",
        ),
    ),
    (
        Package("rich", "progress bars, tables with lines", "train"),
        Package("jsonargparse", "every verb but doctor", "train"),
        Package("typing_extensions", "answer, show, eval, export", "train"),
        Package("filelock", "writing shards", "train"),
        Package("psutil", "answer, bench", "train"),
        Package("PIL", "video processors of hosts: answer, show", "train", "pillow"),
        Package("av", "reading and writing video files and shards of them", "train"),
        Package("matplotlib", "plots of report; view, show", "report"),
        Package("torchvision", "video processors of hosts: answer, show", None),
    ),
)

PACKAGES = {package.module: package for lane in LANES for package in lane}
