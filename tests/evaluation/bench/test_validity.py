"""``framefold bench validity``: the order of methods here against hand-made published orders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framefold.__main__ import main
from framefold.errors import ConfigError, ResultsError
from framefold.evaluation.bench.validity import bench_validity
from tests.support.pages.simple_results import SETTINGS, simple_answers, write_simple_result
from tests.support.paths import ROOT

HERE = {"pool": 0.9, "uniform": 0.6, "random": 0.3, "longest": 0.1}


def published(folder: Path, *orders: dict[str, float], ratio: float = 0.1) -> str:
    """Write a table per order, of scores on MLVU."""
    tables = [
        {"name": f"paper {number}", "host": "7B", "source": "by hand", "unpruned": {"mlvu": 80.0}}
        | {"rows": [{"ratio": ratio, "method": name, "mlvu": score} for name, score in order.items()]}
        for number, order in enumerate(orders)
    ]
    file = folder / "published.json"
    file.write_text(json.dumps({"tables": tables}))
    return str(file)


def committed(folder: Path, values: dict[str, float]) -> str:
    file = folder / "accuracies.json"
    content = {name: {"10 %": [value, value, value]} for name, value in values.items()}
    file.write_text(json.dumps({"setting": {"host": "h"}, "values": content}))
    return str(file)


def ablation(folder: Path, values: dict[str, float], **changes: Any) -> str:
    for number, (name, right) in enumerate(values.items()):
        settings = replace(SETTINGS, compressor=name, **changes)
        write_simple_result(folder, settings, simple_answers(right, 10, number))
    return str(folder)


SAME = {"pool": 70.0, "uniform": 60.0, "random": 50.0, "longest": 40.0}
REVERSE = dict(zip(SAME, reversed(SAME.values()), strict=True))


@pytest.mark.parametrize(("orders", "rho"), [([SAME], 1.0), ([REVERSE], -1.0), ([SAME, REVERSE], 0.0)])
def test_equal_and_reverse_orders_are_told_apart(tmp_path: Path, orders: list[dict[str, float]], rho: float) -> None:
    found = bench_validity([committed(tmp_path, HERE)], published(tmp_path, *orders))
    assert found["pooled"][0] == pytest.approx(rho)
    assert found["resampled"] == ["methods"] and found["left_out"] == []
    assert [one["method"] for one in found["tables"][0]["methods"]] == list(
        dict(sorted(orders[0].items(), key=lambda x: -x[1]))
    )


def test_methods_that_were_not_measured_are_left_out_and_named(tmp_path: Path) -> None:
    order = {**SAME, "fastv": 75.0}
    found = bench_validity([committed(tmp_path, HERE)], published(tmp_path, order, {"fastv": 3.0, "pool": 2.0}))
    assert found["pooled"][0] == pytest.approx(1) and found["left_out"] == ["fastv"] and len(found["tables"]) == 1


def test_equal_methods_have_no_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_validity([committed(tmp_path, dict.fromkeys(HERE, 0.5))], published(tmp_path, SAME))
    assert found["pooled"] == [None] * 3 and found["tables"][0]["rho"] is None
    assert "pooled: undefined" in capsys.readouterr().out


def test_too_few_methods_or_other_budgets_are_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    few = committed(tmp_path, {"pool": 0.9, "uniform": 0.8})
    with pytest.raises(ConfigError, match=r"3 methods .* --budgets 0\.1 --compressors longest pool random uniform"):
        bench_validity([few], published(tmp_path, SAME), budgets=[0.1])
    with pytest.raises(ConfigError, match="measured here"):
        bench_validity([committed(tmp_path, HERE)], published(tmp_path, SAME, ratio=0.25))


def test_answers_of_ablations_are_resampled_also_from_several_folders(tmp_path: Path) -> None:
    first = ablation(tmp_path / "a", {"pool": 0.9, "uniform": 0.6})
    second = ablation(tmp_path / "b", {"random": 0.55, "longest": 0.5, "identity": 1.0})
    found = bench_validity([first, second], published(tmp_path, SAME))
    assert found["resampled"] == ["methods", "videos"] and found["left_out"] == []
    exact = bench_validity(
        [committed(tmp_path, {one["method"]: one["here"] for one in found["tables"][0]["methods"]})],
        published(tmp_path, SAME),
    )
    assert found["pooled"][0] == pytest.approx(exact["pooled"][0])
    assert found["pooled"][1] < exact["pooled"][1], "80 questions do not tell 55 % from 50 %"


def test_results_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first, tables = ablation(tmp_path / "a", HERE), published(tmp_path, SAME)
    with pytest.raises(ResultsError, match="has longest at 10 % again"):
        bench_validity([first, ablation(tmp_path / "b", HERE)], tables)
    with pytest.raises(ResultsError, match="host_weights"):
        bench_validity([first, ablation(tmp_path / "c", {"evs": 0.5}, host_weights="other")], tables)
    with pytest.raises(ConfigError, match="either one file or folders"):
        bench_validity([first, committed(tmp_path, HERE)], tables)
    with pytest.raises(ResultsError, match="framefold ablate"):
        bench_validity([str(tmp_path / "none")], tables)
    with pytest.raises(ResultsError, match="no accuracies"):
        bench_validity([str(tmp_path / "none.json")], tables)
    with pytest.raises(ConfigError, match="no folder"):
        bench_validity([], tables)
    with pytest.raises(ConfigError, match="benchmarks must be some of"):
        bench_validity([first], tables, benchmarks=["mvlu"])


def test_command_compares_the_committed_accuracies_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    line = f"bench validity --results docs/measured/accuracies_hard.json --out {tmp_path}"
    assert main(line.split()) == 0
    out, content = capsys.readouterr().out, json.loads((tmp_path / "validity.json").read_text())
    assert "| HoliTom's runs | LLaVA-OneVision-7B | 25 % |" in out and (tmp_path / "validity.md").read_text() in out
    value, low, high = content["pooled"]
    assert -1 <= low < value < high <= 1 and content["pairs"] >= 3 and content["published"] > 0
