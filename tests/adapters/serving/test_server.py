"""``framefold serve`` as people use it: an OpenAI server, and a video in a request. ``make serving-test`` runs it."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make serving-test", allow_module_level=True)

import cv2

from framefold.data.synthetic.generate import generate
from tests.support.limits import HANG
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.serving.engine import SETTINGS
from tests.support.serving.guarded import guarded

FRAMES = 64
OPTIONS = [
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--served-model-name", "tiny"),
    *("--media-io-kwargs", json.dumps({"video": {"num_frames": FRAMES}}), "--generation-config", "vllm"),
    *("--limit-mm-per-prompt", json.dumps({"video": 1, "image": 0})),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of the shipped host and adapter."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    words = ["serve", "checkpoints/tinyhost", "--compressor", "checkpoints/storm", "--budget", "0.25"]
    command = [sys.executable, "-m", "framefold", *words, "--", "--host", "127.0.0.1", "--port", str(port), *OPTIONS]
    environment = os.environ | SETTINGS | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(ROOT)}
    with guarded(command, log, 3 * HANG, ROOT, environment) as process:
        address = f"http://127.0.0.1:{port}"
        wait_until_up(address, process, log)
        yield address


def wait_until_up(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 2 * HANG
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server is not up: {log.read_text()[-3000:]}")


def as_url(frames: np.ndarray, folder: Path) -> str:
    """Return a video without loss of quality as a data URL."""
    file = folder / "video.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"FFV1"), 2.0, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()
    return f"data:video/avi;base64,{base64.b64encode(file.read_bytes()).decode()}"


def ask(address: str, url: str, question: str) -> dict[str, Any]:
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    body = {
        "model": "tiny", "temperature": 0, "max_tokens": 2, "messages": [{"role": "user", "content": content}],
    }  # fmt: skip
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=HANG))


@pytest.mark.timeout(3 * HANG)
def test_questions_about_a_video_are_answered_right(server: str, tmp_path: Path) -> None:
    video = generate(0, split="test", frames=FRAMES, difficulty="hard")
    url = as_url(np.asarray(video.frames), tmp_path)
    questions = video.questions[:4]
    answers = [ask(server, url, question.text) for question in questions]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    pairs = list(zip(texts, (question.answer for question in questions), strict=True))
    assert sum(text.split()[:1] == wanted.split()[:1] for text, wanted in pairs) >= 3, pairs
    tokens = FRAMES * 16 // 4 + 1
    assert all(tokens < answer["usage"]["prompt_tokens"] < tokens + 20 for answer in answers)
