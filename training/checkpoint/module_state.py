"""What a checkpoint holds of the module: the trained weights, and the settings that they need."""

from __future__ import annotations

from typing import Any

from .read import LORA_PREFIX, PREFIX, check_trained_shapes, checkpoint_name, is_trained


def write_module(module: Any, checkpoint: dict[str, Any], seed: int, classes: dict[str, str]) -> None:
    """Keep only the weights of compressor and LoRA, and record the seed, the start of the run and foreign classes."""
    checkpoint["seed"] = seed
    checkpoint["start"] = module.hparams["start"]
    checkpoint["compressor_classes"] = classes
    checkpoint["hyper_parameters"]["start"] = None  # the checkpoint holds all weights
    state = checkpoint["state_dict"].items()
    checkpoint["state_dict"] = {checkpoint_name(name): value for name, value in state if is_trained(name)}
    if module.lora is not None:
        checkpoint["lora"] = module.lora.describe(str(module.host_folder.folder))


def read_module(module: Any, checkpoint: dict[str, Any], sharded: bool) -> None:
    """Compare a checkpoint with the compressor of a module and its LoRA, and load the LoRA unless it is sharded.

    Raises:
        AdapterFileError: The checkpoint holds other weights.
    """
    if "state_dict" not in checkpoint:  # DeepSpeed reads the weights itself
        return
    lora = {} if module.lora is None else module.lora.state()
    shapes = {PREFIX + k: tuple(v.shape) for k, v in module.compressor.state_dict().items()}
    shapes |= {LORA_PREFIX + k: tuple(v.shape) for k, v in lora.items()}
    settings = module.hparams  # not the compressor, whose class FSDP2 replaces
    own = f"{settings['compressor']} with {settings['params']}, LoRA {settings['lora']}"
    check_trained_shapes(checkpoint, shapes, own)
    if module.lora is not None and not sharded:  # FSDP2 loads it itself
        module.lora.load({key: checkpoint["state_dict"][LORA_PREFIX + key] for key in lora})
