"""A Hub that stops answering, in every way and at every request: loads and pushes end within their time limit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.support.cases import case
from tests.support.hub.hub_client import Client, ClientError, random_fila
from tests.support.hub.loopback_hub import Dropped, Handler, Hub, Refused
from tests.support.limits import HANG

LIMIT = 0.1  # seconds; the client has limits of 10 and 60
LONGEST_SLEEP = 2.0  # seconds of pauses between attempts; the client would pause for 23, or as long as it is told to

release = Event()  # set when the tests are done; nothing is answered before


def never_answer(handler: Handler) -> None:
    release.wait(HANG)
    raise Dropped


def drip(handler: Handler, text: bytes) -> None:
    """Send a start, and then a byte from time to time, without end."""
    handler.wfile.write(text)
    while not release.wait(LIMIT / 5):
        handler.wfile.write(b"x")
        handler.wfile.flush()
    raise Dropped


def drip_headers(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 200 OK\r\nX-Slow: ")


def drip_body(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: x\r\nX-Repo-Commit: x\r\n\r\n")


def ask_to_wait_for_an_hour(handler: Handler) -> None:
    handler._read()
    handler._send(429, {"error": "slow down"}, {"Retry-After": "3600"})
    raise Dropped


def limit_the_rate(handler: Handler) -> None:
    handler._read()
    handler._send(429, {"error": "slow down"}, {"RateLimit": '"api";r=0;t=3600'})
    raise Dropped


def be_busy(handler: Handler) -> None:
    handler._read()
    raise Refused(503, "busy")


def hang_up(handler: Handler) -> None:
    raise Dropped


WAYS = (never_answer, drip_headers, drip_body, ask_to_wait_for_an_hour, limit_the_rate, be_busy, hang_up)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub().running() as running:
        yield running
        release.set()


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(hub, tmp_path_factory.mktemp("home"))
    yield client
    client.kill()


def requests_until_done(hub: Hub, client: Client, way: Callable[[Handler], None], act: Callable[[int], object]) -> int:
    """Call ``act`` with a Hub that misbehaves from request n on, n = 0, 1 ...; return the n at which it succeeds."""
    client("setting", limit=LIMIT, nap=2 * LIMIT)
    client("slept")
    for n in range(40):
        with case(way.__name__, n):
            hub.log.clear()
            hub.misbehave = lambda handler, n=n: way(handler) if len(hub.log) > n else None
            try:
                act(n)
            except ClientError as error:
                text = error.text
                assert error.kinds[0] == "HubError" and any(
                    word in text for word in ("was lost", "status", "cache", "is busy")
                ), error
            finally:
                hub.misbehave = None
            assert client("slept") <= LONGEST_SLEEP
            if len(hub.log) <= n:
                return n
    raise AssertionError("it never ends")


def test_a_load_ends_wherever_the_hub_stops(hub: Hub, client: Client, tmp_path: Path) -> None:
    random_fila(1).save_pretrained(tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for way in WAYS:
        for n in range(40):
            hub.put(f"me/{way.__name__}-{n}", files)  # nothing of it is in the cache
        done = requests_until_done(
            hub, client, way, lambda n, w=way.__name__: client("load", f"me/{w}-{n}", timeout=60)
        )
        assert done >= 5


def test_a_push_ends_wherever_the_hub_stops(hub: Hub, client: Client) -> None:
    for way in (never_answer, drip_headers, ask_to_wait_for_an_hour, hang_up):
        name = f"me/push-{way.__name__.replace('_', '-')}"
        done = requests_until_done(
            hub, client, way, lambda n, name=name: client("push", n, name, tag=f"v{n}", timeout=60)
        )
        assert done >= 6


def test_a_cached_adapter_is_used_if_the_hub_stops(hub: Hub, client: Client) -> None:
    client("setting", limit=60)
    digest = client("push", 3, "me/cached")["digest"]
    assert client("load", "me/cached")["digest"] == digest
    client("setting", limit=LIMIT, nap=2 * LIMIT)
    client("slept")
    for way in WAYS:
        for n in range(4):
            with case(way.__name__, n):
                hub.log.clear()
                hub.misbehave = lambda handler, n=n, way=way: way(handler) if len(hub.log) > n else None
                try:
                    assert client("load", "me/cached", timeout=60)["digest"] == digest
                finally:
                    hub.misbehave = None
                assert client("slept") <= LONGEST_SLEEP


def test_names_that_are_not_looked_up_end_it(hub: Hub, tmp_path: Path) -> None:
    client = Client(hub, tmp_path, HF_ENDPOINT="http://hub.invalid")
    try:
        client("setting", limit=LIMIT)
        client("stall_names")
        assert "is not completely in the cache" in client.refuses("load", "me/unknown", timeout=60)
        assert "was lost" in client.refuses("push", 1, "me/unknown", timeout=60)
        assert client("slept") <= LONGEST_SLEEP
    finally:
        client.kill()


def test_a_name_that_does_not_exist_fails_at_once(hub: Hub, tmp_path: Path) -> None:
    """With the usual limit of a minute, too: the client would try for 23 seconds."""
    client = Client(hub, tmp_path, HF_ENDPOINT="http://no-such-hub.invalid")
    try:
        assert "is not completely in the cache" in client.refuses("load", "me/unknown", timeout=60)
        assert "was lost" in client.refuses("push", 1, "me/unknown", timeout=60)
        words = ("answer", "--host", "Qwen/Misspelt", "--video", "x", "--question", "x", "--compressor", "uniform")
        answer = client("cli", *words, timeout=120)
        assert answer["status"] == 2 and "Qwen/Misspelt" in answer["err"], json.dumps(answer)
        assert client("slept") == 0
    finally:
        client.kill()
