"""What a checkpoint holds, in whatever way it was written: settings of its run, and the weights that were trained.

Reading runs nothing: torch loads tensors, numbers and text, and of classes only those that DeepSpeed and torch's
distributed checkpoints are made of. DeepSpeed's own functions, which would unpickle anything, are held to the same.
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

from framefold.errors import CheckpointError

from .inventory import LATEST, META, peek, read_file

PREFIX, LORA_PREFIX = "compressor.", "lora."

HOST_PREFIX, PEFT_PREFIX = "model.", "base_model.model."  # of a host's weights in our module, and in files of PEFT

UNIVERSAL = "zero"  # folder of a universal checkpoint that holds a folder for each weight


def content(path: Path) -> dict[str, Any]:
    """All that a checkpoint says of its run: hyper-parameters, step, position in the data.

    Raises:
        CheckpointError: damaged, or another program's.
        OSError: it is not there.
    """
    found = read_file(_beside_weights(path))
    if not isinstance(found.get("hyper_parameters"), dict):
        raise CheckpointError(f"{path} is no checkpoint of 'framefold fit': it has no hyper-parameters")
    return found


def weights(path: Path) -> dict[str, Tensor]:
    """The trained weights, by the names of single files: ``compressor.*``, and ``lora.*`` as PEFT calls them.

    Weights that DeepSpeed trained are those of its optimizer, in fp32.

    Raises:
        CheckpointError: damaged, or another program's.
        OSError: it is not there.
    """
    kind = peek(path).kind
    try:
        if kind == "file":
            state = read_file(path)["state_dict"]
        elif kind == "fsdp2":
            state = _of_fsdp2(path)
        else:
            state = _of_universal(path) if (tag_folder(path) / UNIVERSAL).is_dir() else _of_deepspeed(path)
    except (CheckpointError, OSError, ImportError):
        raise
    except Exception as error:  # whatever the damaged bytes lead to
        raise CheckpointError(
            f"the weights of {path} cannot be read: {type(error).__name__}: {_short(error)}"
        ) from error
    return {renamed(name): value.detach() for name, value in state.items() if is_trained(name)}


def is_trained(name: str) -> bool:
    """Whether a name in a module or a file is that of a trained weight: the compressor's, or LoRA's."""
    return name.startswith((PREFIX, LORA_PREFIX)) or (name.startswith(HOST_PREFIX) and ".lora_" in name)


def renamed(name: str) -> str:
    """The name of a weight of the module in a single file: LoRA's are those that PEFT saves."""
    if not name.startswith(HOST_PREFIX):
        return name
    return LORA_PREFIX + PEFT_PREFIX + name.removeprefix(HOST_PREFIX).replace(".default.", ".")


def module_name(name: str) -> str:
    """The other way round: the name in the module of a weight in a single file."""
    if not name.startswith(LORA_PREFIX):
        return name
    stem, matrix, rest = name.removeprefix(LORA_PREFIX + PEFT_PREFIX).rpartition(".")
    return f"{HOST_PREFIX}{stem}.default{matrix}{rest}"


def tag_folder(path: Path) -> Path:
    """Where the files of a DeepSpeed folder are.

    Raises:
        CheckpointError: it does not say, or names a place outside.
    """
    for name in LATEST:
        if (path / name).is_file():
            tag = (path / name).read_text().strip()
            if tag and Path(tag).name == tag and (path / tag).is_dir():
                return path / tag
    raise CheckpointError(f"{path} is no whole checkpoint of DeepSpeed: it does not name the folder of its files")


def _beside_weights(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / META).is_file():
        return path / META
    files = sorted(tag_folder(path).glob("*_model_states.pt"))  # ZeRO-3 writes one a rank
    if not files:
        raise CheckpointError(f"{path} is no whole checkpoint of DeepSpeed: it has no model states")
    return files[0]


@contextmanager
def only_tensors() -> Iterator[None]:
    """Let DeepSpeed unpickle nothing but tensors, numbers, text and the classes of its own checkpoints."""
    _import_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with _forced([fragment_address, LossScaler, DynamicLossScaler, ZeroStageEnum]):
        yield


@contextmanager
def only_parts(path: Path) -> Iterator[None]:
    """Let torch unpickle nothing of a folder of FSDP2 but tensors, numbers, text and its own lists of them.

    Raises:
        CheckpointError: the folder asks for more.
        OSError: it cannot be read.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    _metadata(path)
    try:
        with _forced([]):
            yield
    except CheckpointException as error:  # which torch takes for no Exception
        first = next((failure for failure, _ in error.failures.values()), error)
        raise CheckpointError(f"{path} cannot be read: {type(first).__name__}: {_short(first)}") from error


@contextmanager
def _forced(classes: list[Any]) -> Iterator[None]:
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # it wins over the weights_only=False that they write everywhere
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals(classes):
            yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextmanager
def escaped_path(path: Path) -> Iterator[Path]:
    """Another name of a folder: DeepSpeed takes paths for patterns, so that one like ``runs/[a]`` leads nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(path.resolve())
        yield link


def _short(error: BaseException) -> str:
    """The first sentence: torch goes on about switching its guard off."""
    return " ".join(str(error).split()).partition(". ")[0][:200]


@contextmanager
def silence() -> Iterator[None]:
    """Drop what DeepSpeed's converters print."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _import_deepspeed() -> None:
    """Without a warning that there is no GPU, where there is none."""
    settled = "DS_ACCELERATOR" in os.environ or torch.cuda.is_available()
    if not settled:
        os.environ["DS_ACCELERATOR"] = "cpu"  # it looks when it is imported
    try:
        import deepspeed  # noqa: F401
    finally:
        if not settled:
            del os.environ["DS_ACCELERATOR"]


def _of_deepspeed(path: Path) -> Mapping[str, Tensor]:
    with only_tensors(), silence(), escaped_path(path) as link:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        folder = tag_folder(path)
        return get_fp32_state_dict_from_zero_checkpoint(str(link), folder.name, exclude_frozen_parameters=True)


def _of_universal(path: Path) -> dict[str, Tensor]:
    folders = [folder for folder in (tag_folder(path) / UNIVERSAL).iterdir() if is_trained(folder.name)]
    return {folder.name: read_file(folder / "fp32.pt")["param"] for folder in sorted(folders)}


class _Metadata(pickle.Unpickler):
    """Reads what torch's distributed checkpoints say of themselves, which torch would unpickle without looking."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _TRUSTED:
            raise CheckpointError(f"it asks for {module}.{name}, which is not loaded")
        return super().find_class(module, name)


# classes by their names, and none of the modules as a whole: with a dot in the name, filesystem gives os.system
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


def _metadata(path: Path) -> dict[str, Any]:
    """What an FSDP2 folder holds, by name."""
    try:
        with open(path / ".metadata", "rb") as file:
            return dict(_Metadata(file).load().state_dict_metadata)
    except OSError:
        raise
    except Exception as error:  # whatever the damaged bytes lead to
        raise CheckpointError(f"{path / '.metadata'} is damaged: {type(error).__name__}: {_short(error)}") from error


def _of_fsdp2(path: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

    wanted = {name for name in _metadata(path) if name.startswith("state_dict.") and is_trained(name.partition(".")[2])}
    with only_parts(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is one process, which torch takes for worth saying
        found = _load_state_dict_from_keys(wanted, storage_reader=FileSystemReader(path))
    return _flat(found.get("state_dict", {}))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
