"""``framefold fit`` and ``validate``: LightningCLI with short names for configurations and one-line errors.

Arguments are read from ``sys.argv``, because the ranks that Lightning starts read them there as well.
"""

from __future__ import annotations

import os
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

from framefold.adapters.base.build import registered_name
from framefold.adapters.core.registry import compressor_class
from framefold.configs import expand_config_names
from framefold.configs.arguments import normalize_options, option_error
from framefold.errors import ConfigError, DataError
from framefold.training.checkpoint.callbacks import BestCheckpoint, LastCheckpoint
from framefold.training.checkpoint.class_paths import check_config_file
from framefold.training.checkpoint.read import read_run_state
from framefold.training.checkpoint.resume import (
    CHOICE_VARIABLE,
    Resume,
    check_same_run,
    rank_zero_print,
    require_complete,
    resolve_resume,
)
from framefold.training.checkpoint.strategy_name import strategy_name
from framefold.training.checkpoint.trainer import AtomicTrainer
from framefold.training.checkpoint.write import AtomicCheckpointIO
from framefold.training.datamodule import VideoData
from framefold.training.module import CompressorModule
from framefold.training.strategies.deepspeed import DeepSpeedOnCPU, configure_deepspeed, register_strategies

from .callbacks import EarlyStop, FiniteWeights, RunSummary, ThroughputLogger
from .interrupt import reraise_interrupt
from .loggers import CSV, DEFAULT_ROOT, TensorBoard, assign_run_folder
from .main_port import choose_main_port
from .progress import progress_display
from .resumed_settings import check_changes, list_changes, recorded_settings
from .signals import Interruption, SaveOnInterrupt
from .slurm_requeue import SlurmRequeue
from .trainer_settings import check_trainer
from .warning_filters import filter_warnings

VERBS = {
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
}


