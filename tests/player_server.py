"""The player as a process of its own, and a person without a browser, for its tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from reverie.player.messages import unpack

ROOT = Path(__file__).resolve().parents[1]
PLAY = ("-m", "reverie", "play")


class Server:
    """`reverie play` with these words, or another program; ends with the block."""

    def __init__(self, *words: str, program: str | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        self.process = subprocess.Popen(
            [sys.executable, *(PLAY if program is None else ("-c", program)), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.address = self._address()
        self.port = int(re.findall(r":(\d+)/", self.address)[0])

    def _address(self) -> str:
        out = self.process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], 120)
        line = out.readline() if ready else ""
        found = re.search(r"http://\S+", line)
        if not found:
            self.process.kill()
            raise RuntimeError(f"no address: {line!r} {self.process.communicate()[1][-2000:]}")
        return found[0]

    def person(self, **options: Any) -> Person:
        """Somebody who joins."""
        return Person(self.address, **options)

    @property
    def memory(self) -> float:
        """Megabytes that the process has in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def stop(self, *, how: int = signal.SIGINT) -> tuple[int, str]:
        """End it; its exit code and what it complained of."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            _, complaints = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, complaints = self.process.communicate()
        return self.process.returncode, complaints

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Person:
    """One websocket that speaks the player's language."""

    def __init__(self, address: str, *, origin: str | None = "", token: str | None = "") -> None:
        base, _, query = address.partition("?")
        asked = query if token == "" else ("" if token is None else f"token={token}")
        url = base.replace("http", "ws") + "play" + (f"?{asked}" if asked else "")
        origin = base.rstrip("/") if origin == "" else origin
        self._open = contextlib.ExitStack()
        joined = connect(url, origin=origin, max_size=None, close_timeout=1)  # type: ignore[arg-type]
        self.socket: ClientConnection = self._open.enter_context(joined)
        self.errors: list[str] = []
        self.welcome, _ = self.wait(lambda header: header["kind"] == "welcome")

    def say(self, do: str, **fields: Any) -> None:
        """A command."""
        self.socket.send(json.dumps({"do": do, **fields}))

    def hear(self, timeout: float = 20) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The next message."""
        message = self.socket.recv(timeout=timeout)
        assert isinstance(message, bytes)
        header, pictures = unpack(message)
        if header["kind"] == "error":
            self.errors.append(header["text"])
        return header, pictures

    def wait(
        self, right: Callable[[dict[str, Any]], bool], seconds: float = 20
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The first message that is right."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            header, pictures = self.hear(seconds)
            if right(header):
                return header, pictures
        raise TimeoutError("the right message never came")

    def frame(
        self, right: Callable[[dict[str, Any]], bool] = lambda _: True, seconds: float = 20
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The first frame that is right."""
        return self.wait(lambda h: h["kind"] == "frame" and right(h), seconds)

    def settled(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What is shown while nothing moves."""
        self.say("play", on=False)
        return self.frame(lambda header: not header["playing"])

    def close(self) -> None:
        """Leave."""
        self._open.close()
