"""The log of answers survives a kill, and its costs are summarised."""

from __future__ import annotations

from pathlib import Path

import pytest

from framefold.evaluation.lmms.answer_log import AnswerLog, efficiency, notes, read_answer_log
from tests.support.lmms.lmms_fixtures import ANSWER


def test_times_are_medians_tokens_means_and_memory_a_maximum() -> None:
    more = ANSWER | {"visual_after": 30, "prefill": 0.5, "memory": 3 * 2**20, "decode": None}
    costs = efficiency([ANSWER, more, ANSWER | {"prompt": 50}])
    assert costs["n"] == 3 and costs["visual_before"] == 100 and costs["visual_after"] == pytest.approx(50 / 3)
    assert costs["retention"] == pytest.approx(50 / 300) and costs["prompt"] == 30 and costs["new_tokens"] == 2
    assert (costs["prefill_ms"], costs["compressor_ms"], costs["decode_ms"]) == (100, 2, 10)
    assert costs["memory_mib"] == 3
    assert efficiency([ANSWER | {"decode": None}])["decode_ms"] is None and efficiency([]) == {"n": 0}


def test_tokens_inside_the_language_model_count_as_the_mean_over_its_layers() -> None:
    costs = efficiency([ANSWER | {"visual_mean": 4.5}, ANSWER])  # the second is of an earlier version
    assert costs["visual_after"] == 10 and costs["visual_mean"] == 7.25 and costs["retention"] == 14.5 / 200


def test_long_prompts_and_sampling_are_noted() -> None:
    assert notes([ANSWER]) == []
    over, sampled = notes([ANSWER, ANSWER | {"over_context": True, "sampled": True}])
    assert over.startswith("1 of 2 full prompts are longer") and "all answers are greedy" in sampled


def test_answer_that_a_kill_truncated_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "rows/toy.jsonl"
    log = AnswerLog(file)
    log.add(ANSWER)
    log.add(ANSWER | {"key": "l"})
    file.write_text(file.read_text()[:-9])
    log = AnswerLog(file)
    assert list(log.answers) == ["k"]
    log.add(ANSWER | {"key": "m"})
    assert [answer["key"] for answer in read_answer_log(file)] == ["k", "m"]
    assert len(file.read_text().splitlines()) == 2