class OneLineErrorParser(LightningArgumentParser):
    """Argument parser whose errors are one line instead of a usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise SystemExit(f"{option_error(message)} (options: {self.prog.replace('[options] ', '')} --help)")


class FitCLI(LightningCLI):
    """LightningCLI for one verb."""

    def __init__(self, verb: str, interruption: Interruption) -> None:
        self.verb, self.interruption = verb, interruption
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
            load_from_checkpoint_support=False,  # it would write class paths into the checkpoints
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the verb that was called, because building a parser takes half a second."""
        return {self.verb: VERBS[self.verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options like ``--last.every 50``, ``--best.monitor val/loss@0.1`` and ``--early_stop.patience 5``."""
        if self.verb == "fit":
            parser.add_lightning_class_args(EarlyStop, "early_stop")
            parser.add_lightning_class_args(BestCheckpoint, "best")
            parser.add_lightning_class_args(LastCheckpoint, "last")
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                help="resume from the latest complete checkpoint: 'auto' searches trainer.default_root_dir and starts "
                "a new run if there is none; or a checkpoint, or a folder to search",
            )

    def _parse_ckpt_path(self) -> None:
        """Take the settings of the model from the checkpoint, except for those that the command gives."""
        settings = self.config[self.verb]
        if settings.get("resume"):
            self._resume(settings)
        if not settings.get("ckpt_path"):
            return
        checkpoint = Path(settings["ckpt_path"])
        if not settings.get("resume"):
            require_complete(checkpoint)
        state = read_run_state(checkpoint)
        saved = state["hyper_parameters"]
        given = self._given_model_settings()
        if self.verb == "fit":
            self._check_changes(checkpoint, given)
        model = {name: value for name, value in saved.items() if name not in given and name != "_instantiator"}
        self.config = self.parser.parse_object({self.verb: {"model": model}}, self.config)
        compressor = str(self.config[self.verb]["model"]["compressor"])
        if "compressor" in given or settings.get("resume"):  # named by the user: _resume has compared it
            return
        if "." in compressor:  # a class path imports any module
            raise SystemExit(
                f"{checkpoint} names the class {compressor}: pass --model.compressor {compressor} if you trust it"
            )
        compressor_class(compressor, state.get("compressor_classes"))

    def _resume(self, settings: Any) -> None:
        is_option = any(word.partition("=")[0] == "--ckpt_path" for word in sys.argv)
        if settings.get("ckpt_path") and is_option:  # config.yaml of a resumed run has both, and the newest one counts
            raise SystemExit("--resume and --ckpt_path both choose the checkpoint: give only one of them")
        found = resolve_resume(settings["resume"], Path(settings["trainer"]["default_root_dir"] or DEFAULT_ROOT))
        if found is not None:
            model = settings["model"]
            check_same_run(found, model, registered_name(model["compressor"]))
        settings["ckpt_path"] = str(found) if found else None

    def _given_model_settings(self) -> dict[str, Any]:
        """Return the settings of the model in options and configuration files, without any defaults."""
        given = self.parser.parse_args(sys.argv[1:], defaults=False)[self.verb].get("model")
        return given.as_dict() if given is not None else {}

    def _check_changes(self, checkpoint: Path, given: dict[str, Any]) -> None:
        """Print what the command changes in the run that it resumes.

        Raises:
            ConfigError: a change cannot take effect.
        """
        config = self.config[self.verb].as_dict()
        changes = list_changes(checkpoint, given, config)
        check_changes(checkpoint, changes, config["trainer"])
        if changes:
            rank_zero_print(f"resume: changed: {', '.join(map(str, changes))}")

    def instantiate_classes(self) -> None:
        """Create model, data and trainer of the configuration.

        Raises:
            ConfigError: this machine cannot run the trainer; raised before data and host are read.
        """
        accelerator = self.config[self.verb]["trainer"]["accelerator"]
        is_available = CUDAAccelerator.is_available() or (accelerator == "gpu" and MPSAccelerator.is_available())
        if accelerator in ("gpu", "cuda") and not is_available:
            raise ConfigError(
                f"trainer.accelerator is {accelerator}, and torch finds no GPU here ('framefold doctor' shows what it "
                "finds): --config trainer/cpu trains without one"
            )
        check_trainer(self.config[self.verb]["trainer"])
        super().instantiate_classes()
        if self.verb == "validate" and not self.datamodule.validates:
            raise DataError(
                "there is nothing to validate on: name shards with data.val_shards, or hold out a share of data.shards "
                "with data.val_share"
            )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Create the trainer with framefold's progress display, loggers and checkpoint files."""
        settings = self._get(self.config_init, "trainer")
        root = settings["default_root_dir"] or DEFAULT_ROOT
        checkpoint = self.config[self.verb].get("ckpt_path")
        kwargs["logger"] = self._loggers(settings["logger"], root)
        display = [progress_display()] if settings["enable_progress_bar"] in (None, True) else []
        monitors = [LearningRateMonitor("step"), ThroughputLogger()] if kwargs["logger"] and self.verb == "fit" else []
        resume = Resume(Path(checkpoint) if checkpoint else None, recorded_settings(self.config[self.verb].as_dict()))
        settings["callbacks"] = [
            *display,
            RunSummary(),
            resume,
            FiniteWeights(),
            SlurmRequeue(),
            SaveOnInterrupt(self.interruption),
            *monitors,
            *(settings["callbacks"] or []),
        ]
        self._drop_callbacks(settings)
        try:
            trainer: Any = super().instantiate_trainer(default_root_dir=root, **kwargs)
        except MisconfigurationException as error:
            raise ConfigError(str(error)) from error
        if trainer.overfit_batches:  # Lightning would replace the loader; both limits are already set
            self.datamodule.repeats_epoch, trainer.overfit_batches = True, 0.0
        if not self.datamodule.validates:
            trainer.limit_val_batches = 0
        _check_device(trainer.strategy)
        choose_main_port(trainer)
        configure_deepspeed(trainer.strategy, self.datamodule.train_options["batch_size"])
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def _loggers(self, loggers: Any, root: str) -> Any:
        """Return the configured loggers, by default TensorBoard and CSV, which write to a new folder of the run."""
        if loggers in (None, True):
            loggers = [TensorBoard(), CSV()] if self.verb == "fit" else []
        settings = self.config[self.verb]
        is_resumed = settings.get("resume") and settings["ckpt_path"]
        resumed = Path(settings["ckpt_path"]).parent.parent if is_resumed else None
        return (
            assign_run_folder(loggers if isinstance(loggers, list) else [loggers], root, resumed) if loggers else False
        )

    def _drop_callbacks(self, settings: Any) -> None:
        """Drop the callbacks that are switched off."""
        keys = self._parser(self.verb).callback_keys
        off = {"best", "last"} if settings["enable_checkpointing"] is False else set()
        if self.verb == "fit" and self.config[self.verb]["early_stop"]["patience"] is None:
            off.add("early_stop")
        keys[:] = [key for key in keys if key not in off]

    def _run_subcommand(self, subcommand: str) -> None:
        with reraise_interrupt(self.trainer):
            super()._run_subcommand(subcommand)


def _check_device(strategy: Any) -> None:
    """Refuse DeepSpeed without GPUs; Lightning does so only after the ranks have been started."""
    if not isinstance(strategy, DeepSpeedStrategy) or isinstance(strategy, DeepSpeedOnCPU):
        return
    if not isinstance(strategy.accelerator, CUDAAccelerator):
        raise ConfigError(f"{strategy_name(strategy)} needs GPUs (CUDA); on CPUs --trainer.strategy ddp trains")


def _check_config_files(words: list[str]) -> None:
    """Check the class paths in the configuration files, which may include the config.yaml of an older run."""
    for option, value in zip(words, [*words[1:], ""], strict=True):
        if option == "--config":
            check_config_file(Path(value))
        elif option.startswith("--config="):
            check_config_file(Path(option.removeprefix("--config=")))


def main() -> None:
    """Run the verb that ``sys.argv`` begins with: fit or validate.

    Raises:
        SystemExit: the arguments are wrong; with one line of text.
        FramefoldError, ConfigNotFoundError, OSError, KeyboardInterrupt: the run failed; see their messages.
    """
    verb, words = sys.argv[1], sys.argv[2:]
    words = normalize_options(CompressorModule, words, "model.")
    sys.argv[2:] = expand_config_names(normalize_options(VideoData, words, "data."))
    _check_config_files(sys.argv[2:])
    filter_warnings()
    register_strategies()
    if any(DeepSpeedOnCPU.name_prefix in word for word in sys.argv):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported, which parsing may cause
    try:
        with Interruption() as interruption:
            FitCLI(verb, interruption)
    finally:
        os.environ.pop(CHOICE_VARIABLE, None)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
