"""Gradients of every trainable compressor in front of a frozen host, over several optimizer steps.

A rank with a parameter that gets no gradient hangs DDP and aborts ZeRO, and a parameter whose gradient is always zero
is not trained. A new compressor needs a row in a table here only if other settings create other parameters (VARIANTS),
or if the answer loss cannot train some of its parameters (EXCUSED).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

import framefold
from framefold import Compressor
from framefold.adapters.core.language_model import LanguageModelShape
from framefold.adapters.hosts.prompt.find_question import tokenizer_of
from framefold.adapters.hosts.prompt.vision import encode
from framefold.data.synthetic.generate import generate
from tests.support.paths import TINYHOST

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:None of the inputs have requires_grad"
    ),  # of the vision encoder, which is frozen
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),  # the name that all versions have
]
TRAINABLE = framefold.list_compressors(trainable=True)
FRAMES, PER_FRAME = 8, 16
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "fila": [{"members": "cluster", "weight_shape": "nd"}, {"dynamic": False}],
    "storm": [{"causal": True, "spatial": 2}, {"inner": 32, "checkpointing": True, "scan": "snake"}],
    "resampler": [
        {"inner": 32, "reads": "question", "counterpart": "pool"},
        {"memory": "segment", "segment_frames": 3, "rebuild": 0.1},
    ],
    "tdc": [{"reads": "question", "inner": 32}],
    "pvc": [{"spatial": 2, "inner": 32}],
    "slots": [{"spatial": 2, "inner": 32}],
    "prototypes": [{"spatial": 2, "rebuild": 0.1}],
    "vqtoken": [{"memory": "video", "inner": 32}],
    "trajtok": [{"segment_frames": 3}],
    "xpool": [{"reads": "nothing", "spatial": 2}],
    "qtsplus": [{"budget_head": True}, {"scoring_layers": 2, "coverage": 0.0}, {"reencode_layers": 0}],
}
EXCUSED = {  # compressor|variant|budget|parameters: why the answer loss does not train them
    "qtsplus|budget_head|0.25|head.*": "a given budget does not use the predicted one",
    "flex_select||0.25|*": "the answer does not depend on its scores: they are trained by distillation",
    "qtsplus|reencode_layers|0.25|*": "without attention, the gate has no effect: scores are trained by distillation",
}
CASES = [(name, params) for name in TRAINABLE for params in [{}, *VARIANTS.get(name, [])]]
# Modes of the host, and in each the (budget, number of steps) to train. Budgets of 0.25 are trained in the test itself.
PLAIN: list[tuple[Any, int]] = [(1, 2), (0.05, 2), (1.0, 2)]
BOTH: list[tuple[Any, int]] = [(1, 2)]


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    """The embedded host, frozen; its vision encoder runs once, since no gradient passes through it."""
    encoded: dict[tuple[bool, bool], Any] = {}

    def encode_once(model: Any, inputs: Any, attention: bool = False, **options: Any) -> Any:
        key = torch.is_autocast_enabled("cpu"), attention
        if key not in encoded:
            encoded[key] = encode(model, inputs, attention, **options)
        return encoded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.adapters.hosts.prompt.prepare.encode", encode_once)
        yield LlavaOnevisionForConditionalGeneration.from_pretrained(TINYHOST).requires_grad_(False)


@pytest.fixture(scope="module")
def batch(host: Any) -> dict[str, Tensor]:
    """Two videos with a question each, and answers of one word."""
    tokenizer = tokenizer_of(host)
    video = [host.config.video_token_id] * (FRAMES * PER_FRAME + 1)
    rows = [[*video, *tokenizer(f"which shape flashed first {answer}")["input_ids"]] for answer in ("circle", "square")]
    ids = torch.tensor(rows)
    clips = [torch.from_numpy(generate(seed, frames=2 * FRAMES).frames[::2]).movedim(-1, 1) for seed in (0, 1)]
    labels = torch.where(torch.arange(ids.shape[1]) < ids.shape[1] - 1, -100, ids)
    return {"input_ids": ids, "pixel_values_videos": torch.stack(clips) / 127.5 - 1, "labels": labels}


@contextmanager
def training(host: Any, compressor: Compressor, checkpointing: bool) -> Iterator[None]:
    """Attach the compressor and set the host to training mode."""
    with ExitStack() as stack:
        stack.enter_context(framefold.attach(host, compressor))
        stack.callback(host.eval)
        host.train()
        if checkpointing:
            stack.callback(host.gradient_checkpointing_disable)
            host.gradient_checkpointing_enable()
        yield


def fresh(name: str, budget: float | int | str, params: dict[str, Any]) -> Compressor:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        compressor = framefold.build(name, budget, **params)
        compressor.materialize(128, (4, 4))
        compressor.materialize_in_llm(LanguageModelShape(layers=4, width=128, heads=4, kv_heads=4, head_width=32))
    return compressor


def train(
    host: Any, batch: dict[str, Tensor], compressor: Compressor, autocast: bool, checkpointing: bool, steps: int
) -> list[dict[str, Any]]:
    """Return the gradients by name at each optimizer step; the first are those of fresh parameters."""
    optimizer = torch.optim.AdamW(compressor.parameters(), lr=1e-3)
    gradients = []
    layer_runs: list[int] = []
    layers = host.model.language_model.layers
    hook = layers[0].self_attn.register_forward_pre_hook(lambda *_: layer_runs.append(1))
    with torch.random.fork_rng(), training(host, compressor, checkpointing):
        torch.manual_seed(4)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = host(**batch).loss
            loss.backward()
            gradients.append({key: p.grad for key, p in compressor.named_parameters() if p.requires_grad})
            optimizer.step()
    hook.remove()
    assert len(layer_runs) == steps * (2 if checkpointing else 1)
    assert gradients[0], "trainable, but it has no parameters"
    return gradients


@pytest.mark.parametrize(("name", "params"), CASES, ids=[" ".join([name, *params]) for name, params in CASES])
def test_every_parameter_gets_finite_gradients_and_is_trained(
    host: Any, batch: dict[str, Tensor], name: str, params: dict[str, Any]
) -> None:
    """Each gradient is finite on every step and, in three steps, larger than the rounding error of a sum of zero."""
    predicts = params.get("budget_head", type(framefold.build(name)).predicts_budget)
    learning: list[tuple[Any, int]] = [(0.25, 3), *([("auto", 3)] if predicts else [])]
    modes = [(False, False, PLAIN + learning), (True, True, BOTH + learning)]
    if not params:
        modes += [(True, False, [(0.25, 2)]), (False, True, [(0.25, 2)])]
    for autocast, checkpointing, runs_of_mode in modes:
        for budget, steps in runs_of_mode:
            where = f"budget {budget}, {autocast=}, {checkpointing=}"
            runs = train(host, batch, fresh(name, budget, params), autocast, checkpointing, steps)
            for step, gradients in enumerate(runs):
                missing = [key for key, value in gradients.items() if value is None or not value.isfinite().all()]
                assert not missing, f"{where}, step {step}: no finite gradient for {missing}"
            if steps < 3:
                continue
            sizes = {key: max(float(run[key].square().mean().sqrt()) for run in runs) for key in runs[0]}
            floor = (
                0.0 if autocast else 1e-7 * max(sizes.values())
            )  # in bf16, a small gradient may be the rounding error
            case = f"{name}|{' '.join(params)}|{budget}|"
            idle = [key for key, size in sizes.items() if size <= floor]
            idle = [key for key in idle if not any(fnmatch(case + key, excused) for excused in EXCUSED)]
            assert not idle, f"{where}: never trained: {idle}"
    assert all(p.grad is None for p in host.parameters())


def test_recomputing_scans_changes_no_gradient_in_front_of_a_host_that_recomputes(
    host: Any, batch: dict[str, Tensor]
) -> None:
    names = [name for name in TRAINABLE if "checkpointing" in framefold.build(name).params()]
    assert names
    for name in names:
        for autocast in (False, True):
            stored, recomputed = (
                train(host, batch, fresh(name, 0.25, {"checkpointing": on}), autocast, True, 2)[-1]
                for on in (False, True)
            )
            different = [key for key in stored if not torch.equal(stored[key], recomputed[key])]
            assert not different and all(value.any() for value in stored.values()), (name, autocast, different)
