"""FSDP2: the compressor and every linear layer of the host's language model are spread over the ranks.

A linear layer is a unit of its own. A whole decoder layer cannot be one: gradients also reach it through the cache of
the video's keys and values, past the end of the layer, where FSDP2 would have put its weights away already. The vision
encoder stays whole: it runs once a video, and ranks that run it unequally often would wait for each other for ever. So
do experts, which not every rank asks.
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
from torch.distributed.tensor import DTensor

from framefold.errors import ConfigError
from framefold.training.checkpoint.inventory import META
from framefold.training.checkpoint.read import content, is_trained, module_name, renamed


class FSDP2(ModelParallelStrategy):
    """Lightning's, over all ranks; checkpoints hold what is trained, and any number of ranks can load them.

    Args:
        save_distributed_checkpoint: a folder that every rank writes its part of, instead of one file.
        process_group_backend: of torch.distributed; None: what suits the device.
        timeout: how long a rank waits for the others, as "0:10:00".
    """

    def __init__(self, save_distributed_checkpoint: bool = False, **settings: Any) -> None:
        super().__init__(save_distributed_checkpoint=save_distributed_checkpoint, **settings)

    def setup_environment(self) -> None:
        """All ranks share the data; none of them shares a batch with another."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained; whole on rank 0 only, unless every rank writes its part."""
        return get_model_state_dict(self._module, options=self._options(cpu_offload=True))

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """By names, so that it does not depend on the number of ranks."""
        inner = getattr(optimizer, "_optimizer", optimizer)
        return get_optimizer_state_dict(self._module, inner, options=self._options(cpu_offload=True))

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Not while the checkpoint is read, but when it was compared with the model."""
        return True

    @property
    def _module(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file, or this rank's parts out of a folder."""
        path = Path(self.broadcast(str(checkpoint_path)))
        if not (path / META).exists():
            return content(path)
        import torch.distributed.checkpoint as dcp

        own = self.lightning_module_state_dict().items()
        weights = {renamed(name): value for name, value in own if is_trained(name)}
        state: dict[str, Any] = {"state_dict": weights}
        if self.optimizers:
            state |= {f"optimizer_{i}": self.optimizer_state(optimizer) for i, optimizer in enumerate(self.optimizers)}
        dcp.load(state, checkpoint_id=path)
        found = content(path) | {"state_dict": state.pop("state_dict")}
        return found | {"optimizer_states": list(state.values())}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every rank its part of the weights."""
        state = {module_name(name): value for name, value in checkpoint["state_dict"].items()}
        set_model_state_dict(self._module, state, options=self._options())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every rank its part of the optimizer's state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self._module, optimizer, state, options=self._options())

    def _options(self, cpu_offload: bool = False) -> StateDictOptions:
        whole = not self._save_distributed_checkpoint
        return StateDictOptions(ignore_frozen_params=True, full_state_dict=whole, cpu_offload=cpu_offload, strict=False)


def shard(module: Any) -> None:
    """Spread a module that is set up over the ranks, before its optimizer is made.

    Raises:
        ConfigError: something that is trained cannot be spread.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = module.device_mesh["data_parallel"]
    fully_shard(module.compressor, mesh=mesh, reshard_after_forward=False)  # whole until its backward: touch() needs it
    for name, layer in list(module.model.get_decoder().layers.named_modules()):
        if isinstance(layer, nn.Linear) and "experts." not in name:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    left = [name for name, p in module.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if left:
        raise ConfigError(
            f"FSDP2 does not train {left[0]}: take --trainer.strategy ddp, or deepspeed_stage_3 where memory is short"
        )
    if module.lora is not None:
        module.lora.parameters = [p for p in module.model.parameters() if p.requires_grad]  # they were replaced


def is_spread(module: nn.Module) -> bool:
    """Whether anything of a module is spread over the ranks."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())
