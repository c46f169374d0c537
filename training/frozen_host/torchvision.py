"""Checks that torchvision, which the video processors of transformers need, can be imported.

:mod:`framefold.torchvision_finder` makes it importable in environments with a CPU build of torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import torch

from framefold.errors import MissingExtraError
from framefold.torchvision_finder import install, setup_folder


def find_torchvision() -> None:
    """Import torchvision.

    Raises:
        MissingExtraError: torchvision or Pillow is missing or does not load, or transformers was imported before
            framefold and has not found torchvision.
    """
    if not _importable("PIL"):
        raise MissingExtraError("Pillow is not installed, which video processors need: pip install pillow")
    install()
    importlib.invalidate_caches()
    if not _importable("torchvision"):
        raise MissingExtraError(f"torchvision is not installed, which video processors need: {_advice()}")
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(f"torchvision does not load ({error}); {_advice()}") from error
    if "transformers" in sys.modules and not sys.modules["transformers"].utils.is_torchvision_available():
        raise MissingExtraError(
            "transformers was imported before torchvision was found, and looks for it only once: import framefold"
            " before transformers"
        )


def check_torchvision() -> None:
    """Check that transformers has found torchvision.

    Raises:
        MissingExtraError: torchvision is missing, or was found after transformers was imported.
    """
    from transformers.utils import is_torchvision_available

    if not is_torchvision_available():
        raise MissingExtraError(f"torchvision is missing, which video processors need: {_advice()}")


def _importable(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # without an origin, it is a mere folder of that name


def _advice() -> str:
    """Return the command that installs the torchvision version for this torch."""
    minor = int(torch.__version__.split(".")[1]) + 15  # torch 2.13 goes with torchvision 0.28
    if torch.version.cuda or torch.version.hip:
        return f"pip install 'torchvision==0.{minor}.*'"
    # With a CPU build of torch, the wheel among the other packages would break 'import transformers'.
    return f"pip install --no-deps --target {setup_folder()} 'torchvision==0.{minor}.*'"
