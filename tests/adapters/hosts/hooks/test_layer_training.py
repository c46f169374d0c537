"""Training with a compressor that acts inside the language model: losses and gradients, with LoRA and checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters import VideoTokens
from framefold.adapters.base.in_llm import Decision
from tests.support.hosts.bare_hosts import Batch, Host, ScaledMerge, build, perturb
from tests.support.hosts.in_llm import (
    LAYERS,
    Acting,
    JoinPairs,
    JoinPairsOnInput,
    KeepThird,
    StandIn,
    kept_columns,
    masking,
    recording_runs,
    run_joined,
)
from tests.support.hosts.oracles import TOLERANCE

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # the frozen vision side
    pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing:FutureWarning"),  # a name that all versions accept
]


class KeepHalfOnce(StandIn):
    """Keeps every second token when it is asked first, and all of them afterwards."""

    def begin(self, video: VideoTokens, layers: int, handover: Any) -> list[int]:
        return []

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: list[int]) -> Decision:
        memory.append(layer)
        return Decision(torch.arange(0, len(video), 2 if len(memory) == 1 else 1))


STAGES = {
    "pruned": KeepThird,
    "pruned, with a memory": KeepHalfOnce,
    "merged after attention": JoinPairs,
    "merged on input": JoinPairsOnInput,
}
FAMILIES = ["qwen3_vl", "llava_onevision"]
CHECKPOINTING = {"off": None, "non-reentrant": False, "reentrant": True}


class Trained(ScaledMerge):
    """The trained stand-in with a stage in the language model."""

    def __init__(self, in_llm: Any) -> None:
        super().__init__()
        self.in_llm = in_llm


def two_rows(host: Host) -> Batch:
    return host.batch([5, -6, 6], [9, -6, 3])


def with_lora(model: Any) -> Any:
    """Return the attached model as a user of PEFT trains it, with random matrices in the language model."""
    import peft

    torch.manual_seed(3)
    targets = r".*(language_model|text_model).*[qv]_proj"
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["compressor"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


def gradients(
    host: Host, compressor: Any, reentrant: bool | None = None, lora: bool = False
) -> tuple[float, dict[str, Tensor], Any]:
    """Return loss, gradients by name and run of a training step on two rows.

    Args:
        reentrant: kind of gradient checkpointing; None without.
        lora: train LoRA in the host; otherwise a weight of its first layer.
    """
    batch = two_rows(host)
    weight = host.language.layers[0].self_attn.q_proj.weight.requires_grad_()
    with framefold.attach(host.model, compressor), recording_runs() as runs:
        perturb(compressor)
        model = with_lora(host.model) if lora else host.model
        model.train()
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        layers = count_calls(host)
        out = model(**batch.attached_inputs, labels=batch.labels(), use_cache=False)
        out.loss.backward()
        assert len(layers) == LAYERS * (1 if reentrant is None else 2)  # so checkpointing was on
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
        model.gradient_checkpointing_disable()
        model.eval()
        if lora:
            model.unload()
    weight.grad = None
    weight.requires_grad_(False)
    return out.loss.item(), found, runs[0] if runs else None


def count_calls(host: Host) -> list[int]:
    """Return a list that grows with every run of a decoder layer's attention."""
    calls: list[int] = []
    for layer in host.language.layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
@pytest.mark.parametrize("name", STAGES)
def test_gradients_are_the_same_with_checkpointing(name: str, lora: bool) -> None:
    if lora:
        pytest.importorskip("peft")
    for family in FAMILIES:
        results = {
            kind: gradients(build(family, layers=LAYERS), Trained(STAGES[name](1)), reentrant, lora)
            for kind, reentrant in CHECKPOINTING.items()
        }
        loss, expected, _ = results["off"]
        assert all(bool((gradient != 0).any()) for gradient in expected.values())
        assert any("scale" in name for name in expected) and (
            not lora or sum("lora" in name for name in expected) == 16
        )
        for kind, (other, found, _) in results.items():
            assert other == loss and found.keys() == expected.keys(), (family, kind)
            assert all(torch.equal(found[name], expected[name]) for name in found), (family, kind)


@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
def test_gradients_of_a_pruned_prompt_are_those_of_a_masked_one(lora: bool) -> None:
    if lora:
        pytest.importorskip("peft")
    loss, found, run = gradients(build("qwen3_vl", "eager", layers=LAYERS), Trained(KeepThird(1)), lora=lora)
    one = build("qwen3_vl", "eager", layers=LAYERS)
    with masking(one, run):
        expected_loss, expected, _ = gradients(one, Trained(None), lora=lora)
    assert abs(loss - expected_loss) < TOLERANCE and found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=TOLERANCE)
    assert bool(kept_columns(run).any())


@pytest.mark.parametrize("stage", [JoinPairs, JoinPairsOnInput])
@pytest.mark.parametrize("family", [*FAMILIES, "glm4v"])
def test_gradients_through_merged_tokens_are_those_of_a_loop_over_the_layers(family: str, stage: Any) -> None:
    host = build(family, "eager", layers=LAYERS)
    batch = host.batch([5, -6, 6])
    weights = [p.requires_grad_() for number in (0, 2) for p in host.language.layers[number].parameters()]
    with framefold.attach(host.model, Acting(stage(1))):
        found = host.model(**batch.attached_inputs, use_cache=False).logits[0, -1]
    expected, _ = run_joined(batch, 1, on_input=stage.site == "input")
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), weights) for out in (found, expected)), strict=True):
        scale = float(b.abs().max())
        assert scale > 0
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * scale)


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, "internvl"])
@pytest.mark.parametrize("name", STAGES)
def test_full_outputs_have_the_length_of_the_caller_and_the_loss_of_its_labels(family: str, name: str) -> None:
    host = build(family, layers=LAYERS)
    batch, labels = two_rows(host), two_rows(host).labels(3)
    arguments = batch.attached_inputs | {"labels": labels}
    compressor = Trained(STAGES[name](1))
    with framefold.attach(host.model, compressor):
        perturb(compressor)
        compact = host.model(**arguments)
    with framefold.attach(host.model, compressor, outputs="full"):
        full = host.model(**arguments)
        last = host.model(**arguments, logits_to_keep=2).logits
    assert full.logits.shape[:2] == labels.shape and compact.logits.shape[1] < labels.shape[1]
    loss = torch.nn.functional.cross_entropy(full.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss, full.loss, rtol=0, atol=1e-6)
    assert torch.equal(full.loss, compact.loss) and torch.equal(last, full.logits[:, -2:])
    words = labels.shape[1] - 3  # behind the videos of both rows
    assert torch.equal(full.logits[:, words:], compact.logits[:, -3:])
