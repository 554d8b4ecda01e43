"""The player as others meet it: who may come in, many people at once, hostile ones, a kill."""

from __future__ import annotations

import hashlib
import io
import queue
import signal
import socket
import sys
import time
import urllib.error
import urllib.request

import player_parts as parts
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra 'play'")
pytest.importorskip("uvicorn", reason="needs the extra 'play'")
pytest.importorskip("websockets", reason="needs the extra 'play'")

from player_fuzz import assault
from player_server import Server
from websockets.exceptions import ConnectionClosed, InvalidStatus

from reverie.core.errors import BadConfig, MissingExtra
from reverie.data.store import Store
from reverie.player import command
from reverie.player.engine import MOST, Engine, Left
from reverie.player.guard import Guard
from reverie.player.messages import Command, unpack
from reverie.player.server import serve

LAMP = """
import sys
sys.path.insert(0, "tests")
import player_parts as parts
from reverie.data.store import Store
from reverie.player.messages import Command, unpack
from reverie.player.server import serve
store = Store.open(sys.argv[1]) if len(sys.argv) > 1 else None
serve(
    parts.subject(parts.Lamp(drift=1.0), world=lambda _: parts.LampWorld(), episodes=store),
    "127.0.0.1", 0, lambda address: print(address, flush=True),
)
"""


@pytest.fixture(scope="module")
def lamp():
    with Server(program=LAMP) as server:
        yield server


# -- who may come in -------------------------------------------------------------------------------


def refused(guard, socket=False, query=b"", **headers):
    return guard.refuses(
        [(k.encode(), v.encode()) for k, v in headers.items()], query, socket=socket
    )


def test_a_local_server_answers_its_own_page_only():
    guard = Guard.of("127.0.0.1", 8765)
    assert guard.token is None
    own = {"host": "localhost:8765", "origin": "http://localhost:8765"}
    assert refused(guard, **own) is None and refused(guard, socket=True, **own) is None
    assert refused(guard, host="127.0.0.1:8765") is None
    assert "own only" in refused(guard, host="127.0.0.1:8765", origin="http://evil.example")
    assert "own only" in refused(guard, host="127.0.0.1:8765", origin="http://127.0.0.1:9")
    assert "own only" in refused(guard, socket=True, host="127.0.0.1:8765", origin="null")
    assert "page" in refused(guard, socket=True, host="127.0.0.1:8765")
    # A name that an attacker points at this machine.
    assert "this machine only" in refused(guard, host="evil.example:8765")
    assert "this machine only" in refused(guard, host="localhost:80")
    assert "small" in refused(guard, host="127.0.0.1:8765", x="a" * 20_000)
    assert guard.refuses([(b"host", b"a"), (b"host", b"b")], b"", socket=False)


def test_any_other_host_needs_the_token():
    guard = Guard.of("0.0.0.0", 80)
    assert len(guard.token) >= 20 and guard.token not in repr(guard)
    right = f"token={guard.token}".encode()
    assert refused(guard, host="box.example", query=right) is None
    assert refused(guard, host="box.example", query=right + b"&x=1") is None
    for wrong in (b"", b"token=", b"token=x", right[:-1], right + b"&" + right, b"token=\xff"):
        assert "whole address" in refused(guard, host="box.example", query=wrong)
    assert Guard.of("0.0.0.0", 80).token != guard.token


def status(address, **headers):
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_the_page_is_whole_and_may_do_no_more_than_it_needs(lamp):
    code, html, headers = status(lamp.address)
    assert code == 200 and "<canvas" in html
    assert 'src="http' not in html and "<link" not in html  # nothing from elsewhere
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"].split("style-src")[0]
    assert status(lamp.address + "page.html")[0] == 404
    assert status(lamp.address, Host="evil.example")[0] == 403


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1"])
def test_a_websocket_of_another_page_is_refused(lamp, origin):
    with pytest.raises(InvalidStatus, match="403"):
        lamp.person(origin=origin)


def test_an_open_server_prints_its_token_and_asks_for_it():
    with Server("toy/clock", "--host", "0.0.0.0", "--port", "0") as server:
        assert "?token=" in server.address
        bare = server.address.partition("?")[0]
        assert status(bare)[0] == 403 and status(server.address)[0] == 200
        for token in (None, "wrong"):
            with pytest.raises(InvalidStatus, match="403"):
                server.person(token=token)
        server.person().close()
        assert server.stop() == (0, "")


def test_a_taken_port_and_a_missing_package_are_one_sentence(lamp, monkeypatch):
    with pytest.raises(BadConfig, match="listen on .* fails.*Choose another with --port"):
        serve(parts.subject(), "127.0.0.1", lamp.port, print)
    with pytest.raises(BadConfig, match="from 0 to 65535"):
        serve(parts.subject(), "127.0.0.1", 10**6, print)
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reverie\[play\]'"):
        command.run(None, [])


# -- people ----------------------------------------------------------------------------------------


