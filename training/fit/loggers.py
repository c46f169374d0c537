"""Where metrics go, by configuration: ``--config logger/tensorboard``, ``logger/csv`` or ``logger/wandb``.

Loggers are created while the configuration is parsed, before the run folder is known. :func:`assign_run_folder` then
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

DEFAULT_ROOT = "runs/fit"  # default folder of all runs

RUN_ID = "wandb_run_id"  # file in version_N with the id at W&B


class TensorBoard(TensorBoardLogger):
    """Event files for TensorBoard."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_ROOT, name="", version=0)

    def set_run_folder(self, root: str, version: int, resumed: Path | None) -> None:
        """Write to ``version_N`` of a root folder."""
        super().__init__(root, name="", version=version)


class CSV(CSVLogger):
    """Table ``metrics.csv``.

    Args:
        flush_logs_every_n_steps: number of steps between two writes of the file.
    """

    def __init__(self, flush_logs_every_n_steps: int = 100) -> None:
        self.flush_steps = flush_logs_every_n_steps
        super().__init__(DEFAULT_ROOT, name="", version=0, flush_logs_every_n_steps=self.flush_steps)

    def set_run_folder(self, root: str, version: int, resumed: Path | None) -> None:
        """Write to ``version_N`` of a root folder."""
        super().__init__(root, name="", version=version, flush_logs_every_n_steps=self.flush_steps)


class WandB(WandbLogger):
    """Logger for Weights & Biases.

    ``fit --resume`` continues the same run there: a file in the run's folder contains its id.

    Args:
        project: project at W&B; None: $WANDB_PROJECT, or "framefold".
        name: name of the run; None: W&B chooses one.
        entity: user or team.
        group: group of the run.
        tags: tags of the run.
        offline: write to the run's folder only, for 'wandb sync', as WANDB_MODE=offline does.
        id: id of the run to continue; None: $WANDB_RUN_ID, the id of the resumed run, or a new one.
    """

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        offline: bool = False,
        id: str | None = None,  # noqa: A002 (named by W&B)
    ) -> None:
        self.run_settings: dict[str, Any] = {
            "project": project or os.environ.get("WANDB_PROJECT", "framefold"),
            "name": name,
            "offline": offline,
            "id": id or os.environ.get("WANDB_RUN_ID"),
        }
        self.run_settings |= {
            key: value for key, value in {"entity": entity, "group": group, "tags": tags}.items() if value
        }

    def set_run_folder(self, root: str, version: int, resumed: Path | None) -> None:
        """Write to ``version_N`` of a root folder, and continue the W&B run of the folder that is resumed.

        Raises:
            ModuleNotFoundError: the extra "wandb" is not installed. The constructor does not raise this error, because
                jsonargparse would wrap it.
        """
        import wandb  # noqa: F401 (must be missed before any work is done)

        id_file = resumed / RUN_ID if resumed else None
        if id_file and id_file.is_file() and not self.run_settings["id"]:
            self.run_settings["id"] = id_file.read_text().strip()
        super().__init__(save_dir=str(Path(root) / f"version_{version}"), **self.run_settings)
        self._wandb_init.pop("anonymous", None)  # wandb warns about this argument

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run at W&B; created on rank 0 when it is first used, which is before the host is loaded.

        Raises:
            ConfigError: W&B refuses the run or cannot be reached.
        """
        if self._experiment is None:
            import wandb

            folder = Path(str(self.save_dir))
            folder.mkdir(parents=True, exist_ok=True)  # wandb would choose another folder
            try:
                run = super().experiment
            except wandb.Error as error:
                raise ConfigError(f"W&B: {error} (--trainer.logger.init_args.offline true works without it)") from error
            (folder / RUN_ID).write_text(f"{run.id}\n")
        return self._experiment

    @property
    def name(self) -> str:
        """The empty string, so that checkpoints are in ``save_dir``."""
        return ""

    version = name


FRAMEFOLD_LOGGERS = TensorBoard, CSV, WandB


def assign_run_folder(loggers: Iterable[Logger], root: str, resumed: Path | None = None) -> list[Logger]:
    """Make the loggers of this file write to a new ``version_N``, the same for all of them.

    Args:
        loggers: loggers of the configuration.
        root: folder of the runs.
        resumed: ``version_N`` of the run that is resumed.

    Returns:
        The same loggers.
    """
    assigned = list(loggers)
    version = TensorBoardLogger(root, name="").version
    for logger in assigned:
        if isinstance(logger, FRAMEFOLD_LOGGERS):
            logger.set_run_folder(root, int(version), resumed)
    return assigned
