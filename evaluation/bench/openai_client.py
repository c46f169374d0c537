"""Requests to a server with OpenAI's interface for chats, with the times at which the words of an answer arrive."""

from __future__ import annotations

import http
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from framefold.errors import ConfigError, ServingError
from framefold.messages import one_line, short

DATA, END = b"data:", b"[DONE]"
LONGEST_LINE = 1 << 20  # bytes of one event


@dataclass(frozen=True)
class Reply:
    """Times and sizes of one answer.

    Attributes:
        first: seconds from the request to the first word.
        seconds: seconds from the request to the last token, which may have no text.
        tokens: tokens of the answer.
        prompt_tokens: tokens of the prompt, as the server counts them.
    """

    first: float
    seconds: float
    tokens: int
    prompt_tokens: int

    @property
    def between(self) -> float | None:
        """Mean seconds between two tokens; None for an answer of one token."""
        return (self.seconds - self.first) / (self.tokens - 1) if self.tokens > 1 else None


class OpenAIServer:
    """A server; usable in several threads at once."""

    def __init__(self, url: str, timeout: float) -> None:
        """Check the address; nothing is sent.

        Args:
            url: address of the server, with or without ``/v1``.
            timeout: most seconds of one request, from the connection to the end of the answer.

        Raises:
            ConfigError: it is no address of a server.
        """
        self.url, self.timeout = url, timeout
        try:
            self._parts: SplitResult = urlsplit(url)
            self._port = self._parts.port
        except ValueError as error:
            raise ConfigError(f"{short(url)} is no address of a server: {error}") from error
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ConfigError(f"{short(url)} is no address of a server, as http://localhost:8000 is")
        self._prefix = self._parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()

    def model(self) -> str:
        """Return the name of the model that it serves.

        Raises:
            ServingError: it does not answer as such a server does.
        """
        with self._request("GET", "/models", None) as response:
            answer = _json(response.read(LONGEST_LINE), self.url)
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise ServingError(f"{self.url} names no model: {short(answer)}") from error

    def ask(self, body: dict[str, Any]) -> Reply:
        """Send a chat, and read its answer as it is written.

        Raises:
            ServingError: no connection, an error of the server, an answer of another form, or the time is over.
        """
        start = time.perf_counter()
        streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
        first, last = None, 0.0
        usage: dict[str, Any] | None = None
        with self._request("POST", "/chat/completions", streamed) as response:
            for event in _events(response, self.url):
                if "error" in event:
                    raise ServingError(f"{self.url} ended an answer: {short(event['error'], 300)}")
                if choices := event.get("choices"):
                    last = time.perf_counter() - start
                    if first is None and any((choice.get("delta") or {}).get("content") for choice in choices):
                        first = last
                usage = event.get("usage") or usage
        if first is None:
            raise ServingError(f"{self.url} sent an answer without any word")
        try:
            counts = usage or {}
            return Reply(first, last, int(counts["completion_tokens"]), int(counts["prompt_tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ServingError(f"{self.url} did not send the numbers of tokens (stream_options)") from error

    def close(self) -> None:
        """End all requests that are under way, in whatever thread."""
        self._closed.set()
        for sock in list(self._open):
            _shut(sock)

    @contextmanager
    def _request(self, method: str, path: str, body: Any) -> Iterator[http.client.HTTPResponse]:
        cls = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None
        connection = cls(self._parts.hostname, self._port, timeout=self.timeout)
        late = threading.Event()
        sock: socket.socket | None = None  # http.client forgets it when a response begins
        try:
            connection.connect()
            sock = connection.sock
            self._open.add(sock)
            alarm = threading.Timer(self.timeout, _end, (sock, late))
            alarm.daemon = True
            alarm.start()
            if self._closed.is_set():  # while it was connecting
                raise ConnectionAbortedError
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self._prefix + path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                text = " ".join(response.read(1000).decode(errors="replace").split())
                raise ServingError(f"{self.url} refused a request ({response.status}): {text[:300]}")
            yield response
            if late.is_set():
                raise ServingError(self._too_late())
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise ServingError(self._too_late()) from error
            if self._closed.is_set():
                raise ServingError(f"requests to {self.url} were ended") from error
            raise ServingError(f"{self.url} cannot be asked: {one_line(error) or type(error).__name__}") from error
        except ServingError as error:
            raise (ServingError(self._too_late()) if late.is_set() else error) from error
        finally:
            if sock is not None:
                alarm.cancel()
                self._open.discard(sock)
            connection.close()

    def _too_late(self) -> str:
        return f"{self.url} did not finish an answer within {self.timeout:g} seconds (--timeout)"


def _end(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    _shut(sock)


def _shut(sock: socket.socket) -> None:
    """End the reads and writes of a connection, also those that wait in another thread."""
    with suppress(OSError):  # it is closed by now
        sock.shutdown(socket.SHUT_RDWR)


def _events(response: http.client.HTTPResponse, url: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream up to its end mark."""
    while True:
        line = response.readline(LONGEST_LINE)
        if not line:
            raise ServingError(f"{url} ended an answer in its middle")
        if not line.startswith(DATA):
            continue
        text = line[len(DATA) :].strip()
        if text == END:
            return
        yield _json(text, url)


def _json(text: bytes, url: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ServingError(f"{url} does not answer in JSON: {short(text)}") from error
    if not isinstance(value, dict):
        raise ServingError(f"{url} does not answer as an OpenAI server: {short(value)}")
    return value
