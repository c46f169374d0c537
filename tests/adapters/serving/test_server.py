"""The commands of docs/serve.md: an OpenAI server, and a video in a request. ``make serving-test`` runs it."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make serving-test", allow_module_level=True)

import cv2

from framefold.data.synthetic.generate import Video, generate
from framefold.evaluation.bench.openai_client import OpenAIServer
from tests.support.limits import HANG
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.serving.engine import SETTINGS
from tests.support.serving.guarded import guarded

FRAMES, PORT = 64, "8000"
TOKENS = FRAMES * 16 // 4 + 1  # of a video: a quarter, and the newline


def guide_lines(start: str) -> str:
    """Return the indented lines of the guide from one that begins with ``start`` to the next empty one."""
    text = (ROOT / "docs" / "serve.md").read_text()
    block = text[text.index(f"    {start}") :].partition("\n\n")[0]
    return "\n".join(line.removeprefix("    ") for line in block.splitlines())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server that the guide starts."""
    port = str(free_port())
    log = tmp_path_factory.mktemp("server") / "log"
    words = shlex.split(guide_lines("framefold serve checkpoints").replace("\\\n", ""))[1:]
    words = [port if word == PORT else word for word in words]
    environment = os.environ | SETTINGS | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "framefold", *words, "--host", "127.0.0.1"]
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


@pytest.fixture(scope="module")
def video() -> Video:
    """The video that the guide makes."""
    return generate(0, split="test", frames=FRAMES, difficulty="hard")


def file_of(video: Video, folder: Path) -> bytes:
    """Return a video file without loss of quality; PyAV is not in this environment."""
    file = folder / "video.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"FFV1"), 2.0, video.frames.shape[2:0:-1])
    for frame in video.frames:
        writer.write(frame[:, :, ::-1])
    writer.release()
    return file.read_bytes()


def chat(data: bytes, question: str) -> dict[str, Any]:
    url = f"data:video/avi;base64,{base64.b64encode(data).decode()}"
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    return {"temperature": 0, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}


def ask(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=HANG))


@pytest.mark.timeout(3 * HANG)
def test_questions_about_a_video_are_answered_right(server: str, video: Video, tmp_path: Path) -> None:
    data = file_of(video, tmp_path)
    questions = video.questions[:4]
    answers = [ask(server, chat(data, question.text)) for question in questions]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    pairs = list(zip(texts, (question.answer for question in questions), strict=True))
    assert sum(text.split()[:1] == wanted.split()[:1] for text, wanted in pairs) >= 3, pairs
    assert all(TOKENS < answer["usage"]["prompt_tokens"] < TOKENS + 20 for answer in answers)


@pytest.mark.timeout(3 * HANG)
def test_the_request_of_the_guide_is_answered_right(server: str, video: Video, tmp_path: Path) -> None:
    (tmp_path / "runs" / "serve").mkdir(parents=True)
    (tmp_path / "runs" / "serve" / "video.mp4").write_bytes(file_of(video, tmp_path))
    script = guide_lines("printf").replace(f"localhost:{PORT}", server.removeprefix("http://"))
    out = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=True
    )
    answer = json.loads(out.stdout)
    (question,) = [question for question in video.questions if question.text in script]
    said = answer["choices"][0]["message"]["content"].strip()
    tokens = answer["usage"]["prompt_tokens"]
    assert said == question.answer
    assert f"The answer is `{said}`; `usage` counts {tokens} tokens" in (ROOT / "docs" / "serve.md").read_text()


@pytest.mark.timeout(3 * HANG)
def test_the_load_test_measures_the_server(server: str, video: Video, tmp_path: Path) -> None:
    client = OpenAIServer(server, HANG)
    body = chat(file_of(video, tmp_path), "how many scenes ?")
    reply = client.ask(body | {"model": client.model(), "max_tokens": 5, "ignore_eos": True})
    assert reply.tokens == 5 and TOKENS < reply.prompt_tokens < TOKENS + 20
    assert 0 < reply.first < reply.seconds
