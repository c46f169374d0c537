"""The report is derived from result files alone: tables, comparisons with their statistics, summary and plots."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framefold.errors import ResultsError
from framefold.evaluation.metrics.significance import holm, mcnemar
from framefold.evaluation.report.methods import baselines, is_query_aware
from framefold.evaluation.report.page_data import first_methods
from framefold.evaluation.report.report import report
from framefold.evaluation.report.summary import summary_points
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.result_files import Outcome, count_answers, read_results, write_result
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX
from tests.support.pages.results_folders import inside_results
from tests.support.pages.simple_results import COST, SETTINGS, simple_answers, write_simple_result


@pytest.fixture(autouse=True)
def plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the plots, which take a second, except in tests with "plot" in their names."""
    if "plot" not in request.node.name:
        monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])


def write_method(out: Path, method: str, budget: float, accuracy: float, tokens: int, **random: int) -> None:
    """Write a result whose answers are right with a probability."""
    settings = replace(SETTINGS, compressor=method, budget=budget, seed=random.get("settings_seed", 0))
    write_simple_result(out, settings, simple_answers(accuracy, tokens, random.get("seed", 0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of five methods at two budgets and of all tokens; tests only add reports to it."""
    out = tmp_path_factory.mktemp("results")
    write_method(out, "identity", 1.0, 0.95, 1024)
    accuracies = {"uniform": 0.4, "random": 0.4, "st_simdiff": 0.9, "scene_mean": 0.3, "fila": 0.8}
    for budget, tokens in ((0.1, 102), (0.05, 51)):
        for method, accuracy in accuracies.items():
            write_method(out, method, budget, accuracy, tokens)
    return out


def test_parameters_decide_whether_a_method_reads_the_question(tmp_path: Path) -> None:
    """A resampler may read the question and xpool may not, unlike their classes; older results know the class alone."""
    rows = {"resampler": (0.9, {"per_question": 1.0}), "xpool": (0.8, {"per_question": 0.0}), "qtsplus": (0.7, {})}
    for method, (accuracy, cost) in rows.items():
        settings = replace(SETTINGS, compressor=method, adapter="abc")
        outcome = Outcome(simple_answers(accuracy, 102), COST | cost, [], 0, "2026-01-01T00:00:00+00:00")
        write_result(tmp_path, settings, outcome)
    table = ResultTable(read_results(tmp_path))
    assert [is_query_aware(method, table.by_method[method]) for method in rows] == [True, False, True]
    ((_, text),) = summary_points(table)
    assert "`resampler` (trained, query-aware: " in text
    assert "The most accurate method that is not query-aware is `xpool` (trained: " in text
    assert first_methods(table, 2) == ["resampler", "xpool"]


def results_at(out: Path, *methods: str, budget: float) -> list[dict[str, Any]]:
    results = {result["compressor"]: result for result in read_results(out) if result["budget"] == budget}
    return [results[method] for method in methods]


def test_tables_and_plots_are_derived_from_the_files(folder: Path) -> None:
    text = report(str(folder)).read_text()
    for method in ("uniform", "random", "st_simdiff", "scene_mean", "fila", "all tokens"):
        assert f"| {method} |" in text
    for pair in ("st_simdiff - uniform", "fila - scene_mean", "fila - st_simdiff"):
        assert f"| {pair} |" in text
    assert f"{100 * count_answers(results_at(folder, 'fila', budget=0.05)).macro:.1f} [" in text
    assert "10 % (102 tokens)" in text
    assert text.count("| at 10 % |") == 2 and text.count("| at 5 % |") == 2, "types and costs"
    assert text.count("<details>") == text.count("</details>") and "processor" in text
    for name in ("accuracy.png", "types.png", "time.png"):
        assert f"({name})" in text and (folder / name).read_bytes().startswith(b"\x89PNG"), name


def test_every_method_is_compared_with_the_given_baseline(folder: Path) -> None:
    default, named = report(str(folder)).read_text(), report(str(folder), "random").read_text()
    assert "## Compared with st_simdiff" in default and "## Compared with random" in named
    assert "for the 8 tests of this table" in default, "four other methods at two budgets"
    table = ResultTable(read_results(folder), "random")
    comparisons = table.comparisons([None], table.budgets)
    corrected = holm([one.mcnemar for one in comparisons.values()])
    assert [one.mcnemar_holm for one in comparisons.values()] == pytest.approx(corrected)
    one = comparisons["st_simdiff", "5 %", None]
    a, b = (np.array(r["answers"]["correct"]) for r in results_at(folder, "st_simdiff", "random", budget=0.05))
    assert (one.better, one.worse) == (int((a & ~b).sum()), int((~a & b).sum()))
    assert one.mcnemar == mcnemar(one.better, one.worse) and one.flip_holm >= one.flip
    assert one.difference.value == pytest.approx(a.mean() - b.mean()) and one.flip_holm < 0.01
    line = next(line for line in named.splitlines() if line.startswith("| st_simdiff | +"))
    assert line.count("\\*\\*\\*") == 2, line
    with pytest.raises(ResultsError, match="did you mean 'random'"):
        report(str(folder), "randm")


def test_question_types_are_a_family_of_tests(folder: Path) -> None:
    comparisons = ResultTable(read_results(folder)).comparisons(["needle", "count"], ["5 %"])
    assert len(comparisons) == 4 * 2
    a, b = results_at(folder, "fila", "st_simdiff", budget=0.05)
    needle = np.array(a["answers"]["type"]) == "needle"
    gap = np.mean(a["answers"]["correct"], where=needle) - np.mean(b["answers"]["correct"], where=needle)
    assert comparisons["fila", "5 %", "needle"].difference.value == pytest.approx(gap)


def test_baselines_are_declared_by_their_classes() -> None:
    assert baselines() == ["st_simdiff", "uniform", "random"]


def test_method_with_several_seeds_is_paired_with_one_that_has_one(tmp_path: Path) -> None:
    write_method(tmp_path, "st_simdiff", 0.1, 0.9, 10)
    for seed in (0, 1):
        write_method(tmp_path, "random", 0.1, 0.3, 10, settings_seed=seed, seed=seed + 1)
    assert "| st_simdiff - random | +" in report(str(tmp_path)).read_text()


def test_budgets_are_ordered_by_tokens_and_one_token_differs_from_all(tmp_path: Path) -> None:
    for budget, tokens in ((1, 1), (1.0, 1024), (40, 40), (0.5, 512), (0.1, 102), (0.10000001, 102)):
        write_method(tmp_path, "uniform", budget, 0.5, tokens)
    head = report(str(tmp_path)).read_text().split("| compressor |")[1].splitlines()[0]
    assert head.startswith(" 100 % (1024 tokens) | 50 % (512 tokens) | ")
    assert head.endswith(" | 40 tokens (40 tokens) | 1 tokens (1 tokens) |") and "10.000001 %" in head


def test_single_result_makes_a_report(tmp_path: Path) -> None:
    for method, name in (("identity", "all tokens"), ("uniform", "uniform"), ("oracle", "oracle")):
        out = tmp_path / method
        write_method(out, method, 0.1, 0.5, 10)
        accuracy = 100 * count_answers(read_results(out)).macro
        assert f"| {name} | {accuracy:.1f} " in report(str(out)).read_text(), method


def test_methods_are_ordered_by_accuracy_after_the_oracle(tmp_path: Path) -> None:
    for method, accuracy in (("pool", 0.2), ("oracle", 0.5), ("uniform", 0.9), ("random", 0.4)):
        for budget in (0.1, 0.05, 0.02):
            write_method(tmp_path, method, budget, accuracy, 1000)
    table = report(str(tmp_path)).read_text().split("| compressor |")[1].split("\n\n")[0]
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["oracle", "uniform", "random", "pool", "text"]


def test_oracle_is_compared_with_the_best_training_free_method_at_each_budget(tmp_path: Path) -> None:
    accuracies = {"pool": (0.9, 0.1), "uniform": (0.4, 0.6), "fila": (1.0, 1.0), "oracle": (1.0, 1.0)}
    for method, pair in accuracies.items():
        for budget, accuracy in zip((0.1, 0.05), pair, strict=True):
            write_method(tmp_path, method, budget, accuracy, round(1000 * budget))
    macro = {(r["compressor"], r["budget"]): count_answers([r]).macro for r in read_results(tmp_path)}
    lines = report(str(tmp_path)).read_text().splitlines()
    line = next(line for line in lines if "oracle - best training-free" in line)
    shown = [float(value.split("[")[0]) for value in line.split("|")[2:4]]
    expected = [macro["oracle", 0.1] - macro["pool", 0.1], macro["oracle", 0.05] - macro["uniform", 0.05]]
    assert shown == pytest.approx([100 * x for x in expected], abs=0.05)


def test_summary_names_the_best_methods_and_whether_training_helped(tmp_path: Path) -> None:
    def summary_with(**accuracies: float) -> str:
        for method, accuracy in accuracies.items():
            write_method(tmp_path, method, 0.1, accuracy, 102, seed=4 if len(accuracies) == 1 else len(method))
        return report(str(tmp_path)).read_text().split("## In short")[1].split("## Accuracy")[0]

    text = summary_with(identity=0.95, st_simdiff=0.5, fila=0.9, uniform=0.1)
    assert "`fila` (trained: " in text and "is the most accurate method; all tokens reach" in text
    assert "The most accurate training-free method is `st_simdiff`" in text
    assert "Training helped: `fila` - `st_simdiff`" in text
    text = summary_with(st_simdiff=0.9)
    assert "It is not certain that training helped" in text and "Not significantly worse (p >= 0.05): " in text
    assert "Training did not help: `fila` - `st_simdiff`" in summary_with(fila=0.4)


def test_without_annotated_evidence_there_is_no_table_of_it(tmp_path: Path) -> None:
    answers = [{**answer, "recall": None, "purity": None} for answer in simple_answers(0.5, 10)]
    result = write_simple_result(tmp_path, SETTINGS, answers)
    assert result["evidence_recall"] is None and "## Evidence" not in report(str(tmp_path)).read_text()


def test_report_about_shards_names_them_and_resamples_videos(tmp_path: Path) -> None:
    shards = {"kind": "shards", "shards": "runs/clips", "digest": "abc", "videos": 42, "frames": 8}
    write_simple_result(tmp_path, replace(SETTINGS, data=shards), simple_answers(0.5, 10), damaged=2)
    text = report(str(tmp_path)).read_text()
    assert "80 questions about 40 videos of `runs/clips` (2 more were damaged)" in text
    assert "bootstrap interval over videos" in text and "twin" not in text


def test_answers_that_are_sentences_are_compared_by_loss_and_overlap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, budget, loss in (("uniform", 0.1, 2.5), ("st_simdiff", 0.1, 1.25), ("identity", 1.0, 0.75)):
        settings = replace(SETTINGS, compressor=method, budget=budget)
        answers = simple_answers(0.0, 100, 0)
        for number, answer in enumerate(answers):
            answer |= {"answer": f"it shows number {number} of them", "loss": loss, "overlap": loss / 5}
        write_simple_result(tmp_path, settings, answers)
    text = report(str(tmp_path)).read_text()
    printed = capsys.readouterr().out
    rows = [
        "| uniform | 2.500 / 50.0 |",
        "| st_simdiff | 1.250 / 25.0 |",
        "| all tokens | 0.750 / 15.0 (every column) |",
    ]
    for shown in (text, printed):
        assert "Accuracy does not suit these answers" in shown and "compare answer loss and answer overlap" in shown
        assert shown.index("| answer loss, nats / answer overlap, % |") < shown.index("| compressor |")
        assert all(row in shown for row in rows), shown
    assert "most accurate" not in text
    assert '"headline": "loss"' in (tmp_path / "report.html").read_text().replace('"headline":"', '"headline": "')


def test_results_without_a_right_answer_say_that_accuracy_does_not_suit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    for method in ("uniform", "identity"):
        write_method(tmp_path, method, 1.0 if method == "identity" else 0.1, 0.0, 100)
    report(str(tmp_path))
    assert "these results lack answer loss and answer overlap: run the ablation again" in capsys.readouterr().out
    report(str(folder))
    assert "does not suit" not in capsys.readouterr().out


def test_cells_that_were_left_out_stand_in_every_table_that_has_values_and_make_none_alone(tmp_path: Path) -> None:
    text = report(str(inside_results(tmp_path))).read_text()  # with its plots
    sections = {section.split("\n")[0]: section for section in text.split("\n## ")[1:]}
    assert "Answers" not in sections, "these results have no losses"
    said = "not possible: smallest is 25.4 %"
    for name in ("Accuracy", "Compared with st_simdiff", "Per question type", "Evidence kept", "Cost"):
        assert sections[name].count(f"| {said} |") == 2, name  # fastv, and fastv with equal FLOPs
        assert "| pyramid_drop | not possible |" in sections[name], name
    reason = "Not possible in this host:\n\n- `pyramid_drop`: it acts in layers that this host lacks\n"
    assert reason in sections["Accuracy"] and f"fastv`: {said}" not in text
    row = next(line for line in sections["Accuracy"].splitlines() if line.startswith("| fastv (equal FLOPs) |"))
    assert row.endswith(f"| {said} |") and "[" in row and "| compressor | 25 % (64 tokens) | 10 % (26 tokens) |" in text


def test_the_summary_compares_equal_tokens_and_equal_flops_separately(tmp_path: Path) -> None:
    inside = {"tokens_mean": 102.0, "tokens_after": 60.0}
    for method, accuracy, cost in (
        ("uniform", 0.5, {}),
        ("fastv", 0.6, inside),
        (f"fastv{EQUAL_FLOPS_SUFFIX}", 0.95, inside | {"equal_flops": 1.0}),
        ("pyramid_drop", 0.8, inside),
    ):
        settings = replace(SETTINGS, compressor=method, budget=0.1)
        outcome = Outcome(simple_answers(accuracy, 102), COST | cost, [], 0, "2026-01-01T00:00:00+00:00")
        write_result(tmp_path, settings, outcome)
    table = ResultTable(read_results(tmp_path))
    ((_, text),) = summary_points(table)
    tokens, flops = text.split("`fastv (equal FLOPs)` (")  # it is named once, as the best one at equal FLOPs
    assert tokens.startswith("`pyramid_drop` (") and "is the most accurate method" in tokens
    assert (
        "is the most accurate method at equal FLOPs" in flops and "pyramid_drop" not in flops and "`fastv`" not in flops
    )
    assert table.best("10 %") == "pyramid_drop"


def test_budgets_at_which_no_compressor_was_run_are_not_in_the_summary(tmp_path: Path) -> None:
    for method, budget in (("oracle", 0.1), ("fastv", 0.5), ("oracle", 0.5)):
        write_simple_result(
            tmp_path, replace(SETTINGS, compressor=method, budget=budget), simple_answers(0.5, int(1024 * budget), 0)
        )
    assert [budget for budget, _ in summary_points(ResultTable(read_results(tmp_path)))] == ["50 %"]


def test_without_differences_there_is_no_empty_table(tmp_path: Path) -> None:
    write_method(tmp_path, "fastv", 0.5, 0.5, 512)
    text = report(str(tmp_path)).read_text()
    assert "Differences" not in text and "paired difference" not in text


def test_the_summary_says_what_smaller_and_fewer_frames_beat_and_what_beats_them(tmp_path: Path) -> None:
    rows = {"resize": 0.6, "resize (side 0.5)": 0.3, "resize (side 0.75)": 0.98, "pool (2x frames)": 0.98}
    for method, accuracy in {**rows, "pool (4x frames)": 0.1, "pool": 0.98, "random": 0.05}.items():
        write_method(tmp_path, method, 0.1, accuracy, 102)
    ((_, text),) = summary_points(ResultTable(read_results(tmp_path)))
    assert "Smaller frames (`resize`, " in text and "significantly worse than `pool` and better than `random`." in text
    assert "Fewer and larger frames (`resize (side 0.75)`, " in text, "the most accurate side"
    assert "Fewer frames for `pool` (`pool (2x frames)`, " in text, "the most accurate number of frames"
    assert text.count("worse than no method and better than `random`.") == 2
    for method in ("pool", "random"):
        write_method(tmp_path, method, 0.5, 0.6, 512)
    write_method(tmp_path, "resize", 0.5, 0.6, 512)
    same = dict(summary_points(ResultTable(read_results(tmp_path))))["50 %"]
    assert "Smaller frames (`resize`, " in same and same.endswith(" differ significantly from no method.")
    said = "With all frames instead of 2x those that the budget holds without compression, `pool` has +0.0 [0.0, 0.0]"
    assert said in text
