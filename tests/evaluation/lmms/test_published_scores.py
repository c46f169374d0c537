"""Published scores of hosts with all tokens, next to ours: which belong to a host, and which differences are said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from framefold.__main__ import main
from framefold.errors import ResultsError
from framefold.evaluation.lmms.published_scores import (
    BENCHMARKS,
    PublishedScore,
    host_key,
    read_published_scores,
    unpruned_checks,
    warnings_of,
)
from framefold.evaluation.lmms.results import TaskMetric
from framefold.evaluation.lmms.table import text_table

COSTS = {"visual_before": 100, "visual_after": 100, "prefill_ms": 1.0, "compressor_ms": 1.0, "memory_mib": 1.0, "n": 9}
OURS = TaskMetric(
    "identity", 1.0, "Qwen/Qwen2.5-VL-7B-Instruct", "lvbench", "lvbench_score", 0.44, 0.01, "higher", 9, 64, None, COSTS
)
SCORE = PublishedScore("Qwen/Qwen2.5-VL-7B-Instruct", "lvbench", 45.3, None, "no settings", "its card")


def test_packaged_scores_are_of_benchmarks_and_name_source_and_settings() -> None:
    scores = read_published_scores()
    assert {score.task for score in scores} == set(BENCHMARKS)
    assert all(score.source and score.settings for score in scores)
    keys = [(score.host, score.task, score.frames, score.source) for score in scores]
    assert len(keys) == len(set(keys))


def test_host_is_found_by_the_name_of_its_repository() -> None:
    names = ("Qwen/Qwen2.5-VL-7B-Instruct", "/models/Qwen2.5-VL-7B-Instruct/", "me/qwen2.5-vl-7b-instruct@v1")
    assert {host_key(name) for name in names} == {"qwen2.5-vl-7b-instruct"}
    assert host_key("OpenGVLab/InternVL3-8B-hf") == host_key("OpenGVLab/InternVL3-8B")
    assert host_key("Qwen/Qwen2.5-VL-3B-Instruct") != host_key(names[0])


def test_score_within_a_point_is_no_warning_and_one_beyond_is() -> None:
    near, far = (unpruned_checks([replace(OURS, value=value)], [SCORE]) for value in (0.444, 0.442))
    assert near[0].difference == pytest.approx(-0.9) and warnings_of(near) == []
    (text,) = warnings_of(far)
    assert "44.2 on lvbench here and 45.3 as published, 1.1 points apart" in text and "64 frames" in text
    assert warnings_of(unpruned_checks([replace(OURS, value=0.465)], [SCORE]))  # a higher score is as suspicious


def test_only_all_tokens_on_all_questions_are_compared() -> None:
    for other in ({"compressor": "uniform"}, {"compressor": "identity (LoRA)"}, {"limit": 5}, {"metric": "other"}):
        (check,) = unpruned_checks([replace(OURS, **other)], [SCORE])
        assert check.ours is None and check.difference is None and warnings_of([check]) == []
    assert unpruned_checks([replace(OURS, host="other/host")], [SCORE]) == []
    assert unpruned_checks([replace(OURS, task="toy")], [SCORE]) == []


def test_scores_with_our_number_of_frames_replace_the_others() -> None:
    many, same = replace(SCORE, score=60.0, frames=768), replace(SCORE, score=44.5, frames=64)
    assert [one.published for one in unpruned_checks([OURS], [SCORE, many, same])] == [same]
    assert [one.published for one in unpruned_checks([OURS], [SCORE, many])] == [SCORE, many]
    assert "0.7 points" not in str(warnings_of(unpruned_checks([OURS], [SCORE, many])))
    assert warnings_of(unpruned_checks([replace(OURS, value=0.5)], [SCORE, many]))[0].count("45.3")  # the nearest


def test_warning_of_one_number_of_frames_is_not_hidden_by_another() -> None:
    checks = unpruned_checks([OURS, replace(OURS, frames=8, value=0.3)], [replace(SCORE, score=44.0)])
    assert len(checks) == 2 and len(warnings_of(checks)) == 1 and "and 8 frames" in warnings_of(checks)[0]


def test_table_says_first_what_is_far_from_published_scores() -> None:
    pruned = replace(OURS, compressor="uniform", budget=0.1, value=0.40)
    text = text_table([pruned], [replace(OURS, value=0.30)], [SCORE])
    assert text.startswith("WARNING: with all tokens") and "uniform, budget 0.1, host Qwen" in text
    row = next(line for line in text.splitlines() if line.startswith("lvbench") and "45.3" in line)
    assert row.split()[:4] == ["lvbench", "30.0", "45.3", "-15.3"] and "no settings" in row and row.endswith("its card")
    assert not text_table([pruned], [OURS], [replace(SCORE, score=44.0)]).startswith("WARNING")
    unknown = text_table([replace(OURS, host="a/b")], [], [SCORE])
    assert "No published score with all tokens is known for a/b on lvbench" in unknown


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "no published scores"),
        ("[]", "no published scores"),
        (json.dumps({"scores": [{"host": "a/b"}]}), "no published scores"),
        (json.dumps({"scores": [{**vars(SCORE), "task": "imagenet"}]}), "imagenet is none of"),
        (json.dumps({"scores": [{**vars(SCORE), "score": 453}]}), "no score in points"),
    ],
)
def test_damaged_files_of_scores_are_named(content: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text(content)
    with pytest.raises(ResultsError, match=text):
        read_published_scores(file)
    with pytest.raises(ResultsError, match="there is no file"):
        read_published_scores(tmp_path / "none.json")


def test_comparison_without_results_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "table", "--results", "[]"]) == 2
    assert "no results to compare" in capsys.readouterr().err
    assert main(["eval", "table", "--results", str(tmp_path)]) == 2
    assert "run 'framefold eval" in capsys.readouterr().err
