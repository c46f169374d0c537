"""vLLM with a query-aware compressor, which reads the question of a request. ``make serving-test`` runs it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import framefold

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make serving-test", allow_module_level=True)

import transformers

from framefold.adapters.hosts import prepare
from framefold.adapters.serving.vllm.compression import VideoCompression
from framefold.adapters.serving.vllm.settings import ServingSettings
from tests.support.paths import ROOT, TINYHOST
from tests.support.serving.engine import TOLERANCE, attached, engine, hf_inputs, served
from tests.support.serving.hosts import prompts, save_adapter, save_host

KINDS = [
    "llava_onevision",
    "llava_next_video",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "glm4v",
    "internvl",
]
QUESTIONS = ["which shape flashed first ?", "how many scenes ?", "did a cyan ring flash ?"]
PREFIXES = {"enable_prefix_caching": True, "block_size": 32}


def host_and_adapter(kind: str, folder: Path) -> tuple[Path, Path]:
    """Return the folders of a host and of a query-aware adapter for it."""
    if kind == "llava_onevision":
        return TINYHOST, ROOT / "checkpoints" / "qtsplus"
    return save_host(kind, folder / "host"), save_adapter("qtsplus", folder / "adapter", 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressor_reads_the_question_of_the_request(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[int]] = []
    compress = VideoCompression.compress_video

    def noted(self: Any, *arguments: Any) -> Any:
        tokens, streams = compress(self, *arguments)
        kept.append(tokens.index.tolist())
        return tokens, streams

    monkeypatch.setattr(VideoCompression, "compress_video", noted)
    folder, adapter = host_and_adapter(kind, tmp_path)
    settings = {"adapter": str(adapter), "budget": 0.1}
    # The prompts are equal, so only the question of the request makes a difference.
    without = prompts(kind)["video 3"]
    asked = [replace(without, question=question) for question in QUESTIONS]
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    compressor = ServingSettings.from_dict(settings).resolved()[1]
    anchors, wanted = [], []
    for prompt in asked:
        prepared = prepare(model, hf_inputs(processor, prompt), compressor, query=prompt.question)
        anchors.append(prepared.tokens[0].index.tolist())
        with framefold.attach(model, compressor, query=prompt.question):
            wanted += attached(model, processor, [prompt])
    assert len({tuple(chosen) for chosen in anchors}) == len(asked)
    assert len({tuple(answer.logprobs) for answer in wanted}) == len(asked)
    with engine(folder, kind, settings, **PREFIXES) as llm:
        kept.clear()
        given = served(llm, kind, asked) + [served(llm, kind, [prompt])[0] for prompt in asked]
        assert max(one.difference(got) for one, got in zip(wanted * 2, given, strict=True)) <= TOLERANCE
        assert kept == anchors  # once for each question, though asked twice
        with pytest.raises(ValueError, match="chooses tokens by the question: send"):
            served(llm, kind, [without])
