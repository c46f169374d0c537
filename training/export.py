"""A training checkpoint becomes an adapter folder that ``framefold.load`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..adapters import Compressor, build
from ..adapters.errors import AdapterFileError, FramefoldError
from ..adapters.registry import get


def export(checkpoint: str, out: str) -> Path:
    """Turn a checkpoint of ``framefold fit`` into an adapter folder (config.json, model.safetensors).

    Args:
        checkpoint: a ``.ckpt`` file, or a run folder, whose ``last.ckpt`` is then taken.
        out: folder to write.

    Raises:
        AdapterFileError: no checkpoint there, or it was not written by ``framefold fit``.
    """
    path = find_checkpoint(Path(checkpoint))
    compressor, hyper = read_checkpoint(path)
    compressor.save_pretrained(
        out,
        framefold_version=__version__,
        base_model_name_or_path=str(hyper.get("host", "")) or None,
        training={key: hyper.get(key) for key in ("seed", "steps", "train_budgets", "lr", "losses")},
    )
    print(f"exported {compressor.name} from {path} to {out}")
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


def read_checkpoint(path: Path) -> tuple[Compressor, dict[str, Any]]:
    """Rebuild the compressor of a checkpoint.

    Returns:
        The compressor with its trained weights, and the hyper-parameters of the training run.

    Raises:
        AdapterFileError: damaged, of another program, or weights that do not fit.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        hyper = content["hyper_parameters"]
        get(
            hyper["compressor"]
        )  # registered names only: a class path in somebody's checkpoint would import their module
        compressor = build(hyper["compressor"], hyper["budget"], **hyper["params"])
        prefix = "compressor."
        state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        compressor.load_state_dict(state, strict=True)
        hyper |= {"steps": content.get("global_step", 0), "seed": content.get("seed", 0)}
    except FramefoldError as error:
        raise AdapterFileError(f"{path}: {error}") from error
    except Exception as error:  # torch.load raises whatever the damaged bytes lead to
        text = " ".join(str(error).split()).partition(". ")[0][:300]  # torch goes on about how to switch its guard off
        raise AdapterFileError(f"{path} is no checkpoint of 'framefold fit': {type(error).__name__}: {text}") from error
    return compressor, hyper
