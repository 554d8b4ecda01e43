"""How fast games are played against oneself: tic-tac-toe, 25 simulations a move, one thread.

    python benchmarks/selfplay.py

Writes results/speed_selfplay.json: moves a second of whole games, collected as training does it,
from the world's rules to recorded episodes, through the network that the recipe trains. Beside it
the same without compilation (a torch module is asked once a simulation), and with one game at a
time. Storing on disk is not in it: that waits for the disk, not for us.
"""

from __future__ import annotations

import time

import torch
from harness import alternate, rate, speedup

from reverie import envs, evidence
from reverie.data.collect import collect
from reverie.models.muzero import MuZero
from reverie.planners.mcts import MCTS
from reverie.planners.selection import PUCT
from reverie.recipes.muzero import filled, setup_of
from reverie.recipes.self_play import Searcher

GAMES, SIMULATIONS = 256, 25


def searcher(search: str) -> tuple[MuZero, Searcher]:
    """The recipe's network, untrained, and who collects with it."""
    arguments = {"env": "board/tic_tac_toe", "seed": 0, "search": search, "device": "cpu"}
    arguments |= {"simulations": SIMULATIONS, "play": 50, "symmetries": True, "time_limit": None}
    setup = setup_of(filled({**arguments, "reanalyse": 0.0, "consistency": 0.0}))
    setup.model.eval()
    return setup.model, setup.agent  # type: ignore[return-value]


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    model, ours = searcher("puct")
    _, gumbel = searcher("gumbel")
    planner = MCTS(PUCT(temperature=1.0, noise=0.25, alpha=0.3), SIMULATIONS, 1.0, players=2)
    eager = Searcher(model, planner, planner, lambda: None)
    moves: dict[str, list[int]] = {}

    def play(name: str, agent: Searcher, rows: int, games: int) -> None:
        env = envs.make("board/tic_tac_toe", rows)
        played = collect(env, agent, episodes=games, seed=len(moves.setdefault(name, [])))
        moves[name].append(sum(len(episode) for episode in played))

    contestants = {
        "ours": lambda: play("ours", ours, GAMES, 4 * GAMES),
        "torch": lambda: play("torch", eager, GAMES, GAMES),
        "one game": lambda: play("one game", ours, 1, 16),
        "Gumbel": lambda: play("Gumbel", gumbel, GAMES, 4 * GAMES),
    }
    seconds = alternate(contestants, repeats=5)
    counted = {name: sum(found[1:]) / 5 for name, found in moves.items()}  # the first warms up
    found = {name: rate(counted[name], seconds[name]) for name in contestants}
    value = found["ours"]
    per_move = {name: [s / counted[name] for s in taken] for name, taken in seconds.items()}
    ratio = speedup(per_move["ours"], per_move["torch"])
    evidence.record(
        "speed_selfplay",
        what=f"Moves a second of tic-tac-toe self-play, {GAMES} games at once, {SIMULATIONS} "
        "simulations a move, recorded as episodes, on one thread.",
        metric="moves a second",
        value=value.value,
        low=value.low,
        high=value.high,
        better="higher",
        target=12_000.0,
        baselines={name: x.value for name, x in found.items() if name != "ours"},
        seeds=[0],
        steps=sum(moves["ours"]),
        seconds=time.perf_counter() - began,
        command="python benchmarks/selfplay.py",
        config={
            "model": "muzero",
            "games at once": GAMES,
            "units": model.config.units,
            "latent": model.config.latent,
            "times the torch modules": ratio.value,
            "threads": 1,
        },
    )


if __name__ == "__main__":
    main()
