"""Settings, answers, videos, questions and processes for the tests of ``framefold eval``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import encode_video
from framefold.evaluation.lmms.published_scores import BENCHMARKS
from framefold.evaluation.lmms.settings import EvalSettings
from tests.support.limits import HANG
from tests.support.paths import ROOT

STUB = ROOT / "tests" / "assets" / "lmms_stub"
REAL = (Path(sys.prefix) / "lmms-eval" / "lmms_eval").is_dir() or find_spec("lmms_eval") is not None
FRAMES, VIDEOS = 32, 3
TASKS = ROOT / "tests" / "assets" / "lmms_tasks"
EVAL = ["-m", "framefold", "eval", "--host", "checkpoints/tinyhost", "--include_path", str(TASKS)]
SETTINGS = EvalSettings("host", "uniform", 0.25, row="uniform", host_revision="abc")
ANSWER = {
    "key": "k", "task": "toy", "split": "test", "doc_id": 0, "video": "v.mp4", "text": "red", "frames": 8,
    "visual_before": 100, "visual_after": 10, "prompt": 20, "over_context": False, "new_tokens": 2, "prefill": 0.1,
    "decode": 0.01, "compressor": 0.002, "memory": 2**20, "sampled": False,
}  # fmt: skip


def samples_of(out: Path, task: str = "framefold_toy") -> list[dict[str, Any]]:
    """Samples of a task in the joined results."""
    return json.loads((out / "eval.json").read_text())["tasks"][task]["samples"]


def write_task_files(folder: Path, videos: int = VIDEOS) -> Path:
    """Write the files of the local tasks: lossless videos, and questions about them."""
    (folder / "toy").mkdir(parents=True)
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    questions = []
    for number in range(videos):
        video = generate(number, split="test", frames=FRAMES, difficulty="easy")
        (folder / f"toy/{number}.mp4").write_bytes(encode_video(video.frames, video.times, crf=0))
        for question in video.questions:
            questions.append({"video": f"toy/{number}.mp4", "question": question.text, "answer": question.answer})
    (folder / "toy/questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    damaged = [questions[0], questions[1] | {"video": "toy/none.mp4"}]
    (folder / "toy/damaged.jsonl").write_text("".join(json.dumps(question) + "\n" for question in damaged))
    return folder


def write_stand_ins(tasks: Path) -> Path:
    """Write tasks with names, metrics and scales of the benchmarks, about the questions of the local tasks.

    They can stand in for them with the stub only: lmms-eval prefers its own tasks to local ones of the same name.
    """
    tasks.mkdir()
    functions = ['def video(doc):\n    return [doc["video"]]\n\n']
    for number, one in enumerate(BENCHMARKS.values()):
        right = f'{{"{one.metric}": float(answers[0] == doc["answer"])}}'
        functions.append(f"def score{number}(doc, answers):\n    return {right}\n\n")
        functions.append(f"def mean{number}(values):\n    return {100 / one.points} * sum(values) / len(values)\n\n")
        text = (TASKS / "toy.yaml").read_text().replace("task: framefold_toy", f"task: {one.task}")
        text = text.replace("documents.video", "stand_ins.video").replace("exact_match", one.metric)
        text = text.replace("aggregation: mean", f"aggregation: !function stand_ins.mean{number}")
        text += f"process_results: !function stand_ins.score{number}\n"
        (tasks / f"{one.task}.yaml").write_text(text)
    (tasks / "stand_ins.py").write_text("\n".join(functions))
    return tasks


def environment(folder: Path, stub: bool, **more: str) -> dict[str, str]:
    """Variables of a user without a network, with the stub of lmms-eval or with the real one."""
    paths = [str(ROOT), *([str(STUB)] if stub else [])]
    home = str(folder / "home")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": home, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths), **more}


def start(folder: Path, *words: str, stub: bool, **more: str) -> subprocess.Popen[str]:
    """Start ``framefold eval``; the caller must end it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = environment(folder, stub, **more)
    return subprocess.Popen([sys.executable, *EVAL, *words], cwd=folder, env=env, **pipes)


def run(folder: Path, *words: str, stub: bool, **more: str) -> tuple[int, str, list[str]]:
    """Run ``framefold eval``; return its exit status, stdout and the lines of stderr."""
    process = start(folder, *words, stub=stub, **more)
    try:
        out, err = process.communicate(timeout=HANG)
    finally:
        process.kill()
    return process.returncode, out, [line for line in err.splitlines() if line.strip()]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
