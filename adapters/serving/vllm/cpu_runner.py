"""The engine's runner for CPUs never asks a model whether it shortens videos; the one for GPUs does."""

from __future__ import annotations

from typing import Any

MENDED = "_framefold_mended"


def ask_for_pruning() -> None:
    """Make the runner for CPUs ask, if this engine has one."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    if hasattr(CPUModelRunner, MENDED):
        return
    load = CPUModelRunner.load_model

    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        media = self.model_config.multimodal_config
        asked = media is not None and media.is_multimodal_pruning_enabled()
        self.is_multimodal_pruning_enabled = asked and supports_multimodal_pruning(self.get_model())

    CPUModelRunner.load_model = load_model
    setattr(CPUModelRunner, MENDED, True)
