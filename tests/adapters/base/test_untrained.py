"""Compressors with initial weights warn when they are attached; trained and training-free ones do not."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import PreTrainedModel

import framefold
from framefold import VideoTokens
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import display_name
from framefold.warning_types import UntrainedCompressorWarning
from tests.support.hosts.tiny_hosts import TopNorm, llava_onevision
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def host() -> PreTrainedModel:
    return llava_onevision()


def warned(host: PreTrainedModel, compressor: Compressor) -> list[str]:
    """Attach and detach a compressor; return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with framefold.attach(host, compressor, allow_other_host=True):
            pass
    return [str(one.message) for one in caught if issubclass(one.category, UntrainedCompressorWarning)]


def test_every_untrained_compressor_warns_once_and_no_other(host: PreTrainedModel) -> None:
    names = [*framefold.list_compressors(), "storm+st_simdiff", "uniform+qtsplus", "uniform+st_simdiff"]
    for name in names:
        compressor = framefold.build(name, 0.5)
        texts = warned(host, compressor)
        assert len(texts) == int(compressor.trainable), (name, texts)
        assert compressor.is_untrained == compressor.trainable, name
        assert display_name(compressor) == name + (" (untrained)" if compressor.trainable else ""), name
        if texts:
            other = type(compressor).counterpart
            assert f"{name} is UNTRAINED" in texts[0] and "framefold.load" in texts[0] and "framefold fit" in texts[0]
            assert (f"it computes what {other} computes" if other else "its weights are random") in texts[0], texts
            assert warned(host, compressor) == []  # said already


def test_a_use_without_training_does_not_silence_the_warning(host: PreTrainedModel) -> None:
    width = host.config.get_text_config().hidden_size
    video = VideoTokens.from_grid(torch.randn(4, 4, 4, width))
    compressor = framefold.build("fila", 0.5)
    assert compressor.is_untrained  # it has no parameters yet
    compressor(video)  # in train mode and with gradients, as a fresh module is
    assert len(warned(host, copy.deepcopy(compressor))) == len(warned(host, compressor)) == 1


def test_loaded_and_trained_weights_do_not_warn(host: PreTrainedModel, tmp_path) -> None:
    width = host.config.get_text_config().hidden_size
    video = VideoTokens.from_grid(torch.randn(4, 4, 4, width))
    fresh = {name: framefold.build(name, 0.5) for name in ("fila", "storm", "storm+st_simdiff")}
    for name, compressor in fresh.items():
        compressor(video)
        again = framefold.build(name, 0.5)
        again.materialize(width, (4, 4))
        again.load_state_dict(compressor.state_dict())
        compressor.save_pretrained(tmp_path / name)
        assert warned(host, again) == warned(host, framefold.load(tmp_path / name)) == [], name
        optimizer = torch.optim.AdamW(compressor.parameters(), lr=0.1)
        compressor(video).tokens.features.square().sum().backward()
        optimizer.step()
        assert warned(host, compressor) == [], name
    assert not framefold.load(ROOT / "checkpoints" / "qtsplus").is_untrained


def test_weights_of_the_host_alone_do_not_count_as_loaded(host: PreTrainedModel) -> None:
    compressor = framefold.build("fila", 0.5)
    state = host.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with framefold.attach(host, compressor):
            host.load_state_dict(state, strict=False)
    assert compressor.is_untrained


def test_a_class_without_a_name_is_called_by_its_own(host: PreTrainedModel) -> None:
    (text,) = warned(host, TopNorm())
    assert text.startswith("TopNorm is UNTRAINED")
