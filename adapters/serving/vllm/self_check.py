"""Whether the installed vLLM is one that the plug-in was written for: its version, and what the plug-in overrides.

A name that vLLM renames would silently no longer be overridden. So everything is checked before a server starts, and a
difference ends it with one sentence.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from typing import Any

from packaging.version import InvalidVersion, Version

from framefold.errors import ServingError
from framefold.warning_types import FramefoldWarning

OLDEST, BELOW = "0.32.0", "0.34"  # 0.32.0 was run; 0.33.0 has the same code where the plug-in meets it
UNTESTED = "FRAMEFOLD_VLLM_UNTESTED"

_MODELS = "vllm.model_executor.models"
_COUNT = "tokens_per_frame num_frames q"
_FIELDS = "self hf_inputs hf_processor_mm_kwargs"
_INFO = {"get_hf_processor": "self kwargs"}
_PROCESSOR = {
    "_apply_hf_processor_main": "self mm_items hf_kwargs",
    "_get_mm_fields_config": _FIELDS,
    "get_dummy_inputs": "self seq_len mm_counts mm_options",
}
_UPDATES = {"_get_prompt_updates": "self mm_items hf_processor_mm_kwargs out_mm_kwargs"}
_MODEL = {"_parse_and_validate_video_input": "self kwargs", "get_language_model": "self"}
_MROPE = {
    "get_mrope_input_positions": "self input_tokens mm_features",
    "recompute_mrope_positions": "self input_ids multimodal_embeddings mrope_positions num_computed_tokens",
}
_QWEN = (
    _MODEL
    | _MROPE
    | {
        "_postprocess_image_embeds_evs": "self image_embeds_split image_input",
        "_postprocess_video_embeds_evs": "self video_embeds_split video_input",
    }
)

_FRAMES = _QWEN | {
    "_create_final_video_embeddings": "self video_embeddings num_tokens_per_frame timestamps video_grid_thw"
    " retention_mask",
    "_get_expanded_positions": "self device seq_len video_grid_thw num_tokens_per_frame timestamps"
    " is_video_embed is_vision_start retention_mask",
}

# Module -> class, or "" for the module -> name -> parameters of what the plug-in overrides or calls.
SEAMS: dict[str, dict[str, dict[str, str]]] = {
    "qwen2_vl": {
        "Qwen2VLProcessingInfo": _INFO,
        "Qwen2VLMultiModalProcessor": _PROCESSOR | _UPDATES,
        "Qwen2VLForConditionalGeneration": _MODEL
        | {
            "get_mrope_input_positions": _MROPE["get_mrope_input_positions"],
            "get_encoder_cudagraph_config": "self",
            "_process_image_input": "self image_input",
            "_process_video_input": "self video_input",
        },
    },
    "qwen2_5_vl": {
        "": {"compute_retained_tokens_count": _COUNT},
        "Qwen2_5_VLProcessingInfo": _INFO,
        "Qwen2_5_VLMultiModalProcessor": _PROCESSOR
        | {
            "_postprocess_hf_mm_data": "self mm_inputs hf_processor_mm_kwargs processed_data",
        },
        "Qwen2_5_VLForConditionalGeneration": _QWEN,
    },
    "qwen3_vl": {
        "": {"compute_retained_tokens_count": _COUNT, "vidcom2_compute_retained_tokens_count": _COUNT},
        "Qwen3VLProcessingInfo": _INFO,
        "Qwen3VLMultiModalProcessor": _PROCESSOR,
        "Qwen3VLForConditionalGeneration": _FRAMES,
    },
    "qwen3_vl_moe": {
        "Qwen3VLMoeProcessingInfo": _INFO,
        "Qwen3VLMoeForConditionalGeneration": _FRAMES,
    },
    "qwen3_5": {
        "Qwen3_5ProcessingInfo": _INFO,
        "Qwen3_5ForConditionalGeneration": _FRAMES,
    },
    "interns1": {
        "InternS1ProcessingInfo": _INFO,
        "InternS1MultiModalProcessor": _PROCESSOR | _UPDATES,
        "InternS1ForConditionalGeneration": _MODEL
        | {
            "embed_multimodal": "self kwargs",
            "_parse_and_validate_multimodal_inputs": "self kwargs",
            "_process_vision_input": "self image_input",
        },
    },
    "glm4_1v": {
        "Glm4vProcessingInfo": _INFO | {"_construct_video_placeholder": "self video_array metadata grid_thw"},
        "Glm4vMultiModalProcessor": _PROCESSOR | _UPDATES,
        "Glm4vForConditionalGeneration": _MODEL
        | {
            "get_mrope_input_positions": _MROPE["get_mrope_input_positions"],
            "_process_image_input": "self image_input",
            "_process_video_input": "self video_input",
        },
    },
    "llava_onevision": {
        "LlavaOnevisionProcessingInfo": _INFO
        | {
            "get_num_video_tokens": "self image_width image_height num_frames",
            "_get_num_frame_tokens": "self image_width image_height",
            "_get_max_video_frames": "self max_tokens",
        },
        "LlavaOnevisionMultiModalProcessor": _PROCESSOR,
        "LlavaOnevisionForConditionalGeneration": _MODEL
        | {
            "embed_multimodal": "self kwargs",
            "load_weights": "self weights",
            "_parse_and_validate_multimodal_inputs": "self kwargs",
            "_process_image_input": "self image_input",
            "_process_video_pixels": "self inputs",
        },
    },
    "llava_next_video": {
        "LlavaNextVideoProcessingInfo": _INFO
        | {
            "get_num_video_tokens": "self image_width image_height num_frames",
            "_get_num_frame_tokens": "self image_width image_height",
            "_get_max_video_frames": "self max_tokens",
        },
        "LlavaNextVideoMultiModalProcessor": _PROCESSOR,
        "LlavaNextVideoForConditionalGeneration": _MODEL
        | {
            "embed_multimodal": "self kwargs",
            "load_weights": "self weights",
            "_process_video_pixels": "self inputs",
        },
    },
}

# Type of hosts -> the modules whose names its host uses, if not only the one that is called as the type.
MODULES: dict[str, tuple[str, ...]] = {
    "qwen3_vl_moe": ("qwen3_vl", "qwen3_vl_moe"),
    "qwen3_5": ("qwen3_vl", "qwen3_5"),
    "glm4v": ("glm4_1v",),
    "internvl": ("interns1",),
}


def check_engine(model_type: str) -> None:
    """Check the installed vLLM for one type of hosts.

    Raises:
        ServingError: its version was not tested, or it differs where the plug-in meets it. With
            ``FRAMEFOLD_VLLM_UNTESTED=1`` this is a warning.
    """
    problem = version_problem() or seam_problem(model_type)
    if problem is None:
        return
    if os.environ.get(UNTESTED) != "1":
        raise ServingError(f"{problem}; {UNTESTED}=1 serves anyway, and its answers may be wrong")
    warnings.warn(f"{problem}: answers may be wrong", FramefoldWarning, stacklevel=2)


def version_problem() -> str | None:
    """Return why the version of the installed vLLM is refused; None if it is not."""
    version = str(importlib.import_module("vllm").__version__)
    try:
        tested = Version(OLDEST) <= Version(version) < Version(BELOW)
    except InvalidVersion:
        tested = False
    return None if tested else f"framefold was tested with vLLM {OLDEST} to below {BELOW}, this is {version}"


def seam_problem(model_type: str) -> str | None:
    """Return the first difference between the installed vLLM and what the plug-in overrides; None if there is none."""
    return next(filter(None, map(_module_problem, MODULES.get(model_type, (model_type,)))), None)


def _module_problem(name: str) -> str | None:
    module = importlib.import_module(f"{_MODELS}.{name}")
    for owner, functions in SEAMS[name].items():
        holder = getattr(module, owner, None) if owner else module
        if holder is None:
            return f"vLLM's {name} has no {owner}, which framefold extends"
        for function, parameters in functions.items():
            title = ".".join(filter(None, (owner, function)))
            found = getattr(holder, function, None)
            if found is None:
                return f"vLLM's {name} has no {title}, which framefold replaces"
            if _parameters(found) != parameters.split():
                return f"vLLM's {title} has the parameters {_parameters(found)}, framefold expects {parameters.split()}"
    return None


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)
