"""Attention that tokens receive in the last vision block, or in a pooling head.

It is recorded on request, without changing any result.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.hosts import encode, prepare
from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.prompt import received_attention as received
from framefold.errors import UnsupportedHostError
from tests.support.hosts.tiny_families import HOSTS, WITHOUT_ENCODER
from tests.support.hosts.tiny_hosts import Positive

FAMILIES = [name for name in HOSTS if name not in WITHOUT_ENCODER]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def two_videos(name: str) -> dict[str, Any]:
    return HOSTS[name].inputs([5, -4, 6], [9, -3, 3])


def weights_of_the_host(host: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the attention weights of the host's own eager attention in its last vision block, call by call."""
    module = family_of(host).vision_attention(host)
    source = importlib.import_module(type(module).__module__)
    eager, weights = source.eager_attention_forward, []

    def spy(caller: Any, *args: Any, **kwargs: Any) -> Any:
        out = eager(caller, *args, **kwargs)
        if caller is module:
            weights.append(out[1])
        return out

    with monkeypatch.context() as patch:
        patch.setattr(source, "eager_attention_forward", spy)
        encode(host, inputs)
    return weights


def by_patch(name: str, host: Any, clip: Any, flat: Tensor, start: int) -> Tensor:
    """Return (T, H, W) means computed in loops, for hosts where the patches of a token are consecutive rows."""
    frames, height, width = clip.features.shape[:3]
    out = torch.zeros(frames, height, width)
    for t in range(frames):
        for y in range(height):
            for x in range(width):
                token = (t * height + y) * width + x
                out[t, y, x] = flat[start + 4 * token : start + 4 * token + 4].mean()
    return out


