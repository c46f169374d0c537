"""``framefold bench attach`` on a small host."""

from __future__ import annotations

import pytest

from framefold.errors import BudgetError, ConfigError, UnknownCompressorError
from framefold.evaluation.bench import attach as bench_attach
from framefold.evaluation.bench.attach import BARE, WORDS


def test_every_variant_has_columns_times_and_ratios(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_attach.SIZES, "small", ((32, 1, 4, 2, 48, 4096), (16, 1, 2, 32)))
    rows = bench_attach.bench_attach(frames=4, side=3, compressor="uniform", budgets=[0.5], repeats=2)
    assert {name: row["columns"] for name, row in rows.items()} == {
        BARE: 36 + WORDS,
        "identity": 36 + WORDS,
        "uniform@0.5": 18 + WORDS,
    }
    assert rows[BARE]["prefill_ratio"] == rows[BARE]["decode_ratio"] == 1
    for row in rows.values():
        assert row["prefill_s"] > 0 and row["decode_s"] > 0
        assert row["prefill_ratio"] == row["prefill_s"] / rows[BARE]["prefill_s"]
    table = capsys.readouterr().out
    assert "uniform@0.5" in table and "random weights" in table and "medians of 2" in table


def test_a_query_aware_compressor_gets_the_words_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_attach.SIZES, "small", ((32, 1, 4, 2, 48, 4096), (16, 1, 2, 32)))
    rows = bench_attach.bench_attach(frames=4, side=3, compressor="qtsplus", budgets=[0.5], repeats=1)
    assert rows["qtsplus@0.5"]["columns"] == 18 + WORDS


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": 0}, ConfigError, "at least 1"),
        ({"device": "cuda:7"}, ConfigError, "cuda:7 is not available"),
        ({"device": "abacus"}, ConfigError, "abacus"),
        ({"size": "9b"}, ConfigError, "9b"),
        ({"dtype": "int32"}, ConfigError, "int32"),
        ({"budgets": [1.5]}, BudgetError, "1.5"),
        ({"compressor": "unheard_of"}, UnknownCompressorError, "unheard_of"),
    ],
)
def test_wrong_settings_are_errors_before_the_host_is_built(
    arguments: dict, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_attach, "_host", lambda *args: pytest.fail("the host was built"))
    monkeypatch.setattr(bench_attach.torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=message):
        bench_attach.bench_attach(**arguments)
