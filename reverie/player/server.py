"""The network's side: one page, one websocket a person, and nothing else.

A connection has an outbox in which only the newest frame waits, so a slow browser costs neither
memory nor other people's time. All that comes in is measured and checked here and in `messages`
before the engine sees it. Imports the player's own files and core.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from reverie.core.errors import BadConfig, ReverieError
from reverie.player.engine import Engine, Film, Left
from reverie.player.guard import Guard
from reverie.player.messages import pack, parse
from reverie.player.pictures import UPLOAD, encoded, uploaded
from reverie.player.subject import Subject

PAGE = Path(__file__).with_name("page.html")
PER_SECOND = 240.0  # messages of one person, over a longer time
BURST = 480.0  # at once
PATIENCE = 20  # messages that cannot be read before the connection is closed
_POLICY, _LATER = 1008, 1013  # close codes: broke a rule; try again later
_NEWS = 64  # answers that wait for a slow browser; more: it is gone


class Outbox:
    """What one browser is yet to get: answers in order, and of frames only the newest."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._ready = loop, asyncio.Event()
        self._answers: deque[bytes | Film | Left] = deque()
        self._frame: bytes | None = None

    def emit(self, what: bytes | Film | Left) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there
            self._loop.call_soon_threadsafe(self.put, what)

    def put(self, what: bytes | Film | Left) -> None:
        """Called in the loop."""
        if isinstance(what, bytes) and what[4:].startswith(b'{"kind":"frame"'):
            self._frame = what
        elif isinstance(what, Film) and any(isinstance(one, Film) for one in self._answers):
            self._answers.append(_said("A film is being made already. Wait for it."))
        elif len(self._answers) < _NEWS:
            self._answers.append(what)
        self._ready.set()

    async def get(self) -> bytes | Film | Left:
        """The next thing to send."""
        while not self._answers and self._frame is None:
            self._ready.clear()
            await self._ready.wait()
        if self._answers:
            return self._answers.popleft()
        frame, self._frame = self._frame, None
        return frame or b""


class Bucket:
    """Lets so many through a second, and a burst."""

    def __init__(self) -> None:
        self._left, self._then = BURST, time.monotonic()

    def take(self) -> bool:
        """Whether one more may pass."""
        now = time.monotonic()
        self._left = min(BURST, self._left + PER_SECOND * (now - self._then))
        self._then = now
        self._left -= 1
        return self._left >= 0


def application(engine: Engine, guard: Guard) -> ASGIApp:
    """The web application.

    Args:
        engine: started.
        guard: its rules.
    """
    html = PAGE.read_text(encoding="utf-8")
    headers = _headers(html)

    async def page(_: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    async def icon(_: Request) -> Response:
        return Response(status_code=204)

    async def play(visitor: WebSocket) -> None:
        await _Visit(engine, visitor).run()

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/favicon.ico", icon, methods=["GET"]),
        WebSocketRoute("/play", play),
    ]
    return _guarded(Starlette(routes=routes), guard)


def _guarded(app: ASGIApp, guard: Guard) -> ASGIApp:
    """The application behind the guard."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            is_socket = scope["type"] == "websocket"
            why = guard.refuses(scope["headers"], scope["query_string"], socket=is_socket)
            if why and is_socket:
                await receive()
                await send({"type": "websocket.close", "code": _POLICY, "reason": why})
                return
            if why:
                await PlainTextResponse(why + "\n", 403)(scope, receive, send)
                return
        await app(scope, receive, send)

    return checked


def _headers(html: str) -> dict[str, str]:
    """The page may run its own script, speak to its own server, and nothing more."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
            "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        ),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


