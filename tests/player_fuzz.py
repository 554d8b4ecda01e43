"""Hostile visitors of the player: malformed and ill-timed messages, requests and pictures.

`assault` sends a number of them at a running server, while somebody else's session stands still;
it returns what was seen. The tests send a few hundred, proofs/player.py ten thousand.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import socket
import struct
import zlib
from typing import Any, NamedTuple

from PIL import Image
from player_server import Person, Server
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from reverie.player.messages import _COMMANDS

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 10**9 + 1, 10**30, -(10**30), 0.5, 1e308, -0.0),
    *("", "you", "agent", "planner", "recording", "gif", "x" * 500, "\ud800", "\x00", "__class__"),
    *([], {}, [0], [0, 0], [1, -1], [1e9, 0], [None, None], [[0, 0]], {"do": "act"}, [0.1] * 500),
)
TEXTS = (
    *("", " ", "{", "}", "null", "[]", '"do"', "NaN", '{"do":null}', '{"do":[]}', "{" * 2000),
    *("[" * 4000, '{"do":"rate","value":NaN}', '{"do":"rate","value":Infinity}', "\x00" * 50),
    *('{"do":"fork","do":"close"}', '{"do":"act","action":' + "9" * 3500 + ',"n":0}', "a" * 5000),
    *('{"do":"__init__"}', '{"do":"upload"}', '{"do":"_begun"}', "\u202e" * 900, "{}" * 100),
)
REQUESTS = (
    "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n",
    "GET /../../etc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET /page.html HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello",
    "POST /play HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999\r\n\r\nshort",
    "GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "GET / HTTP/1.1\r\nHost: {host}\r\nX: {long}\r\n\r\n",
    "GET /{long} HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET /?token={long} HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01",
    "GET /play HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "GET /play HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "GET /play HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Origin: http://evil.example\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "",
)


logging.getLogger("websockets").setLevel(logging.CRITICAL)  # we leave rudely on purpose


class Seen(NamedTuple):
    """What came of an assault."""

    sent: int
    joined: int  # websockets that were opened for it
    let_in: list[str]  # requests that should have been refused, and were not
    memory: list[float]  # megabytes of the server, every tenth of the way
    victim: tuple[Any, Any]  # what the bystander saw before and after
    people: int  # sessions that are left, the bystander's included


def assault(server: Server, count: int, seed: int = 0) -> Seen:
    """Send so many hostile things."""
    draw = random.Random(seed)
    victim = server.person()
    if victim.welcome["hands"]["kind"] == "discrete":
        victim.say("act", action=0, n=1)
    victim.frame(lambda header: header["t"] >= 3)
    before = _bystander(victim)
    joined, let_in, memory = 0, list[str](), list[float]()
    person: Person | None = None
    for i in range(count):
        if i % max(1, count // 10) == 0:
            memory.append(server.memory)
        if draw.random() < 0.2:
            let_in += request(server, draw)
            continue
        if person is None:
            person, joined = server.person(), joined + 1
        person = _talk(person, draw)
    if person is not None:
        person.close()
    after = _bystander(victim)
    people = _alone(victim)
    memory.append(server.memory)
    victim.close()
    return Seen(count, joined, let_in, memory, (before, after), people)


def _talk(person: Person, draw: random.Random) -> Person | None:
    """One hostile message; None if that was the last."""
    try:
        _hostile(person, draw)
        with contextlib.suppress(TimeoutError):
            while True:  # read what came: if the server gets stuck, it is by its own fault
                person.hear(timeout=0)
        if draw.random() < 0.01:
            _leave(person, draw)
            return None
    except (ConnectionClosed, OSError):
        return None
    return person


def _alone(victim: Person) -> int:
    """How many sessions are left, once those that ended had time to go."""
    people = 0
    for _ in range(100):
        people = victim.settled()[0]["people"]
        if people == 1:
            break
    return people


def _bystander(victim: Person) -> Any:
    """All that must not change while others misbehave."""
    header, pictures = victim.settled()
    kept = ("life", "t", "first", "end", "selected", "driver", "rate", "temperature", "branches")
    return [{key: header[key] for key in kept}, [picture.tobytes() for picture in pictures]]


def _leave(person: Person, draw: random.Random) -> None:
    """Politely or not."""
    if draw.random() < 0.5:
        person.close()
    else:
        person.socket.socket.shutdown(socket.SHUT_RDWR)


def _hostile(person: Person, draw: random.Random) -> None:
    """One hostile message."""
    kind = draw.random()
    if kind < 0.2:
        person.socket.send(draw.choice(TEXTS))
    elif kind < 0.75:
        person.socket.send(_bent(draw))
    elif kind < 0.85:
        person.socket.send(bytes(draw.randbytes(draw.choice((0, 1, 7, 400, 20_000)))))
    elif kind < 0.97:
        person.socket.send(picture(draw))
    elif kind < 0.99:
        person.socket.send("x" * draw.choice((4097, 100_000)))
    else:
        person.socket.send(bytes((4 << 20) + 1))


def _bent(draw: random.Random) -> str:
    """A command with something wrong, or right at the wrong moment."""
    do = draw.choice(list(_COMMANDS))
    fields = {name: draw.choice(VALUES) for name in _COMMANDS[do]}
    if draw.random() < 0.1 and fields:
        fields.pop(draw.choice(list(fields)))
    if draw.random() < 0.1:
        fields[draw.choice(("do", "on", "x", ""))] = draw.choice(VALUES)
    return json.dumps({"do": do, **fields})


def picture(draw: random.Random) -> bytes:
    """A picture file that is torn, bent, enormous when opened, or of another kind."""
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, draw.choice(("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")))
    data = bytearray(file.getvalue())
    kind = draw.random()
    if kind < 0.3:
        return bytes(data[: draw.randrange(len(data))])
    if kind < 0.8:
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return bytes(data)
    if kind < 0.9:
        return bomb(draw.choice((30_000, 2**31 - 1)))
    return bytes(data) + draw.randbytes(500)


def bomb(side: int) -> bytes:
    """A PNG that says that it is side x side pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        code = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + code

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def request(server: Server, draw: random.Random) -> list[str]:
    """One hostile request; itself, if it was answered as if it were welcome."""
    if draw.random() < 0.2:
        return _intruder(server, draw)
    text = draw.choice(REQUESTS)
    host = f"127.0.0.1:{server.port}"
    data = text.replace("{host}", host).replace("{long}", "a" * 70_000).encode("latin-1")
    if draw.random() < 0.1:
        data = draw.randbytes(200)
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw,
    ):
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        raw.settimeout(0.5)
        answer = raw.recv(64)
        if answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")):
            return [text]
    return []


def _intruder(server: Server, draw: random.Random) -> list[str]:
    """A websocket from another page."""
    origin = draw.choice(
        (None, "null", "http://evil.example", f"http://127.0.0.1:{server.port + 1}", "file://")
    )
    try:
        server.person(origin=origin).close()
    except (InvalidHandshake, ConnectionClosed, OSError):
        return []
    return [f"a websocket of {origin}"]
