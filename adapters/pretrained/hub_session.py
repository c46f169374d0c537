"""Time limits on every request of huggingface_hub.

On its own, the client waits for an answer without limit, and opens a session without limits whenever a connection
fails. It has other limits for metadata (10 seconds, then 60 for the same file) and downloads (10 seconds), repeats
requests for up to 23 seconds or for as long as the server's Retry-After says, and repeats a download without end while
each attempt yields a byte. Looking up the name of a host, headers that arrive byte by byte, and the transfer by Xet are
subject to no limit at all.
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

MOST_FAILURES = 20  # of one load or push, after which nothing is repeated

SLOWEST = 5_000  # bytes per second; a transfer that is slower on average counts as stalled

PROGRESS = 2**20  # bytes of a download after which a lost connection is a new failure and not the previous one again

_RATE_LIMIT = re.compile(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)")  # nothing remains for t seconds

TRANSIENT = (408, 429, 500, 502, 503, 504)  # status codes of a Hub that may recover


class GaveUpError(Exception):
    """A request is not repeated; its cause is the error of the last attempt. The client does not catch this class."""


class RequestLimits:
    """Limits of the requests of a load or a push.

    Args:
        seconds: maximum time without a byte, and maximum time for which requests that fail are repeated.
        session: the session of huggingface_hub.
    """

    def __init__(self, seconds: float, session: Any) -> None:
        import huggingface_hub

        self.seconds, self.original = seconds, type(session).send.__get__(session)
        names = (kind.__module__.partition(".")[0] for kind in type(session).__mro__)
        self.httpx: Any = importlib.import_module(next(name for name in names if name.startswith("httpx")))
        self.raise_for_status = huggingface_hub.utils.hf_raise_for_status
        self.reached, self.failures, self.failing_since = False, 0, float("inf")

    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Replace ``send`` of the session.

        Raises:
            GaveUpError: the Hub did not answer in time, or the request has failed too often.
            HfHubHTTPError: the Hub is busy for longer than the limit.
        """
        given = request.extensions.get("timeout") or {}
        limits = {
            kind: min(given.get(kind) or self.seconds, self.seconds) for kind in ("connect", "read", "write", "pool")
        }
        request.extensions = {**request.extensions, "timeout": limits}
        try:
            response = self._send_in_time(request, options)
        except self.httpx.TransportError as error:
            raise self._failed(error) from error
        self.reached = True
        response.iter_raw = self._limited_body(response)
        if response.status_code in TRANSIENT and (self._is_final() or retry_after(response) > self.seconds):
            self.raise_for_status(response)
        if not stream:
            response.read()
        return response

    def _send_in_time(self, request: Any, options: dict[str, Any]) -> Any:
        """Send in a thread, because nothing can interrupt the look-up of a name or limit the time for all headers."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(self.original(request, stream=True, **options))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
        length = int(request.headers.get("Content-Length") or 0)
        if not wait([future], 2 * self.seconds + length / SLOWEST).done:
            future.add_done_callback(_close)
            raise self.httpx.ReadTimeout(f"no answer within {2 * self.seconds + length / SLOWEST:g} seconds")
        return future.result()

    def _limited_body(self, response: Any) -> Callable[..., Iterator[bytes]]:
        """Return ``iter_raw`` of a response with a limit of the whole transfer, not only of the time between bytes."""
        iter_raw, is_error = response.iter_raw, response.status_code >= 400

        def iterate(chunk_size: int | None = None) -> Iterator[bytes]:
            start, received = time.monotonic(), 0
            try:
                for chunk in iter_raw(chunk_size):
                    received += len(chunk)
                    if time.monotonic() - start > self.seconds + received / SLOWEST:
                        raise self.httpx.ReadTimeout(f"{received} bytes in {time.monotonic() - start:.3g} seconds")
                    if received >= PROGRESS:
                        self.failing_since = float("inf")
                    yield chunk
            except self.httpx.TransportError as error:
                raise self._failed(error) from error
            if not is_error:
                self.failing_since = float("inf")

        return iterate

    def _failed(self, error: Exception) -> Exception:
        """Return the error to raise: one that the client answers with a further attempt, or :class:`GaveUpError`."""
        if self._is_final() or isinstance(error, self.httpx.TimeoutException) or not self.reached:
            return GaveUpError(str(error))
        if isinstance(error, self.httpx.ConnectError):  # after it, the client would open a session without limits
            return self.httpx.RemoteProtocolError(str(error))
        return error

    def _is_final(self) -> bool:
        self.failures += 1
        self.failing_since = min(self.failing_since, time.monotonic())
        return self.failures > MOST_FAILURES or time.monotonic() - self.failing_since >= self.seconds


_LOCK = threading.Lock()
_active: list[RequestLimits] = []  # one for each load or push of this process, in the order of their starts
_limited: list[Any] = []  # sessions whose ``send`` is replaced
_disabled: list[bool] = []  # whether Xet was disabled before


@contextmanager
def limited_session(seconds: float) -> Iterator[None]:
    """Limit the requests of huggingface_hub in this process, and keep it from using Xet.

    The session is shared by all users of huggingface_hub in the process: loads and pushes that run in several threads
    have the limits of the one that started last.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    with _LOCK:
        if not _active:
            _disabled.append(constants.HF_HUB_DISABLE_XET)
            constants.HF_HUB_DISABLE_XET = True
        if session not in _limited:
            _limited.append(session)
        limits = RequestLimits(seconds, session)
        _active.append(limits)
        session.send = limits.send
    try:
        yield
    finally:
        with _LOCK:
            _active.remove(limits)
            if not _active:
                constants.HF_HUB_DISABLE_XET = _disabled.pop()
                while _limited:
                    vars(_limited.pop()).pop("send", None)


def retry_after(response: Any) -> float:
    """Return the seconds that the client would wait because the Hub asks for it; 0 if it does not."""
    value = response.headers.get("Retry-After", "")
    limit = _RATE_LIMIT.search(response.headers.get("RateLimit", ""))
    return max(float(value) if value.isdigit() else 0.0, float(limit[1]) if limit else 0.0)


def _close(future: Future[Any]) -> None:
    """Close the response of a request that was given up."""
    if future.exception() is None:
        future.result().close()
