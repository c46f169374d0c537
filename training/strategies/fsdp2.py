"""FSDP2: shard the compressor and every linear layer of the host's language model over the ranks.

Each linear layer is a unit of its own. A decoder layer cannot be a unit: gradients also reach it through the cached
keys and values of the video, which bypass the end of the layer, where FSDP2 would already have freed its weights. The
vision encoder is not sharded: it runs once per video, and ranks that run it different numbers of times would wait for
each other forever. Nor are experts, which may run on some ranks only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from framefold.errors import ConfigError
from framefold.training.checkpoint.inventory import METADATA_FILE
from framefold.training.checkpoint.read import checkpoint_name, is_trained, module_name, read_run_state


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy over all ranks; checkpoints contain the trained weights, for any number of ranks.

    Args:
        save_distributed_checkpoint: every rank writes its shard to a folder, instead of rank 0 to one file.
        process_group_backend: backend of torch.distributed; None: the default of the device.
        timeout: how long a rank waits for the others, for example "0:10:00".
    """

    def __init__(self, save_distributed_checkpoint: bool = False, **settings: Any) -> None:
        super().__init__(save_distributed_checkpoint=save_distributed_checkpoint, **settings)

    def setup_environment(self) -> None:
        """Use all ranks for data parallelism, none for tensor parallelism."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the trained weights: in full on rank 0 only, or this rank's shard of a distributed checkpoint."""
        return get_model_state_dict(self._module, options=self._options(cpu_offload=True))

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return the state by the names of weights, so that it does not depend on the number of ranks."""
        inner = getattr(optimizer, "_optimizer", optimizer)
        return get_optimizer_state_dict(self._module, inner, options=self._options(cpu_offload=True))

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: the optimizer is restored after the checkpoint has been compared with the model."""
        return True

    @property
    def _module(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file, or this rank's shard of a folder."""
        path = Path(self.broadcast(str(checkpoint_path)))
        if not (path / METADATA_FILE).exists():
            return read_run_state(path)
        import torch.distributed.checkpoint as dcp

        current = self.lightning_module_state_dict().items()
        weights = {checkpoint_name(name): value for name, value in current if is_trained(name)}
        state: dict[str, Any] = {"state_dict": weights}
        if self.optimizers:
            state |= {f"optimizer_{i}": self.optimizer_state(optimizer) for i, optimizer in enumerate(self.optimizers)}
        dcp.load(state, checkpoint_id=path)
        found = read_run_state(path) | {"state_dict": state.pop("state_dict")}
        return found | {"optimizer_states": list(state.values())}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's shard of the weights."""
        state = {module_name(name): value for name, value in checkpoint["state_dict"].items()}
        set_model_state_dict(self._module, state, options=self._options())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's shard of the optimizer's state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self._module, optimizer, state, options=self._options())

    def post_backward(self, closure_loss: Any) -> None:
        """Free the weights that recomputed layers gathered and whose output has no gradient.

        In the prefill of a video, the queries of the last layer are such. The next step would read their old weights.
        """
        for module in self._module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _options(self, cpu_offload: bool = False) -> StateDictOptions:
        full = not self._save_distributed_checkpoint
        return StateDictOptions(ignore_frozen_params=True, full_state_dict=full, cpu_offload=cpu_offload, strict=False)


def shard_module(module: Any) -> None:
    """Shard a module over the ranks, after its setup and before its optimizer is created.

    Raises:
        ConfigError: a trained weight cannot be sharded.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = module.device_mesh["data_parallel"]
    fully_shard(
        module.compressor, mesh=mesh, reshard_after_forward=False
    )  # zero_times_parameters needs it until the backward pass
    for part in module.compressor.modules():
        if hasattr(part, "shares_results"):  # a graph of several forwards hangs in the backward pass of FSDP2
            part.shares_results = False
    for name, layer in list(module.model.get_decoder().layers.named_modules()):
        if isinstance(layer, nn.Linear) and "experts." not in name:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    unsharded = [name for name, p in module.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if unsharded:
        raise ConfigError(
            f"FSDP2 does not train {unsharded[0]}: use --trainer.strategy ddp, or deepspeed_stage_3 if memory is short"
        )
    if module.lora is not None:
        module.lora.parameters = [
            p for p in module.model.parameters() if p.requires_grad
        ]  # fully_shard has replaced them


def is_sharded(module: nn.Module) -> bool:
    """Return whether any parameter of a module is sharded over the ranks."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())
