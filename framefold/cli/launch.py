"""``framefold launch``: write scripts that start training on clusters, from templates in ``configs/launch``."""

from __future__ import annotations

import os
from pathlib import Path

from framefold import configs
from framefold.errors import ConfigError
from framefold.files import replace_file

TEMPLATES = {"slurm": "launch/slurm.sbatch", "torchrun": "launch/torchrun.sh", "mpirun": "launch/mpirun.sh"}


def slurm(out: str | None = None, overwrite: bool = False) -> None:
    """Write a job for SLURM's sbatch: one task per GPU, saved and requeued when its time is up.

    Args:
        out: file to write; None prints the script.
        overwrite: replace an existing file.

    Raises:
        ConfigError: the file exists, or its folder does not.
    """
    write_template("slurm", out, overwrite)


def torchrun(out: str | None = None, overwrite: bool = False) -> None:
    """Write a script that trains with torchrun on one or several machines and restarts processes that die.

    Args:
        out: file to write; None prints the script.
        overwrite: replace an existing file.

    Raises:
        ConfigError: the file exists, or its folder does not.
    """
    write_template("torchrun", out, overwrite)


def mpirun(out: str | None = None, overwrite: bool = False) -> None:
    """Write a script that trains with mpirun of Open MPI, MPICH or Intel MPI.

    Args:
        out: file to write; None prints the script.
        overwrite: replace an existing file.

    Raises:
        ConfigError: the file exists, or its folder does not.
    """
    write_template("mpirun", out, overwrite)


def write_template(name: str, out: str | None, overwrite: bool) -> None:
    """Write or print one of :data:`TEMPLATES`, see :func:`slurm`."""
    text = (Path(configs.__file__).resolve().parent / TEMPLATES[name]).read_text()
    if out is None:
        print(text, end="")
        return
    file = Path(out)
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} for {file.name}")
    if file.is_dir() or (os.path.lexists(file) and not overwrite):
        raise ConfigError(f"{file} exists: give another --out, or --overwrite to replace it")
    replace_file(file, lambda temporary: temporary.write_text(text))
    file.chmod(0o755)
    print(f"launch: wrote {file}; its first lines describe how to use it")
