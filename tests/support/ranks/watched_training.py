"""Record what the trainer of rank 0 holds at step 4, and the weights at the end.

Ranks of :mod:`.fork_server` call :func:`arm` before the command. The values are read through DeepSpeed's own functions,
so that they do not depend on how they are sharded. The environment variable ``WATCH`` names the file.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

STEP = 4


def arm(rank: int, alone: bool = False) -> None:
    """Make the module of this process record.

    Args:
        rank: rank of this process; only rank 0 writes the file.
        alone: add a single number with a group of parameters of its own, of which rank 1 then owns nothing.
    """
    from framefold.training.module import CompressorModule

    seen: dict[str, Any] = {}

    def on_train_batch_start(self: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step == STEP and hasattr(self.trainer.strategy, "deepspeed_engine"):
            seen.update(_state(self))

    def on_train_end(self: Any) -> None:
        seen["end"] = {name: _gathered(p) for name, p in self.named_parameters() if p.requires_grad}
        if rank == 0:
            torch.save(seen, os.environ["WATCH"])

    real = CompressorModule.configure_optimizers

    def optimizers(self: Any) -> Any:
        found = real(self)
        self.compressor.alone = torch.nn.Parameter(torch.ones(1))
        group = {"params": [self.compressor.alone], "weight_decay": 0.1, "lr": self.hparams["lr"]}
        found["optimizer"].add_param_group(group)
        found["lr_scheduler"]["scheduler"] = LambdaLR(found["optimizer"], self._lr_factor)
        return found

    if alone:
        CompressorModule.configure_optimizers = optimizers  # type: ignore[method-assign]
    CompressorModule.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign]
    CompressorModule.on_train_end = on_train_end  # type: ignore[method-assign]


def _state(module: Any) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    optimizer = module.trainer.strategy.deepspeed_engine.optimizer
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):  # its first call saw one group only
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()
    weights: dict[str, dict[str, Tensor]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            found = {key: safe_get_full_optimizer_state(p, key) for key in ("exp_avg", "exp_avg_sq")}
            found |= {"fp32": safe_get_full_fp32_param(p), "used": _gathered(p)}
            weights[name] = {key: value.detach().clone().view(found["used"].shape) for key, value in found.items()}
    inner = optimizer.optimizer
    steps = {float(state["step"]) for state in inner.state.values() if "step" in state}
    groups = [{key: group[key] for key in ("lr", "weight_decay", "betas", "eps")} for group in inner.param_groups]
    schedule = module.trainer.lr_scheduler_configs[0].scheduler.state_dict()
    kept = {key: schedule[key] for key in ("last_epoch", "_last_lr", "base_lrs")}
    return {"weights": weights, "steps": sorted(steps), "groups": groups, "schedule": kept}


def _gathered(parameter: Any) -> Tensor:
    if hasattr(parameter, "full_tensor"):
        return parameter.full_tensor().detach().clone()
    if not hasattr(parameter, "ds_id"):
        return parameter.detach().clone()
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()
