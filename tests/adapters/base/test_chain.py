"""Chains fulfil the contract of a compressor: an exact budget, an assignment of the original tokens, one adapter."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import Compressed, Compressor, VideoTokens
from framefold.adapters.base.chain import Chain
from framefold.adapters.base.selector import Selector
from framefold.adapters.core import registry
from framefold.errors import (
    AdapterFileError,
    BudgetError,
    ConfigError,
    ContractError,
    InputError,
    UnknownCompressorError,
)
from framefold.evaluation.ablation.methods import source_digest
from framefold.evaluation.bench.compressors import bench_compress
from tests.support.cases import case
from tests.support.contract import (
    COUNTS,
    GRIDS,
    KINDS,
    RATIOS,
    check_tokens,
    expected_count,
    features,
    make,
    question,
    run,
    same,
    wrap,
)
from tests.support.hosts import tiny_hosts as tiny
from tests.support.videos import DTYPES, noise

# Chains that drop, merge, do both, repeat a stage, encode, need the question, and have parameters of each kind.
TRAINED = ["uniform+fila", "pool+qtsplus", "storm+uniform+sttm", "storm+storm"]
CHAINS = ["pool+sttm", "identity+random", "pool+pool", "uniform+pool+evs", *TRAINED]
each = pytest.mark.parametrize("name", CHAINS)
each_trained = pytest.mark.parametrize("name", TRAINED)


@pytest.fixture
def clean_registry():
    """Remove what a test registered."""
    before = dict(registry._CLASSES)
    yield
    registry._CLASSES.clear()
    registry._CLASSES.update(before)


def spy(name: str, **attributes: Any) -> list[VideoTokens]:
    """Register a compressor that keeps the first k tokens; its inputs are appended to the returned list."""
    given: list[VideoTokens] = []

    def compress(self: Compressor, video: VideoTokens, k: int, query: Any) -> VideoTokens:
        given.append(video)
        return video.keep(torch.arange(k))

    type(name, (Compressor,), {"name": name, "compress": compress, **attributes})
    return given


# The contract, as in tests/contract for single compressors.


@each
@torch.no_grad()
def test_budget_is_exact(name: str) -> None:
    x = features((12, 3, 4))
    compressor = make(name)
    for budget in [*RATIOS, *COUNTS]:
        with case(budget):
            compressor.budget = budget
            out = run(compressor, x)
            assert len(out) == expected_count(compressor, 144, budget)
            check_tokens(out, (12, 3, 4))
    compressor.budget = 1.0
    out = run(compressor, x)
    assert torch.equal(out.index, torch.arange(144)) and torch.equal(out.size, torch.ones_like(out.index))


@each
@torch.no_grad()
def test_small_grids_and_degenerate_videos(name: str) -> None:
    for grid in GRIDS:
        n, compressor = math.prod(grid), make(name, grid=grid[1:])
        for kind, budget in zip(KINDS, (1, 2, n // 3 + 1, n - 1 or 1), strict=True):
            with case(grid, kind, budget):
                compressor.budget = budget
                out = run(compressor, features(grid, kind))
                assert len(out) == min(n, budget)
                check_tokens(out, grid)


@each
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)),
    budget=st.one_of(st.floats(0.001, 1.0), st.integers(1, 400)),
    dtype=st.sampled_from(DTYPES),
)
def test_any_grid_any_budget_any_dtype(name: str, grid: tuple[int, int, int], budget: Any, dtype: torch.dtype) -> None:
    compressor = make(name, budget, grid[1:])
    out = run(compressor, features(grid).to(dtype))
    assert len(out) == expected_count(compressor, math.prod(grid), budget) and out.features.dtype == dtype
    check_tokens(out, grid)


@each
def test_calls_are_deterministic_and_independent(name: str) -> None:
    compressor, video, other = make(name, 0.2), wrap(features((7, 3, 4), seed=50)), wrap(features((12, 3, 4)))
    before, query = copy.deepcopy(video), question(compressor)
    first = compressor(video, query).tokens
    compressor(other, query)
    torch.manual_seed(1234)
    assert same(first, compressor(video, query).tokens) and same(first, make(name, 0.2)(video, query).tokens)
    assert same(video, before) and torch.equal(video.times, before.times)
    assert torch.equal(video.attention, before.attention)
    assert torch.equal(first.times, video.times) and torch.equal(first.attention, video.attention)


@each_trained
def test_gradients_reach_every_parameter_and_the_features(name: str) -> None:
    grids = [((6, 3, 4), 1), ((6, 3, 4), 36), ((6, 3, 4), 72), ((1, 3, 4), 6), ((5, 1, 1), 2)]
    for trained, (grid, budget) in itertools.product((False, True), grids):
        with case(trained, grid, budget):
            compressor = make(name, budget, grid[1:], trained).train()
            x = features(grid).requires_grad_()
            result = compressor(wrap(x), question(compressor))
            (result.tokens.features.square().sum() + sum(result.losses.values())).backward()
            missing = [
                key for key, p in compressor.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()
            ]
            assert not missing and list(compressor.parameters()), (trained, grid, budget, missing)
            assert budget > 1 or any(bool((p.grad != 0).any()) for p in compressor.parameters())
            assert bool((x.grad != 0).any())


@each
def test_saved_copied_and_pickled_chains_are_equal_bit_by_bit(name: str, tmp_path: Path) -> None:
    compressor, x = make(name, 0.15), features((12, 3, 4))
    out = run(compressor, x)
    compressor.save_pretrained(tmp_path, base_model="some/host")
    loaded = framefold.load(tmp_path).eval()
    assert loaded.budget == 0.15 and loaded.params() == compressor.params()
    assert isinstance(Chain.from_pretrained(tmp_path), type(compressor))
    assert len(run(framefold.load(tmp_path, budget=3).eval(), x)) == expected_count(compressor, 144, 3)
    for twin in (loaded, copy.deepcopy(compressor), pickle.loads(pickle.dumps(compressor))):
        assert type(twin) is type(compressor) and same(run(twin, x), out)
        twin.budget = 3
        assert len(run(twin, x)) == 3 and len(run(compressor, x)) == 22
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in compressor.parameters()}


def test_the_config_contains_the_parameters_of_each_stage(tmp_path: Path) -> None:
    chain = framefold.build("uniform+fila", 0.1, fila={"r": 2})
    chain.materialize(16, (3, 4))
    chain.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["compressor"] == "uniform+fila" and config["budget"] == 0.1 and set(config["params"]["fila"]) >= {"r"}
    assert config["params"]["uniform"] == {} and config["params"]["fila"]["grid"] == [3, 4]
    assert set(chain.state_dict()) == {"stages.1.static", "stages.1.score"}
    framefold.build("uniform+fila").save_pretrained(tmp_path)  # before its first video
    assert framefold.load(tmp_path).params()["fila"]["dim"] is None


# Names and classes.


def test_classes_are_created_once_and_are_not_listed() -> None:
    cls = registry.compressor_class("storm+st_simdiff")
    assert cls is registry.compressor_class("storm+st_simdiff")
    assert cls.name == "storm+st_simdiff" and issubclass(cls, Chain)
    assert not [name for name in framefold.list_compressors() if "+" in name]
    assert cls.trainable and not cls.query_aware and not cls.needs_attention and not cls.encodes
    assert registry.compressor_class("storm+storm").encodes and registry.compressor_class("uniform+qtsplus").query_aware
    assert (
        registry.compressor_class("uniform+qtsplus").predicts_budget
        and not registry.compressor_class("qtsplus+uniform").predicts_budget
    )
    assert (
        not registry.compressor_class("uniform+identity").exact_budget
        and registry.compressor_class("identity+uniform").exact_budget
    )
    assert registry.compressor_class("uniform+sttm").__doc__ and not registry.compressor_class("uniform+sttm").trainable


def test_a_fresh_chain_equals_its_counterpart_bit_by_bit() -> None:
    counterparts = {
        "storm+st_simdiff": "st_simdiff",
        "storm+uniform+sttm": "uniform+sttm",
        "uniform+storm": "uniform+pool",
        "storm+storm": "pool",
        "storm+fila": "scene_mean",
        "uniform+fila": "uniform+scene_mean",
        "fila+random": "scene_mean+random",
    }
    x = features((12, 3, 4))
    for name, counterpart in counterparts.items():
        assert registry.compressor_class(name).counterpart == counterpart
        params = {"fila": {"scene_goal": 1}} if name.startswith("fila") else {}
        kept = registry.compressor_class(name).counterpart_of(params)[1]
        for budget in (0.05, 0.25, 0.6, 17):
            fresh, plain = framefold.build(name, budget, **params), framefold.build(counterpart, budget, **kept)
            assert same(run(fresh, x), run(plain, x)), (name, budget)


def test_chains_without_a_counterpart() -> None:
    assert registry.compressor_class("uniform+qtsplus").counterpart is None  # qtsplus has none
    assert registry.compressor_class("uniform+sttm").counterpart is None  # nothing is trainable


def test_counterparts_get_the_parameters_that_they_have() -> None:
    params = {"storm": {"layers": 1, "spatial": 2}, "st_simdiff": {"tau_sim": 0.7}}
    assert registry.compressor_class("storm+st_simdiff").counterpart_of(params)[1] == {"tau_sim": 0.7}
    params = {"pool": {"spatial": 2}, "fila": {"r": 5, "dim": 8}}
    expected = {"pool": {"spatial": 2}, "scene_mean": {"r": 5}}
    assert registry.compressor_class("pool+fila").counterpart_of(params)[1] == expected
    assert registry.compressor_class("storm").counterpart_of({"spatial": 2, "layers": 1})[1] == {"spatial": 2}
    assert registry.compressor_class("uniform").counterpart_of({})[1] == {}


def test_each_stage_has_a_keyword() -> None:
    chain = framefold.build("pool+pool", 0.1, pool={}, pool_2={"spatial": 3})
    assert [stage.spatial for stage in chain.stages] == [1, 3]
    assert chain.params() == {"pool": {"spatial": 1}, "pool_2": {"spatial": 3}}
    assert "pool_2={'spatial': 3}" in repr(chain)
    assert framefold.build("pool+pool").params()["pool_2"] == {"spatial": 1}  # defaults are not shared


def test_wrong_parameters_name_the_stage() -> None:
    cases = [
        ({"pol": {}}, r"pool\+sttm has no parameter 'pol'; did you mean 'pool'"),
        ({"spatial": 2}, r"pool\+sttm has no parameter 'spatial'"),
        ({"pool": 3}, r"pool\+sttm: pool must be dict, got 3"),
        ({"pool": None}, "pool must be dict"),
        ({"pool": {"spatal": 1}}, "pool has no parameter 'spatal'; did you mean 'spatial'"),
        ({"pool": {"budget": 0.5}}, "pool has no parameter 'budget'"),
        ({"sttm": {"tau_s": "high"}}, "sttm: tau_s must be float"),
        ({"pool": {"spatial": 0}}, "spatial must be at least 1"),
    ]
    for params, message in cases:
        with case(params, message), pytest.raises(ConfigError, match=message):
            framefold.build("pool+sttm", 0.1, **params)


HOSTILE = [
    ("uniform+st_simdif", "did you mean 'st_simdiff'"),
    ("+", "no compressor is called ''"),
    ("pool+", "no compressor is called ''"),
    ("a+__import__", "no compressor is called 'a'"),
    ("pool+os.path", "no compressor is called 'os.path'"),
    ("os.path+pool", "no compressor is called 'os.path'"),
    ("fila+" * 10_000, "at most 8 stages"),
    ("+".join(["pool"] * 9), "at most 8 stages"),
    ("pool+" + "x" * 100_000, "no compressor is called"),
]


def test_invalid_names_are_refused_in_short_messages(tmp_path: Path) -> None:
    for name, message in HOSTILE:
        with case(name, message):
            for create in (registry.compressor_class, framefold.build):
                with pytest.raises(UnknownCompressorError, match=message) as raised:
                    create(name)
                assert len(str(raised.value)) < 300 + len(", ".join(framefold.list_compressors()))
            config = {"framefold_format": 1, "compressor": name, "budget": 0.1, "params": {}}
            (tmp_path / "config.json").write_text(json.dumps(config))
            with pytest.raises(AdapterFileError, match=message):
                framefold.load(tmp_path)


def test_invalid_parameters_in_a_folder_are_refused(tmp_path: Path) -> None:
    for params in ({"pool": 3}, {"pool": [1]}, {"pool": {"spatial": "2"}}, {"more": {}}, {"fila": {"r": 10**9}}):
        with case(params):
            config = {"framefold_format": 1, "compressor": "pool+fila", "budget": 0.1, "params": params}
            (tmp_path / "config.json").write_text(json.dumps(config))
            with pytest.raises(AdapterFileError, match=r"config\.json"):
                framefold.load(tmp_path)


def test_eight_stages_run() -> None:
    check_tokens(run(make("+".join(["pool"] * 8), 0.02), features((12, 3, 4))), (12, 3, 4))


def test_names_that_are_no_keywords_cannot_be_stages(clean_registry) -> None:
    spy("budget")
    spy("not-a-keyword")
    for name in ("pool+budget", "not-a-keyword+pool"):
        with pytest.raises(UnknownCompressorError, match="cannot be keywords"):
            framefold.build(name)
    with pytest.raises(ConfigError, match="joins the stages"):
        spy("a+b")


def test_the_digest_depends_on_the_source_of_every_stage() -> None:
    names = ["uniform+st_simdiff", "pool+st_simdiff", "uniform+sttm", "st_simdiff"]
    assert len({source_digest(registry.compressor_class(name)) for name in names}) == 4
    assert source_digest(registry.compressor_class("uniform+sttm")) == source_digest(
        registry.compressor_class("uniform+sttm")
    )


# How stages run, and how their results are combined.


def video(frames: int, cells: int = 2) -> VideoTokens:
    return VideoTokens.from_grid(torch.arange(frames * cells * 2.0).reshape(frames, 1, cells, 2).square())


def test_merging_twice_by_hand() -> None:
    """Three frames of two tokens, k = 2: sqrt(12) / 2 = 1.7, so two frames, of two and one; then one of all three."""
    dense = video(3)
    out = framefold.build("pool+pool", 2)(dense).tokens
    assert out.index.tolist() == [0, 1] and out.size.tolist() == [3, 3] and out.assign.tolist() == [0, 1, 0, 1, 0, 1]
    torch.testing.assert_close(out.features, dense.features.reshape(3, 2, 2).mean(0))  # each token counts once


def test_dropping_and_then_merging_by_hand() -> None:
    """Six frames of two tokens, k = 2: sqrt(24) / 2 = 2.4, so frames 1 and 4 stay; then their mean."""
    dense = video(6)
    out = framefold.build("uniform+pool", 2)(dense).tokens
    assert out.index.tolist() == [2, 3] and out.size.tolist() == [2, 2]
    assert out.assign.tolist() == [-1, -1, 0, 1, -1, -1, -1, -1, 0, 1, -1, -1]
    assert torch.equal(out.features, (dense.features[2:4] + dense.features[8:10]) / 2)
    assert out.grid == dense.grid and torch.equal(out.times, dense.times)


def test_merging_and_then_dropping_by_hand(clean_registry) -> None:
    spy("first_of_a_test")
    dense = video(6)
    out = framefold.build("pool+first_of_a_test", 3)(dense).tokens  # sqrt(36) / 2 = 3 frames, of two each
    assert out.index.tolist() == [0, 1, 4] and out.size.tolist() == [2, 2, 2]
    assert out.assign.tolist() == [0, 1, 0, 1, 2, -1, 2, -1, -1, -1, -1, -1]


def test_the_next_stage_gets_frames_with_times_and_mean_attention(clean_registry) -> None:
    given = spy("spy_of_a_test", needs_attention=True)
    attention = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])[:, None]
    dense = VideoTokens.from_grid(torch.randn(3, 1, 2, 4), torch.tensor([0.0, 0.5, 4.0]), attention)
    framefold.build("pool+spy_of_a_test", 2)(dense)
    framefold.build("uniform+spy_of_a_test", 2)(dense)
    pooled, sampled = given
    assert pooled.is_dense and pooled.grid == sampled.grid == (2, 1, 2)
    assert pooled.times.tolist() == [0.0, 4.0] and pooled.attention.tolist() == [2.0, 3.0, 5.0, 7.0]
    assert sampled.times.tolist() == [0.0, 4.0] and sampled.attention.tolist() == [1.0, 2.0, 5.0, 7.0]
    assert pooled.size.tolist() == [2, 2, 1, 1] and pooled.index.tolist() == pooled.assign.tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"pool\+spy_of_a_test needs VideoTokens.attention"):
        framefold.build("pool+spy_of_a_test", 2)(video(3))


def test_reducers_share_the_reduction() -> None:
    cases = [
        ("uniform+random", 14, [4]),  # sqrt(14 * 144) / 12 = 3.7
        ("uniform+random", 1, [1]),  # 1
        ("uniform+random", 143, [12]),
        ("uniform+random", 100, [10]),  # 120 / 12
        ("uniform+pool+random", 14, [6, 3]),  # (144^2 * 14)^(1/3) / 12 = 5.5, sqrt(72 * 14) / 12 = 2.6
        ("uniform+storm+random", 14, [4]),  # an encoder reduces nothing
        ("identity+uniform+random", 14, [12, 4]),
    ]
    for name, budget, frames in cases:
        chain, found = make(name, budget), []
        for stage in list(chain.stages)[1:]:
            stage.register_forward_pre_hook(lambda stage, args, found=found: found.append(args[0].grid[0]))
        run(chain, features((12, 3, 4)))
        assert found == frames, (name, budget)


def test_a_stage_that_does_not_keep_whole_frames_is_named() -> None:
    cases = [
        ("evs+sttm", {}, "evs"),
        ("uniform+sttm+random", {}, "sttm"),
        ("pool+pool+random", {"pool_2": {"spatial": 2}}, "pool_2"),
        ("scene_mean+random", {}, "scene_mean"),
    ]
    for name, params, label in cases:
        message = rf"{label} kept .* must keep whole frames of 12.* scene_goal=1"
        with case(name, params), pytest.raises(InputError, match=message):
            run(framefold.build(name, 5, **params), features((12, 3, 4)))


def test_positions_of_several_frames_are_no_whole_frame(clean_registry) -> None:
    for i, rows in enumerate([[0, 3], [1, 2], [0, 1, 2]]):

        def compress(self: Compressor, video: VideoTokens, k: int, query: Any, rows: Any = rows) -> VideoTokens:
            return video.keep(torch.tensor(rows))

        type("Mixed", (Compressor,), {"name": f"mixed_{i}_of_a_test", "compress": compress, "exact_budget": False})
        with pytest.raises(InputError, match=f"mixed_{i}_of_a_test kept {len(rows)} tokens"):
            framefold.build(f"mixed_{i}_of_a_test+random", 1)(video(4))


def test_a_stage_that_keeps_too_few_frames_for_the_budget_is_named(clean_registry) -> None:
    def compress(self: Compressor, video: VideoTokens, k: int, query: Any) -> VideoTokens:
        return video.keep(torch.arange(2))

    type("One", (Compressor,), {"name": "one_of_a_test", "compress": compress, "exact_budget": False})
    assert len(framefold.build("one_of_a_test+random", 2)(video(4)).tokens) == 2
    with pytest.raises(InputError, match="one_of_a_test kept 2 tokens, .* budget of 3"):
        framefold.build("one_of_a_test+random", 3)(video(4))


def test_official_variants_get_ratios() -> None:
    x, official = features((12, 3, 4)), {"variant": "official"}
    chain = framefold.build("storm+evs", 0.3, evs=official)
    assert not chain.exact_budget and same(run(chain, x), run(framefold.build("evs", 0.3, **official), x))
    out = run(framefold.build("uniform+evs", 0.25, evs=official), x)  # 36 of the 72 tokens of six frames
    assert len(out) == 36
    check_tokens(out, (12, 3, 4))
    with pytest.raises(BudgetError, match="ratio"):
        framefold.build("uniform+evs", 30, evs=official)


def test_only_the_encoder_of_an_encoding_stage_is_run() -> None:
    chain, x = make("storm+uniform", 24), features((12, 3, 4))
    encoded = chain.stages[0].encode(wrap(x)).features
    out = run(chain, x)
    assert torch.equal(out.features, encoded[out.index]) and not torch.equal(encoded, x.reshape(144, -1))
    assert out.index.tolist() == run(framefold.build("uniform", 24), x).index.tolist()
    both = make("storm+storm")
    twice = both.stages[1].encode(both.stages[0].encode(wrap(x))).features
    assert torch.equal(both.encode(wrap(x)).features, twice)


class Encoder(Selector):
    """Scales features; the parameter of its selection is not used if only the encoder is run."""

    trainable = True
    encodes = True

    def __init__(self, budget: float | int = 0.25) -> None:
        super().__init__(budget)
        self.scale, self.preference = torch.nn.Parameter(torch.ones(16)), torch.nn.Parameter(torch.ones(16))

    def encode(self, video: VideoTokens, query: Any = None) -> VideoTokens:
        return replace(video, features=video.features * self.scale)

    def score(self, video: VideoTokens, query: Any) -> torch.Tensor:
        return (video.features * self.preference).sum(-1)


def test_parameters_of_a_reduction_that_is_not_run_get_gradients(clean_registry) -> None:
    type("Scaling", (Encoder,), {"name": "scaling_of_a_test"})
    chain = framefold.build("scaling_of_a_test+evs", 0.1)
    chain(wrap(features((6, 3, 4)))).tokens.features.sum().backward()
    scale, preference = chain.stages[0].scale.grad, chain.stages[0].preference.grad
    assert bool((scale != 0).any()) and torch.equal(preference, torch.zeros(16))


def test_an_encoder_may_change_only_the_values(clean_registry) -> None:
    changes = {
        "dtype": lambda video: replace(video, features=video.features.double()),
        "width": lambda video: replace(video, features=video.features[:, :8]),
        "grid": lambda video: replace(video, grid=(6, 4, 3)),
        "tokens": lambda video: video.keep(torch.arange(12)),
    }
    for what, change in changes.items():
        with case(what, change):
            encode = lambda self, video, query=None, change=change: change(video)  # noqa: E731
            type("Off", (Encoder,), {"name": f"off_{what}_of_a_test", "encode": encode})
            with pytest.raises(ContractError, match=f"encoder of off_{what}_of_a_test"):
                run(framefold.build(f"off_{what}_of_a_test+evs", 0.1), features((6, 3, 4)))


def test_questions_reach_the_stages_that_need_them() -> None:
    chain = make("pool+qtsplus", 5)
    with pytest.raises(InputError, match=r"pool\+qtsplus is query-aware"):
        chain(wrap(features((6, 3, 4))))
    one, other = (chain(wrap(features((6, 3, 4))), noise(3, 16, seed=s)).tokens.features for s in (1, 2))
    assert not torch.equal(one, other)


def test_losses_have_the_name_of_their_stage_and_the_last_stage_predicts_budgets() -> None:
    chain = framefold.build("pool+qtsplus", "auto", qtsplus={"n_max": 9}).train()
    result = chain(wrap(features((12, 3, 4))), noise(3, 16))
    assert set(result.losses) == {"qtsplus/flops", "qtsplus/kv", "qtsplus/smooth"}
    assert 1 <= len(result.tokens) <= 9 and chain.stages[1].budget == "auto"
    assert chain.stages[0].budget == 36  # sqrt(9 * 144) tokens: on the way to the maximum of the last stage
    check_tokens(result.tokens, (12, 3, 4))
    chain.budget = 5
    assert len(chain(wrap(features((12, 3, 4))), noise(3, 16)).tokens) == 5
    for refused in (framefold.build("pool+qtsplus"), framefold.build("qtsplus+pool")):  # without a head; not the last
        with pytest.raises(BudgetError, match="does not predict"):
            refused.budget = "auto"


def test_scores_are_expanded_to_the_original_tokens(clean_registry) -> None:
    def compress(self: Compressor, video: VideoTokens, k: int, query: Any) -> Compressed:
        return Compressed(video.keep(torch.arange(k)), scores=video.features.sum(-1))

    type("Scoring", (Compressor,), {"name": "scoring_of_a_test", "compress": compress})
    dense = video(4)  # two frames remain
    pooled = framefold.build("pool", 4)(dense).tokens
    scores = framefold.build("pool+scoring_of_a_test", 2)(dense).scores
    assert torch.equal(scores, pooled.features.sum(-1)[pooled.assign])
    assert torch.equal(framefold.build("scoring_of_a_test+evs", 8)(dense).scores, dense.features.sum(-1))
    assert framefold.build("uniform+scoring_of_a_test", 2)(dense).scores is None  # dropped tokens have no score
    assert framefold.build("scoring_of_a_test+scoring_of_a_test", 2)(dense).scores is None  # ambiguous


def test_scores_of_a_chain_that_reads_the_question_are_those_of_the_stage_that_reads_it() -> None:
    torch.manual_seed(0)
    dense, question = VideoTokens.from_grid(torch.randn(8, 2, 2, 16)), torch.randn(5, 16)
    chain = framefold.build("fila+qtsplus", 8, fila={"members": "cluster", "scene_goal": 1}, qtsplus={"dim": 16})
    fused = chain.stages[0](dense)
    asked = chain.eval()(dense, question).scores
    assert fused.scores is not None and asked is not None and chain.returns_scores
    assert len(asked.unique()) <= len(fused.tokens) and float(asked.std()) > 0 == float(fused.scores.std())


def test_questions_about_a_video_share_the_stages_that_do_not_read_them(monkeypatch) -> None:
    torch.manual_seed(0)
    chain = framefold.build("storm+qtsplus", 8, storm={"dim": 16}, qtsplus={"dim": 16}).eval()
    dense, questions = VideoTokens.from_grid(torch.randn(8, 2, 2, 16)), torch.randn(2, 5, 16)
    expected = [chain(dense, one).tokens for one in questions]
    runs, encode = [], chain.stages[0].encode
    monkeypatch.setattr(chain.stages[0], "encode", lambda *given: runs.append(1) or encode(*given))
    shared = replace(dense, cache={})
    for one, tokens in zip(questions, expected, strict=True):
        assert same(chain(shared, one).tokens, tokens)
    assert len(runs) == 1 and not torch.equal(expected[0].index, expected[1].index)


def test_events_are_those_of_the_last_stage() -> None:
    dense = wrap(features((12, 3, 4)))
    alone = framefold.build("st_simdiff").events(dense)
    assert alone.any() and torch.equal(framefold.build("storm+st_simdiff").events(dense), alone)
    events = framefold.build("uniform+st_simdiff", 14).events(dense)  # four frames of twelve
    frames = framefold.build("uniform", 48)(dense).tokens
    expected = framefold.build("st_simdiff").events(VideoTokens.from_grid(frames.features.reshape(4, 3, 4, 16)))
    assert torch.equal(events[frames.index], expected) and int(events.sum()) == int(expected.sum()) > 0
    assert framefold.build("storm+uniform").events(dense) is None
    assert framefold.build("qtsplus+st_simdiff").events(dense) is None


def test_every_stage_gets_sizes_modes_dtypes_and_synchronization(clean_registry) -> None:
    calls: list[str] = []
    spy("listening_of_a_test", synchronize=lambda self: calls.append("synchronize"))
    chain = framefold.build("fila+storm+listening_of_a_test", 0.1, fila={"scene_goal": 1})
    chain.materialize(16, (3, 4))
    assert chain.params()["fila"]["grid"] == [3, 4] and chain.params()["storm"]["dim"] == 16
    chain.synchronize()
    assert calls == ["synchronize"]
    assert not any(stage.training for stage in chain.eval().stages)
    assert {p.dtype for p in chain.to(torch.bfloat16).parameters()} == {torch.bfloat16}
    assert run(chain, features((6, 3, 4))).features.dtype == torch.float32
    assert chain.zero_times_parameters().requires_grad and chain.zero_times_parameters() == 0


def test_a_host_generates_and_trains_with_a_chain() -> None:
    host = tiny.llava_onevision()
    chain = framefold.build("storm+st_simdiff", 6)
    inputs = tiny.single()
    labels = inputs["input_ids"].where(inputs["input_ids"] < tiny.IMAGE, -100)
    with framefold.attach(host, framefold.build("st_simdiff", 6)):
        expected = host.generate(**inputs, max_new_tokens=3)
    with framefold.attach(host, chain):
        assert torch.equal(host.generate(**inputs, max_new_tokens=3), expected)
        host(**inputs, labels=labels).loss.backward()
    assert all(p.grad is not None for p in chain.parameters())
    assert any(bool((p.grad != 0).any()) for p in chain.parameters())


def test_a_chain_can_be_benchmarked(capsys) -> None:
    row = bench_compress(["uniform+st_simdiff"], [8], (2, 3), 8, [0.25], ["noise"], repeats=1)[-1]
    assert row["compressor"] == "uniform+st_simdiff" and row["tokens_out"] == 12
