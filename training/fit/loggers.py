"""Where metrics go, by configuration: ``--config logger/tensorboard``, ``logger/csv`` or ``logger/wandb``.

Loggers are created while the configuration is parsed, before the run folder is known. :func:`set_log_folders` then
moves those of this file to ``version_N`` below ``trainer.default_root_dir``, next to the checkpoints. Lightning's own
loggers, given by class path, write to the folder in their configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment

from framefold.errors import ConfigError

ROOT = "runs/fit"  # where runs go by default

RUN_ID = "wandb_run_id"  # file in version_N


class TensorBoard(TensorBoardLogger):
    """Files for TensorBoard."""

    def __init__(self) -> None:
        super().__init__(ROOT, name="", version=0)

    def put(self, root: str, version: int, before: Path | None) -> None:
        """Write into version_N of a root."""
        super().__init__(root, name="", version=version)


class CSV(CSVLogger):
    """``metrics.csv``.

    Args:
        flush_logs_every_n_steps: how often it is written.
    """

    def __init__(self, flush_logs_every_n_steps: int = 100) -> None:
        self.every = flush_logs_every_n_steps
        super().__init__(ROOT, name="", version=0, flush_logs_every_n_steps=self.every)

    def put(self, root: str, version: int, before: Path | None) -> None:
        """Write into version_N of a root."""
        super().__init__(root, name="", version=version, flush_logs_every_n_steps=self.every)


class WandB(WandbLogger):
    """Weights & Biases. ``fit --resume`` goes on with the same run there: its id is in a file of the run's folder.

    Args:
        project: None: $WANDB_PROJECT, or framefold. name, group, tags: of the run. entity: user or team.
        offline: write into the run's folder only, for 'wandb sync'; so does WANDB_MODE=offline.
        id: of the run to go on with there; None: $WANDB_RUN_ID, or that of a resumed run, or a new one.
    """

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        offline: bool = False,
        id: str | None = None,  # noqa: A002 (W&B's name)
    ) -> None:
        self.given: dict[str, Any] = {
            "project": project or os.environ.get("WANDB_PROJECT", "framefold"),
            "name": name,
            "offline": offline,
            "id": id or os.environ.get("WANDB_RUN_ID"),
        }
        self.given |= {key: value for key, value in {"entity": entity, "group": group, "tags": tags}.items() if value}

    def put(self, root: str, version: int, before: Path | None) -> None:
        """Write into version_N of a root, and go on with the run of the folder before.

        Raises:
            ModuleNotFoundError: without the extra "wandb". Not when it is made: jsonargparse would wrap the error.
        """
        import wandb  # noqa: F401 (its absence is to be found before any work is done)

        noted = before / RUN_ID if before else None
        if noted and noted.is_file() and not self.given["id"]:
            self.given["id"] = noted.read_text().strip()
        super().__init__(save_dir=str(Path(root) / f"version_{version}"), **self.given)
        self._wandb_init.pop("anonymous", None)  # wandb warns of it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run at W&B; made on rank 0 when it is first asked for, which is before the host is loaded.

        Raises:
            ConfigError: W&B refuses, or cannot be reached.
        """
        if self._experiment is None:
            import wandb

            folder = Path(str(self.save_dir))
            folder.mkdir(parents=True, exist_ok=True)  # wandb would take another place
            try:
                made = super().experiment
            except wandb.Error as error:
                raise ConfigError(f"W&B: {error} (--trainer.logger.init_args.offline true goes without it)") from error
            (folder / RUN_ID).write_text(f"{made.id}\n")
        return self._experiment

    @property
    def name(self) -> str:
        """Nothing, so that checkpoints are in save_dir."""
        return ""

    version = name


OURS = TensorBoard, CSV, WandB


def set_log_folders(loggers: Iterable[Logger], root: str, before: Path | None = None) -> list[Logger]:
    """Put loggers into a new ``version_N``, the same for all of them.

    Args:
        root: folder of the runs. before: version_N of the run that is gone on with.

    Returns:
        The same loggers.
    """
    placed = list(loggers)
    version = TensorBoardLogger(root, name="").version
    for logger in placed:
        if isinstance(logger, OURS):
            logger.put(root, int(version), before)
    return placed
