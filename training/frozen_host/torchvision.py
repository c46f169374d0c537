"""Making torchvision, which the video processors of transformers need, importable before transformers asks for it.

PyPI's wheels of torchvision are built for CUDA. Beside a CPU build of torch their operators do not load, and the import
fails on the two that torchvision refers to meanwhile; the processors use neither, so declaring them is enough.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import torch

from framefold.errors import MissingExtraError

MISSING_OPERATORS = ("nms", "qnms")

_LIBRARIES: list[torch.library.Library] = []  # an operator is gone when its library is collected


def find_torchvision() -> None:
    """Import torchvision, from where ``make setup`` puts it if nowhere else, and declare operators that it misses.

    Call it before anything imports transformers: that looks once, and remembers.

    Raises:
        MissingExtraError: torchvision or Pillow is missing or does not load, or transformers has looked already.
    """
    if not _importable("PIL"):
        raise MissingExtraError("Pillow is not installed, which video processors need: pip install pillow")
    if not _importable("torchvision"):
        _look_beside()
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:  # operator torchvision::nms does not exist
        if "torchvision::" not in str(error):
            raise MissingExtraError(f"torchvision does not load ({error}); {_advice()}") from error
        _import_again()
    except (ImportError, OSError) as error:
        raise MissingExtraError(f"torchvision does not load ({error}); {_advice()}") from error
    if "transformers" in sys.modules and not sys.modules["transformers"].utils.is_torchvision_available():
        raise MissingExtraError(
            "transformers was imported before torchvision was found, and it looks only once: call"
            " framefold.training.frozen_host.torchvision.find_torchvision() before importing transformers"
        )


def check_torchvision() -> None:
    """Find out whether transformers has torchvision.

    Raises:
        MissingExtraError: it is missing, or was found too late.
    """
    from transformers.utils import is_torchvision_available

    if not is_torchvision_available():
        raise MissingExtraError(f"torchvision is missing, which video processors need: {_advice()}")


def _importable(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # without: any folder of that name


def _look_beside() -> None:
    """Append the folder of ``make setup`` to the path; at the end, so that it cannot hide anything."""
    folder = Path(sys.prefix) / "torchvision"
    if not (folder / "torchvision" / "__init__.py").is_file():
        raise MissingExtraError(f"torchvision is not installed, which video processors need: {_advice()}")
    sys.path.append(str(folder))
    importlib.invalidate_caches()


def _import_again() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in MISSING_OPERATORS:
        library.define(f"{name}(Tensor x) -> Tensor")
    _LIBRARIES.append(library)
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(f"torchvision does not load ({error}); {_advice()}") from error


def _advice() -> str:
    """The command that installs the version of torchvision that belongs to this torch."""
    minor = int(torch.__version__.split(".")[1]) + 15  # torch 2.13 goes with torchvision 0.28
    if torch.version.cuda or torch.version.hip:
        return f"pip install 'torchvision==0.{minor}.*'"
    # its wheel beside CPU torch: not among the packages, where it would break 'import transformers'
    return f"pip install --no-deps --target {Path(sys.prefix) / 'torchvision'} 'torchvision==0.{minor}.*'"
