"""The player's page in a real browser: keys move the dream, forks part, the rate is measured."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra 'play'")
pytest.importorskip("uvicorn", reason="needs the extra 'play'")
pytest.importorskip("websockets", reason="needs the extra 'play'")

import chromium
from player_server import Server

pytestmark = pytest.mark.skipif(
    chromium.found() is None,
    reason="no chromium here; on Debian and Ubuntu: apt-get install chromium",
)


@pytest.fixture(scope="module")
def browser():
    with chromium.Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def rooms():
    with Server("toy/two_rooms", "--port", "0", "--seed", "1") as server:
        yield server


@pytest.fixture
def tab(browser, rooms):
    found = browser.open(rooms.address)
    found.size(1200, 900)
    found.until("window.reverie && reverie.frame.t > 0")
    yield found
    assert found.errors == []
    found.close()


def place(tab, branch=0):
    """x and y of the dot in a branch."""
    return json.loads(tab.run(f"JSON.stringify(reverie.frame.branches[{branch}].vector)"))[:2]


def pixels(tab, name):
    """The brightest red pixel of a canvas as the page shows it: (row, column)."""
    data = tab.run(
        f"""(() => {{ const c = document.querySelector('[data-name="{name}"] canvas');
        return [c.width, c.height,
          ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }})()"""
    )
    width, height, *values = data
    red = np.array(values).reshape(height, width, 4)[..., 0]
    return np.unravel_index(red.argmax(), red.shape)


def hold(tab, key, steps):
    """Hold a key for at least so many steps of the dream, and let the last be drawn."""
    start = tab.run("reverie.frame.t")
    tab.key(key, down=True)
    tab.until(f"reverie.frame.t >= {start + steps}")
    tab.key(key, down=False)
    now = tab.run("reverie.frame.t")
    tab.until(f"reverie.frame.t >= {now + 3} || reverie.frame.waiting")


def test_keys_move_dream_and_reality_alike(tab):
    before = place(tab)
    hold(tab, "ArrowDown", 20)
    after = place(tab)
    assert after[1] > before[1] + 1 or before[1] > 28
    hold(tab, "ArrowUp", 30)
    assert place(tab)[1] == 2  # the upper wall
    tab.run("document.getElementById('play').click()")
    tab.until("!reverie.frame.playing")
    row, column = pixels(tab, "dream-0")
    assert abs(row + 0.5 - place(tab)[1]) <= 1 and abs(column + 0.5 - place(tab)[0]) <= 1
    assert pixels(tab, "real") == (row, column)


def test_a_fork_parts_and_is_seen_beside(tab):
    hold(tab, "ArrowUp", 30)
    tab.run("document.getElementById('fork').click()")
    tab.until("reverie.frame.branches.length === 2")
    hold(tab, "ArrowDown", 8)
    tab.run("document.getElementById('play').click()")
    tab.until("!reverie.frame.playing")
    a, b = place(tab, 0), place(tab, 1)
    assert b[1] >= a[1] + 10
    assert pixels(tab, "dream-1")[0] > pixels(tab, "dream-0")[0]
    text = tab.run("document.querySelector('[data-name=\"dream-1\"] figcaption').textContent")
    assert "you steer; forked at" in text


def test_time_goes_back_and_buttons_and_mouse_act(tab):
    hold(tab, "ArrowUp", 25)
    script = "const s = document.getElementById('seek'); s.value = 5; s.oninput({target: s})"
    tab.run(f"(() => {{ {script} }})()")
    tab.until("reverie.frame.t === 5 && !reverie.frame.playing")
    tab.run("document.getElementById('new').click()")
    tab.until("reverie.frame.t > 0 && reverie.frame.playing")
    box = json.loads(
        tab.run(
            "JSON.stringify(document.querySelector('[data-name=\"dream-0\"] .screen')"
            ".getBoundingClientRect())"
        )
    )
    spot = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 5, "button": "left"}
    tab.ask("Input.dispatchMouseEvent", type="mousePressed", clickCount=1, **spot)
    tab.until("reverie.frame.branches[0].vector[1] === 2")
    tab.ask("Input.dispatchMouseEvent", type="mouseReleased", clickCount=1, **spot)


def test_a_gamepad_steers(tab):
    pad = "{buttons: [], axes: [0, %s]}"
    tab.run(f"navigator.getGamepads = () => [{pad % -1}]")
    tab.run("dispatchEvent(new Event('gamepadconnected'))")
    tab.until("reverie.frame.branches[0].vector[1] === 2")
    tab.run(f"navigator.getGamepads = () => [{pad % 1}]")
    tab.until("reverie.frame.branches[0].vector[1] > 20")
    tab.run(f"navigator.getGamepads = () => [{pad % 0}]")
    tab.until("reverie.frame.branches[0].action.every((x) => x === 0)")


def test_the_planner_shows_its_plans(tab):
    script = "const d = document.getElementById('driver'); d.value = 'planner';"
    tab.run(f"(() => {{ {script} d.onchange({{target: d}}); }})()")
    tab.until("reverie.frame.driver === 'planner'")
    tab.until("document.querySelectorAll('#strips canvas').length === 4")
    width = tab.run("document.querySelector('#strips canvas').width")
    assert width == 6 * 32


def test_the_page_measures_itself_and_looks_like_something(tab):
    tab.until("reverie.rate > 5")
    tab.key("ArrowLeft", down=True)
    tab.until("reverie.lag > 0")
    tab.key("ArrowLeft", down=False)
    assert 0 < tab.run("reverie.lag") < 5000
    assert float(tab.run("document.getElementById('fps').textContent")) > 5
    for width, dark in ((1200, False), (390, True)):
        tab.size(width, 800, dark=dark)
        with Image.open(io.BytesIO(tab.picture())) as shot:
            assert len(shot.convert("RGB").getcolors(10**6)) > 50
        overflow = "document.documentElement.scrollWidth <= innerWidth"
        assert tab.until(overflow)


@pytest.mark.parametrize("name", ["world_models_2018", "dreamer_v3"])
def test_learned_models_answer_to_keys(browser, name):
    """Untrained, but every frame is the model's own, and two actions come to different ones."""
    with Server(name, "--port", "0") as server:
        tab = browser.open(server.address)
        tab.until("window.reverie && reverie.frame")
        tab.run("say({do: 'temperature', value: 0.05})")
        hold(tab, "ArrowRight" if name == "dreamer_v3" else "1", 5)
        digest = "[...reverie.pictures[0].data].reduce((a, x, i) => (a * 31 + x) % 1e9, 7)"
        one = tab.run(digest)
        hold(tab, "ArrowLeft" if name == "dreamer_v3" else "3", 5)
        assert tab.run("[reverie.pictures[0].w, reverie.pictures[0].h].join()") == "64,64"
        assert tab.run(digest) != one
        assert not [error for error in tab.errors if error]
        tab.close()


def test_numbers_are_drawn_where_there_are_no_pictures(browser):
    with Server("toy/grid", "--port", "0") as server:
        tab = browser.open(server.address)
        tab.until("window.reverie && reverie.frame")
        word = "document.querySelector('[data-name=\"dream-0\"] .word').textContent"
        assert "waits for you" in tab.until(word)
        tab.key("ArrowUp", down=True)
        tab.until("reverie.frame.t >= 2")
        tab.key("ArrowUp", down=False)
        drawn = tab.run(
            "(() => { const c = document.querySelector('[data-name=\"dream-0\"] canvas');"
            "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
            ".some((x) => x > 0); })()"
        )
        assert drawn and tab.errors == []
