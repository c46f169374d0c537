"""``model.generate`` of an attached host: compress the prompt once, let the host generate, return the full prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.base.image_runs import CLIPS
from framefold.adapters.hosts.prompt.prepare import COMPACTED_NAME, Prepared
from framefold.errors import InputError

FRAMEFOLD_ARGUMENTS = ("query", "times", CLIPS)  # arguments of a call that no host accepts itself

# Before this version, chunked prefill assigned encoded video to the wrong chunk, without an error.
FIRST_WITH_CHUNKED_VIDEO = Version("5.23")

# Before this version, caches were cropped to a length, which differs between layers.
FIRST_WITH_RELATIVE_CROP = Version("5.23")

Compress = Callable[[PreTrainedModel, dict[str, Any], bool], Prepared]


class CompressedGenerate:
    """Replacement of the bound ``generate`` method of one model.

    It is an object rather than a closure, so that copies and pickles of the model get their own.

    Args:
        model: the attached host.
        pixels: name of the argument with raw video.
        compress: called with (model, inputs, generation=True).
        host: value of ``model.generate``, if it was set on the instance before attaching.
    """

    def __init__(self, model: Any, pixels: str, compress: Compress, host: Callable[..., Any] | None = None) -> None:
        self.model, self.pixels, self.compress, self.host = model, pixels, compress, host

    def __call__(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate from the compressed prompt; arguments and result are those of the host's ``generate``.

        Logits processors, streamers and stopping criteria see the compressed prompt.

        Raises:
            InputError: the cache contains a compressed prompt, this host or this version of transformers cannot prefill
                a video in chunks, or a recurrent host is asked for assisted generation; also see
                :func:`~framefold.adapters.hosts.prompt.prepare.prepare`.
        """
        host = self.host or type(self.model).generate.__get__(self.model)
        if holds_compressed_prompt(kwargs.get("past_key_values")):
            raise InputError(
                "this cache contains a compressed prompt: generate from the full conversation without the cache"
            )
        if kwargs.get(self.pixels) is None:
            return host(
                inputs, *args, **{name: value for name, value in kwargs.items() if name not in FRAMEFOLD_ARGUMENTS}
            )
        config = args[0] if args else kwargs.get("generation_config")
        prompt = kwargs["input_ids"] = inputs if inputs is not None else kwargs.get("input_ids")
        if kwargs.get("attention_mask") is None and prompt is not None:
            kwargs["attention_mask"] = _infer_mask(prompt, self.model, config, kwargs)
        self._check_recurrent(config, kwargs)
        with torch.no_grad():
            prepared = self.compress(self.model, kwargs, True)
        chunked = prepared.prompt is not None and _setting("prefill_chunk_size", self.model, config, kwargs)
        if prepared.prompt is not None and any(place.plan for place in prepared.prompt.places):
            self._check_in_llm(config, kwargs)
        if chunked and _version() < FIRST_WITH_CHUNKED_VIDEO:
            raise InputError(
                f"transformers {transformers.__version__} cannot prefill a prompt with a video in chunks: drop"
                f" prefill_chunk_size, or install transformers>={FIRST_WITH_CHUNKED_VIDEO}"
            )
        if chunked and not family_of(self.model).prefills_in_chunks(self.model):
            raise InputError(
                f"the tokens of a frame see each other in {type(self.model).__name__}, and chunks would separate them:"
                " drop prefill_chunk_size"
            )
        short = prepared.kwargs
        if not prepared.compaction.trivial:
            _shift_lengths(self.model, config, short, prepared.compaction.removed)
        result = host(None, *args, **short)
        if prepared.compaction.trivial or prompt is None:
            return result
        if not isinstance(result, ModelOutput):
            return _restore_prompt(result, prompt, prepared)
        result["sequences"] = _restore_prompt(result["sequences"], prompt, prepared)
        if (cache := result.get("past_key_values")) is not None:
            setattr(cache, COMPACTED_NAME, prepared.prompt.without_places() if prepared.prompt else None)
        return result

    def _check_recurrent(self, config: Any, kwargs: dict[str, Any]) -> None:
        """Refuse what would have to take tokens back from the state of a recurrent host."""
        lookup = _setting("prompt_lookup_num_tokens", self.model, config, kwargs)
        if family_of(self.model).recurrent and (lookup or kwargs.get("assistant_model") is not None):
            raise InputError(
                f"{type(self.model).__name__} has recurrent layers, whose state cannot take back the tokens that"
                " assisted generation rejects: drop assistant_model and prompt_lookup_num_tokens"
            )

    def _check_in_llm(self, config: Any, kwargs: dict[str, Any]) -> None:
        """Refuse what would skip a compressor inside the language model, or does not fit its cache."""
        advice = "a compressor that acts inside the language model needs the complete prompt in one forward: drop"
        if _setting("prefill_chunk_size", self.model, config, kwargs):
            raise InputError(f"{advice} prefill_chunk_size")
        if kwargs.get("assistant_model") is not None:
            raise InputError("a compressor that acts inside the language model is not supported with assistant_model")
        lookup = _setting("prompt_lookup_num_tokens", self.model, config, kwargs)
        if lookup and _version() < FIRST_WITH_RELATIVE_CROP:
            raise InputError(
                f"prompt_lookup_num_tokens with a compressor that acts inside the language model needs transformers>="
                f"{FIRST_WITH_RELATIVE_CROP}"
            )


def _version() -> Version:
    return Version(Version(transformers.__version__).base_version)


def holds_compressed_prompt(cache: Any) -> bool:
    """Return whether a cache was filled from a shortened prompt, so that the caller's columns do not match it."""
    return getattr(cache, COMPACTED_NAME, None) is not None and cache.get_seq_length() > 0


def _restore_prompt(sequences: Tensor, prompt: Tensor, prepared: Prepared) -> Tensor:
    new = sequences[:, prepared.compaction.n_after :]
    return torch.cat([prompt.repeat_interleave(len(new) // len(prompt), dim=0).to(new.device), new], dim=1)


def _setting(name: str, model: Any, config: Any, kwargs: dict[str, Any]) -> Any:
    """Return a generation parameter, with the precedence that the host gives its sources."""
    sources = (kwargs.get(name), getattr(config, name, None), getattr(model.generation_config, name, None))
    return next((value for value in sources if value is not None), None)


def _shift_lengths(model: Any, config: Any, kwargs: dict[str, Any], removed: int) -> None:
    """Reduce total lengths, which count the prompt; numbers of new tokens take precedence over them and stay."""
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        value = _setting(total, model, config, kwargs)
        if value and _setting(new, model, config, kwargs) is None:
            kwargs[total] = max(value - removed, 0)


def _infer_mask(ids: Tensor, model: Any, config: Any, kwargs: dict[str, Any]) -> Tensor:
    """Return the mask that the host infers without one: padding tokens are masked unless they also mark the end."""
    pad, end = (_setting(name, model, config, kwargs) for name in ("pad_token_id", "eos_token_id"))
    ends = [] if end is None else torch.as_tensor(end).flatten().tolist()
    if pad is None or pad in ends:
        return torch.ones_like(ids)
    return (ids != pad).long()
