"""The load test of servers, against a server of the standard library that answers word by word."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from framefold.__main__ import main
from framefold.errors import ConfigError, ServingError
from framefold.evaluation.bench.openai_client import OpenAIServer, Reply
from framefold.evaluation.bench.serving import bench_serve, load_summary
from tests.support.limits import HANG

WORDS, PROMPT = 4, 123
PAUSE = 0.02  # seconds before each word
SMALL: dict[str, Any] = {"frames": 16, "size": 64, "timeout": 60.0, "max_tokens": WORDS}

Answer = Callable[["StandIn", BaseHTTPRequestHandler], None]


def event(handler: BaseHTTPRequestHandler, content: Any) -> None:
    handler.wfile.write(f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n".encode())
    handler.wfile.flush()


def word(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}], "usage": None}


def in_words(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    """Answer as vLLM does: a role, words, the usage, and an end mark."""
    server.count(1)
    event(handler, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    for _ in range(WORDS):
        time.sleep(PAUSE)
        event(handler, word("a "))
    server.count(-1)  # before the end mark, on which the client sends its next request
    event(handler, {"choices": [], "usage": {"prompt_tokens": PROMPT, "completion_tokens": WORDS}})
    event(handler, "[DONE]")


def without_usage(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    event(handler, word("a"))
    event(handler, "[DONE]")


def without_words(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    event(handler, {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}})
    event(handler, "[DONE]")


def broken_off(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    event(handler, word("a"))


def with_an_error(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    event(handler, word("a"))
    event(handler, {"error": {"message": "out of memory"}})


def in_prose(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    event(handler, "good morning")


def never(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    event(handler, word("a"))
    server.stop.wait(2 * HANG)


def without_end_of_line(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
    """Send a byte now and then, so that no single read waits long."""
    while not server.stop.wait(0.05):
        handler.wfile.write(b"d")
        handler.wfile.flush()


@dataclass
class StandIn:
    """A server.

    Attributes:
        answer: what it does with a question.
        status: HTTP status of its answers to questions.
        bodies: the requests so far.
        most: most requests that :func:`in_words` answered at the same time.
        stop: set when the test is over.
    """

    answer: Answer = in_words
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, change: int) -> None:
        with self.lock:
            self.running += change
            self.most = max(self.most, self.running)


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

        def do_GET(self) -> None:
            assert self.path == "/v1/models"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": "tiny"}]}).encode())

        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stand_in.lock:
                stand_in.bodies.append(body)
            try:
                self.send_response(stand_in.status)
                self.end_headers()
                if stand_in.status == 200:
                    stand_in.answer(stand_in, self)
                else:
                    self.wfile.write(b'{"error": {"message": "too many tokens"}}')
            except OSError:
                pass  # the client has left

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        stand_in.url = f"http://127.0.0.1:{http.server_address[1]}"
        yield stand_in
        stand_in.stop.set()
        http.shutdown()


def test_as_many_requests_are_under_way_as_asked_for(server: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "new" / "load.json"
    rows = bench_serve([server.url], [1, 3], requests=6, **SMALL, out=str(out))
    assert server.most == 3
    assert [(row["concurrency"], row["requests"], row["model"]) for row in rows] == [(1, 6, "tiny"), (3, 6, "tiny")]
    alone, three = rows
    assert alone["seconds"] >= 6 * WORDS * PAUSE and three["seconds"] >= 2 * WORDS * PAUSE
    for row in rows:
        assert row["prompt_tokens"] == PROMPT and row["tokens"] == WORDS
        assert PAUSE <= row["first_token_median"] <= row["first_token_p90"] < row["seconds"]
        assert row["between_tokens_median"] >= PAUSE * 0.9
        assert row["requests_per_second"] == pytest.approx(6 / row["seconds"])
    assert json.loads(out.read_text())["rows"] == rows


def test_a_concurrency_above_the_number_of_requests_is_reached(server: StandIn) -> None:
    (row,) = bench_serve([server.url], [5], requests=1, **SMALL)
    assert row["requests"] == 5 and server.most == 5


def test_every_request_has_a_video_that_the_server_has_not_seen(server: StandIn) -> None:
    bench_serve([server.url, server.url], [1, 2], requests=3, **SMALL)
    urls = [body["messages"][0]["content"][0]["video_url"]["url"] for body in server.bodies]
    assert len(urls) == 1 + 2 * 3 and len(set(urls)) == len(urls)  # equal addresses are one server
    assert all(url.startswith("data:video/mp4;base64,") for url in urls)
    assert all(body["ignore_eos"] and body["max_tokens"] == WORDS and body["stream"] for body in server.bodies)


def test_files_are_sent_in_turn(server: StandIn, tmp_path: Path) -> None:
    files = []
    for name in ("a.mp4", "b.mkv"):
        (tmp_path / name).write_bytes(name.encode())
        files.append(str(tmp_path / name))
    bench_serve([f"{server.url}/v1/"], [1], requests=3, videos=files, question="why?", **SMALL)
    contents = [body["messages"][0]["content"] for body in server.bodies]
    assert len({content[0]["video_url"]["url"] for content in contents}) == 2
    assert {content[1]["text"] for content in contents} == {"why?"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (without_usage, "did not send the numbers of tokens"),
        (without_words, "without any word"),
        (broken_off, "ended an answer in its middle"),
        (with_an_error, "ended an answer: .*out of memory"),
        (in_prose, "does not answer in JSON: b'good morning'"),
    ],
)
def test_an_answer_of_another_form_ends_the_test(server: StandIn, answer: Answer, message: str) -> None:
    server.answer = answer
    with pytest.raises(ServingError, match=message):
        bench_serve([server.url], [2], requests=2, **SMALL)


@pytest.mark.parametrize("answer", [never, without_end_of_line])
def test_a_server_that_does_not_finish_ends_the_test(server: StandIn, answer: Answer) -> None:
    server.answer = answer
    with pytest.raises(ServingError, match=r"did not finish an answer within 0.5 seconds \(--timeout\)"):
        bench_serve([server.url], [1], requests=1, **SMALL | {"timeout": 0.5})


def test_the_first_failure_ends_the_requests_that_are_under_way(server: StandIn) -> None:
    def then_fail(server: StandIn, handler: BaseHTTPRequestHandler) -> None:
        number = len(server.bodies)
        (in_words if number == 1 else never if number < 4 else with_an_error)(server, handler)

    server.answer = then_fail
    with pytest.raises(ServingError, match="out of memory"):  # and not only after the answers that never come
        bench_serve([server.url], [3], requests=30, **SMALL | {"timeout": 4.0 * HANG})
    assert len(server.bodies) < 10


def test_refused_requests_and_closed_ports_are_named(server: StandIn) -> None:
    server.status = 400
    with pytest.raises(ServingError, match=r"refused a request \(400\): .*too many tokens"):
        bench_serve([server.url], [1], **SMALL)
    with pytest.raises(ServingError, match="http://127.0.0.1:9 cannot be asked: .*refused"):
        bench_serve(["http://127.0.0.1:9"], [1], **SMALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["localhost:8000"], "is no address of a server"),
        (["http://localhost:port"], "is no address of a server"),
        (["http://localhost", "--concurrency", "0"], "must be at least 1"),
        (["http://localhost", "--requests", "0"], "must be at least 1"),
        (["http://localhost", "--timeout", "0"], "timeout positive"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_sent(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_video_file_is_named(server: StandIn) -> None:
    with pytest.raises(ConfigError, match="nowhere.mp4 cannot be read: No such file"):
        bench_serve([server.url], [1], videos=["nowhere.mp4"], **SMALL)
    assert not server.bodies


def test_percentiles_and_means_are_those_of_the_replies() -> None:
    replies = [Reply(first, first + 3.0, 4, 100) for first in (0.5, 0.1, 0.3, 0.2, 0.4)]
    summary = load_summary(replies, 10.0)
    assert summary["first_token_median"] == 0.3 and summary["first_token_p90"] == 0.5
    assert summary["between_tokens_median"] == pytest.approx(1.0) and summary["requests_per_second"] == 0.5
    assert load_summary([Reply(0.1, 0.1, 1, 9)], 1.0)["between_tokens_median"] is None


def test_the_prefix_of_the_interface_may_be_in_the_address(server: StandIn) -> None:
    for url in (server.url, f"{server.url}/", f"{server.url}/v1", f"{server.url}/v1/"):
        assert OpenAIServer(url, 60).model() == "tiny"