def test_two_people_dream_apart_and_are_batched(lamp):
    one, other = lamp.person(), lamp.person()
    one.say("act", action=2, n=1)
    other.say("act", action=0, n=1)
    a, pictures = one.frame(lambda header: header["t"] >= 5)
    assert (pictures[a["branches"][0]["picture"]] == 10 + a["t"] * 3).all()
    b, pictures = other.frame(lambda header: header["t"] >= 5)
    assert (pictures[b["branches"][0]["picture"]] == 10 + b["t"] * 1).all()
    assert other.frame(lambda header: header["t"] > 20)[0]["together"] > 1.2
    one.close()
    other.frame(lambda header: header["people"] == 1)  # a closed tab frees its state
    other.close()


def test_pictures_go_up_and_films_come_down(lamp):
    person = lamp.person()
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (50, 50, 50)).save(file, "PNG")
    person.say("act", action=0, n=1)
    person.socket.send(file.getvalue())
    header, pictures = person.frame(lambda h: "your picture" in h["why"] and h["t"] >= 20)
    assert (pictures[header["branches"][0]["picture"]] == 50 + header["t"]).all()
    person.say("peek", episode=0, step=0)
    person.say("film", kind="gif")
    data = b""
    while b'"kind":"film"' not in data[:40]:
        data = person.socket.recv(timeout=20)
    with Image.open(io.BytesIO(data[data.index(b"GIF89a") :])) as film:
        assert film.n_frames >= 2 and film.height >= 256
    person.close()


class Fragile(parts.Lamp):
    """Cannot imagine that it is bright."""

    def predict(self, state, action, *, z=None, generator=None):
        if (state.x > 15).any():
            raise RuntimeError("too bright")
        return super().predict(state, action, z=z, generator=generator)


def test_a_model_that_breaks_for_one_goes_on_for_the_others():
    engine = Engine(parts.subject(Fragile()))
    heard = {0: queue.Queue(), 1: queue.Queue()}
    numbers = [engine.open(heard[i].put) for i in heard]
    engine.start()
    for i, number in enumerate(numbers):
        engine.submit(number, Command("rate", {"value": 60.0}))
        engine.submit(number, Command("act", {"action": 2 * i, "n": 1}))
    end = time.monotonic() + 20
    while time.monotonic() < end:
        left = heard[1].get(timeout=10)
        if isinstance(left, Left):
            break
    assert "The dream broke (RuntimeError)" in left.why
    while not heard[0].empty():
        heard[0].get()
    header, _ = unpack(heard[0].get(timeout=10))
    assert header["kind"] == "frame" and header["people"] == 1
    engine.stop()


def test_a_full_house_says_so(lamp):
    people = [lamp.person() for _ in range(MOST)]
    with pytest.raises(ConnectionClosed):
        lamp.person()
    first, *others = people
    for person in others:
        person.close()
    first.say("act", action=0, n=1)  # it goes on, so frames come
    first.frame(lambda header: header["people"] == 1)
    first.close()


def test_a_wrong_message_is_one_sentence_and_many_end_the_visit(lamp):
    person = lamp.person()
    person.socket.send("nonsense")
    person.say("seek", time=10**9)
    person.say("drive", who="policy")
    person.settled()
    assert "cannot be read" in person.errors[0] and "Nobody called 'policy'" in person.errors[1]
    with pytest.raises(ConnectionClosed, match="cannot be read"):
        for _ in range(40):
            person.socket.send("nonsense")
            person.hear()


def test_a_flood_ends_the_visit(lamp):
    person = lamp.person()
    with pytest.raises(ConnectionClosed):
        for _ in range(200_000):
            person.say("wake")
    other = lamp.person()
    other.settled()
    other.close()


def test_a_browser_that_does_not_read_costs_nothing(lamp):
    slow, other = lamp.person(), lamp.person()
    slow.say("act", action=1, n=1)
    slow.say("rate", value=60)
    other.say("act", action=1, n=1)
    before = lamp.memory
    time.sleep(1.5)
    t = other.frame(lambda header: header["t"] >= 30)[0]["t"]
    assert t >= 30 and lamp.memory - before < 20
    slow.socket.socket.shutdown(socket.SHUT_RDWR)  # it would not hear a goodbye
    other.close()


def test_hostile_visitors_change_nothing_for_others(lamp):
    seen = assault(lamp, 400)
    assert seen.let_in == [] and seen.victim[0] == seen.victim[1]
    assert seen.people == 1 and lamp.process.poll() is None
    assert seen.joined > 5 and max(seen.memory) - seen.memory[0] < 100


def test_a_kill_damages_nothing_on_the_disk(tmp_path):
    path = tmp_path / "data"
    with Store.create(path, parts.Lamp.observations, parts.Lamp.actions) as store:
        for start in (3, 90):
            store.append(parts.episode([0, 1, 2, 1], start))

    def digest():
        return {file.name: hashlib.sha256(file.read_bytes()).digest() for file in path.iterdir()}

    before = digest()
    with Server(str(path), program=LAMP) as server:
        person = server.person()
        person.say("begin", episode=1, step=2)
        person.say("act", action=1, n=1)
        person.frame(lambda header: header["t"] >= 2)
        assert server.stop(how=signal.SIGKILL)[0] == -signal.SIGKILL
    assert digest() == before
    assert len(Store.open(path)) == 2
