"""Gradients of every trainable compressor in front of a frozen host, step after step; only two tables name any.

A rank with a parameter that gets none hangs DDP and aborts ZeRO, and a tensor that never gets one is not trained.
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
from framefold.adapters.hosts.prompt.find_question import tokenizer_of
from framefold.data.synthetic.generate import generate
from tests.support.paths import TINYHOST

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # the vision side, which is frozen
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),  # the name that all versions know
]
TRAINABLE = framefold.list_compressors(trainable=True)
FRAMES, PER_FRAME = 8, 16
MODES = {
    "plain": set[str](),
    "bf16 autocast": {"autocast"},
    "checkpointing": {"checkpointing"},
    "both": {"autocast", "checkpointing"},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {  # settings that other parameters hang on
    "fila": [{"members": "cluster", "weight_shape": "nd"}, {"dynamic": False}],
    "storm": [{"causal": True, "spatial": 2}, {"inner": 32, "checkpointing": True, "scan": "snake"}],
    "qtsplus": [{"budget_head": True}, {"scoring_layers": 2, "coverage": 0.0}, {"reencode_layers": 0}],
}
EXCUSED = {  # compressor|variant|budget|parameters: why the answer loss does not teach them
    "qtsplus|budget_head|0.25|head.*": "a budget that is given has no use for a predicted one",
    "qtsplus|reencode_layers|0.25|*": "no attention that the gate could act on: scores are left to distillation",
}
CASES = [(name, params) for name in TRAINABLE for params in [{}, *VARIANTS.get(name, [])]]
PLACES = [(name, params, mode) for name, params in CASES for mode in MODES if not params or mode in ("plain", "both")]


def each(places: list[tuple[str, dict[str, Any], str]]) -> Any:
    ids = [" ".join([name, *params, mode]) for name, params, mode in places]
    return pytest.mark.parametrize(("name", "params", "mode"), places, ids=ids)


@pytest.fixture(scope="module")
def host() -> Any:
    """The embedded host, frozen."""
    return LlavaOnevisionForConditionalGeneration.from_pretrained(TINYHOST).requires_grad_(False)


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
def training(host: Any, compressor: Compressor, mode: str) -> Iterator[None]:
    """The host with the compressor, in training mode."""
    with ExitStack() as stack:
        stack.enter_context(framefold.attach(host, compressor))
        stack.callback(host.eval)
        host.train()
        if "checkpointing" in MODES[mode]:
            stack.callback(host.gradient_checkpointing_disable)
            host.gradient_checkpointing_enable()
        yield


def fresh(name: str, budget: float | int | str, params: dict[str, Any]) -> Compressor:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        compressor = framefold.build(name, budget, **params)
        compressor.materialize(128, (4, 4))
    return compressor


def steps(host: Any, batch: dict[str, Tensor], compressor: Compressor, mode: str, count: int) -> list[dict[str, Any]]:
    """Gradients by name at each of some optimizer steps, the first of them that of fresh parameters."""
    optimizer = torch.optim.AdamW(compressor.parameters(), lr=1e-3)
    found = []
    layer_runs: list[int] = []
    layers = host.model.language_model.layers
    hook = layers[0].self_attn.register_forward_pre_hook(lambda *_: layer_runs.append(1))
    with torch.random.fork_rng(), training(host, compressor, mode):
        torch.manual_seed(4)
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in MODES[mode]):
                loss = host(**batch).loss
            loss.backward()
            found.append({key: p.grad for key, p in compressor.named_parameters() if p.requires_grad})
            optimizer.step()
    hook.remove()
    assert len(layer_runs) == count * (2 if "checkpointing" in MODES[mode] else 1)
    assert found[0], "trainable, but it has no parameters"
    return found


def budgets(name: str, params: dict[str, Any]) -> list[float | int | str]:
    predicted = params.get("budget_head", type(framefold.build(name)).predicts_budget)
    return [1, 0.05, 0.25, 1.0, *(["auto"] if predicted else [])]


@each(PLACES)
def test_every_parameter_has_a_finite_gradient_on_every_step(
    host: Any, batch: dict[str, Tensor], name: str, params: dict[str, Any], mode: str
) -> None:
    for budget in budgets(name, params):
        for step, gradients in enumerate(steps(host, batch, fresh(name, budget, params), mode, 2)):
            missing = [key for key, gradient in gradients.items() if gradient is None]
            assert not missing, f"budget {budget}, step {step}: no gradient for {missing}"
            broken = [key for key, gradient in gradients.items() if not gradient.isfinite().all()]
            assert not broken, f"budget {budget}, step {step}: not finite: {broken}"
    assert all(p.grad is None for p in host.parameters())


@each([place for place in PLACES if place[2] in ("plain", "both")])
def test_every_parameter_is_taught_within_three_steps(
    host: Any, batch: dict[str, Tensor], name: str, params: dict[str, Any], mode: str
) -> None:
    """By more than what rounding leaves of a sum that is zero, which in bf16 cannot be told from a small gradient."""
    for budget in [budget for budget in budgets(name, params) if budget in (0.25, "auto")]:
        runs = steps(host, batch, fresh(name, budget, params), mode, 3)
        sizes = {key: max(float(run[key].square().mean().sqrt()) for run in runs) for key in runs[0]}
        floor = 1e-7 * max(sizes.values()) if mode == "plain" else 0.0
        here = f"{name}|{' '.join(params)}|{budget}|"
        idle = [key for key, size in sizes.items() if size <= floor]
        idle = [key for key in idle if not any(fnmatch(here + key, excused) for excused in EXCUSED)]
        assert idle == [], f"budget {budget}"


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16 autocast"])
def test_recomputing_scans_changes_no_gradient_in_front_of_a_host_that_recomputes(
    host: Any, batch: dict[str, Tensor], autocast: bool
) -> None:
    names = [name for name in TRAINABLE if "checkpointing" in framefold.build(name).params()]
    assert names
    mode = "both" if autocast else "checkpointing"
    for name in names:
        kept, again = (
            steps(host, batch, fresh(name, 0.25, {"checkpointing": on}), mode, 3)[-1] for on in (False, True)
        )
        assert all(kept[key].any() and torch.equal(kept[key], again[key]) for key in kept)
