"""Videos, questions and processes for the tests of ``framefold eval``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil

from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import encode_video
from tests.support.processes import ROOT

STUB = ROOT / "tests" / "assets" / "lmms_stub"
REAL = (Path(sys.prefix) / "lmms-eval" / "lmms_eval").is_dir() or find_spec("lmms_eval") is not None
FRAMES, VIDEOS = 32, 3
EVAL = [
    "-m",
    "framefold",
    "eval",
    "--host",
    "checkpoints/tinyhost",
    "--include_path",
    str(ROOT / "tests/assets/lmms_tasks"),
]


def furnish(desk: Path) -> Path:
    """Write the files of the local tasks: videos without loss, and questions about them."""
    (desk / "toy").mkdir(parents=True)
    (desk / "checkpoints").symlink_to(ROOT / "checkpoints")
    questions = []
    for number in range(VIDEOS):
        video = generate(number, split="test", frames=FRAMES, difficulty="easy")
        (desk / f"toy/{number}.mp4").write_bytes(encode_video(video.frames, video.times, crf=0))
        for question in video.questions:
            questions.append({"video": f"toy/{number}.mp4", "question": question.text, "answer": question.answer})
    (desk / "toy/questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    damaged = [questions[0], questions[1] | {"video": "toy/none.mp4"}]
    (desk / "toy/damaged.jsonl").write_text("".join(json.dumps(question) + "\n" for question in damaged))
    return desk


def environment(desk: Path, stub: bool, **more: str) -> dict[str, str]:
    """Of a user without a network, with the stub of lmms-eval in front or with what is installed."""
    paths = [str(ROOT), *([str(STUB)] if stub else [])]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(desk / "home"), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths), **more}


def start(desk: Path, *words: str, stub: bool, **more: str) -> subprocess.Popen[str]:
    """Start ``framefold eval``; it must be ended by :func:`ended` or killed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *EVAL, *words], cwd=desk, env=environment(desk, stub, **more), **pipes)


def run(desk: Path, *words: str, stub: bool, **more: str) -> tuple[int, str, list[str]]:
    """Exit status, stdout and the lines of stderr of ``framefold eval``."""
    process = start(desk, *words, stub=stub, **more)
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, out, [line for line in err.splitlines() if line.strip()]


def wait_for(done, seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
