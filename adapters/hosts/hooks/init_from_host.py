"""Starting a compressor from the decoder layers of the host that it will serve."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.base.family import family_of
from framefold.errors import AttachError, ConfigError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

NORMS = {"input_layernorm": "input_norm", "post_attention_layernorm": "post_attention_norm"}


def init_from_host(compressor: Compressor, model: PreTrainedModel) -> list[str]:
    """Copy what fits of the host's decoder layers into a compressor, before it is trained.

    Attention and norms of QTSplus's blocks start so (arXiv 2511.11910). What a host does between projections and
    attention has no place in these blocks: rotations, and the norms of queries and keys in each head (Qwen3). Weights
    of LoRA are left out.

    Returns:
        Names of the compressor's parameters that were copied. A warning names those that the host has something for
        that does not fit; they keep their own start.

    Raises:
        UnsupportedHostError: see :func:`~framefold.adapters.hosts.base.family.family_of`.
        ConfigError: the compressor has nothing to start from a host, or no projection of the host fits.
        AttachError: the weights of one of them are spread over processes (ZeRO-3) or not loaded (meta device).
    """
    width = model.config.get_text_config().hidden_size if isinstance(model, PreTrainedModel) else 0
    family = family_of(model)
    language: Any = model.base_model.get_submodule(family.language)
    for part in (compressor, language):
        _refuse_absent(part)
    compressor.materialize(width, family.grid(model))
    config = language.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    fitted = compressor.init_from_layers([_tensors(layer) for layer in language.layers], heads, kv_heads)
    copied = [name for name, fits in fitted.items() if fits]
    skipped = [name for name, fits in fitted.items() if not fits]
    if not any("_proj" in name for name in copied):
        raise ConfigError(f"no projection of {type(language).__name__} fits {compressor.name}: {skipped}")
    if skipped:
        warnings.warn(f"{compressor.name} does not start from {type(language).__name__} at {skipped}", stacklevel=2)
    return copied


def _refuse_absent(module: nn.Module) -> None:
    for parameter in module.parameters():
        if hasattr(parameter, "ds_id"):
            raise AttachError("the weights are spread over processes (ZeRO-3): init_from_host before deepspeed starts")
        if parameter.is_meta:
            raise AttachError(f"the weights of {type(module).__name__} are not loaded (meta device)")


def _tensors(layer: Any) -> dict[str, Tensor]:
    """The tensors of a decoder layer under the names that compressors know."""
    found = {}
    for name in PROJECTIONS:
        projection = getattr(layer.self_attn, name)
        projection = getattr(projection, "base_layer", projection)  # PEFT's
        found[f"{name}.weight"] = projection.weight.detach()
        if getattr(projection, "bias", None) is not None:
            found[f"{name}.bias"] = projection.bias.detach()
    for theirs, ours in NORMS.items():
        found[f"{ours}.weight"] = getattr(layer, theirs).weight.detach()
    return found
