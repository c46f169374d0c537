"""Ablations of compressors that act inside the language model, on the embedded host of four layers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from framefold.adapters.base.build import build
from framefold.errors import AttachError, BudgetError, ConfigError
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.ablation.ablation_table import AblationTable
from framefold.evaluation.ablation.trials_in_llm import check_possible, describe_acts
from framefold.evaluation.metrics.flops import prefill_flops
from framefold.evaluation.report.report import report
from framefold.evaluation.results.left_out import read_left_out
from framefold.evaluation.results.result_files import FOLDER, read_results
from framefold.training.frozen_host.load import load_host
from tests.support.paths import TINYHOST

TOKENS = 16 * 16  # of a video of 16 frames
INSIDE = ["fastv", "pyramid_drop", "st_simdiff"]
SETTING: dict[str, Any] = {"host": str(TINYHOST), "videos": 2, "frames": 16, "oracle": False}
SETTING |= {"compressors": [*INSIDE, "uniform"], "params": {"st_simdiff": {"stage_2": True}}, "budgets": [0.5, 0.1, 51]}


@pytest.fixture(scope="module")
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.evaluation.ablation.runner.VIDEOS", 1)
        patch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
        yield patch


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, quick: pytest.MonkeyPatch) -> tuple[Path, str]:
    """Folder of the results, and what the ablation printed."""
    out = tmp_path_factory.mktemp("results")
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *texts, **_: printed.append(" ".join(map(str, texts))))
        print(ablate(str(out), **SETTING))
    return out, "\n".join(printed)


@pytest.fixture(scope="module")
def equal_flops(results: tuple[Path, str]) -> AblationTable:
    """The same ablation again in the same folder, with equal FLOPs and a method whose layers depend on the video."""
    changes = {"compressors": [*SETTING["compressors"], "framefusion_in_llm"], "budgets": [0.5, 0.3, 0.1]}
    return ablate(str(results[0]), equal="flops", **SETTING | changes)


def by_method(out: Path) -> dict[tuple[str, Any], dict[str, Any]]:
    return {(result["compressor"], result["budget"]): result for result in read_results(out)}


def test_budgets_are_equal_as_means_over_the_layers(results: tuple[Path, str]) -> None:
    found = by_method(results[0])
    entered = {"fastv": TOKENS, "pyramid_drop": TOKENS, "st_simdiff": 160, "uniform": 128}
    for name, tokens in entered.items():
        result = found[name, 0.5]
        cost = result["cost"]
        assert result["equal"] == "tokens" and cost["tokens_entered"] == tokens + 1, name  # and the host's newline
        assert set(result["answers"]["tokens"]) <= {127, 128}, name
        if name == "uniform":
            assert "tokens_mean" not in cost
            continue
        assert 128 < cost["tokens_mean"] <= 129 and cost["tokens_after"] < 129
        assert cost["recall_left"] < result["evidence_recall"] <= 1.0
    assert found["fastv", 0.5]["evidence_recall"] == 1.0


def test_impossible_budgets_are_left_out_and_every_table_says_so(results: tuple[Path, str]) -> None:
    out, printed = results
    left_out = {(one.method, one.budget): one for one in read_left_out(out)}
    assert set(left_out) == {(name, budget) for name in ("fastv", "pyramid_drop") for budget in (0.1, 51)}
    assert {one.smallest for one in left_out.values()} == {0.254, 65}  # (256 + 3) / 4 tokens
    assert left_out["fastv", 51].tokens == 51 and left_out["fastv", 0.1].tokens == 26
    assert "ablation: fastv is left out at 51: fastv: a mean of 51 tokens" in printed
    table = "| compressor | 50 % (128 tokens) | 51 tokens (51 tokens) | 10 % (26 tokens) |"
    cells = "| not possible: smallest is 65 tokens | not possible: smallest is 25.4 % |"
    assert cells in printed[printed.index(table) :], "the printed table"
    for text in (printed, (out / "report.md").read_text()):
        accuracies = text[text.index("| compressor |") :].split("\n\n")[0].splitlines()
        rows = {line.split(" | ")[0]: line for line in accuracies}
        assert rows["| fastv"].endswith(cells) and rows["| pyramid_drop"].endswith(cells)
        assert "not possible" not in rows["| st_simdiff"] + rows["| uniform"]


def test_the_layers_in_which_a_method_acts_are_said(results: tuple[Path, str]) -> None:
    assert results[1].count("ablation: fastv acts after the attention of layer 0 of 4 (from 0)") == 1
    host = load_host(TINYHOST)
    for name, params, expected in (
        ("uniform", {}, ""),
        ("fastv", {"layer": 9}, "after the attention of layer 0 of 4 (from 0)"),
        ("fastv", {"layer": 13}, "after the attention of layer 1 of 4 (from 0)"),
        ("pyramid_drop", {}, "after the attention of layers 0, 1, 2 of 4 (from 0)"),
        ("at_layer", {}, "in front of layer 1 of 4 (from 0)"),
    ):
        assert describe_acts(host, build(name, 1.0, **params)) == expected


def test_cells_that_were_left_out_are_not_computed_again_and_replaced_once_they_are_possible(
    results: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = results[0]
    ablate(str(out), **SETTING)
    assert "13 results, 13 of them exist already" in capsys.readouterr().out
    file = out / FOLDER / "fastv-b51-s0.json"
    before = file.read_text()
    damaged = json.loads(before)
    damaged["settings"]["code"] = "of an older version"
    file.write_text(json.dumps(damaged))
    ablate(str(out), **SETTING)
    assert "fastv is left out at 51" in capsys.readouterr().out and file.read_text() == before


def test_tables_show_the_tokens_inside_only_where_a_method_acts_there(results: tuple[Path, str]) -> None:
    lines = (results[0] / "report.md").read_text().splitlines()
    start = "| at {} | visual tokens entering the LM |"
    half, tenth = (next(line for line in lines if line.startswith(start.format(share))) for share in ("50 %", "10 %"))
    assert "| mean over the layers | in the last layer |" in half and "| mean over the layers |" in tenth
    rows = [line.split(" | ")[:4] for line in lines[lines.index(half) + 2 :][:4]]
    assert ["| uniform", "129.0", "129.0", "129.0"] in rows and ["| fastv", "257.0"] in [row[:2] for row in rows]


def test_equal_flops_are_those_of_the_budget_in_every_layer(
    equal_flops: AblationTable, results: tuple[Path, str]
) -> None:
    config, found = load_host(TINYHOST).model.config, by_method(results[0])
    for name in (*INSIDE, "framefusion_in_llm"):
        result = found[f"{name} (equal FLOPs)", 0.5]
        cost = result["cost"]
        assert result["equal"] == "flops" and result["budget"] == 0.5
        assert cost["prefill_flops"] <= cost["equal_flops"] < found["identity", 1.0]["cost"]["prefill_flops"], name
        assert cost["prefill_flops"] > 0.97 * cost["equal_flops"], "a token more is 0.7 % of a prompt"
        mean = cost["tokens_mean"] - 1  # without the host's newline
        assert 100 < mean < 128 and cost["equal_budget"] * TOKENS == pytest.approx(mean, abs=1)
        assert max(result["answers"]["tokens"]) < 128, "attention is a sum of squares, so the mean is below the budget"
    text = found["uniform", 0.5]["cost"]["prefill_flops"]
    lengths = {columns: prefill_flops(config, columns) for columns in range(128, 400)}
    columns = next(one for one, flops in lengths.items() if flops == text)
    question = found["fastv (equal FLOPs)", 0.5]["cost"]["equal_flops"]
    assert any(flops == question for one, flops in lengths.items() if columns < one < columns + 60), "plus the question"
    assert not any(name.startswith("uniform (") for name, _ in found)


def test_rows_with_equal_flops_say_so_and_the_others_stay(
    equal_flops: AblationTable, results: tuple[Path, str]
) -> None:
    kinds = {row.method: row.equal for row in equal_flops}
    assert kinds["fastv (equal FLOPs)"] == "flops" and kinds["fastv"] == kinds["uniform"] == "tokens"
    smallest = {one.method: one.smallest for one in read_left_out(results[0]) if one.budget == 0.1}
    assert 0.254 < smallest["fastv (equal FLOPs)"] < 0.33 and smallest["fastv"] == 0.254  # type: ignore[operator]
    text = str(equal_flops)
    assert "| 50 % (128 tokens) |" in text, "the head names the tokens of the budget"
    assert f"not possible: smallest is {100 * smallest['fastv (equal FLOPs)']:.10g} %" in text  # type: ignore[operator]
    written = report(str(results[0])).read_text()
    assert "apart from those named `(equal FLOPs)`" in written
    head = next(line for line in written.splitlines() if line.startswith("| at 50 %") and "FLOPs of the budget" in line)
    columns = head.split(" | ")
    rows = dict(line.split(" | ", 1) for line in written[written.index(head) :].splitlines()[2:8])
    place = columns.index("FLOPs of the budget") - 1
    assert (
        "M" in rows["| fastv (equal FLOPs)"].split(" | ")[place] and not rows["| uniform"].split(" | ")[place].strip()
    )


def test_a_number_of_tokens_is_checked_for_every_length_of_video() -> None:
    host, grids = load_host(TINYHOST), Counter({(16, 4, 4): 3, (4, 4, 4): 1})
    check_possible(host, build("fastv", 65), grids)
    check_possible(host, build("uniform", 1), grids)
    with pytest.raises(BudgetError, match="256 tokens") as error:
        check_possible(host, build("fastv", 64), grids)
    assert error.value.smallest == 65
    with pytest.raises(BudgetError) as error:
        check_possible(host, build("fastv", 0.255), grids)
    assert error.value.smallest == 0.2657  # 17 of 64 tokens
    check_possible(host, build("fastv", error.value.smallest), grids)


def test_methods_that_no_layer_of_a_host_allows_are_listed_with_the_reason(
    tmp_path: Path, quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AttachError("these layers have sliding windows")

    monkeypatch.setattr("framefold.evaluation.ablation.trials_in_llm.check_layers", refuse)
    table = ablate(str(tmp_path), **SETTING | {"compressors": ["fastv", "uniform"], "budgets": [0.5]})
    assert "| fastv | not possible |" in str(table)
    reason = "Not possible in this host:\n\n- `fastv`: these layers have sliding windows"
    assert reason in str(table) and reason in table.report.read_text()


def test_a_host_without_a_formula_is_refused_with_the_way_out(
    tmp_path: Path, quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framefold.evaluation.metrics.flops.PrefillFormula.of", lambda config: None)
    with pytest.raises(ConfigError, match="equal='flops' needs a formula .*: use 'tokens'"):
        ablate(str(tmp_path), equal="flops", **SETTING | {"compressors": ["fastv"]})
    with pytest.raises(ConfigError, match="equal must be 'tokens' or 'flops'"):
        ablate(str(tmp_path), equal="time", **SETTING)  # type: ignore[arg-type]


def test_operations_are_counted_by_layer() -> None:
    config = load_host(TINYHOST).model.config
    assert prefill_flops(config, [100.0] * 4) == prefill_flops(config, 100)
    shorter = prefill_flops(config, [100, 50, 50, 50])
    assert prefill_flops(config, 50) < shorter < prefill_flops(config, 100)  # type: ignore[operator]