class _Visit:
    """One browser from its first to its last message."""

    def __init__(self, engine: Engine, visitor: WebSocket) -> None:
        self._engine, self._socket = engine, visitor
        self._outbox = Outbox(asyncio.get_running_loop())
        self._bucket, self._patience = Bucket(), PATIENCE
        self._number = 0

    async def run(self) -> None:
        """Until either side leaves."""
        await self._socket.accept()
        try:
            self._number = self._engine.open(self._outbox.emit)
        except ReverieError as error:
            await self._socket.send_bytes(_said(str(error)))
            await self._socket.close(_LATER)
            return
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._send())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._engine.close(self._number)
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            del found  # whatever they died of, the browser is gone
            with contextlib.suppress(RuntimeError):  # it is closed already
                await self._socket.close()

    async def _receive(self) -> None:
        """Check what comes and hand it on."""
        while True:
            message = await self._socket.receive()
            if message["type"] != "websocket.receive":
                return
            if not self._bucket.take():
                await self._socket.close(_POLICY, "too many messages")
                return
            try:
                await self._take(message)
            except ReverieError as error:
                self._outbox.put(_said(str(error)))
                self._patience -= 1
                if self._patience < 0:
                    await self._socket.close(_POLICY, "too many messages that cannot be read")
                    return

    async def _take(self, message: Any) -> None:
        """One message: text is a command, bytes are a picture."""
        text, data = message.get("text"), message.get("bytes")
        if text is not None:
            command = parse(text, self._engine.subject.hands)
            self._engine.submit(self._number, command)
        else:
            pixels = await asyncio.to_thread(uploaded, data or b"", self._engine.subject.model)
            self._engine.submit(self._number, pixels)

    async def _send(self) -> None:
        """Send what there is, as fast as the browser takes it."""
        await self._socket.send_bytes(_welcome(self._engine.subject))
        while True:
            what = await self._outbox.get()
            if isinstance(what, Left):
                await self._socket.send_bytes(_said(what.why or "The session is over."))
                return
            if isinstance(what, Film):
                what = await self._filmed(what)
            with contextlib.suppress(WebSocketDisconnect):
                await self._socket.send_bytes(what)

    async def _filmed(self, film: Film) -> bytes:
        """A film as a file, or what is missing to make it."""
        try:
            data = await asyncio.to_thread(encoded, film.frames, film.kind, film.rate)
        except ReverieError as error:
            return _said(str(error))
        return pack({"kind": "film", "name": f"dream.{film.kind}", "bytes": len(data)}, []) + data


def _said(text: str) -> bytes:
    """A sentence for the page."""
    return pack({"kind": "error", "text": text}, [])


def _welcome(subject: Subject) -> bytes:
    """What the page must know before the first frame."""
    model, heads = subject.model, subject.heads
    return pack(
        {
            "kind": "welcome",
            "title": subject.title,
            "note": subject.note,
            "school": model.card.title,
            "hands": subject.hands.to_json(),
            "drivers": subject.drivers,
            "lengths": subject.album.lengths[:5000],
            "world": subject.world is not None,
            "heads": [name for name in heads._fields[1:] if getattr(heads, name) is not None],
            "upload": list(model.observations) == ["image"],
            "temperature": model.temperature,
            "chance": subject.chance,
        },
        [],
    )


def serve(subject: Subject, host: str, port: int, announce: Any, *, seed: int = 0) -> None:
    """Play until interrupted.

    Args:
        subject: that is played.
        host: to bind to.
        port: to bind to; 0: any that is free.
        announce: called with the address once it is known.
        seed: of all randomness.

    Raises:
        BadConfig: if the address cannot be bound.
    """
    listening = _bound(host, port)
    bound = listening.getsockname()[1]
    guard = Guard.of(host, bound)
    engine = Engine(subject, seed=seed)
    config = uvicorn.Config(
        application(engine, guard),
        ws="websockets-sansio",
        ws_max_size=UPLOAD,
        ws_per_message_deflate=False,  # frames are drawn once and gone: not worth the time
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=128,
        timeout_graceful_shutdown=2,
    )
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a browser that left is no news
    engine.start()
    name = f"[{host}]" if ":" in host else host
    announce(f"http://{name}:{bound}/" + (f"?token={guard.token}" if guard.token else ""))
    try:
        with contextlib.suppress(KeyboardInterrupt):  # that is how it ends
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        engine.stop()
        listening.close()


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens, or one sentence why not."""
    if not 0 <= port < 65_536:
        raise BadConfig(f"A port is a number from 0 to 65535, but --port is {port}. Choose one.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise BadConfig(
            f"The player was to listen on {host}:{port}, which fails: {error}. "
            "Choose another with --port or --host."
        ) from None
