"""vision_selector: its counterpart, the weights of tokens in training, and what the answer loss teaches it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import framefold
from framefold.adapters.reference.visionselector import linear_scores, pair_scores
from framefold.errors import ConfigError
from tests.support.contract import GRIDS, KINDS, WIDTH, features, same, wrap
from tests.support.hosts.tiny_hosts import batch, llava_onevision, prompt, video
from tests.support.videos import DTYPES, noise


def fresh(budget: float | int = 0.25, **params: Any) -> Any:
    torch.manual_seed(0)
    return framefold.build("vision_selector", budget, **{"inner": 8, "dim": WIDTH, **params})


def moved(compressor: Any) -> Any:
    for number, parameter in enumerate(compressor.parameters()):
        parameter.data += 0.5 * noise(*parameter.shape, seed=number)
    return compressor


def test_a_fresh_one_equals_its_start_bit_by_bit() -> None:
    for name in ("mean_similarity", "longest", "attention"):
        plain, selector = framefold.build(name, 0.3), fresh(0.3, counterpart=name).eval()
        assert selector.counterpart == name
        for grid in GRIDS:
            for kind in KINDS:
                clip = wrap(features(grid, kind, seed=5))
                assert same(plain(clip).tokens, selector(clip).tokens), (name, grid, kind)
                assert torch.equal(plain.score(clip, None), selector.score(clip, None)), (name, grid, kind)
        for dtype in DTYPES:
            clip = wrap(features((6, 3, 4)).to(dtype))
            assert same(plain(clip).tokens, selector(clip).tokens), (name, dtype)


def test_the_learned_score_is_the_mean_product_with_all_tokens() -> None:
    x, query, key = noise(60, WIDTH), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
    with torch.no_grad():
        torch.testing.assert_close(linear_scores(x, query, key), pair_scores(x, query, key), atol=1e-5, rtol=1e-5)
        selector, clip = moved(fresh()), wrap(features((6, 3, 4)))
        nn.init.zeros_(query.bias)
        query.weight.copy_(selector.query.weight)
        key.load_state_dict(selector.key.state_dict())
        flat = clip.features / clip.features.square().mean().sqrt()
        torch.testing.assert_close(selector.learned(clip, None), pair_scores(flat, query, key), atol=1e-5, rtol=1e-5)


def test_context_adds_a_score_of_the_surroundings_and_starts_without_effect() -> None:
    clip, selector = wrap(features((6, 3, 4))), fresh(context=(16, 8))
    plain = framefold.build("mean_similarity", 0.25)
    assert torch.equal(selector.eval().score(clip, None), plain.score(clip, None))
    linear = moved(selector).learned(clip, None)
    nn.init.zeros_(selector.surroundings.out.weight)
    alone = selector.learned(clip, None)
    nn.init.ones_(selector.surroundings.out.weight)
    added = selector.learned(clip, None) - alone
    assert not torch.equal(linear, alone) and float(added.std()) > 0
    torch.testing.assert_close(added, selector.surroundings(clip.features.view(6, 3, 4, -1) / rms(clip))[:, 0])


def rms(clip: framefold.VideoTokens) -> torch.Tensor:
    return clip.features.square().mean().sqrt()


def test_coverage_keeps_evenly_spaced_tokens_beside_the_best() -> None:
    clip, selector = wrap(features((6, 3, 4))), moved(fresh(10, coverage=0.4, entering_factor=2.0))
    order = selector.score(clip, None).detach().sort(descending=True, stable=True).indices
    kept = selector.eval()(clip).tokens.index.tolist()
    assert len(kept) == 10 and set(order[:6].tolist()) <= set(kept) and kept != order[:10].sort().values.tolist()
    soft = selector.train()(clip)
    covering = ~torch.isin(soft.tokens.index, order[:12])
    assert len(soft.tokens) == 20 and int(covering.sum()) == 8
    assert not soft.key_bias[covering].any() and bool((soft.key_bias[~covering] < 0).all())
    margin = selector.margins(selector.score(clip, None), 6, clip)
    torch.testing.assert_close(soft.key_bias[~covering], nn.functional.logsigmoid(margin)[soft.tokens.index[~covering]])


def test_coverage_leaves_one_token_to_the_scores() -> None:
    clip, selector = wrap(features((6, 3, 4))), moved(fresh(1, coverage=0.9))
    best = int(selector.score(clip, None).argmax())
    assert selector.eval()(clip).tokens.index.tolist() == [best]
    assert bool(selector.train()(clip).key_bias.isfinite().all())


def test_the_weights_of_all_tokens_sum_to_the_budget() -> None:
    clip = wrap(features((6, 3, 4)))
    for tau in (0.01, 0.5, 5.0):
        for k in (1, 7, 18, 71):
            selector = moved(fresh(k, tau=tau)).train()
            margin = selector.margins(selector.score(clip, None), k, clip)
            assert float(torch.sigmoid(margin).sum()) == pytest.approx(k, abs=1e-4)


def test_training_returns_more_tokens_with_their_weights_and_inference_the_best() -> None:
    clip, selector = wrap(features((6, 3, 4))), moved(fresh(10, entering_factor=3.0))
    soft = selector.train()(clip)
    order = selector.score(clip, None).detach().sort(descending=True, stable=True).indices
    assert torch.equal(soft.tokens.index, order[:30].sort().values)
    margin = selector.margins(selector.score(clip, None), 10, clip)
    torch.testing.assert_close(soft.key_bias.exp(), torch.sigmoid(margin)[soft.tokens.index])
    hard = selector.eval()(clip)
    assert hard.key_bias is None and not hard.losses and torch.equal(hard.tokens.index, order[:10].sort().values)
    assert torch.equal(hard.tokens.features, clip.features[hard.tokens.index])


def test_all_tokens_at_a_budget_of_all_have_a_weight_of_1() -> None:
    selector = moved(fresh(1.0)).train()
    out = selector(wrap(features((6, 3, 4))))
    assert len(out.tokens) == 72 and torch.equal(out.key_bias, torch.zeros(72)) and float(out.losses["bce"]) == 0
    (out.key_bias.sum() + out.losses["bce"]).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in selector.parameters())


def test_a_lower_temperature_and_the_loss_bce_harden_the_weights() -> None:
    clip = wrap(features((6, 3, 4)))
    losses = [float(moved(fresh(10, tau=tau, bce=1.0)).train()(clip).losses["bce"]) for tau in (2.0, 0.5, 0.05)]
    assert losses == sorted(losses, reverse=True) and losses[2] < 0.2 * losses[0], losses
    assert fresh(10, bce=0.0).train()(clip).losses == {}
    selector = moved(fresh(10, bce=1.0)).train()
    optimizer, history = torch.optim.Adam(selector.parameters(), lr=0.02), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = selector(clip).losses["bce"]
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.6 * history[0], history


def test_gradients_of_the_weights_are_those_of_finite_differences() -> None:
    selector, clip = moved(fresh(10, bce=0.5)).double().train(), wrap(features((6, 3, 4)).double())
    targets = noise(40, seed=3).double()

    def loss() -> torch.Tensor:
        out = selector(clip)
        return (out.key_bias.double() * targets).sum() + out.losses["bce"].double()

    loss().backward()
    with torch.no_grad():
        for parameter in selector.parameters():
            direction = noise(*parameter.shape, seed=8).double()
            expected = float((parameter.grad * direction).sum())
            values = []
            for step in (1e-4, -1e-4):
                parameter += step * direction
                values.append(float(loss()))
                parameter -= step * direction
            assert (values[0] - values[1]) / 2e-4 == pytest.approx(expected, rel=0.02, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_and_autocast_train(dtype: torch.dtype) -> None:
    selector = moved(fresh(10)).train()
    wide = selector(wrap(features((6, 3, 4)).to(dtype).float()))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        half = selector(wrap(features((6, 3, 4)).to(dtype)))
    assert half.tokens.features.dtype == dtype and half.key_bias.dtype == torch.float32
    assert torch.equal(half.tokens.index, wide.tokens.index)
    torch.testing.assert_close(half.key_bias, wide.key_bias, atol=1e-3, rtol=1e-3)


def test_the_answer_loss_of_a_host_trains_it_and_every_parameter_within_two_steps() -> None:
    host = llava_onevision("sdpa")
    torch.manual_seed(0)
    selector = framefold.build("vision_selector", 8, inner=8, dim=32, bce=0.0)
    labels = torch.full((1, 42), -100)
    labels[0, -2:] = torch.tensor([7, 9])
    given = {**batch(prompt(4, -8, 5)), "pixel_values_videos": video(), "labels": labels}
    optimizer, losses, reached = torch.optim.Adam(selector.parameters(), lr=0.02), [], set[str]()
    with framefold.attach(host, selector):
        host.train()
        for step in range(25):
            optimizer.zero_grad()
            loss = host(**given).loss
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if step < 2:
                reached |= {name for name, parameter in selector.named_parameters() if bool(parameter.grad.any())}
        host.eval()
    assert reached == {"query.weight", "key.weight", "key.bias"}
    assert losses[-1] < losses[0] - 0.05, losses


def test_a_chain_trains_it_as_its_last_stage() -> None:
    chain = framefold.build("uniform+vision_selector", 0.1, vision_selector={"inner": 8}).train()
    assert chain.biases_keys
    out = chain(wrap(features((12, 3, 4))))
    k = round(0.1 * 144)
    assert len(out.key_bias) == len(out.tokens) > k
    assert len(chain.eval()(wrap(features((12, 3, 4)))).tokens) == k


def test_wrong_parameters_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"tau": 0.0},
        {"tau": 1e-40},
        {"entering_factor": 0.5},
        {"bce": -1.0},
        {"bce": 1e300},
        {"inner": 0},
        {"dim": 0},
        {"context": (0,)},
        {"coverage": 1.0},
        {"coverage": -0.1},
    ]
    for params in wrong:
        with pytest.raises(ConfigError, match="vision_selector"):
            framefold.build("vision_selector", **params)
    with pytest.raises(ConfigError, match="uniform gives tokens no scores"):
        framefold.build("vision_selector", counterpart="uniform")
