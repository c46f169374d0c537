"""``framefold launch``: scripts that start training on clusters, out of the installed package."""

from __future__ import annotations

import os
from pathlib import Path

from framefold import configs
from framefold.errors import ConfigError
from framefold.files import replace_file

TEMPLATES = {"slurm": "launch/slurm.sbatch", "torchrun": "launch/torchrun.sh", "mpirun": "launch/mpirun.sh"}


def slurm(out: str | None = None, overwrite: bool = False) -> None:
    """Write a job for SLURM's sbatch: a task a GPU, saved and back into the queue when the time is up.

    Args:
        out: file to write; None: print it.
        overwrite: replace a file that is there.

    Raises:
        ConfigError: there is a file of that name already, or no such folder.
    """
    write("slurm", out, overwrite)


def torchrun(out: str | None = None, overwrite: bool = False) -> None:
    """Write a script that starts training by torchrun, on one or several machines; it starts again what has died.

    Args:
        out: file to write; None: print it.
        overwrite: replace a file that is there.

    Raises:
        ConfigError: there is a file of that name already, or no such folder.
    """
    write("torchrun", out, overwrite)


def mpirun(out: str | None = None, overwrite: bool = False) -> None:
    """Write a script that starts training by mpirun: Open MPI, MPICH or Intel MPI.

    Args:
        out: file to write; None: print it.
        overwrite: replace a file that is there.

    Raises:
        ConfigError: there is a file of that name already, or no such folder.
    """
    write("mpirun", out, overwrite)


def write(name: str, out: str | None, overwrite: bool) -> None:
    """Write or print one of TEMPLATES, see :func:`slurm`."""
    text = (Path(configs.__file__).resolve().parent / TEMPLATES[name]).read_text()
    if out is None:
        print(text, end="")
        return
    place = Path(out)
    if not place.parent.is_dir():
        raise ConfigError(f"there is no folder {place.parent} for {place.name}")
    if place.is_dir() or (os.path.lexists(place) and not overwrite):
        raise ConfigError(f"{place} is there already: give another --out, or --overwrite to replace it")
    replace_file(place, lambda beside: beside.write_text(text))
    place.chmod(0o755)
    print(f"launch: wrote {place}; its first lines say how it is used")
