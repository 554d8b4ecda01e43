"""What is known of `toy/sprites`: place, velocity and identity of the shape, and what cannot be.

Probes read features of clips that were drawn for the purpose. `impossible` makes matched pairs for
`surprise.surprise`: in the last frame the shape has jumped elsewhere, or is gone. Imports core, the
toy worlds and what stands beside it.

Letters: E episodes, S moments of each, F frames up to each moment, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.core.types import Batch
from reverie.envs import rules
from reverie.envs.toy import Sprites
from reverie.evaluate.bands import band, explained, told
from reverie.evaluate.forecast import Held
from reverie.evaluate.probes import Task, ridge
from reverie.evaluate.statistics import Interval
from reverie.evaluate.surprise import LEAP, Pairs

COLUMNS = {"place": slice(0, 2), "velocity": slice(2, 4), "identity": slice(4, None)}
APART = 4  # steps between two moments of an episode


class Clips(NamedTuple):
    """Moments of episodes, and the frames before them."""

    frames: Tensor  # (E, S, F, 3, 32, 32) uint8, the moment's own last
    truth: Tensor  # (E, S, 8) as the world's 'vector' has it


def clips(episodes: int, frames: int, *, seed: int) -> Clips:
    """Clips that no model learned from, if the seed is one that nothing trains on.

    Args:
        episodes: E.
        frames: F.
        seed: of the world.
    """
    world = Sprites(episodes, seed=seed)
    obs, _ = world.reset()
    seen = [obs]
    for _ in range(world.time_limit):
        seen.append(world.step(np.zeros(episodes, np.int64))[0])
    shown = {k: torch.from_numpy(np.stack([o[k] for o in seen], 1)) for k in seen[0]}
    image, truth = shown["image"], shown["vector"]
    moments = range(frames - 1, len(seen), APART)
    cut = torch.stack([image[:, t - frames + 1 : t + 1] for t in moments], 1)
    return Clips(cut, truth[:, list(moments)])


def probed(features: Tensor, truth: Tensor, *, seed: int = 0) -> dict[str, Interval]:
    """What a linear probe tells from features.

    Args:
        features: (E, S, D).
        truth: (E, S, 8) of the same moments.
        seed: of the folds.

    Returns:
        R2 of "place" and "velocity", and the share of right answers on "identity" (.25 by chance),
        each episode told by a probe that was fitted to others.
    """
    found = {}
    for name, columns in COLUMNS.items():
        wanted = truth[..., columns]
        random = torch.Generator().manual_seed(seed)
        guess = ridge(Task(features, wanted), features, random)
        if name == "identity":
            right = (guess.argmax(-1) == wanted.argmax(-1)).double().mean(1)
            found[name] = band((right,)).value
        else:
            found[name] = band(told(guess, wanted), explained).value
    return found


def impossible(pairs: int = 200, *, context: int = 10, seed: int = 0) -> tuple[Pairs, ...]:
    """Clips whose last frame breaks the laws of the world, beside the real one.

    Args:
        pairs: E of each kind.
        context: K, observations before the last one.
        seed: of everything.

    Returns:
        "teleport": the shape is at least 8 pixels from where it should be; "vanish": it is gone.
    """
    random = np.random.default_rng(seed)
    place = random.uniform(rules.SPRITE_LOW, rules.SPRITE_HIGH, (pairs, 2))
    speed, angle = random.uniform(*rules.SPEED, pairs), random.uniform(0, 2 * np.pi, pairs)
    velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    shape = random.integers(len(rules.SHAPES), size=pairs)
    colour, ground = rules.draw_colours(random, pairs)
    path = [place]
    for _ in range(context):
        place, velocity = rules.bounce(np, place, velocity)
        path.append(place)

    def seen(where: np.ndarray) -> Tensor:
        cover = rules.draw_shape(np, where.astype(np.float32), shape)
        return torch.from_numpy(rules.paint(cover, colour, ground))

    past = _held(torch.stack([seen(where) for where in path], 1))
    jumped = seen(_elsewhere(place, random))
    gone = torch.from_numpy(rules.paint(np.zeros((pairs, 1, 1)), colour, ground))
    return (
        Pairs("teleport", past, {"image": jumped}),
        Pairs("vanish", past, {"image": gone}),
    )


def _elsewhere(place: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(E, 2) for each place one that is at least `LEAP` away."""
    tried = random.uniform(rules.SPRITE_LOW, rules.SPRITE_HIGH, (64, *place.shape))
    far = np.linalg.norm(tried - place, axis=-1) >= LEAP
    return tried[far.argmax(0), np.arange(len(place))]


def _held(image: Tensor) -> Held:
    """Clips (E, K+1, ...) as segments; nothing acts in them."""
    rows, length = image.shape[:2]
    nothing = torch.zeros(rows, length - 1, dtype=torch.bool)
    first = torch.zeros(rows, length, dtype=torch.bool)
    first[:, 0] = True
    batch = Batch({"image": image}, None, None, nothing, nothing, ~nothing, first, {})
    return Held(batch, length - 1)
