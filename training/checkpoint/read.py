"""Read a checkpoint of any strategy: the settings of its run, and the trained weights.

Reading never runs code from the checkpoint. torch loads tensors, numbers and text, and only those classes that
checkpoints of DeepSpeed and of torch.distributed consist of. DeepSpeed's own functions, which would unpickle anything,
run under the same restriction.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framefold.errors import AdapterFileError, CheckpointError

from .inventory import LATEST_FILES, METADATA_FILE, first_sentence, load_checkpoint_file, read_header

PREFIX, LORA_PREFIX = "compressor.", "lora."
HOST_PREFIX, PEFT_PREFIX = "model.", "base_model.model."  # of the host's weights in the module, and in PEFT's files
UNIVERSAL = "zero"  # folder of a universal checkpoint with one folder for each weight


def read_run_state(path: Path) -> dict[str, Any]:
    """Read the state of the run in a checkpoint: hyper-parameters, step and position in the data.

    Raises:
        CheckpointError: the checkpoint is damaged or was not written by framefold.
        OSError: the checkpoint does not exist or cannot be read.
    """
    state = load_checkpoint_file(_state_file(path))
    if not isinstance(state.get("hyper_parameters"), dict):
        raise CheckpointError(f"{path} is not a checkpoint of 'framefold fit': it has no hyper-parameters")
    return state


def trained_weights(path: Path) -> dict[str, Tensor]:
    """Read the trained weights under their names in single-file checkpoints.

    The names are ``compressor.*``, and ``lora.*`` followed by PEFT's names. For DeepSpeed, the weights are the fp32
    copies of its optimizer.

    Raises:
        CheckpointError: the checkpoint is damaged or was not written by framefold.
        OSError: the checkpoint does not exist or cannot be read.
    """
    kind = read_header(path).kind
    try:
        if kind == "file":
            state = load_checkpoint_file(path)["state_dict"]
        elif kind == "fsdp2":
            state = _fsdp2_weights(path)
        else:
            state = _universal_weights(path) if (tag_folder(path) / UNIVERSAL).is_dir() else _deepspeed_weights(path)
    except (CheckpointError, OSError, ImportError):
        raise
    except Exception as error:  # damaged bytes may raise anything
        raise CheckpointError(
            f"the weights of {path} cannot be read: {type(error).__name__}: {first_sentence(error)}"
        ) from error
    return {checkpoint_name(name): value.detach() for name, value in state.items() if is_trained(name)}


def is_trained(name: str) -> bool:
    """Return whether a name in the module or in a checkpoint is that of a trained weight (compressor or LoRA)."""
    return name.startswith((PREFIX, LORA_PREFIX)) or (name.startswith(HOST_PREFIX) and ".lora_" in name)


def checkpoint_name(name: str) -> str:
    """Map a name in the module to the name in a single-file checkpoint, where LoRA's names are PEFT's."""
    if not name.startswith(HOST_PREFIX):
        return name
    return LORA_PREFIX + PEFT_PREFIX + name.removeprefix(HOST_PREFIX).replace(".default.", ".")


def module_name(name: str) -> str:
    """Map a name in a single-file checkpoint to the name in the module."""
    if not name.startswith(LORA_PREFIX):
        return name
    stem, matrix, rest = name.removeprefix(LORA_PREFIX + PEFT_PREFIX).rpartition(".")
    return f"{HOST_PREFIX}{stem}.default{matrix}{rest}"


def tag_folder(path: Path) -> Path:
    """Return the folder inside a DeepSpeed checkpoint that contains its files.

    Raises:
        CheckpointError: the checkpoint does not name that folder, or names one outside of itself.
    """
    for name in LATEST_FILES:
        if (path / name).is_file():
            tag = (path / name).read_text().strip()
            if tag and Path(tag).name == tag and (path / tag).is_dir():
                return path / tag
    raise CheckpointError(f"{path} is not a complete DeepSpeed checkpoint: it does not name the folder of its files")


def _state_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / METADATA_FILE).is_file():
        return path / METADATA_FILE
    files = sorted(tag_folder(path).glob("*_model_states.pt"))  # ZeRO-3 writes one per rank
    if not files:
        raise CheckpointError(f"{path} is not a complete DeepSpeed checkpoint: it has no model states")
    return files[0]


@contextmanager
def safe_deepspeed_load() -> Iterator[None]:
    """Restrict what DeepSpeed unpickles to tensors, numbers, text and the classes of its own checkpoints."""
    _import_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with _safe_globals([fragment_address, LossScaler, DynamicLossScaler, ZeroStageEnum]):
        yield


@contextmanager
def safe_fsdp2_load(path: Path) -> Iterator[None]:
    """Restrict what torch unpickles from an FSDP2 folder to tensors, numbers, text and torch's own metadata classes.

    Raises:
        CheckpointError: the folder contains other objects.
        OSError: the folder cannot be read.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    _read_metadata(path)
    try:
        with _safe_globals([]):
            yield
    except CheckpointException as error:  # derived from BaseException
        first = next((failure for failure, _ in error.failures.values()), error)
        raise CheckpointError(f"{path} cannot be read: {type(first).__name__}: {first_sentence(first)}") from error


