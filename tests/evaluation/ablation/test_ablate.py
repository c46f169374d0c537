"""Small ablations on the embedded host: equal tokens, paired questions, nothing computed twice."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import framefold
from framefold.__main__ import main
from framefold.adapters.base.selector import Selector
from framefold.adapters.core import registry
from framefold.adapters.core.budget import budget_tokens
from framefold.data.evidence import evidence_mask
from framefold.data.synthetic.questions import QUESTION_TYPES
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError, FramefoldError, ResultsError
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.ablation.config import AblationConfig
from framefold.evaluation.ablation.feature_cache import FeatureCache
from framefold.evaluation.ablation.runner import AblationRunner
from framefold.evaluation.metrics.statistics import Interval
from framefold.evaluation.results.result_files import FOLDER, read_results
from framefold.warning_types import UntrainedCompressorWarning
from tests.support.paths import TINYHOST as HOST

# One compressor that drops tokens, one that merges them, and the counterpart of the adapter: the ablation cannot see
# which compressor it runs.
SMALL: dict[str, Any] = {"host": str(HOST), "compressors": ["uniform", "pool", "scene_mean"], "budgets": [0.25, 40]}
SMALL |= {"videos": 4, "frames": 16}


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Plots take a second per report and are tested in test_report.py; costs need no five videos here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.evaluation.ablation.runner.VIDEOS", 2)
        patch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
        yield


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained adapter."""
    folder = tmp_path_factory.mktemp("adapter")
    fila = framefold.build("fila", 0.1, members="cluster")
    fila(framefold.VideoTokens.from_grid(torch.randn(4, 4, 4, 128)))
    fila.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    out = tmp_path_factory.mktemp("results")
    ablate(str(out), adapters=[str(adapter)], **SMALL)
    return out


def extend(results: Path, out: Path, **changes: Any) -> dict[tuple[str, Any], dict]:
    """Run another ablation in a copy of the results, which also contains the encoded videos; return all results."""
    shutil.copytree(results, out)
    ablate(str(out), **(SMALL | {"budgets": [40], "compressors": ["uniform"], "oracle": False} | changes))
    return by_method(out)


def by_method(results: Path) -> dict[tuple[str, Any], dict]:
    return {(result["compressor"], result["budget"]): result for result in read_results(results)}


def test_every_method_keeps_exactly_equal_tokens(results: Path) -> None:
    stored = by_method(results)
    assert {name for name, _ in stored} == {*SMALL["compressors"], "fila", "identity", "oracle", "oracle_events"}
    for (name, budget), result in stored.items():
        kept = budget_tokens(budget, 16 * 16)
        assert budget in SMALL["budgets"] or (name, budget) == ("identity", 1.0)
        assert set(result["answers"]["tokens"]) == {kept}, name
        assert result["cost"]["tokens_entered"] == kept + 1, f"{name}: besides the kept tokens, only the host's newline"
        assert {"compressor", "budget", "seed", "host", "tokens", "n", "accuracy", "accuracy_by_type"} <= set(result)


def test_loss_and_overlap_of_the_answers_are_stored(results: Path) -> None:
    stored = by_method(results)
    for key, result in stored.items():
        assert result["answer_loss"] > 0 and 0 <= result["answer_overlap"] <= 1, key
        one_word = all(len(answer.split()) == 1 for answer in result["answers"]["answer"])
        assert one_word and result["answer_overlap"] == pytest.approx(np.mean(result["answers"]["correct"])), key
    assert stored["identity", 1.0]["answer_loss"] < stored["uniform", 0.25]["answer_loss"]


def test_a_trainable_compressor_without_adapter_is_compared_untrained_and_its_row_says_so(
    results: Path, tmp_path: Path
) -> None:
    with pytest.warns(UntrainedCompressorWarning, match="qtsplus is UNTRAINED.*--adapters"):
        stored = extend(results, tmp_path / "out", compressors=["uniform", "qtsplus"], seeds=[0, 1])
    assert ("qtsplus (untrained)", 40) in stored and ("qtsplus", 40) not in stored
    answers = {seed: _answers(tmp_path / "out", seed) for seed in (0, 1)}
    assert answers[0] != answers[1], "the seed is that of its weights"
    (tmp_path / "out" / FOLDER / "qtsplus (untrained)-b40-s1.json").unlink()
    with pytest.warns(UntrainedCompressorWarning):
        ablate(str(tmp_path / "out"), **SMALL | {"compressors": ["qtsplus"], "budgets": [40], "seeds": [1]})
    assert _answers(tmp_path / "out", 1) == answers[1], "equal seeds give equal weights"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| qtsplus (untrained) |" in text and "`qtsplus (untrained)` is the most" not in text


