"""Violation of expectation: is a model more surprised by what cannot be than by what can?

A pair shares its past and its action, and has two next observations: the real one and an edited
one. Surprise is the distance between the embedding that the model predicts without looking and
the one that it has after looking. Splices can be made in any world; in the two rooms whose rules
are known, clips are drawn anew: teleport, vanish, through the wall, and a nuisance, other colours,
which is no break of any law. Imports core, the rules of the toy worlds, and what stands beside it.

Letters: E pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core.model import WorldModel
from reverie.core.types import Batch
from reverie.envs import rules
from reverie.evaluate.bands import auc, beats
from reverie.evaluate.forecast import Held, beginning
from reverie.evaluate.measure import Measure
from reverie.evaluate.statistics import Interval

LEAP = 8.0  # pixels that a teleported dot moves at least


class Pairs(NamedTuple):
    """Matched clips: one past, one action, two next observations."""

    name: str  # "teleport", ...
    past: Held  # (E, K) transitions; the last observation of each is the real next one
    edited: dict[str, Tensor]  # (E, ...) the other next observation, by modality
    nuisance: bool = False  # it breaks no law: surprise is a weakness


@torch.no_grad()
def measures(
    model: WorldModel[Any],
    held: Held,
    *,
    edits: Sequence[Pairs] | None = None,
    oracle: WorldModel[Any] | None = None,
    generator: torch.Generator | None = None,
) -> list[Measure]:
    """AUROC of surprise for each kind of edit.

    Args:
        model: any world model with `embed` or `features`; others get no measure.
        held: segments that it did not learn from.
        edits: matched pairs; None: the splices of `held`.
        oracle: the true model; None: nobody has it.
        generator: of the models' randomness.

    Returns:
        "surprise_" and the edit's name, for each whose observations the model reads and that
        changes one of them.

    Raises:
        BadData: if there are fewer than 5 pairs, or a prediction is not finite.
    """
    found = []
    for pairs in splices(held) if edits is None else edits:
        own = _auroc(model, pairs, generator)
        if own is not None:
            beside = None if oracle is None else _auroc(oracle, pairs, generator)
            found.append(_measure(pairs, own, {} if beside is None else {"oracle": beside}))
    return found


def _measure(pairs: Pairs, own: Interval, beside: dict[str, Interval]) -> Measure:
    """One line of the card."""
    what = f"AUROC of surprise at '{pairs.name}' against the real next observation" + (
        ": a nuisance that breaks no law, so 0.5 is best." if pairs.nuisance else "."
    )
    return Measure(
        name=f"surprise_{pairs.name}",
        group="imagination",
        what=what,
        unit="AUROC",
        better="lower" if pairs.nuisance else "higher",
        value=own,
        baselines=beside,
    )


def _auroc(
    model: WorldModel[Any], pairs: Pairs, generator: torch.Generator | None
) -> Interval | None:
    """Of edited against real next observations; None if the model cannot tell them."""
    names = set(model.observations)
    shown = {name: x[:, -1] for name, x in pairs.past.batch.obs.items()}
    changed = any(not torch.equal(shown[n], pairs.edited[n]) for n in names & set(pairs.edited))
    readable = names <= set(shown) and names <= set(pairs.edited)
    if _reader(model) is None or not readable or not changed:
        return None
    real, edited = surprise(model, pairs, generator=generator)
    return auc(beats(edited, real), np.ones((len(real), len(real))))


def _reader(model: WorldModel[Any]) -> Any:
    """In what surprise is measured."""
    return model.heads.embed or model.heads.features


@torch.no_grad()
def surprise(
    model: WorldModel[Any], pairs: Pairs, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """How far what is seen is from what was expected.

    Args:
        model: any world model with `embed` or `features`.
        pairs: matched clips whose observations it reads.
        generator: of the model's randomness.

    Returns:
        (E,) distances at the real and at the edited observation.
    """
    reader, batch = _reader(model), pairs.past.batch
    past = Held(_past(batch), pairs.past.context)
    state, _ = beginning(model, past, generator=generator)
    action = None if model.actions is None or batch.action is None else batch.action[:, -1]
    expected = reader(model.predict(state, action, generator=generator))
    seed = int(torch.randint(2**62, (), generator=generator, device=_place(generator)))

    def distance(obs: dict[str, Tensor]) -> Tensor:
        same = torch.Generator(model.device).manual_seed(seed)  # both looks draw the same noise
        h = model.encode({name: obs[name] for name in model.observations})
        seen = model.observe(state, action, h, first=batch.first[:, -1] & False, generator=same)
        return (reader(seen).double() - expected.double()).square().sum(-1).sqrt()

    return distance({n: x[:, -1] for n, x in batch.obs.items()}), distance(pairs.edited)


def _place(generator: torch.Generator | None) -> torch.device | None:
    """Where a generator draws."""
    return None if generator is None else generator.device


def _past(batch: Batch) -> Batch:
    """All but the last observation and what led to it."""
    return batch._replace(
        obs={name: x[:, :-1] for name, x in batch.obs.items()},
        action=None if batch.action is None else batch.action[:, :-1],
        reward=None if batch.reward is None else batch.reward[:, :-1],
        first=batch.first[:, :-1],
        **{name: getattr(batch, name)[:, :-1] for name in ("terminated", "truncated", "mask")},
        extra={},
    )


# --- any world ------------------------------------------------------------------------------------


def splices(held: Held) -> tuple[Pairs, ...]:
    """Edits that need no rules: the next frame of another episode, a mean frame, other colours.

    Args:
        held: segments.

    Returns:
        "teleport"; where there are images also "vanish" and, where they have colours, "recolour".
    """
    past = Held(_until(held.batch, held.context + 1), held.context)
    real = {name: x[:, -1] for name, x in past.batch.obs.items()}
    far = max(1, len(past.batch.mask) // 2)
    found = [Pairs("teleport", past, {n: x.roll(far, 0) for n, x in real.items()})]
    if "image" in real:
        seen = past.batch.obs["image"]
        mean = seen.float().mean((0, 1)).round().to(seen.dtype).expand_as(real["image"])
        found.append(Pairs("vanish", past, {**real, "image": mean}))
        other = real["image"].roll(1, 1)
        if not torch.equal(other, real["image"]):
            found.append(Pairs("recolour", past, {**real, "image": other}, nuisance=True))
    return tuple(found)


def _until(batch: Batch, observations: int) -> Batch:
    """The first so many observations, and what stands between them."""
    steps = observations - 1
    return batch._replace(
        obs={name: x[:, :observations] for name, x in batch.obs.items()},
        action=None if batch.action is None else batch.action[:, :steps],
        reward=None if batch.reward is None else batch.reward[:, :steps],
        first=batch.first[:, :observations],
        **{name: getattr(batch, name)[:, :steps] for name in ("terminated", "truncated", "mask")},
        extra={},
    )


# --- two rooms ------------------------------------------------------------------------------------


def two_rooms(pairs: int = 100, *, context: int = 4, seed: int = 0) -> tuple[Pairs, ...]:
    """Clips of `toy/two_rooms`, drawn by its own rules, that break them at the last frame.

    Args:
        pairs: E of each kind.
        context: K, observations before the last one.
        seed: of places and actions.

    Returns:
        "teleport", "vanish" and "recolour" of clips that wander, and "wall" of clips that run
        against the wall and come out behind it.
    """
    random = torch.Generator().manual_seed(seed)
    start = _somewhere(pairs, random)
    actions = 2 * torch.rand(pairs, context, 2, generator=random) - 1
    past, path = _clip(start, actions, random)
    leap = _leap(path[:, -1], random)
    vanished = _see(path[:, -1], _goal(past))
    vanished["image"] = vanished["image"].clone()
    vanished["image"][:, 0] = 0
    del vanished["vector"]  # numbers cannot say that there is no dot
    plain = _see(path[:, -1], _goal(past))
    recoloured = {**plain, "image": plain["image"].roll(1, 1)}
    return (
        Pairs("teleport", past, _see(leap, _goal(past))),
        Pairs("vanish", past, vanished),
        _through_the_wall(pairs, context, random),
        Pairs("recolour", past, recoloured, nuisance=True),
    )


def _through_the_wall(pairs: int, context: int, random: torch.Generator) -> Pairs:
    """The dot runs to the left against the closed wall, and comes out on its other side."""
    away = rules.WALL_RIGHT + rules.STEP * (context - 1)
    low, high = rules.DOOR_HALF + 1, rules.DOOR - rules.ROOM_LOW
    offset = low + (high - low) * torch.rand(pairs, generator=random)
    side = 1 - 2 * torch.randint(2, (pairs,), generator=random)
    start = torch.stack([torch.full((pairs,), away), rules.DOOR + side * offset], 1)
    actions = torch.tensor([-1.0, 0.0]).expand(pairs, context, 2)
    past, path = _clip(start, actions, random)
    behind = path[:, -1] - torch.tensor([rules.WALL_RIGHT - rules.WALL_LEFT + 1, 0.0])
    return Pairs("wall", past, _see(behind, _goal(past)))


def _somewhere(n: int, random: torch.Generator) -> Tensor:
    """(n, 2) places in one of the rooms."""
    width, height = rules.WALL_LEFT - rules.ROOM_LOW, rules.ROOM_HIGH - rules.ROOM_LOW
    x, y = torch.rand(2, n, generator=random)
    x = rules.ROOM_LOW + width * x
    right = torch.rand(n, generator=random) < 0.5
    return torch.stack([torch.where(right, rules.ROOM - x, x), rules.ROOM_LOW + height * y], 1)


def _leap(place: Tensor, random: torch.Generator) -> Tensor:
    """(E, 2) the farthest of 16 other places, at least 8 pixels away."""
    tried = _somewhere(16 * len(place), random).unflatten(0, (16, len(place)))
    distance = (tried - place).norm(dim=-1)
    chosen = torch.where(distance >= LEAP, distance, torch.zeros(())).argmax(0)
    return tried[chosen, torch.arange(len(place))]


def _clip(start: Tensor, actions: Tensor, random: torch.Generator) -> tuple[Held, Tensor]:
    """The true clip (E, K) under these actions, and its path (E, K+1, 2)."""
    pairs, steps = actions.shape[:2]
    door = torch.full((pairs,), rules.DOOR)
    path = [start]
    for t in range(steps):
        path.append(rules.slide(torch, path[-1], actions[:, t], door))
    goal = _somewhere(pairs, random)
    seen = [_see(place, goal) for place in path]
    nothing = torch.zeros(pairs, steps, dtype=torch.bool)
    first = torch.zeros(pairs, steps + 1, dtype=torch.bool)
    first[:, 0] = True
    batch = Batch(
        obs={name: torch.stack([obs[name] for obs in seen], 1) for name in seen[0]},
        action=actions.contiguous(),
        reward=None,
        terminated=nothing,
        truncated=nothing,
        mask=~nothing,
        first=first,
        extra={},
    )
    return Held(batch, steps), torch.stack(path, 1)


def _goal(past: Held) -> Tensor:
    """(E, 2) where the goals of these clips are."""
    return past.batch.obs["vector"][:, 0, 2:4]


def _see(place: Tensor, goal: Tensor) -> dict[str, Tensor]:
    """What the world shows of a dot at (E, 2)."""
    door = torch.full((len(place),), rules.DOOR)
    wall = rules.draw_wall(torch, door)

    def picture(where: Tensor) -> Tensor:
        drawn = torch.stack([rules.draw_dot(torch, where), wall, wall], 1)
        return drawn.round().to(torch.uint8)

    vector = torch.cat([place, goal, door[:, None]], 1)
    return {"image": picture(place), "goal": picture(goal), "vector": vector}
