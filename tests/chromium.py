"""A headless Chromium that a test drives through the DevTools protocol; no package is needed."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}


def found() -> str | None:
    """The browser's path, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser; `open` gives a tab."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [
            str(found()),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run"),
            *("--disable-dev-shm-usage", "--remote-allow-origins=*", "--disable-extensions"),
            # A tab in the background is a player, too.
            *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
            "--disable-backgrounding-occluded-windows",
            *("--remote-debugging-port=0", f"--user-data-dir={self._home.name}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._tabs: list[Tab] = []
        try:
            self._here, path = self._listening()
            self._browser = Tab(f"ws://{self._here}{path}")
            self._tabs.append(self._browser)
        except BaseException:
            self.close()
            raise

    def _listening(self) -> tuple[str, str]:
        """Where it listens, and the path of the browser itself."""
        file = Path(self._home.name) / "DevToolsActivePort"
        for _ in range(600):
            lines = file.read_text().splitlines() if file.is_file() else []
            if len(lines) == 2:
                return f"127.0.0.1:{lines[0]}", lines[1]
            time.sleep(0.05)
        raise TimeoutError("Chromium did not begin to listen.")

    def open(self, url: str) -> Tab:
        """A new window at an address: one in the background would hardly be drawn."""
        made = self._browser.ask("Target.createTarget", url="about:blank", newWindow=True)
        tab = Tab(f"ws://{self._here}/devtools/page/{made['targetId']}")
        self._tabs.append(tab)
        tab.ask("Page.enable")
        tab.ask("Runtime.enable")
        tab.ask("Page.navigate", url=url)
        return tab

    def close(self) -> None:
        """End it."""
        for tab in self._tabs:
            tab.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._home.cleanup()

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tab:
    """One page: run script in it, press keys, take its picture."""

    def __init__(self, url: str) -> None:
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(connect(url, max_size=None))
        self._numbers = itertools.count(1)
        self.errors: list[str] = []  # exceptions of the page's own script

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol and its answer."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def run(self, script: str) -> Any:
        """The value of an expression, which may be a promise."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}; the page's errors: {self.errors}")
            time.sleep(0.05)
        return value

    def key(self, name: str, *, down: bool) -> None:
        """Press or let go of a key."""
        text = {"text": name} if down and len(name) == 1 else {}
        code = KEYS.get(name, ord(name.upper()[0]))
        self.ask(
            "Input.dispatchKeyEvent",
            type="keyDown" if down else "keyUp",
            key=name,
            windowsVirtualKeyCode=code,
            **text,
        )

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window, and which colours the person prefers."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """Close the tab."""
        with contextlib.suppress(Exception):  # the browser may be gone
            self.ask("Page.close")
        self._open.close()