def _answers(out: Path, seed: int) -> dict[str, list[Any]]:
    kept = json.loads((out / FOLDER / f"qtsplus (untrained)-b40-s{seed}.json").read_text())["kept"]
    return {str(number): one["index"] for number, one in enumerate(kept)}


def test_twins_are_one_cluster_of_the_statistics(results: Path) -> None:
    result = by_method(results)["uniform", 0.25]
    assert set(result["answers"]["draw"]) == set(range(SMALL["videos"] // 2))
    assert set(result["answers"]["video"]) == set(range(SMALL["videos"]))


def test_untrained_adapter_answers_as_its_counterpart_with_the_same_parameters(results: Path) -> None:
    stored = by_method(results)
    for budget in SMALL["budgets"]:
        counterpart = stored["scene_mean", budget]
        assert counterpart["settings"]["params"]["members"] == "cluster"
        assert stored["fila", budget]["answers"] == counterpart["answers"]


def test_existing_results_are_not_computed_again(
    results: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in (results / FOLDER).iterdir()}
    removed = results / FOLDER / "uniform-b0.25-s0.json"
    old = json.loads(removed.read_text())["answers"]
    removed.unlink()
    ablate(str(results), adapters=[str(adapter)], batch_size=3, **SMALL)
    after = {file: file.stat().st_mtime_ns for file in (results / FOLDER).iterdir()}
    assert [file for file in before if before[file] != after[file]] == [removed]
    assert json.loads(removed.read_text())["answers"] == old, "the batch size changed an answer"
    assert f"{len(before)} results, {len(before) - 1} of them exist already" in capsys.readouterr().out


def test_shipped_adapter_fits_the_shipped_host_and_beats_its_starting_point(tmp_path: Path) -> None:
    shipped = HOST.parent / "fila"
    few = {"host": str(HOST), "videos": 10, "frames": 64, "budgets": [0.02], "difficulty": "hard"}
    ablate(str(tmp_path), compressors=["scene_mean", "st_simdiff"], adapters=[str(shipped)], **few)
    accuracy = {name: result["accuracy"] for (name, _), result in by_method(tmp_path).items()}
    best = max(accuracy["scene_mean"], accuracy["st_simdiff"])
    assert accuracy["fila"] > best + 0.1
    assert accuracy["oracle"] > best + 0.2 and accuracy["oracle"] > accuracy["oracle_events"], "there is room to win"
    others = max(best, accuracy["fila"], accuracy["oracle_events"])
    assert accuracy["identity"] > others, "no compressor may repair a broken host"


def test_impossible_output_folder_is_an_error_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureCache, "fill", lambda *_: pytest.fail("videos were encoded first"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        ablate(str(tmp_path / "file"), **SMALL)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"seeds": [-1], "compressors": ["random"]}, "seed must be"),
        ({"exclude": ["needel"]}, "did you mean 'needle'"),
        ({"baseline": "unifrm"}, "did you mean 'uniform'"),
        ({"device": "tpu"}, "tpu"),
        ({"drill": -1}, "drill not negative"),
        ({"data": "nowhere"}, "no shards at nowhere"),
        ({"exclude": list(QUESTION_TYPES)}, "no question type"),
        ({"params": {"fila": {"r": 1}}}, "brings its own parameters"),
        ({"params": {"fil": {"r": 1}}}, "did you mean 'fila'"),
        ({"adapters": ["adapter", "adapter"]}, "both fila trained with seed 0"),
    ],
)
def test_wrong_settings_are_errors_before_the_work(
    arguments: dict[str, Any], text: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framefold.evaluation.ablation.run.load_host", lambda *_, **__: pytest.fail("it was loaded"))
    arguments = SMALL | {"adapters": ["adapter"]} | arguments
    arguments["adapters"] = [str(adapter) for _ in arguments["adapters"]]
    with pytest.raises(FramefoldError, match=text):
        ablate(str(tmp_path / "out"), **arguments)
    assert not (tmp_path / "out").exists()


def test_repeated_budgets_and_seeds_count_once_but_1_and_1_0_are_two_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[AblationConfig] = []
    monkeypatch.setattr("framefold.evaluation.ablation.run.run_ablation", configs.append)
    ablate("out", str(HOST), budgets=[1, 1.0, 0.1, 0.10000001, 1], seeds=[0, 1, 1])
    assert [repr(budget) for budget in configs[0].budgets] == ["1", "1.0", "0.1", "0.10000001"]
    assert configs[0].seeds == [0, 1]


def test_results_of_other_videos_stop_the_ablation_before_it_runs(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "copy")
    with pytest.raises(ResultsError, match="differ in videos"):
        ablate(str(tmp_path / "copy"), str(HOST), ["uniform"], budgets=[0.5], videos=3, frames=16)
    assert not list((tmp_path / "copy" / FOLDER).glob("*b0.5*"))


def test_python_gets_the_table_that_the_command_prints(
    results: Path, adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    table = framefold.ablate(str(results), adapters=[str(adapter)], **SMALL)
    printed = capsys.readouterr().out
    assert table.is_writer and table.report.read_text().startswith("# Ablation") and table.page.is_file()
    assert table.row("fila", 40).tokens == 40 and table.row("all tokens").tokens == 256
    assert table.difference("fila", "scene_mean", 0.25) == Interval(0, 0, 0), "it is untrained"
    assert "results, " in printed and "| uniform |" not in printed
    words = ["--host", str(HOST), "--compressors", *SMALL["compressors"], "--budgets", "0.25", "40", "--videos", "4"]
    words = ["ablate", "--out", str(results), *words, "--frames", "16", "--adapters", str(adapter)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{printed}{table}\n"
    monkeypatch.setattr(AblationRunner, "run", lambda self: True)
    assert main(words) == 0
    assert capsys.readouterr().out == f"report: {table.report}, written by another process\n"
    assert not framefold.ablate(str(results), adapters=[str(adapter)], **SMALL).is_writer


def test_results_of_other_weights_are_not_reused(results: Path, adapter: Path, tmp_path: Path, capsys) -> None:
    other = framefold.load(adapter)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.save_pretrained(tmp_path / "other")
    capsys.readouterr()
    stored = extend(results, tmp_path / "out", budgets=[0.25, 40], adapters=[str(tmp_path / "other")])
    assert "5 results, 3 of them exist already" in capsys.readouterr().out  # uniform and identity, but not fila
    assert stored["fila", 40]["settings"]["adapter"] != by_method(results)["fila", 40]["settings"]["adapter"]


def test_costs_are_measured(results: Path) -> None:
    stored = by_method(results)
    for name, result in stored.items():
        cost = result["cost"]
        times = ("compressor_ms", "prefill_ms", "full_prefill_ms", "answering_ms", "speedup")
        assert all(cost[key] > 0 for key in times), name
        assert cost["peak_bytes"] > 0 and cost["full_prefill_flops"] >= cost["prefill_flops"] > 0, name
    assert stored["identity", 1.0]["cost"]["prefill_flops"] == stored["uniform", 0.25]["cost"]["full_prefill_flops"]
    small, large = stored["uniform", 40]["cost"], stored["uniform", 0.25]["cost"]
    assert small["prefill_flops"] < large["prefill_flops"] and small["peak_bytes"] < large["peak_bytes"]


def test_all_methods_answer_the_questions_of_the_recipe(results: Path) -> None:
    questions = [question for index in range(4) for question in Recipe((16, 16), 0, "test").video(index).questions]
    for name, result in by_method(results).items():
        answers = result["answers"]
        assert answers["question"] == [question.text for question in questions], name
        assert answers["type"] == [question.type for question in questions], name
        assert answers["answer"] == [question.answer for question in questions], name
        right = [said == answer for said, answer in zip(answers["said"], answers["answer"], strict=True)]
        assert answers["correct"] == right, name


def test_kept_tokens_of_the_first_videos_are_recorded(results: Path) -> None:
    stored = by_method(results)
    for name in ("uniform", "pool", "oracle_events"):
        kept = stored[name, 40]["kept"]
        assert [entry["video"] for entry in kept] == [0, 1, 2, 3] and stored[name, 40]["drill"] == 6
        assert all(entry["row"] is None and entry["grid"] == [16, 4, 4] for entry in kept)
        assert all(len(entry["index"]) == 40 for entry in kept)
    assert all(sum(entry["size"]) == 256 for entry in stored["pool", 40]["kept"])
    assert all(entry["size"] is None for entry in stored["uniform", 40]["kept"])
    by_question = stored["oracle", 40]["kept"]
    assert [entry["row"] for entry in by_question] == list(range(len(stored["oracle", 40]["answers"]["video"])))
    assert [entry["video"] for entry in by_question] == stored["oracle", 40]["answers"]["video"]


def test_evidence_recall_is_the_share_of_the_evidence_that_was_kept(results: Path) -> None:
    stored = by_method(results)
    assert set(stored["identity", 1.0]["answers"]["recall"]) == {1.0} == set(stored["pool", 40]["answers"]["recall"])
    assert stored["pool", 40]["evidence_purity"] < 0.5 < stored["oracle", 40]["evidence_recall"]
    answers, row = stored["uniform", 0.25]["answers"], 0
    for index in range(2):
        kept = set(stored["uniform", 0.25]["kept"][index]["index"])
        for question in Recipe((16, 16), 0, "test").video(index).questions:
            evidence = set(np.flatnonzero(evidence_mask(question.evidence, (16, 4, 4))).tolist())
            expected = pytest.approx(len(evidence & kept) / len(evidence))
            assert answers["recall"][row] == expected == answers["purity"][row]
            row += 1


def test_adapters_of_several_seeds_are_one_method(results: Path, tmp_path: Path, adapter: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    framefold.load(adapter).save_pretrained(again, training={"seed": 1})
    different = framefold.build("fila", 0.1, members="cluster", r=2, dim=128, grid=[4, 4])
    different.save_pretrained(other, training={"seed": 2})
    extend(results, tmp_path / "out", adapters=[str(adapter), str(again)])
    stored = read_results(tmp_path / "out")
    assert sorted(r["seed"] for r in stored if (r["compressor"], r["budget"]) == ("fila", 40)) == [0, 1]
    with pytest.raises(ConfigError, match="different parameters"):
        ablate(str(tmp_path / "out"), adapters=[str(adapter), str(other)], **SMALL)


def test_query_aware_adapter_gets_every_question_separately(results: Path, tmp_path: Path) -> None:
    framefold.build("qtsplus", 0.1, dim=128, heads=4).save_pretrained(tmp_path / "adapter")
    stored = extend(results, tmp_path / "out", adapters=[str(tmp_path / "adapter")])
    qtsplus = stored["qtsplus", 40]
    assert set(qtsplus["answers"]["tokens"]) == {40} and qtsplus["n"] == stored["uniform", 40]["n"]
    assert [entry["row"] for entry in qtsplus["kept"]] == list(range(qtsplus["n"]))
    report = (tmp_path / "out" / "report.md").read_text()
    assert "qtsplus - uniform" in report and "best trained - best training-free" in report


def test_chains_have_parameters_and_seeds_of_their_stages(results: Path, tmp_path: Path) -> None:
    names = ["uniform+random", "uniform+st_simdiff"]
    params = {names[1]: {"st_simdiff": {"right": False}}}
    extend(results, tmp_path / "out", compressors=names, params=params, seeds=[0, 1])
    stored = read_results(tmp_path / "out")
    seeded = {result["seed"]: result for result in stored if result["compressor"] == names[0]}
    (other,) = [result for result in stored if result["compressor"] == names[1]]
    assert set(seeded) == {0, 1} and seeded[0]["kept"] != seeded[1]["kept"]
    assert other["settings"]["params"] == params[names[1]] and set(other["answers"]["tokens"]) == {40}


def test_starting_point_of_a_trained_chain_gets_its_parameters(results: Path, tmp_path: Path) -> None:
    chain = framefold.build("storm+st_simdiff", 0.1, storm={"dim": 128, "layers": 1}, st_simdiff={"right": False})
    chain.save_pretrained(tmp_path / "adapter")
    stored = extend(results, tmp_path / "out", compressors=["st_simdiff"], adapters=[str(tmp_path / "adapter")])
    assert stored["st_simdiff", 40]["settings"]["params"]["right"] is False
    assert stored["st_simdiff", 40]["answers"] == stored["storm+st_simdiff", 40]["answers"], "it is untrained"
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("storm+st_simdiff - st_simdiff") == 1


def test_method_that_needs_attention_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    received = []

    class Attended(Selector):
        name = "test_attended"
        needs_attention = True

        def score(self, video, query):
            received.append(video.attention)
            return video.attention

    small = SMALL | {"compressors": ["test_attended"], "budgets": [40], "oracle": False, "videos": 2}
    ablate(str(tmp_path), **small)
    assert by_method(tmp_path)["test_attended", 40]["tokens"] == 40
    assert len(received) >= small["videos"] and all(float(one.std()) > 0 for one in received)
