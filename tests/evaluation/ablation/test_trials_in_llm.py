"""Ablations of compressors that act inside the language model, on the embedded host of four layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.metrics.flops import prefill_flops
from framefold.evaluation.results.result_files import read_results
from framefold.training.frozen_host.load import load_host
from tests.support.paths import TINYHOST

TOKENS = 16 * 16  # of a video of 16 frames


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of the results, and what the ablation printed."""
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("framefold.evaluation.ablation.runner.VIDEOS", 1)
        patch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
        patch.setattr("builtins.print", lambda *texts, **_: printed.append(" ".join(map(str, texts))))
        ablate(
            str(out),
            host=str(TINYHOST),
            compressors=["fastv", "pyramid_drop", "st_simdiff", "uniform"],
            params={"st_simdiff": {"stage_2": True}},
            budgets=[0.5, 0.1],
            videos=2,
            frames=16,
            oracle=False,
        )
    return out, "\n".join(printed)


def test_budgets_are_equal_as_means_over_the_layers(results: tuple[Path, str]) -> None:
    found = {(result["compressor"], result["budget"]): result for result in read_results(results[0])}
    entered = {"fastv": TOKENS, "pyramid_drop": TOKENS, "st_simdiff": 160, "uniform": 128}
    for name, tokens in entered.items():
        result = found[name, 0.5]
        cost = result["cost"]
        assert cost["tokens_entered"] == tokens + 1, name  # and the host's newline
        assert set(result["answers"]["tokens"]) <= {127, 128}, name
        if name == "uniform":
            assert "tokens_mean" not in cost
            continue
        assert 128 < cost["tokens_mean"] <= 129 and cost["tokens_after"] < 129
        assert cost["recall_left"] < result["evidence_recall"] <= 1.0
    assert found["fastv", 0.5]["evidence_recall"] == 1.0
    assert set(found) == {*((name, 0.5) for name in entered), ("st_simdiff", 0.1), ("uniform", 0.1), ("identity", 1.0)}


def test_impossible_budgets_are_left_out_with_the_smallest_one(results: tuple[Path, str]) -> None:
    for name in ("fastv", "pyramid_drop"):
        assert f"ablation: {name} is left out at 0.1: {name}: a mean of" in results[1]
    assert "the smallest budget for 100000 tokens is 25001, a ratio of 0.2501" in results[1]


def test_tables_show_the_tokens_inside_only_where_a_method_acts_there(results: tuple[Path, str]) -> None:
    lines = (results[0] / "report.md").read_text().splitlines()
    start = "| at {} | visual tokens entering the LM |"
    half, tenth = (next(line for line in lines if line.startswith(start.format(share))) for share in ("50 %", "10 %"))
    assert "| mean over the layers | in the last layer |" in half and "| mean over the layers |" in tenth
    rows = [line.split(" | ")[:4] for line in lines[lines.index(half) + 2 :][:4]]
    assert ["| uniform", "129.0", "129.0", "129.0"] in rows and ["| fastv", "257.0"] in [row[:2] for row in rows]


def test_operations_are_counted_by_layer() -> None:
    config = load_host(TINYHOST).model.config
    assert prefill_flops(config, [100.0] * 4) == prefill_flops(config, 100)
    shorter = prefill_flops(config, [100, 50, 50, 50])
    assert prefill_flops(config, 50) < shorter < prefill_flops(config, 100)  # type: ignore[operator]
