"""A server does not start with a vLLM that differs from the tested one."""

from __future__ import annotations

import sys

import pytest
import torch

from framefold.adapters.serving.vllm import synthetic_prompt
from framefold.adapters.serving.vllm.plugin import ARCHITECTURES
from framefold.adapters.serving.vllm.positions import media_grid_positions
from framefold.adapters.serving.vllm.self_check import MODULES, SEAMS, UNTESTED, check_engine, version_problem
from framefold.cli.doctor.probes import check_package
from framefold.errors import ServingError
from framefold.warning_types import FramefoldWarning
from tests.support.serving.fake_engine import install_fake_engine

NAMES = [
    (model_type, owner, name)
    for model_type, owners in SEAMS.items()
    for owner, names in owners.items()
    for name in names
]


def test_every_architecture_is_checked() -> None:
    served = {configuration.model_type for configuration in ARCHITECTURES.values()}
    assert {module for kind in served for module in MODULES.get(kind, (kind,))} == set(SEAMS)


@pytest.mark.parametrize("model_type", [configuration.model_type for configuration in ARCHITECTURES.values()])
def test_the_tested_engine_passes(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_engine(monkeypatch)
    check_engine(model_type)


@pytest.mark.parametrize(("model_type", "owner", "name"), NAMES)
def test_a_name_that_is_gone_or_has_other_parameters_is_refused(
    model_type: str, owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install_fake_engine(monkeypatch)[model_type]
    holder = getattr(module, owner) if owner else module
    monkeypatch.setattr(holder, name, lambda self, renamed: None)
    with pytest.raises(ServingError, match=rf"{name} has the parameters \['self', 'renamed'\], framefold expects"):
        check_engine(model_type)
    monkeypatch.delattr(holder, name)
    with pytest.raises(ServingError, match=f"has no {owner}.?{name}, which framefold replaces.*{UNTESTED}=1"):
        check_engine(model_type)


def test_a_class_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    del install_fake_engine(monkeypatch)["qwen3_vl"].Qwen3VLForConditionalGeneration
    with pytest.raises(ServingError, match="has no Qwen3VLForConditionalGeneration, which framefold extends"):
        check_engine("qwen3_vl")


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "1.0", "dev"])
def test_other_versions_are_refused_unless_the_user_insists(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_engine(monkeypatch, version)
    with pytest.raises(ServingError, match=rf"tested with vLLM 0.32.0 to below 0.34, this is {version}; {UNTESTED}=1"):
        check_engine("qwen3_vl")
    monkeypatch.setenv(UNTESTED, "1")
    with pytest.warns(FramefoldWarning, match=f"this is {version}: answers may be wrong"):
        check_engine("qwen3_vl")


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.33.0", "0.32.0+cpu"])
def test_versions_of_the_tested_releases_pass(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_engine(monkeypatch, version)
    assert version_problem() is None


def test_doctor_shows_whether_the_engine_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = install_fake_engine(monkeypatch)
    monkeypatch.setattr(sys.modules["vllm"], "__file__", "vllm/__init__.py", raising=False)
    (found,) = check_package("vllm")
    assert found.state == "found" and "0.32.0, fits the plug-in for qwen2_vl, qwen2_5_vl" in found.detail
    del modules["llava_onevision"].LlavaOnevisionProcessingInfo
    (broken,) = check_package("vllm")
    assert broken.state == "broken" and "has no LlavaOnevisionProcessingInfo" in broken.detail


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_known_prompt_is_numbered_when_a_model_is_made(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic_prompt.check_numbering(dtype)
    monkeypatch.setattr(
        synthetic_prompt, "media_grid_positions", lambda grid, step: media_grid_positions(grid, step + 1)
    )
    with pytest.raises(ServingError, match=r"numbers a known prompt as .*703.*, not as .*702"):
        synthetic_prompt.check_numbering(dtype)
