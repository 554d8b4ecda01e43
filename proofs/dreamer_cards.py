"""The report cards of PlaNet and Dreamer 1 to 3 on the same data of two rooms, in one table.

    python proofs/dreamer_cards.py       # results/dreamer_cards.json, and card.html in each run

One store of wandering is gathered; each school learns from it alone (`--data`), no step more in
the world, and is then judged by the card of `reverie eval`. Runs lie in runs/ and are gone on with.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from dreamer import spent

from reverie import envs, evidence
from reverie.agent import BrownianAgent
from reverie.core import registry
from reverie.data.collect import collect
from reverie.data.store import Store
from reverie.evaluate import cardpage
from reverie.evaluate.card import measure_of, measures_of
from reverie.loaded import load
from reverie.train import train

SCHOOLS = ("planet", "dreamer_v1", "dreamer_v2", "dreamer_v3")
WORLD, ROWS, LIMIT = "toy/two_rooms", 16, 50  # worlds at once, steps of an episode
SETTINGS: dict[str, Any] = {"batch": 8, "length": 16, "time_limit": LIMIT, "episodes": 10}


def gathered(path: Path, episodes: int) -> Path:
    """A store of so many wandering episodes; made if it is not there."""
    if path.exists():
        return path
    with closing(envs.make(WORLD, ROWS, seed=0, time_limit=LIMIT)) as env:
        observations, actions = envs.spaces(env)
        played = collect(env, BrownianAgent(actions), episodes=episodes, seed=0)
        with Store.create(path, observations, actions) as store:
            for episode in played:
                store.append(episode)
    return path


def carded(school: str, options: argparse.Namespace, data: Path) -> tuple[dict[str, Any], float]:
    """The card of one school, trained if it is not yet, and how long it learned."""
    folder = options.runs / f"{school}-cards-{options.seed}"
    chosen = {**SETTINGS, "updates": options.updates, "evaluate_every": options.updates}
    run = registry.recipe(school)(env=WORLD, seed=options.seed, data=str(data), **chosen)
    train(run, folder)
    card = load(folder).report_card(options.episodes)
    cardpage.write(folder, card)
    return card, spent(folder)


def table(cards: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Measure by school: value, low and high."""
    found: dict[str, dict[str, list[float]]] = {}
    for school, card in cards.items():
        for name, measure in measures_of(card).items():
            found.setdefault(f"{name}, {measure.unit}", {})[school] = list(measure.value)
    return found


def written(rows: dict[str, dict[str, list[float]]]) -> str:
    """The table as Markdown."""
    lines = ["| measure | " + " | ".join(SCHOOLS) + " |", "|---" * (len(SCHOOLS) + 1) + "|"]
    for name, values in rows.items():
        cells = [f"{values[s][0]:.3g}" if s in values else "-" for s in SCHOOLS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is missing, judge all, write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=2000, help="of each school")
    parser.add_argument("--gather", type=int, default=400, help="episodes to learn from")
    parser.add_argument("--episodes", type=int, default=100, help="of the card")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=evidence.FOLDER)
    options = parser.parse_args()
    began = time.perf_counter()
    data = gathered(options.runs / "two_rooms-cards-data", options.gather)
    both = {school: carded(school, options, data) for school in SCHOOLS}
    cards = {school: card for school, (card, _) in both.items()}
    rows = table(cards)
    sharp = {school: measure_of(card, "psnr") for school, card in cards.items()}
    weakest = min(sharp, key=lambda school: sharp[school].value.value)
    value = sharp[weakest].value
    rivals = {school: sharp[school].value.value for school in SCHOOLS if school != weakest}
    evidence.record(
        "dreamer_cards",
        what="The four Dreamers' report cards on the same data of two rooms: the sharpness of the "
        f"weakest's forecasts ({weakest}), the others' beside it, all other measures in config.",
        metric="PSNR of forecasts, dB",
        value=value.value,
        low=value.low,
        high=value.high,
        better="higher",
        target=None,
        baselines={**rivals, **{who: x.value for who, x in sharp[weakest].baselines.items()}},
        seeds=[options.seed],
        steps=options.updates,
        seconds=time.perf_counter() - began,
        command="python proofs/dreamer_cards.py",
        config={
            "recipe": ", ".join(SCHOOLS),
            **SETTINGS,
            "updates": options.updates,
            "episodes gathered": options.gather,
            "seconds of learning": {school: seconds for school, (_, seconds) in both.items()},
            "verdicts": {school: card["simulator"] for school, card in cards.items()},
            "missing": {school: card["missing"] for school, card in cards.items()},
            "measures": rows,
        },
        folder=options.results,
    )
    sys.stdout.write(written(rows))


if __name__ == "__main__":
    main()
