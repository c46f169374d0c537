"""Served questions are answered as in ``framefold ablate``. ``make serving-test`` runs these tests."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make serving-test", allow_module_level=True)

import transformers

from framefold.data.synthetic.generate import generate
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.results.result_files import Result, count_answers, read_results
from tests.support.limits import HANG
from tests.support.paths import ROOT, TINYHOST, TINYHOST_CROWDED
from tests.support.serving.engine import engine, served
from tests.support.serving.hosts import Clip, Prompt

VIDEOS, FRAMES, BUDGET = 4, 64, 0.25


@dataclass(frozen=True)
class Row:
    """A row of an ablation: a shipped adapter in its host, and videos."""

    adapter: str
    host: Path = TINYHOST
    difficulty: str = "hard"
    reads_question: bool = False

    @property
    def folder(self) -> Path:
        return ROOT / "checkpoints" / self.adapter


ROWS = [
    Row("storm"),
    Row("fila"),
    Row("qtsplus", reads_question=True),
    Row("crowded/fila-0", TINYHOST_CROWDED, "crowded"),
]


def cell(row: Row, out: Path) -> Result:
    """Return the result of the ablation, with every answer."""
    ablate(
        out=str(out), host=str(row.host), compressors=["identity"], adapters=[str(row.folder)], budgets=[BUDGET],
        seeds=[0], oracle=False, videos=VIDEOS, frames=FRAMES, difficulty=row.difficulty, batch_size=2,
    )  # fmt: skip
    (found,) = [result for result in read_results(out) if result["settings"]["adapter"] is not None]
    return found


def served_words(row: Row, asked: dict[str, list[Any]]) -> list[str]:
    """Ask the engine the questions of a result, and return the first word of each answer."""
    videos = [generate(number, split="test", frames=FRAMES, difficulty=row.difficulty) for number in range(VIDEOS)]
    clips = [Clip(video.frames) for video in videos]
    prompts = [
        Prompt(f"<user><video> {text}<assistant>", [clips[video]], question=text if row.reads_question else None)
        for video, text in zip(asked["video"], asked["question"], strict=True)
    ]
    settings = {"adapter": str(row.folder), "budget": BUDGET}
    with engine(row.host, "llava_onevision", settings) as llm:
        answers = served(llm, "llava_onevision", prompts, 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(row.host)
    return [tokenizer.decode(answer.tokens).strip() for answer in answers]


@pytest.mark.timeout(10 * HANG)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.adapter)
def test_served_answers_are_those_of_the_ablation(row: Row, tmp_path: Path) -> None:
    result = cell(row, tmp_path)
    asked = result["answers"]
    assert all(len(answer.split()) == 1 for answer in asked["answer"])  # a word is a token of these hosts
    said = served_words(row, asked)
    right = [word == answer for word, answer in zip(said, asked["answer"], strict=True)]
    accuracy = count_answers([result | {"answers": asked | {"correct": right}}]).macro
    print(f"{row.adapter}: {len(said)} questions, accuracy {result['accuracy']:.4f}, served {accuracy:.4f}")
    assert accuracy == result["accuracy"] > 0.5
    assert said == [text.split()[0] for text in asked["said"]]
