"""vLLM with the plug-in against ``framefold.attach``, both in bfloat16. ``make serving-test`` runs it.

On CPUs, vLLM's recurrent layers run in bfloat16 only. There the two programs round differently; how much is measured on
the host without a compressor. A compressed video may differ little more, and anything else that the server might do
must differ more.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make serving-test", allow_module_level=True)

import transformers

from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.serving.vllm.settings import ServingSettings
from tests.support.serving.engine import LIKELIEST, attached_logprobs, engine, served_logprobs
from tests.support.serving.hosts import prompts, save_host

KIND = "qwen3_5"
NAMES = ["video 0", "video 1", "video 2", "other question"]
MERGING: dict[str, Any] = {"compressor": "sttm", "budget": 0.25}
OTHER: dict[str, Any] = {"compressor": "uniform", "budget": 0.25}


def distance(wanted: list[Tensor], given: list[dict[int, float]]) -> float:
    """Return the largest difference of log-probabilities, over the engine's likeliest tokens, averaged over prompts."""
    largest = [
        max(abs(float(want[token]) - value) for token, value in got.items())
        for want, got in zip(wanted, given, strict=True)
    ]
    return sum(largest) / len(largest)


def test_recurrent_hosts_differ_from_attach_by_rounding_only(tmp_path: Path) -> None:
    folder = save_host(KIND, tmp_path / KIND)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    named = [prompts(KIND)[name] for name in NAMES]

    def wanted(settings: dict[str, Any], positions: Positions = "preserve") -> list[Tensor]:
        with framefold.attach(model, ServingSettings.from_dict(settings).resolved()[1], positions=positions):
            return attached_logprobs(model, processor, named)

    options = {"dtype": "bfloat16", "max_logprobs": LIKELIEST}
    bare = attached_logprobs(model, processor, named)
    with engine(folder, KIND, None, **options) as llm:
        rounding = distance(bare, served_logprobs(llm, KIND, named))
    with engine(folder, KIND, MERGING, **options) as llm:
        given = served_logprobs(llm, KIND, named)
    merged = wanted(MERGING)
    controls = {
        "positions": distance(wanted(MERGING, "compact"), given),
        "compressor": distance(wanted(OTHER), given),
        "no compressor": distance(bare, given),
    }
    print(f"rounding {rounding:.3f}, served {distance(merged, given):.3f}, controls {controls}")
    assert distance(merged, given) <= 2 * rounding < min(controls.values())
    assert [int(one.argmax()) for one in merged] == [max(one, key=one.__getitem__) for one in given]
