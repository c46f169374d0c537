"""How the weights of a host are kept in memory, and how its attention is computed: arguments for transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from framefold.adapters.hosts.base.family import get_family
from framefold.errors import ConfigError, MissingExtraError
from framefold.extras import named_extra

HostDtype = Literal["auto", "float32", "bfloat16"]
HostAttention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"]
HostBits = Literal[4]


@dataclass(frozen=True)
class HostWeights:
    """Settings of the weights of a host.

    Args:
        dtype: of the weights; "auto" is bfloat16 on a GPU, and the dtype that they are saved in elsewhere.
        attention: implementation of the attention; None for that of transformers, sdpa where a host has it.
        bits: 4 for a language model in 4 bits (NF4, through bitsandbytes); None for the dtype.

    Raises:
        ConfigError: A value is unknown.
    """

    dtype: HostDtype = "auto"
    attention: HostAttention | None = None
    bits: HostBits | None = None

    def __post_init__(self) -> None:
        if self.bits not in (None, 4):
            raise ConfigError(f"host_bits must be 4, or nothing for the weights as they are, got {self.bits}")

    def arguments(self, model_type: str, device: torch.device | None = None) -> dict[str, Any]:
        """Return the arguments of ``from_pretrained``.

        Args:
            model_type: of the host.
            device: that it will run on; None for a CPU.

        Raises:
            ConfigError: 4 bits without a GPU.
            MissingExtraError: bitsandbytes or FlashAttention is not installed.
        """
        on_gpu = device is not None and device.type == "cuda"
        dtype: Any = "bfloat16" if self.dtype == "auto" and on_gpu else self.dtype
        arguments: dict[str, Any] = {"dtype": dtype}
        if self.attention is not None:
            _check_attention(self.attention)
            arguments["attn_implementation"] = self.attention
        if self.bits is None:
            return arguments
        with named_extra():
            import bitsandbytes  # noqa: F401
        if not on_gpu:
            raise ConfigError("host_bits 4 needs a GPU: drop it, or use --trainer.accelerator gpu")
        return arguments | {"quantization_config": _four_bits(model_type), "device_map": {"": device}}


def _four_bits(model_type: str) -> Any:
    """Return the configuration for the linear layers of a language model in 4 bits; all others stay as they are."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[rf"(?!(.*\.)?{get_family(model_type).language}\.).*"],  # also for 4 bits
    )


def _check_attention(attention: HostAttention) -> None:
    """Refuse FlashAttention where it is not installed, instead of a download of kernels by transformers."""
    from transformers.utils import import_utils

    version = {"flash_attention_2": 2, "flash_attention_3": 3}.get(attention)
    if version is None or getattr(import_utils, f"is_flash_attn_{version}_available")():
        return
    package = {2: "flash-attn", 3: "flash-attn-3"}[version]
    raise MissingExtraError(
        f"{attention} needs a GPU and the package {package}: install it as"
        " https://github.com/Dao-AILab/flash-attention describes, or use --model.attention sdpa"
    )