def window_order(host: Any, inputs: dict[str, Any]) -> Tensor:
    """Return the raster index of each token in window order, found by comparing features before and after."""
    merged: list[Tensor] = []
    hook = host.model.visual.merger.register_forward_hook(lambda module, args, out: merged.append(out))
    raster = torch.cat([clip.features.flatten(0, 2) for clip in encode(host, inputs)])
    hook.remove()
    distance = torch.cdist(merged[0].double(), raster.double())
    assert distance.amin(1).max() < 1e-6 and distance.argmin(1).unique().numel() == len(raster)
    return distance.argmin(1)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_token_gets_the_mean_over_its_patches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host, inputs = HOSTS[name].build("eager"), two_videos(name)
    rows = [weights.mean((1, 2)) for weights in weights_of_the_host(host, inputs, monkeypatch)]  # heads, queries
    clips = encode(host, inputs, attention=True)
    assert [clip.attention.shape for clip in clips] == [clip.features.shape[:3] for clip in clips]
    if "pixel_values_videos" in inputs and inputs["pixel_values_videos"][0].ndim == 1:
        flat = torch.cat([row.flatten() for row in rows])
        if name in ("qwen2_5_vl", "qwen2_5_omni_thinker"):
            order = window_order(host, inputs)
            assert not torch.equal(order, torch.arange(len(order)))
            windows, flat = flat.view(-1, 4), torch.empty_like(flat).view(-1, 4)
            flat[order] = windows
            flat = flat.flatten()
        start = 0
        for clip in clips:
            torch.testing.assert_close(clip.attention, by_patch(name, host, clip, flat, start), atol=1e-7, rtol=1e-5)
            start += 4 * len(clip)
        return
    patches = torch.cat(rows)  # the first ones are CLS, or the last ones padding
    frames = patches[:, :24].view(-1, 4, 6) if name == "gemma4" else patches[:, -16:].view(-1, 4, 4)
    if HOSTS[name].grid != (4, 4):
        frames = torch.stack([frames[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]).mean(0)
    torch.testing.assert_close(torch.cat([clip.attention for clip in clips]), frames, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_sdpa_and_eager_record_the_same_and_features_stay_bit_identical(name: str) -> None:
    inputs, collected = two_videos(name), []
    for attention in ("eager", "sdpa"):
        host = HOSTS[name].build(attention)
        module = family_of(host).vision_attention(host)
        config = module.config
        plain, recorded = encode(host, inputs), encode(host, inputs, attention=True)
        assert module.config is config and config._attn_implementation == attention
        assert all(clip.attention is None for clip in plain)
        assert all(torch.equal(a.features, b.features) for a, b in zip(plain, recorded, strict=True))
        collected.append(torch.cat([clip.attention.flatten() for clip in recorded]))
    torch.testing.assert_close(*collected, atol=1e-7, rtol=1e-5)
    assert collected[0].std() > 1e-4 * collected[0].mean()  # not a constant


@pytest.mark.skipif("gemma4_unified" not in HOSTS, reason="its bare host takes no video in this version")
def test_a_host_without_a_vision_encoder_has_no_attention_to_record() -> None:
    host, inputs = HOSTS["gemma4_unified"].build(), two_videos("gemma4_unified")
    with pytest.raises(UnsupportedHostError, match="no vision encoder.*choose a compressor that does not need it"):
        encode(host, inputs, attention=True)
    with framefold.attach(host, MostAttended()), pytest.raises(UnsupportedHostError, match="no vision encoder"):
        host(**inputs)


class MostAttended(Positive):
    """Keeps the half of the tokens that received most attention."""

    needs_attention = True

    def compress(self, video: Any, k: int, query: Any) -> Any:
        return video.keep(video.attention.topk(len(video) // 2).indices.sort().values)


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_recorded_only_for_compressors_that_need_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    measure = received.received_attention
    monkeypatch.setattr(received, "received_attention", lambda *args: calls.append(1) or measure(*args))
    host, inputs = HOSTS[name].build(), two_videos(name)
    with framefold.attach(host, framefold.build("uniform", 0.5)):
        host(**inputs)
    assert not calls
    with framefold.attach(host, MostAttended()):
        host(**inputs)
        host.generate(**inputs, max_new_tokens=1)
    assert calls
    clips = encode(host, inputs, attention=True)
    kept = prepare(host, inputs, MostAttended()).tokens
    for clip, tokens in zip(clips, kept, strict=True):
        assert torch.equal(
            tokens.index, clip.attention.flatten().topk(len(clip.attention.flatten()) // 2).indices.sort().values
        )


def test_chunks_and_masks_give_the_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 3, 7, 5, generator=generator)
    added = torch.zeros(2, 1, 7, 7)
    added[1, :, :, 4:] = -torch.inf
    expected = (query @ key.transpose(-1, -2) * 0.3 + added).softmax(-1).mean((1, 2))
    for chunk in (received.MAX_WEIGHTS, 2 * 3 * 7 * 2, 1):  # all, two and one query at a time
        monkeypatch.setattr(received, "MAX_WEIGHTS", chunk)
        for mask in (added, added == 0):
            torch.testing.assert_close(received.received_attention(query, key, mask, 0.3), expected)
    assert (expected[1, 4:] == 0).all()
    torch.testing.assert_close(expected.sum(-1), torch.ones(2))


def test_the_module_is_restored_after_an_error() -> None:
    host = HOSTS["qwen3_vl"].build()
    module = family_of(host).vision_attention(host)
    config = module.config
    with pytest.raises(RuntimeError, match="while recording"), received.recording(module):
        raise RuntimeError("while recording")
    assert module.config is config


def test_a_pooling_head_is_recorded_instead_of_the_last_block() -> None:
    config = HOSTS["llava_onevision"].config()
    config.vision_config.vision_use_head = True
    host = replace(HOSTS["llava_onevision"], config=lambda: config).build()
    inputs = two_videos("llava_onevision")
    head = host.model.vision_tower.head
    states: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, args, output: states.append(args[0]))
    plain, recorded = encode(host, inputs), encode(host, inputs, attention=True)
    hook.remove()
    attention = head.attention
    query, key, _ = attention.in_proj_weight.chunk(3)
    bias = attention.in_proj_bias.chunk(3)
    frames = torch.cat(states[:2])  # videos of unequal length are encoded one by one
    probe = (head.probe[0] @ query.T + bias[0]).view(1, 2, 8).expand(len(frames), -1, -1)  # two heads of width 8
    keys = (frames @ key.T + bias[1]).unflatten(-1, (2, 8))
    weights = (torch.einsum("nhd,nlhd->nhl", probe, keys) * 8**-0.5).softmax(-1).mean(1).view(-1, 4, 4)
    expected = torch.nn.functional.avg_pool2d(weights, 2)
    torch.testing.assert_close(torch.cat([clip.attention for clip in recorded]), expected, atol=1e-7, rtol=1e-5)
    assert all(torch.equal(a.features, b.features) for a, b in zip(plain, recorded, strict=True))
    assert not attention._forward_hooks
