"""``framefold fit`` and ``validate``: LightningCLI with short names for configurations and one-line errors.

Arguments are read from ``sys.argv``, because ranks that Lightning starts again read them there too.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.strategies import DeepSpeedStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from framefold.configs import expand_config_names
from framefold.configs.arguments import normalize_options
from framefold.errors import ConfigError
from framefold.training.checkpoint.callbacks import BestCheckpoint, LastCheckpoint
from framefold.training.checkpoint.read import read_run_state
from framefold.training.checkpoint.resume import CHOICE_VARIABLE, Resume, resolve_resume, check_same_run, require_complete
from framefold.training.checkpoint.strategy_name import strategy_name
from framefold.training.checkpoint.write import AtomicCheckpointIO, AtomicTrainer
from framefold.training.datamodule import VideoData
from framefold.training.module import CompressorModule
from framefold.training.strategies.deepspeed import DeepSpeedOnCPU, configure_deepspeed, register_strategies

from .callbacks import RunSummary, EarlyStop, ThroughputLogger
from .loggers import CSV, DEFAULT_ROOT, TensorBoard, assign_run_folder
from .progress import progress_display
from .session import interruptible, filter_warnings
from .slurm_requeue import SlurmRequeue

VERBS = {
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
}


class OneLineErrorParser(LightningArgumentParser):
    """Ends with one line instead of a usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Give up on wrong arguments."""
        text = " ".join(message.split())
        raise SystemExit(f"{text} (options: {self.prog.replace('[options] ', '')} --help)")


class FitCLI(LightningCLI):
    """LightningCLI of one verb."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        super().__init__(
            CompressorModule,
            VideoData,
            trainer_class=AtomicTrainer,
            parser_class=OneLineErrorParser,
            parser_kwargs={"allow_abbrev": False, "prog": "framefold"},
            save_config_callback=SaveConfigCallback if verb == "fit" else None,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # it would put class paths into the checkpoints
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the verb that was called: building a parser takes half a second."""
        return {self.verb: VERBS[self.verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``--last.every 50``, ``--best.monitor val/loss@0.1``, ``--early_stop.patience 5``."""
        if self.verb == "fit":
            parser.add_lightning_class_args(EarlyStop, "early_stop")
            parser.add_lightning_class_args(BestCheckpoint, "best")
            parser.add_lightning_class_args(LastCheckpoint, "last")
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                help="go on from the newest whole checkpoint: 'auto' looks below trainer.default_root_dir and starts "
                "anew if there is none; or a checkpoint, or a folder to look below",
            )

    def _parse_ckpt_path(self) -> None:
        """Take the model's settings from a checkpoint, except for those that the command line gives."""
        settings = self.config[self.verb]
        if settings.get("resume"):
            self._resume(settings)
        if not settings.get("ckpt_path"):
            return
        checkpoint = Path(settings["ckpt_path"])
        if not settings.get("resume"):
            require_complete(checkpoint)
        saved = read_run_state(checkpoint)["hyper_parameters"]
        given = {re.split(r"[.=]", arg)[1] for arg in sys.argv if arg.startswith("--model.")}
        model = {name: value for name, value in saved.items() if name not in given and name != "_instantiator"}
        self.config = self.parser.parse_object({self.verb: {"model": model}}, self.config)
        named = str(self.config[self.verb]["model"]["compressor"])
        if "compressor" not in given and "." in named:  # it would import somebody's module
            raise SystemExit(f"{checkpoint} names the class {named}: give --model.compressor {named} if you trust it")

    def _resume(self, settings: Any) -> None:
        if settings.get("ckpt_path"):
            raise SystemExit("--resume and --ckpt_path both say what to go on from: give one of them")
        found = resolve_resume(settings["resume"], Path(settings["trainer"]["default_root_dir"] or DEFAULT_ROOT))
        if found is not None:
            check_same_run(found, settings["model"])
        settings["ckpt_path"] = str(found) if found else None

    def instantiate_classes(self) -> None:
        """Model, data and trainer of the configuration.

        Raises:
            ConfigError: the trainer cannot be on this machine; found first, before data and host are looked at.
        """
        wanted = self.config[self.verb]["trainer"]["accelerator"]
        there = CUDAAccelerator.is_available() or (wanted == "gpu" and MPSAccelerator.is_available())
        if wanted in ("gpu", "cuda") and not there:
            raise ConfigError(
                f"trainer.accelerator is {wanted}, and torch finds no GPU here ('framefold doctor' says what is): "
                "--config trainer/cpu trains without"
            )
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer of the configuration, with our progress bar, logs and checkpoint files."""
        settings = self._get(self.config_init, "trainer")
        root = settings["default_root_dir"] or DEFAULT_ROOT
        chosen = self.config[self.verb].get("ckpt_path")
        kwargs["logger"] = self._loggers(settings["logger"], root)
        bars = [progress_display()] if settings["enable_progress_bar"] in (None, True) else []
        speed = [LearningRateMonitor("step"), ThroughputLogger()] if kwargs["logger"] and self.verb == "fit" else []
        resume = Resume(Path(chosen) if chosen else None)
        settings["callbacks"] = [*bars, RunSummary(), resume, SlurmRequeue(), *speed, *(settings["callbacks"] or [])]
        self._drop_callbacks(settings)
        try:
            trainer = super().instantiate_trainer(default_root_dir=root, **kwargs)
        except MisconfigurationException as error:
            raise ConfigError(str(error)) from error
        _check_device(trainer.strategy)
        configure_deepspeed(trainer.strategy, self.datamodule.train_options["batch_size"])
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def _loggers(self, given: Any, root: str) -> Any:
        """Those of the configuration, in a new folder of the run; by default TensorBoard and CSV."""
        if given in (None, True):
            given = [TensorBoard(), CSV()] if self.verb == "fit" else []
        settings = self.config[self.verb]
        before = Path(settings["ckpt_path"]).parent.parent if settings.get("resume") and settings["ckpt_path"] else None
        return assign_run_folder(given if isinstance(given, list) else [given], root, before) if given else False

    def _drop_callbacks(self, settings: Any) -> None:
        """Those that are switched off."""
        keys = self._parser(self.verb).callback_keys
        off = {"best", "last"} if settings["enable_checkpointing"] is False else set()
        if self.verb == "fit" and self.config[self.verb]["early_stop"]["patience"] is None:
            off.add("early_stop")
        keys[:] = [key for key in keys if key not in off]

    def _run_subcommand(self, subcommand: str) -> None:
        with interruptible(self.trainer):
            super()._run_subcommand(subcommand)


def _check_device(strategy: Any) -> None:
    """Refuse DeepSpeed without GPUs; Lightning does it when the ranks have been started."""
    if not isinstance(strategy, DeepSpeedStrategy) or isinstance(strategy, DeepSpeedOnCPU):
        return
    if not isinstance(strategy.accelerator, CUDAAccelerator):
        raise ConfigError(f"{strategy_name(strategy)} needs GPUs (CUDA); on CPUs --trainer.strategy ddp trains")


def main() -> None:
    """Run the verb that ``sys.argv`` begins with: fit or validate.

    Raises:
        SystemExit: with one line of text, for wrong arguments.
        FramefoldError, DataError, HostError, ConfigNotFoundError, OSError, KeyboardInterrupt: see their messages.
    """
    verb, rest = sys.argv[1], sys.argv[2:]
    sys.argv[2:] = expand_config_names(normalize_options(VideoData, normalize_options(CompressorModule, rest, "model."), "data."))
    filter_warnings()
    register_strategies()
    if any(
        DeepSpeedOnCPU.name_prefix in word for word in sys.argv
    ):  # before anything imports deepspeed, as parsing a configuration may
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        FitCLI(verb)
    finally:
        os.environ.pop(CHOICE_VARIABLE, None)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
