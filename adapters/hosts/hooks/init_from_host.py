"""Initialise a compressor from the decoder layers of its host."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.base.offload import is_offloaded, loaded
from framefold.adapters.pretrained.saveable import check_separate
from framefold.errors import AttachError, ConfigError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

NORMS = {"input_layernorm": "input_norm", "post_attention_layernorm": "post_attention_norm"}


def init_from_host(compressor: Compressor, model: PreTrainedModel) -> list[str]:
    """Copy the weights of the host's decoder layers that fit into a compressor, before it is trained.

    Attention and norms of QTSplus's blocks are initialised this way (arXiv 2511.11910). Operations of the host between
    projections and attention have no counterpart in these blocks: rotations, and the norms of queries and keys in each
    head (Qwen3). LoRA weights are not copied. Layers without attention (Qwen3.5) or without keys of their own (Gemma 4)
    are skipped.

    Args:
        compressor: the compressor to initialise, in place.
        model: the host.

    Returns:
        Names of the compressor's parameters that were copied. A warning names the parameters whose counterpart in the
        host does not fit; they keep their initial values.

    Raises:
        UnsupportedHostError: see :func:`~framefold.adapters.hosts.base.family.family_of`.
        ConfigError: the compressor has no parameters to initialise from a host, or no projection of the host fits, or
            the compressor took the host's tensors instead of copies.
        AttachError: weights of either are partitioned over processes (ZeRO-3) or not loaded (meta device).
    """
    family = family_of(model)
    language: Any = family.language_model(model)
    for module in (compressor, language):
        _check_loaded(module)
    family.create_parameters(compressor, model)
    config = language.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    layers = [layer for layer in language.layers if _has_projections(layer)]
    tensors = [_layer_tensors(layer, family.norm_offset) for layer in layers]
    fits = compressor.init_from_layers(tensors, heads, kv_heads)
    copied = [name for name, fit in fits.items() if fit]
    skipped = [name for name, fit in fits.items() if not fit]
    check_separate(compressor, model)
    if not any("_proj" in name for name in copied):
        raise ConfigError(f"no projection of {type(language).__name__} fits {compressor.name}: {skipped}")
    if skipped:
        warnings.warn(
            f"{compressor.name} keeps its own initial values of {skipped}: those of {type(language).__name__} do not"
            " fit",
            stacklevel=2,
        )
    return copied


def _check_loaded(module: nn.Module) -> None:
    owners = [(owner, p) for owner in module.modules() for p in owner.parameters(recurse=False)]
    for owner, parameter in owners:
        if hasattr(parameter, "ds_id"):
            raise AttachError(
                "the weights are partitioned over processes (ZeRO-3): call init_from_host before DeepSpeed starts"
            )
        if parameter.is_meta and not is_offloaded(owner):
            raise AttachError(f"the weights of {type(module).__name__} are not loaded (meta device)")


def _has_projections(layer: Any) -> bool:
    attention = getattr(layer, "self_attn", None)
    return all(getattr(attention, name, None) is not None for name in PROJECTIONS)


def _layer_tensors(layer: Any, norm_offset: float) -> dict[str, Tensor]:
    """Return the tensors of a decoder layer under the names that compressors use."""
    tensors = {}
    for name in PROJECTIONS:
        projection = getattr(layer.self_attn, name)
        projection = getattr(projection, "base_layer", projection)  # the layer below LoRA
        with loaded([projection]):
            tensors[f"{name}.weight"] = projection.weight.detach()
            if getattr(projection, "bias", None) is not None:
                tensors[f"{name}.bias"] = projection.bias.detach()
    for host_name, name in NORMS.items():
        norm = getattr(layer, host_name)
        if name == "post_attention_norm":  # before the MLP; with one on both sides of it, it has another name
            norm = getattr(layer, "pre_feedforward_layernorm", norm)
        with loaded([norm]):
            tensors[f"{name}.weight"] = norm.weight.detach() + norm_offset
    return tensors
