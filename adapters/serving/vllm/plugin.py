"""Entry point of the group ``vllm.general_plugins``: makes our architectures known, and changes nothing else.

They are used only if ``--hf-overrides`` asks for one of them.
"""

from __future__ import annotations

from typing import Any

from framefold.errors import ServingError

from .configure import AxesConfiguration, HostConfiguration, LineConfiguration
from .cpu_runner import ask_for_pruning

_PACKAGE = f"{__name__.rpartition('.')[0]}.hosts"


class Qwen2_5VLConfiguration(AxesConfiguration):
    """``FramefoldQwen2_5_VL``."""

    model_type = "qwen2_5_vl"
    positions = ("preserve", "all_axes")


class Qwen2VLConfiguration(AxesConfiguration):
    """``FramefoldQwen2VL``."""

    model_type = "qwen2_vl"
    positions = ("preserve", "all_axes")


class Qwen3VLConfiguration(AxesConfiguration):
    """``FramefoldQwen3VL``."""

    model_type = "qwen3_vl"


class Qwen3VLMoeConfiguration(AxesConfiguration):
    """``FramefoldQwen3VLMoe``."""

    model_type = "qwen3_vl_moe"


class Qwen3_5Configuration(AxesConfiguration):
    """``FramefoldQwen3_5``."""

    model_type = "qwen3_5"

    @classmethod
    def verify_and_update_config(cls, vllm_config: Any) -> None:
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP

        super().verify_and_update_config(vllm_config)
        # The dtype of the states of recurrent layers.
        MODELS_CONFIG_MAP["Qwen3_5ForConditionalGeneration"].verify_and_update_config(vllm_config)


class LlavaOnevisionConfiguration(LineConfiguration):
    """``FramefoldLlavaOnevision``."""

    model_type = "llava_onevision"


class LlavaNextVideoConfiguration(LineConfiguration):
    """``FramefoldLlavaNextVideo``."""

    model_type = "llava_next_video"


class Glm4vConfiguration(AxesConfiguration):
    """``FramefoldGlm4v``."""

    model_type = "glm4v"


class InternVLConfiguration(LineConfiguration):
    """``FramefoldInternVL``."""

    model_type = "internvl"


# Architecture -> its configuration. The class of that name is in the module that is named after the type of the host.
ARCHITECTURES: dict[str, type[HostConfiguration]] = {
    "FramefoldQwen2VL": Qwen2VLConfiguration,
    "FramefoldQwen2_5_VL": Qwen2_5VLConfiguration,
    "FramefoldQwen3VL": Qwen3VLConfiguration,
    "FramefoldQwen3VLMoe": Qwen3VLMoeConfiguration,
    "FramefoldQwen3_5": Qwen3_5Configuration,
    "FramefoldGlm4v": Glm4vConfiguration,
    "FramefoldLlavaOnevision": LlavaOnevisionConfiguration,
    "FramefoldLlavaNextVideo": LlavaNextVideoConfiguration,
    "FramefoldInternVL": InternVLConfiguration,
}


def architecture_of(model_type: str) -> str | None:
    """Return the architecture that serves hosts of a type; None if there is none."""
    return next((name for name, cls in ARCHITECTURES.items() if cls.model_type == model_type), None)


def served_architecture(model_type: str) -> str:
    """Return the architecture that serves hosts of a type.

    Raises:
        ServingError: there is none.
    """
    architecture = architecture_of(model_type)
    if architecture is None:
        served = ", ".join(cls.model_type for cls in ARCHITECTURES.values())
        raise ServingError(f"hosts of type {model_type!r} cannot be served with a compressor; served types: {served}")
    return architecture


def register() -> None:
    """Register the architectures; vLLM calls it in each of its processes, in some of them more than once."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    known = ModelRegistry.get_supported_archs()
    for name, configuration in ARCHITECTURES.items():
        if name not in known:  # as text, so that a model is imported only if it is served
            ModelRegistry.register_model(name, f"{_PACKAGE}.{configuration.model_type}:{name}")
        MODELS_CONFIG_MAP[name] = configuration
    ask_for_pruning()
