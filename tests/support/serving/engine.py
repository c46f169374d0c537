"""vLLM in this process, and transformers with ``framefold.attach`` as its oracle. Import it before vllm."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from framefold.adapters.serving.vllm.plugin import architecture_of
from tests.support.serving.hosts import ONE_VIDEO, SIZES, Prompt

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that tests can count what the engine calls
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

TOKENS = 8
LIKELIEST = 50  # tokens whose log-probabilities are compared in bfloat16
TOLERANCE = 1e-4  # of log-probabilities


@dataclass(frozen=True)
class Answer:
    """Greedy tokens of one prompt.

    Attributes:
        prompt: number of tokens of the prompt.
        tokens: the tokens.
        logprobs: their log-probabilities.
    """

    prompt: int
    tokens: list[int]
    logprobs: list[float]

    def difference(self, other: Answer) -> float:
        """Return the largest difference of log-probabilities; infinite if the tokens differ."""
        if self.tokens != other.tokens:
            return float("inf")
        return max(abs(a - b) for a, b in zip(self.logprobs, other.logprobs, strict=True))


@contextmanager
def engine(folder: Path, kind: str, framefold: dict[str, Any] | None, **options: Any) -> Iterator[Any]:
    """Start the engine for a host folder; without settings of framefold, as it is without the plug-in."""
    from vllm import LLM

    limits = {"video": 1 if kind in ONE_VIDEO else 2} | ({} if kind == "llava_next_video" else {"image": 1})
    overrides = {} if framefold is None else {"architectures": [architecture_of(kind)], "framefold": framefold}
    defaults = dict(
        dtype="float32", enforce_eager=True, max_model_len=4096, max_num_seqs=8, seed=0, skip_mm_profiling=True,
        limit_mm_per_prompt=limits, enable_prefix_caching=False, disable_log_stats=True,
        generation_config="vllm",
    )  # fmt: skip
    llm = LLM(model=str(folder), hf_overrides=overrides, **(defaults | options))
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def served(llm: Any, kind: str, prompts: Iterable[Prompt], tokens: int = TOKENS) -> list[Answer]:
    """Ask the engine all prompts at once."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=tokens, logprobs=1, ignore_eos=True)
    outputs = llm.generate([_request(kind, prompt) for prompt in prompts], sampling, use_tqdm=False)
    answers = []
    for output in outputs:
        made = output.outputs[0]
        logprobs = [steps[token].logprob for token, steps in zip(made.token_ids, made.logprobs, strict=True)]
        answers.append(Answer(len(output.prompt_token_ids), list(made.token_ids), logprobs))
    return answers


def served_logprobs(llm: Any, kind: str, prompts: Iterable[Prompt]) -> list[dict[int, float]]:
    """Return the log-probabilities of the likeliest first tokens, with an engine whose max_logprobs allows it."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=1, logprobs=LIKELIEST, ignore_eos=True)
    outputs = llm.generate([_request(kind, prompt) for prompt in prompts], sampling, use_tqdm=False)
    steps = [output.outputs[0].logprobs[0] for output in outputs]
    return [{token: found.logprob for token, found in step.items()} for step in steps]


def _request(kind: str, prompt: Prompt) -> dict[str, Any]:
    media: dict[str, Any] = {}
    if prompt.clips:
        media["video"] = [
            clip.frames if kind in SIZES else (clip.frames, clip.metadata | {"do_sample_frames": False})
            for clip in prompt.clips
        ]
    if prompt.images:
        media["image"] = list(prompt.images)
    request = {"prompt": prompt.text, "multi_modal_data": media}
    return request if prompt.question is None else request | {"mm_processor_kwargs": {"question": prompt.question}}


def attached(model: Any, processor: Any, prompts: Sequence[Prompt], tokens: int = TOKENS) -> list[Answer]:
    """Ask transformers, one prompt after the other."""
    model.generation_config.eos_token_id = None
    return [_generate(model, hf_inputs(processor, prompt), tokens) for prompt in prompts]


@torch.no_grad()
def attached_logprobs(model: Any, processor: Any, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
    """Return the log-probabilities of the first token in transformers."""
    logits = [model(**hf_inputs(processor, prompt)).logits[0, -1] for prompt in prompts]
    return [one.float().log_softmax(-1) for one in logits]


def hf_inputs(processor: Any, prompt: Prompt) -> dict[str, Any]:
    """Return the arguments of the host for a prompt."""
    from transformers.video_utils import VideoMetadata

    given: dict[str, Any] = {"text": [prompt.text], "return_tensors": "pt"}
    if prompt.clips:
        given["videos"] = [clip.frames for clip in prompt.clips]
    if prompt.clips and "Llava" not in type(processor).__name__:  # it samples no frames
        given["video_metadata"] = [VideoMetadata(**clip.metadata) for clip in prompt.clips]
        given["do_sample_frames"] = False
    if prompt.images:
        given["images"] = list(prompt.images)
    return dict(processor(**given))


def _generate(model: Any, inputs: dict[str, Any], tokens: int) -> Answer:
    with torch.no_grad():
        out = model.generate(
            **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    new = out.sequences[0, length:].tolist()
    logprobs = [float(step[0].float().log_softmax(-1)[token]) for step, token in zip(out.logits, new, strict=True)]
    return Answer(length, new, logprobs)
