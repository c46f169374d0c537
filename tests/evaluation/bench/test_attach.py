"""``framefold bench attach`` on a small host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.errors import BudgetError, ConfigError, UnknownCompressorError
from framefold.evaluation.bench import attach as bench_attach
from framefold.evaluation.bench.attach import BARE, WORDS
from framefold.evaluation.bench.ideal_prefill import IdealPrefill, timed_language_model
from framefold.evaluation.metrics.timing import Stopwatch

TINY = {"qwen2_5_vl": ((32, 1, 4, 2, 48, 4096), (16, 1, 2, 32))}


def test_every_variant_has_columns_times_and_ratios(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_attach.SIZES, "small", TINY)
    rows = bench_attach.bench_attach(frames=4, side=3, compressor="uniform", budgets=[0.5], repeats=2)
    assert {name: row["columns"] for name, row in rows.items()} == {
        BARE: 36 + WORDS,
        "identity": 36 + WORDS,
        "uniform@0.5": 18 + WORDS,
    }
    assert rows[BARE]["prefill_ratio"] == rows[BARE]["decode_ratio"] == 1
    for row in rows.values():
        assert row["prefill_s"] > row["language_s"] > 0 and row["decode_s"] > 0
        assert row["prefill_ratio"] == row["prefill_s"] / rows[BARE]["prefill_s"]
        assert row["language_ratio"] == row["language_s"] / rows[BARE]["language_s"]
        assert row["cache_ratio"] == row["columns"] / (36 + WORDS) and "of_ideal" not in row
    table = capsys.readouterr().out
    assert "uniform@0.5" in table and "random weights" in table and "medians of 2" in table


def test_a_query_aware_compressor_gets_the_words_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_attach.SIZES, "small", TINY)
    rows = bench_attach.bench_attach(frames=4, side=3, compressor="qtsplus", budgets=[0.5], repeats=1)
    assert rows["qtsplus@0.5"]["columns"] == 18 + WORDS


def test_rows_inside_the_language_model_have_a_share_of_the_ideal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_attach.SIZES, "small", TINY)
    measured = []

    class Recorded(IdealPrefill):
        def measure(self, lengths: Sequence[int], warm_up: bool) -> None:
            super().measure(lengths, warm_up)
            measured.append((list(lengths), warm_up))

        def of(self, columns: Sequence[int]) -> float:
            assert {length: len(seconds) for length, seconds in self.seconds.items()} == {36 + WORDS: 2, 12 + WORDS: 2}
            return 0.001 * len(columns) + sum(columns)

    monkeypatch.setattr(bench_attach, "IdealPrefill", Recorded)
    rows = bench_attach.bench_attach(
        frames=4, side=3, compressor="fastv", params={"layer": 2}, budgets=[1.0, 0.5], layers=4, repeats=2
    )
    full, short = 36 + WORDS, 12 + WORDS  # 36 tokens in the first layer, 12 in three: 18 on average
    assert measured == [([short, full], turn == 0) for turn in range(3)]
    assert [row["columns"] for row in rows.values()] == [full] * 4
    assert [row["cache_ratio"] for row in rows.values()] == [1, 1, 1, (full + 3 * short) / (4 * full)]
    assert [name for name in rows if "of_ideal" in rows[name]] == ["fastv@1.0", "fastv@0.5"]
    for name, columns in (("fastv@1.0", 4 * full), ("fastv@0.5", full + 3 * short)):
        assert rows[name]["of_ideal"] == (0.004 + columns) / rows[name]["language_s"]
    assert "of ideal" in capsys.readouterr().out


def test_the_ideal_is_the_mean_over_the_layers_of_the_median_times() -> None:
    ideal = IdealPrefill(None)
    ideal.seconds |= {8: [3.0, 1.0, 2.0], 4: [1.0, 0.5, 7.0]}
    assert ideal.of([8, 4, 4, 4]) == (2.0 + 3 * 1.0) / 4


def test_only_the_language_model_of_a_prefill_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    host = bench_attach.random_host(
        bench_attach.SIZES["small"]["qwen2_5_vl"], "qwen2_5_vl", 1, "cpu", "float32", "sdpa", 0
    )
    text, events = host.model.language_model, []
    for name in ("start", "stop"):
        monkeypatch.setattr(Stopwatch, name, lambda self, name=name: events.append(name))
    for name, module in {"vision": host.model.visual, "layer": text.layers[0], "head": host.lm_head}.items():
        module.register_forward_pre_hook(lambda *_, name=name: events.append(name))
    with timed_language_model(host), torch.no_grad():
        host(**bench_attach.random_inputs(host, 1, 2, 0))
    assert events == ["vision", "start", "layer", "stop", "head"]
    assert not text._forward_hooks and not text._forward_pre_hooks


def test_budgets_are_ratios_or_numbers_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[Any] = []

    def stop(variants: Any, *_: Any) -> None:
        budgets.extend((name, one.budget) for name, one in dict(variants).items() if one is not None)
        raise ConfigError("stop")

    monkeypatch.setattr(bench_attach, "_measure_turns", lambda host, variants, *_: stop(variants))
    monkeypatch.setattr(bench_attach, "random_host", lambda *_: None)
    monkeypatch.setattr(bench_attach, "random_inputs", lambda *_: None)
    assert main(["bench", "attach", "--compressor", "uniform", "--budgets", "[1, 8, 1.0]"]) != 0
    assert budgets[1:] == [("uniform@1", 1), ("uniform@8", 8), ("uniform@1.0", 1.0)]
    assert [type(budget) for _, budget in budgets[1:]] == [int, int, float]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": 0}, ConfigError, "at least 1"),
        ({"device": "cuda:7"}, ConfigError, "cuda:7 is not available"),
        ({"device": "abacus"}, ConfigError, "abacus"),
        ({"size": "9b"}, ConfigError, "9b"),
        ({"dtype": "int32"}, ConfigError, "int32"),
        ({"budgets": [1.5]}, BudgetError, "1.5"),
        ({"layers": 0}, ConfigError, "layers"),
        ({"params": {"tau": 1}}, ConfigError, "tau"),
        ({"compressor": "fastv", "budgets": [0.1]}, BudgetError, "the smallest budget for 3136 tokens"),
        ({"compressor": "unheard_of"}, UnknownCompressorError, "unheard_of"),
    ],
)
def test_wrong_settings_are_errors_before_the_host_is_built(
    arguments: dict, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_attach, "random_host", lambda *args: pytest.fail("the host was built"))
    monkeypatch.setattr(bench_attach.torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=message):
        bench_attach.bench_attach(**arguments)
