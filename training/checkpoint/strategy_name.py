"""Names of strategies on the command line."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
)


def strategy_name(strategy: Any) -> str:
    """Return the name of a strategy on the command line."""
    if isinstance(strategy, DeepSpeedStrategy):
        stage = strategy.config.get("zero_optimization", {}).get("stage", 0) if isinstance(strategy.config, dict) else 0
        return f"{getattr(strategy, 'name_prefix', 'deepspeed_')}stage_{stage}"
    if isinstance(strategy, ModelParallelStrategy):
        return "fsdp2"
    return "ddp" if isinstance(strategy, DDPStrategy) else type(strategy).__name__