@contextmanager
def _safe_globals(classes: list[Any]) -> Iterator[None]:
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # overrides the weights_only=False in all their calls
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals(classes):
            yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextmanager
def glob_safe_path(path: Path) -> Iterator[Path]:
    """Provide a link to a folder whose path has no wildcards: DeepSpeed passes paths like ``runs/[a]`` to ``glob``."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(path.resolve())
        yield link


@contextmanager
def suppress_output() -> Iterator[None]:
    """Discard the output of DeepSpeed's converters."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _import_deepspeed() -> None:
    """Import DeepSpeed without its warning about a missing GPU."""
    is_set = "DS_ACCELERATOR" in os.environ or torch.cuda.is_available()
    if not is_set:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
    try:
        import deepspeed  # noqa: F401
    finally:
        if not is_set:
            del os.environ["DS_ACCELERATOR"]


def _deepspeed_weights(path: Path) -> Mapping[str, Tensor]:
    with safe_deepspeed_load(), suppress_output(), glob_safe_path(path) as link:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        folder = tag_folder(path)
        return get_fp32_state_dict_from_zero_checkpoint(str(link), folder.name, exclude_frozen_parameters=True)


def _universal_weights(path: Path) -> dict[str, Tensor]:
    folders = [folder for folder in (tag_folder(path) / UNIVERSAL).iterdir() if is_trained(folder.name)]
    return {folder.name: load_checkpoint_file(folder / "fp32.pt")["param"] for folder in sorted(folders)}


class _MetadataUnpickler(pickle.Unpickler):
    """Unpickler for the metadata of torch's distributed checkpoints, which torch itself unpickles unchecked."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _TRUSTED:
            raise CheckpointError(f"it contains {module}.{name}, which is not loaded")
        return super().find_class(module, name)


# Classes rather than modules, because names may contain dots: "os.system" in torch's "filesystem" module is a function.
_TRUSTED = {("collections", "OrderedDict"), ("torch.serialization", "_get_layout"), ("torch", "Size")}
_TRUSTED |= {("pathlib", "PosixPath"), (type(Path()).__module__, type(Path()).__name__)}
_TRUSTED |= {("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_TRUSTED |= {
    (f"torch.distributed.checkpoint.{module}", name)
    for module, names in {
        "metadata": "Metadata MetadataIndex StorageMeta TensorProperties _MEM_FORMAT_ENCODING "
        "TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata",
        "filesystem": "_StorageInfo _StoragePrefix",
    }.items()
    for name in names.split()
}


def _read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of all entries of an FSDP2 folder, by name."""
    try:
        with open(path / ".metadata", "rb") as file:
            return dict(_MetadataUnpickler(file).load().state_dict_metadata)
    except OSError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        raise CheckpointError(
            f"{path / '.metadata'} is damaged: {type(error).__name__}: {first_sentence(error)}"
        ) from error


def _fsdp2_weights(path: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

    wanted = {
        name for name in _read_metadata(path) if name.startswith("state_dict.") and is_trained(name.partition(".")[2])
    }
    with safe_fsdp2_load(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that there is only one process
        found = _load_state_dict_from_keys(wanted, storage_reader=FileSystemReader(path))
    return _flat(found.get("state_dict", {}))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def check_trained_shapes(checkpoint: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], own: str) -> None:
    """Compare the trained weights of a checkpoint with those of a run.

    Args:
        checkpoint: as loaded.
        shapes: shapes of the weights of the run, by name in the checkpoint.
        own: compressor and LoRA of the run, for the message.

    Raises:
        AdapterFileError: the checkpoint holds other weights.
    """
    state, saved = checkpoint["state_dict"], checkpoint.get("hyper_parameters", {})
    if {k: tuple(v.shape) for k, v in state.items() if k.startswith((PREFIX, LORA_PREFIX))} != shapes:
        raise AdapterFileError(
            f"the checkpoint holds {saved.get('compressor')} with {saved.get('params')}, LoRA {saved.get('lora')}"
            f", which does not fit {own}: model.params and model.lora must have the values of the checkpoint"
        )
