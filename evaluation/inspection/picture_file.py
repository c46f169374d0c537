"""Writing figures to picture files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from framefold.errors import ConfigError
from framefold.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")


def check_picture(file: str | Path, animations: tuple[str, ...] = ()) -> Path:
    """Return the path of a picture to write.

    Args:
        file: picture.
        animations: further suffixes that are permitted.

    Raises:
        ConfigError: its suffix is none of those that can be written, or there is no such folder.
    """
    path, suffixes = Path(file), (*PICTURES, *animations)
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"out must end in {', '.join(suffixes)}, not {path.name}")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} to write {path.name} to")
    return path


def save_figure(figure: Figure, file: str | Path) -> Path:
    """Write a figure to a picture, atomically.

    Raises:
        ConfigError: see :func:`check_picture`.
        OSError: the file cannot be written.
    """
    from matplotlib import rc_context

    path = check_picture(file)
    suffix = path.suffix.lower()[1:]
    with rc_context({"svg.fonttype": "none"}):  # texts remain texts
        replace_file(path, lambda temporary: figure.savefig(temporary, dpi=100, format=suffix))
    return path
