"""The claims about masked JEPAs: train every seed, ask the same questions, write results/.

    python proofs/masked_jepa.py ijepa        # ijepa_probe: place and identity from a picture
    python proofs/masked_jepa.py vjepa        # vjepa_probe and vjepa_surprise: from clips
    python proofs/masked_jepa.py vjepa2_ac    # goals in two rooms on a frozen V-JEPA of ours

Runs lie in runs/ and are gone on with if they are there, so seeds can be trained apart (--seeds 0)
and counted later. Beside a model stand the same encoder before it learned, 64 principal components
of the raw pixels, and an autoencoder: the same encoder and a decoder of the predictor's size, which
draws the pixels from the mean of the tokens after as many updates of as many clips. All are read by
the same linear probe on the same held-out episodes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dreamer as returns
import jepa as rooms
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from reverie import evidence
from reverie.core.model import Part
from reverie.core.types import Batch, Loss
from reverie.evaluate import probes, sprites
from reverie.evaluate.statistics import Interval
from reverie.learner import GradientLearner
from reverie.models.vjepa import VJEPA
from reverie.nn.masked import Masked
from reverie.nn.vit import MaskedPredictor, ViT, cut
from reverie.progress import terminal
from reverie.recipes import frozen, jepa, masked
from reverie.run import Run, Stage
from reverie.train import train

RESULTS = Path("results")
RIVALS = ("random encoder", "raw pixels", "autoencoder")
ASKED = {"ijepa": ("place", "identity"), "vjepa": ("place", "velocity", "identity")}
Probed = dict[str, dict[str, Interval]]  # by who is read, by what is asked


class Autoencoder(nn.Module):
    """The pixels of a clip from the mean of the tokens of all its patches.

    Args:
        like: whose sizes it has.
    """

    def __init__(self, like: Masked) -> None:
        super().__init__()
        c, values = like.config, like.encoder.embed.in_features
        self.grid = like.grid
        self.encoder = ViT(self.grid, values, width=c.width, layers=c.layers, heads=c.heads)
        self.decoder = MaskedPredictor(
            *(self.grid, c.width),
            width=c.narrow,
            layers=c.predictor_layers,
            heads=c.predictor_heads,
        )
        self.draw = nn.Linear(c.width, values)

    def code(self, pixels: Tensor) -> Tensor:
        """(B, D) of (B, P, V)."""
        return self.encoder(pixels).mean(1)

    def loss(self, batch: Batch, states: None) -> Loss:
        """Squared error of pixels in [-1, 1]."""
        del states
        frames = batch.obs["image"]
        clips = frames.flatten(0, 1)[:, None] if self.grid.frames == 1 else frames
        pixels = cut(clips, self.grid)
        code = self.code(pixels)[:, None].expand(-1, self.grid.size, -1)
        nothing = torch.zeros(code.shape[:2], dtype=torch.bool)
        drawn = self.draw(self.decoder.fill(code, nothing)).float()
        error = (drawn - (pixels.float() / 127.5 - 1)).square().mean()
        return Loss(error, {"pixels": error.detach()})


def trained(name: str, seed: int, runs: Path, updates: int) -> tuple[Run, Path]:
    """A finished run of a recipe; trains what is missing."""
    folder = runs / f"masked-{name}-{seed}"
    run = getattr(masked, name)(seed=seed, updates=updates)
    train(run, folder, progress=terminal())
    return run, folder


def autoencoder(run: Run, folder: Path, runs: Path) -> Autoencoder:
    """One that learned from the same data for as many updates; trains what is missing."""
    model: Any = run.model
    torch.manual_seed(run.seed)
    made, optim = Autoencoder(model.masked), model.config.optim
    length = model.config.frames - 1 if isinstance(model, VJEPA) else 1

    def stages(_: Path) -> tuple[Stage, ...]:
        return (
            Stage(
                "autoencoder",
                run.config["updates"],
                lambda: GradientLearner([Part("model", made, made.loss, optim)]),
                lambda: masked.sampler(model, folder / "data", length, run.seed),
            ),
        )

    beside = replace(run, name=f"autoencoder of {run.name}", stages=stages, behavior=made)
    train(beside, runs / f"masked-{run.name}_autoencoder-{run.seed}", progress=terminal())
    return made


def read(run: Run, folder: Path, runs: Path) -> Probed:
    """What the probe tells from each, on the same moments."""
    model: Any = run.model
    frames = model.config.frames if isinstance(model, VJEPA) else 1
    shown = sprites.clips(masked.PROBED, frames, seed=masked.SEED)
    torch.manual_seed(run.seed)
    untrained = type(model)(model.config, dict(model.observations))
    drawn = autoencoder(run, folder, runs)
    readers: dict[str, Callable[[Tensor], Tensor]] = {
        run.name: partial(masked.features, model),
        "random encoder": partial(masked.features, untrained.eval()),
        "autoencoder": lambda x: drawn.code(cut(x, model.grid)),
    }
    found = {}
    for who, reader in readers.items():
        with torch.no_grad():
            features = torch.stack([reader(x) for x in shown.frames.unbind(1)], 1)
        found[who] = sprites.probed(features, shown.truth)
    pixels = probes.components(shown.frames.flatten(2, 3))  # all frames of a clip, side by side
    return {**found, "raw pixels": sprites.probed(pixels, shown.truth)}


def lead(name: str, found: Probed) -> Interval:
    """The least lead over the best rival, of all that is asked; the interval takes the worst."""
    leads = []
    for what in ASKED[name]:
        own = found[name][what]
        best = max((found[who][what] for who in RIVALS), key=lambda x: x.value)
        leads.append(Interval(own.value - best.value, own.low - best.high, own.high - best.low))
    return min(leads, key=lambda x: x.value)


def probe(name: str, seeds: list[int], runs: Path, updates: int) -> None:
    """ijepa_probe or vjepa_probe."""
    table = {}
    for seed in seeds:
        table[seed] = read(*trained(name, seed, runs, updates), runs)
    leads = [lead(name, found) for found in table.values()]
    picture = f"{name}_probe.png"
    _draw(RESULTS / picture, name, list(table.values()))
    evidence.record(
        f"{name}_probe",
        what=f"How far a linear probe of {name}'s features leads the best of a random encoder, raw "
        "pixels and an autoencoder of equal size at equal updates, on the hardest for it of "
        f"{', '.join(ASKED[name])} of sprites; steps are updates.",
        metric="least lead, of R2 or share of right answers",
        value=float(np.mean([x.value for x in leads])),
        low=float(np.mean([x.low for x in leads])),
        high=float(np.mean([x.high for x in leads])),
        better="higher",
        target=0.0,
        baselines={},
        seeds=seeds,
        steps=updates,
        seconds=_worked(runs, name, seeds) + _worked(runs, f"{name}_autoencoder", seeds),
        command=f"python proofs/masked_jepa.py {name}",
        config={
            "model": name,
            "recipe": name,
            "read [value, low, high] by seed, reader and question": {
                str(seed): {w: {q: list(x) for q, x in r.items()} for w, r in found.items()}
                for seed, found in table.items()
            },
        },
        plot=picture,
    )


def surprise(seeds: list[int], runs: Path, updates: int) -> None:
    """vjepa_surprise."""
    table, chance = {}, []
    for seed in seeds:
        run, _ = trained("vjepa", seed, runs, updates)
        model: Any = run.model
        table[seed] = masked.surprised(model)
        torch.manual_seed(seed)
        untrained = VJEPA(model.config, dict(model.observations)).eval()
        chance.append(min(x.value for x in masked.surprised(untrained).values()))
    least = [min(found.values(), key=lambda x: x.value) for found in table.values()]
    evidence.record(
        "vjepa_surprise",
        what="How surely V-JEPA is more surprised by a sprite that jumps, or is gone, than by the "
        f"real next frame: AUROC, the lower of the two; {masked.PAIRS} pairs a kind and seed; "
        "steps are updates.",
        metric="AUROC, the lower of teleport and vanish",
        value=float(np.mean([x.value for x in least])),
        low=float(np.mean([x.low for x in least])),
        high=float(np.mean([x.high for x in least])),
        better="higher",
        target=0.9,
        baselines={"random encoder": float(np.mean(chance)), "chance": 0.5},
        seeds=seeds,
        steps=updates,
        seconds=_worked(runs, "vjepa", seeds),
        command="python proofs/masked_jepa.py vjepa",
        config={
            "model": "vjepa",
            "recipe": "vjepa",
            "AUROC [value, low, high] by seed": {
                str(seed): {kind: list(x) for kind, x in found.items()}
                for seed, found in table.items()
            },
        },
    )


def vjepa(seeds: list[int], runs: Path, updates: int) -> None:
    """vjepa_probe and vjepa_surprise."""
    surprise(seeds, runs, updates)
    probe("vjepa", seeds, runs, updates)


def vjepa2_ac(seeds: list[int], runs: Path, updates: int) -> None:
    """vjepa2_ac."""
    wins, spent = [], []
    for seed in seeds:
        run = frozen.vjepa2_ac(seed=seed, updates=updates)
        folder = runs / f"masked-vjepa2_ac-{seed}"
        train(run, folder, progress=terminal())
        model: Any = run.model
        wins.append(rooms.played(jepa.planning(model, planner=frozen.PLANNER), "fixed"))
        spent.append(rooms.minutes(folder))
    others = rooms.beside("fixed")
    both = rooms.over_seeds([found["same"] + found["cross"] for found in wins])
    table = {"vjepa2_ac": [rooms.rates(found) for found in wins]}
    rooms.draw(RESULTS / "vjepa2_ac.png", table, {"fixed": others})
    evidence.record(
        "vjepa2_ac",
        what="Success in reaching a place on a picture in two rooms, half of the goals behind the "
        "wall, by CEM in a V-JEPA 2-AC on a frozen V-JEPA that learned from the same 20,000 frames "
        f"without their actions; {2 * rooms.TASKS} tasks a seed.",
        metric="success rate",
        value=both.value,
        low=both.low,
        high=both.high,
        better="higher",
        target=0.8,
        baselines={
            who: float(np.mean([found[kind][0] for kind in rooms.KINDS]))
            for who, found in others.items()
        },
        seeds=seeds,
        steps=20_000,
        seconds=_worked(runs, "vjepa2_ac", seeds),
        command="python proofs/masked_jepa.py vjepa2_ac",
        config={
            "model": "vjepa2_ac",
            "recipe": "vjepa2_ac.two_rooms",
            "updates": updates,
            "success [value, low, high] by seed": table["vjepa2_ac"],
            "beside": others,
            "minutes of the predictor's training, other work on the machine": spent,
        },
        plot="vjepa2_ac.png",
    )


def _worked(runs: Path, name: str, seeds: list[int]) -> float:
    """Seconds that runs took, judging included."""
    return sum(returns.spent(runs / f"masked-{name}-{seed}") for seed in seeds)


def _draw(path: Path, name: str, found: list[Probed]) -> None:
    """What is read from each, a panel a question, a dot a seed with its interval."""
    questions, who = ASKED[name], (name, *RIVALS)
    figure = Figure(figsize=(3 * len(questions), 2.4), layout="constrained")
    for axes, what in zip(figure.subplots(1, len(questions)), questions, strict=True):
        for row, reader in enumerate(who):
            for i, each in enumerate(found):
                value, low, high = each[reader][what]
                error = [[value - low], [high - value]]
                place = row + 0.15 * (i - (len(found) - 1) / 2)
                axes.errorbar(value, place, xerr=error, fmt="o", color=f"C{row}", markersize=3)
        axes.set_yticks(range(len(who)), who if axes is figure.axes[0] else [], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(f"{what}: " + ("right answers" if what == "identity" else "R2"), fontsize=8)
    figure.savefig(path, dpi=110)


CLAIMS: dict[str, Callable[[list[int], Path, int], None]] = {
    "ijepa": partial(probe, "ijepa"),
    "vjepa": vjepa,
    "vjepa2_ac": vjepa2_ac,
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--updates", type=int, default=1000)
    arguments = parser.parse_args()
    CLAIMS[arguments.claim](arguments.seeds, arguments.runs, arguments.updates)


if __name__ == "__main__":
    sys.exit(main())
