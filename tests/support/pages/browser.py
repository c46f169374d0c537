"""Headless Chromium for tests of pages, driven over its DevTools protocol through a pair of pipes.

It needs no driver, library or port: with ``--remote-debugging-pipe`` Chromium reads commands from file descriptor 3 and
writes answers to file descriptor 4. Both are JSON texts that end with a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-breakpad"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-dev-shm-usage", "--force-device-scale-factor=1", "--hide-scrollbars", "--remote-debugging-pipe"),
]
SECONDS = 30  # time limit of a command; starting Chromium takes long on a busy machine
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """A running Chromium with one page; as a context manager it leaves no process and no file.

    Attributes:
        requests: URLs that the page requested.
        errors: errors and warnings in the console.
    """

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="framefold-chromium-")
        self._answers: dict[int, dict[str, Any]] = {}
        self._left, self._last, self._session = b"", 0, ""
        theirs_in, self._in = _pipe()
        self._out, theirs_out = _pipe()
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4)]
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._pid = os.posix_spawn(CHROMIUM, words, os.environ, file_actions=[*nothing, *pipes], setpgroup=0)
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self) -> Browser:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End Chromium and its child processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Run a command of the protocol and return its result.

        Raises:
            RuntimeError: Chromium refuses the command.
            TimeoutError: it does not answer.
        """
        self._last += 1
        number, session = self._last, {"sessionId": self._session} if self._session else {}
        text = json.dumps({"id": number, "method": method, "params": params, **session}).encode() + b"\0"
        while text:
            text = text[os.write(self._in, text) :]
        end = time.monotonic() + SECONDS
        while number not in self._answers:
            self._receive(end, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, file: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a page in a window of the given size and wait for the end of its script."""
        self.requests.clear()
        self.errors.clear()
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")

    def resize(self, width: int, height: int = 900) -> None:
        """Change the size of the window."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page, or that of the promise that it returns.

        Raises:
            RuntimeError: the expression throws an error.
        """
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"].get("exception", {}).get("description", expression))
        return done["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true.

        Raises:
            TimeoutError: it never is; the message includes the errors in the console.
        """
        end = time.monotonic() + SECONDS
        while not self.js(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; console: {self.errors}")
            time.sleep(0.02)

    def press(self, key: str, times: int = 1) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **code)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def middle(self, selector: str) -> tuple[float, float]:
        """Scroll to an element and return the position of its middle in the window."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y, width, height = self.js(
            f"(({{x, y, width, height}}) => [x, y, width, height])({found}.getBoundingClientRect())"
        )
        return x + width / 2, y + height / 2

    def point(self, x: float, y: float) -> None:
        """Move the mouse pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        x, y = self.middle(selector)
        self.point(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector: str, value: object) -> None:
        """Choose an option of a menu by its value, as a user would."""
        menu, wanted = f"document.querySelector({json.dumps(selector)})", json.dumps(str(value))
        assert self.js(f"({menu}.value = {wanted}, {menu}.value)") == str(value), f"{selector} has no {value}"
        self.js(f"{menu}.dispatchEvent(new Event('change', {{bubbles: true}}))")

    def picture(self, file: Path, selector: str = "html") -> None:
        """Write a PNG of an element of any size."""
        box = self.js(
            f"((r) => ({{x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=box | {"scale": 1})
        file.write_bytes(base64.b64decode(taken["data"]))

    def _receive(self, end: float, waiting_for: str) -> None:
        """Read messages, and record requests and errors of the page."""
        ready, _, _ = select.select([self._out], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError(f"Chromium did not answer {waiting_for} within {SECONDS} seconds")
        got = os.read(self._out, 1 << 20)
        if not got:
            raise RuntimeError(f"Chromium ended before it answered {waiting_for}")
        *texts, self._left = (self._left + got).split(b"\0")
        for message in map(json.loads, texts):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, event: str, what: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in what["args"]))
        elif event == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.errors.append(what["entry"]["text"])


def wait_for_panels(browser: Browser) -> None:
    """Wait until both panels of a page show the chosen question."""
    browser.until("document.querySelector('#panels').ariaBusy === 'false'")


def _pipe() -> tuple[int, int]:
    """Return a reading and a writing end, both above the descriptors that Chromium uses, and not inherited."""
    pair = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pair]
    for end in pair:
        os.close(end)
    return ends[0], ends[1]
