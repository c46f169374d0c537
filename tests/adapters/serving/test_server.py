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

from framefold.data.synthetic.generate import Video, generate
from framefold.data.video.codec import encode_video
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


def chat(video: Video, question: str) -> dict[str, Any]:
    url = f"data:video/mp4;base64,{base64.b64encode(encode_video(video.frames, video.times)).decode()}"
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    return {"temperature": 0, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}


def ask(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=HANG))


@pytest.mark.timeout(3 * HANG)
def test_questions_about_a_video_are_answered_right(server: str, video: Video) -> None:
    questions = video.questions[:4]
    answers = [ask(server, chat(video, question.text)) for question in questions]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    pairs = list(zip(texts, (question.answer for question in questions), strict=True))
    assert sum(text.split()[:1] == wanted.split()[:1] for text, wanted in pairs) >= 3, pairs
    assert all(TOKENS < answer["usage"]["prompt_tokens"] < TOKENS + 20 for answer in answers)


@pytest.mark.timeout(3 * HANG)
def test_the_request_of_the_guide_is_answered_right(server: str, video: Video, tmp_path: Path) -> None:
    script = guide_lines(".venv-serving/bin/framefold view").replace(
        f"localhost:{PORT}", server.removeprefix("http://")
    )
    script = script.replace(".venv-serving/bin/framefold", f"{shlex.quote(sys.executable)} -m framefold")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = ["bash", "-ec", script]
    out = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG, check=True
    )
    answer = json.loads(out.stdout[out.stdout.index("{") :])  # behind the questions and answers of the video
    (question,) = [question for question in video.questions if question.text in script]
    said = answer["choices"][0]["message"]["content"].strip()
    tokens = answer["usage"]["prompt_tokens"]
    assert said == question.answer
    assert f"The answer is `{said}`; `usage` counts {tokens} tokens" in (ROOT / "docs" / "serve.md").read_text()


@pytest.mark.timeout(3 * HANG)
def test_the_load_test_measures_the_server(server: str, video: Video) -> None:
    client = OpenAIServer(server, HANG)
    body = chat(video, "how many scenes ?")
    reply = client.ask(body | {"model": client.model(), "max_tokens": 5, "ignore_eos": True})
    assert reply.tokens == 5 and TOKENS < reply.prompt_tokens < TOKENS + 20
    assert 0 < reply.first < reply.seconds
