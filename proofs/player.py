"""The player's claims: how fast it is in a real browser, and what hostile visitors can do to it.

    python proofs/player.py rate --run runs/doom-0      # player_rate
    python proofs/player.py fuzz                        # player_fuzz

Without a run the rate is that of the paper's Doom model with random weights, which costs as much.
A headless Chromium plays; its pages count the frames that they have drawn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from chromium import Chromium, Tab  # noqa: E402
from player_fuzz import Seen, assault  # noqa: E402
from player_server import Server  # noqa: E402

from reverie import evidence  # noqa: E402

FULL = """
import sys
from reverie.core import registry
from reverie.player.server import serve
from reverie.player.subject import compose
model = registry.instance(sys.argv[1]).eval()
serve(compose(sys.argv[1], "", model, None), "127.0.0.1", 0, lambda a: print(a, flush=True))
"""
SECONDS = 20.0  # that are counted
SETTLE = 5.0  # before that
MESSAGES = 10_000


def tabs(browser: Chromium, server: Server, count: int) -> list[Tab]:
    """So many people, each holding a key, as fast as the player lets them."""
    found = [browser.open(server.address) for _ in range(count)]
    for tab in found:
        tab.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        tab.until("window.reverie && reverie.frame", 120)
        tab.run("say({do: 'rate', value: 60}); say({do: 'play', on: true})")
        tab.key("1", down=True)
        tab.until("reverie.frame.t > 10", 120)
    return found


def drawn(found: Sequence[Tab]) -> list[float]:
    """Frames that each page has drawn a second, over the same seconds."""
    time.sleep(SETTLE)
    read = "JSON.stringify([performance.now(), window.drawn])"
    counter = (
        "(() => { window.drawn = 0; let t = -1; const tick = () => { if (reverie.frame.t !== t)"
        " { t = reverie.frame.t; window.drawn += 1; } requestAnimationFrame(tick); }; tick(); })()"
    )
    for tab in found:
        tab.run(counter)
    begin = [np.array(json.loads(tab.run(read))) for tab in found]
    time.sleep(SECONDS)
    end = [np.array(json.loads(tab.run(read))) for tab in found]
    return [float(1000 * (b - a)[1] / (b - a)[0]) for a, b in zip(begin, end, strict=True)]


def answers(tab: Tab, presses: int = 15) -> float:
    """Median milliseconds from a key to the first frame that obeys it."""
    found = []
    for i in range(presses):
        before = tab.run("reverie.frame.n")
        tab.key("12"[i % 2], down=False)
        tab.key("12"[(i + 1) % 2], down=True)
        tab.until(f"reverie.frame.n > {before}")
        time.sleep(0.1)
        found.append(tab.run("reverie.lag"))
    return statistics.median(found)


def played(server: Server) -> dict[str, Any]:
    """One player, then four."""
    with server, Chromium() as browser:
        (alone,) = tabs(browser, server, 1)
        one = drawn([alone])[0]
        answer, step = answers(alone), alone.run("reverie.frame.ms")
        alone.close()
        many = tabs(browser, server, 4)
        four = drawn(many)
        together = many[0].run("reverie.frame.together")
        return {
            "one": one,
            "four": four,
            "answer ms": answer,
            "step ms": step,
            "batch of four": together,
        }


def rate(run: Path | None, folder: Path) -> None:
    """results/player_rate.json."""
    began = time.monotonic()
    doom = Server(str(run), "--port", "0") if run else Server("world_models_2018", program=FULL)
    found = {"world_models_2018": played(doom)}
    found["dreamer_v3"] = played(Server("dreamer_v3", program=FULL))
    ours = found["world_models_2018"]
    evidence.record(
        "player_rate",
        what="Frames of 64x64 that a page in headless Chromium drew a second while it played the "
        f"paper's Doom model, {'trained, beside the real game' if run else 'random weights'}, over "
        f"{SECONDS:g} seconds at a speed of 60; browser and player share the machine.",
        metric="frames a second, one player",
        value=ours["one"],
        low=ours["one"],
        high=ours["one"],
        better="higher",
        target=24.0,
        baselines={"the slowest of four players": min(ours["four"])},
        seeds=[0],
        steps=int(SECONDS * (ours["one"] + sum(ours["four"]))),
        seconds=time.monotonic() - began,
        command="python proofs/player.py rate" + (f" --run {run}" if run else ""),
        config={"model": "world_models_2018", "target of four": 10.0, **found},
        folder=folder,
    )
    _say(str(found))


def fuzz(folder: Path) -> None:
    """results/player_fuzz.json."""
    began = time.monotonic()
    found: dict[str, Seen] = {}
    for name in ("toy/two_rooms", "world_models_2018"):
        with Server(name, "--port", "0") as server:
            found[name] = assault(server, MESSAGES // 2, seed=len(found))
            if server.process.poll() is not None:
                raise SystemExit(f"{name}: the player died")
    changed = sum(seen.victim[0] != seen.victim[1] for seen in found.values())
    growth = max(seen.memory[-1] - seen.memory[1] for seen in found.values())
    evidence.record(
        "player_fuzz",
        what="Malformed, hostile or ill-timed websocket messages, pictures and requests that came "
        "through: a crash, a request answered that should have been refused, a session left "
        "behind, or a change in the session of a bystander.",
        metric="breaches",
        value=changed + sum(len(s.let_in) + s.people - 1 for s in found.values()),
        low=0,
        high=0,
        better="lower",
        target=0.0,
        baselines={},
        seeds=[0, 1],
        steps=sum(seen.sent for seen in found.values()),
        seconds=time.monotonic() - began,
        command="python proofs/player.py fuzz",
        config={
            "model": "world_models_2018",
            "memory growth, MB, from a tenth of the way to the end": growth,
            "memory, MB": {name: seen.memory for name, seen in found.items()},
            "connections": {name: seen.joined for name, seen in found.items()},
        },
        folder=folder,
    )
    _say(f"memory grew by {growth:.1f} MB")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=["rate", "fuzz"])
    parser.add_argument("--run", type=Path, help="a trained Doom run's folder")
    parser.add_argument("--folder", type=Path, default=evidence.FOLDER, help="of the evidence")
    options = parser.parse_args()
    if options.claim == "rate":
        rate(options.run, options.folder)
    else:
        fuzz(options.folder)


if __name__ == "__main__":
    main()
