"""vLLM with the plug-in where memory or precision is short, and on real questions. ``make serving-test`` runs it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import framefold

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make serving-test", allow_module_level=True)

import transformers

from framefold.adapters.hosts import prepare
from framefold.adapters.serving.vllm import positions
from framefold.adapters.serving.vllm.settings import ServingSettings
from framefold.data.synthetic.generate import generate
from tests.support.paths import ROOT
from tests.support.serving.engine import TOLERANCE, Answer, attached, engine, hf_inputs, served
from tests.support.serving.hosts import Clip, Prompt, prompts, save_host

TINYHOST = ROOT / "checkpoints" / "tinyhost"
VIDEOS, QUESTIONS, FRAMES = 8, 6, 64


def loaded(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    return model, transformers.AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_preempted_requests_are_answered_as_by_attach(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted = []
    preempt = Scheduler._preempt_request

    def noted(self: Any, request: Any, *rest: Any, **options: Any) -> None:
        preempted.append(request.request_id)
        preempt(self, request, *rest, **options)

    monkeypatch.setattr(Scheduler, "_preempt_request", noted)
    folder = save_host(kind, tmp_path / kind)
    model, processor = loaded(folder)
    settings = {"compressor": "sttm", "budget": 0.25}
    framefold.attach(model, ServingSettings.from_dict(settings).resolved()[1])
    named = list(prompts(kind).values())
    wanted = attached(model, processor, named, 40)
    # Fewer blocks than the requests need at the same time.
    options = {"max_num_batched_tokens": 64, "enable_chunked_prefill": True, "num_gpu_blocks_override": 17}
    with engine(folder, kind, settings, block_size=32, max_model_len=512, **options) as llm:
        given = served(llm, kind, named, 40)
    assert preempted
    assert max(want.difference(got) for want, got in zip(wanted, given, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v"])
def test_positions_above_256_are_exact_in_bfloat16(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final: list[Any] = []
    write = positions.write_positions

    def noted(*arguments: Any) -> Any:
        result = write(*arguments)
        final[:] = [result[1].long()]
        return result

    monkeypatch.setattr(positions, "write_positions", noted)
    folder = save_host(kind, tmp_path / kind)
    model, processor = loaded(folder)
    settings = {"compressor": "uniform", "budget": 0.25}
    compressor = ServingSettings.from_dict(settings).resolved()[1]
    named = [prompt for name, prompt in prompts(kind).items() if name.startswith("video ") and len(prompt.clips) == 1]
    largest = 0
    options = {"max_num_batched_tokens": 64, "enable_chunked_prefill": True, "dtype": "bfloat16"}
    with engine(folder, kind, settings, **options) as llm:
        for prompt in named:
            before = Prompt("ab " * 100 + prompt.text, prompt.clips)
            served(llm, kind, [before], 1)
            wanted = prepare(model, hf_inputs(processor, before), compressor).kwargs["position_ids"][-3:, 0]
            assert final[0].tolist() == wanted.tolist()
            largest = max(largest, int(wanted.max()))
    assert largest > 256


@pytest.fixture(scope="module")
def asked() -> list[tuple[Prompt, str]]:
    """Questions about hard videos of 64 frames, with their answers."""
    made = []
    for number in range(VIDEOS):
        video = generate(number, split="test", frames=FRAMES, difficulty="hard")
        clip = Clip(video.frames, 2.0)
        made += [
            (Prompt(f"<user><video> {question.text}<assistant>", [clip]), question.answer)
            for question in video.questions[:QUESTIONS]
        ]
    return made


def accuracy(answers: list[Answer], asked: list[tuple[Prompt, str]], tokenizer: Any) -> float:
    texts = [tokenizer.decode(answer.tokens).split() for answer in answers]
    right = [text[:1] == wanted.split()[:1] for text, (_, wanted) in zip(texts, asked, strict=True)]
    return sum(right) / len(right)


@pytest.mark.parametrize(("name", "budget"), [("storm", 102), ("fila", 0.25), ("identity", 1.0)])
def test_real_questions_are_answered_as_well_as_by_attach(
    name: str, budget: float, asked: list[tuple[Prompt, str]]
) -> None:
    kind, named = "llava_onevision", [prompt for prompt, _ in asked]
    key, value = ("compressor", name) if name == "identity" else ("adapter", str(ROOT / "checkpoints" / name))
    settings = {key: value, "budget": budget}
    model, processor = loaded(TINYHOST)
    framefold.attach(model, ServingSettings.from_dict(settings).resolved()[1])
    with torch.inference_mode():
        wanted = attached(model, processor, named, 3)
    with engine(TINYHOST, kind, settings) as llm:
        given = served(llm, kind, named, 3)
    right = [accuracy(answers, asked, processor.tokenizer) for answers in (wanted, given)]
    differences = [want.difference(got) for want, got in zip(wanted, given, strict=True)]
    equal = sum(difference != float("inf") for difference in differences)
    print(
        f"{name} {budget}: accuracy {right}, {equal} of {len(named)} equal, largest difference {max(differences):.1e}"
    )
    assert right[0] == right[1] > 0.8
    if name != "fila":  # which moves anchors if its features differ in the last digit
        assert max(differences) <= TOLERANCE
