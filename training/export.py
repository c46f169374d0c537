"""A training checkpoint becomes an adapter folder that ``framefold.load`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..adapters import Compressor, build
from ..adapters.errors import AdapterFileError, FramefoldError, MissingExtraError
from ..adapters.folder import save_folder
from ..adapters.hosts.lora_folder import LORA, LORA_WEIGHTS, Lora, check_lora, lora_files
from ..adapters.hosts.peft_guard import ADAPTER_CONFIG
from ..adapters.registry import get

NOTED = ("seed", "steps", "train_budgets", "lr", "losses", "start", "lora")  # of the training, in config.json


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Attributes:
        compressor: with its trained weights.
        hyper: hyper-parameters of the training run, with its steps and seed and where it started.
        lora: LoRA that was trained with it. about: what config.json says of the host it was trained in.
    """

    compressor: Compressor
    hyper: dict[str, Any]
    lora: Lora | None
    about: dict[str, Any]


def export(checkpoint: str, out: str) -> Path:
    """Turn a checkpoint of ``framefold fit`` into an adapter folder (config.json, model.safetensors).

    LoRA that was trained with it becomes ``lora/``, a stock PEFT folder; ``framefold.load_peft`` loads both.

    Args:
        checkpoint: a ``.ckpt`` file, or a run folder, whose ``last.ckpt`` is then taken.
        out: folder to write.

    Raises:
        AdapterFileError: no checkpoint there, or it was not written by ``framefold fit``.
        MissingExtraError: there is LoRA, and PEFT is not installed.
    """
    path = find_checkpoint(Path(checkpoint))
    trained = read_checkpoint(path)
    hyper, lora = trained.hyper, trained.lora
    fields = {
        "framefold_version": __version__,
        "base_model_name_or_path": str(hyper.get("host", "")) or None,
        "training": {key: hyper.get(key) for key in NOTED},
    }
    files = {} if lora is None else lora_files(lora.fields, lora.weights)
    save_folder(trained.compressor, out, trained.about | fields, files)
    if lora is None:  # what an earlier export left there belongs to other weights
        for name in (LORA_WEIGHTS, ADAPTER_CONFIG):
            (Path(out) / LORA / name).unlink(missing_ok=True)
    print(f"exported {trained.compressor.name}{' and LoRA' if lora else ''} from {path} to {out}")
    return Path(out)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint itself, or the newest ``last.ckpt`` below a run folder.

    Raises:
        AdapterFileError: there is none.
    """
    if path.is_file():
        return path
    found = sorted(path.rglob("last*.ckpt"), key=lambda file: file.stat().st_mtime) if path.is_dir() else []
    if not found:
        raise AdapterFileError(f"no checkpoint at {path}: give a .ckpt file or the folder of a 'framefold fit' run")
    return found[-1]


def read_checkpoint(path: Path) -> Trained:
    """Rebuild what a checkpoint holds.

    Raises:
        AdapterFileError: damaged, of another program, or weights that do not fit.
        MissingExtraError: there is LoRA, and PEFT is not installed.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        hyper, state = content["hyper_parameters"], content["state_dict"]
        get(
            hyper["compressor"]
        )  # registered names only: a class path in somebody's checkpoint would import their module
        compressor = build(hyper["compressor"], hyper["budget"], **hyper["params"])
        compressor.load_state_dict(_part(state, "compressor."), strict=True)
        hyper |= {"steps": content.get("global_step", 0), "seed": content.get("seed", 0), "start": content.get("start")}
        lora, about = None, {}
        if hyper.get("lora") is not None:
            lora = check_lora(Lora(dict(content["lora"]["config"]), _part(state, "lora."), path))
            about = dict(content["lora"]["about"])
    except MissingExtraError:
        raise
    except FramefoldError as error:
        raise AdapterFileError(f"{path}: {error}") from error
    except Exception as error:  # torch.load raises whatever the damaged bytes lead to
        text = " ".join(str(error).split()).partition(". ")[0][:300]  # torch goes on about how to switch its guard off
        raise AdapterFileError(f"{path} is no checkpoint of 'framefold fit': {type(error).__name__}: {text}") from error
    return Trained(compressor, hyper, lora, about)


def _part(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
