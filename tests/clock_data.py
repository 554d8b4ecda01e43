"""Episodes of the clock world, o = t, a = t, r = 10 t, in which any shift by one shows."""

import numpy as np

from reverie.core.types import Box, Discrete
from reverie.data.episode import Episode
from reverie.data.schema import Schema
from reverie.envs.toy import Clock

HOURS = 8
SHADE = 25  # an image of hour t has the grey value 25 t
SPACES = {"vector": Box((1,), 0.0, 8.0), "image": Box((3, 16, 16), 0.0, 255.0, "uint8")}
DISCRETE = Schema.of(SPACES, Discrete(HOURS), {"mark": Box((2,))}, rewards=True)
CONTINUOUS = Schema.of(SPACES, Box((2,)), {}, rewards=True)


def play(limit, *, cut=None, number=0):
    """One episode played right: it terminates at 8, is truncated at a limit below, or is cut."""
    world = Clock(1, time_limit=limit)
    seen = [world.reset(seed=0)[0]["vector"][0]]
    columns = []
    for t in range(cut or limit):
        obs, reward, terminated, truncated, _ = world.step(np.array([t]))
        seen.append(obs["vector"][0])
        columns.append((t, reward[0], terminated[0], truncated[0]))
    hours, rewards, terminated, truncated = (np.array(x) for x in zip(*columns, strict=True))
    vector = np.stack(seen).astype(np.float32)
    image = np.zeros((len(vector), 3, 16, 16), np.uint8) + (SHADE * vector[..., None, None])
    return Episode(
        obs={"vector": vector, "image": image.astype(np.uint8)},
        action=hours.astype(np.int64),
        reward=rewards.astype(np.float32),
        terminated=terminated.astype(bool),
        truncated=truncated.astype(bool),
        extra={"mark": np.stack([hours, -hours], 1).astype(np.float32)},
        info={"number": number, "success": limit == HOURS},
    )


def episodes():
    """Every length, and all three ends: terminated, truncated, cut."""
    lengths = [8, 1, 2, 3, 4, 5, 6, 7, 8]
    found = [play(n, number=i) for i, n in enumerate(lengths)]
    return [*found, play(8, cut=5, number=9), play(8, cut=1, number=10)]


def continuous(episode):
    """The same with actions (t / 8, -t / 8) in [-1, 1]."""
    hours = episode.action[:, None] / HOURS * np.array([1, -1])
    return Episode(
        obs=episode.obs,
        action=hours.astype(np.float32),
        reward=episode.reward,
        terminated=episode.terminated,
        truncated=episode.truncated,
        info=episode.info,
    )


def right(episode, *, pixels=0):
    """The episode is the clock's: each transition reads o = t, a = t, r = 10 t, o' = t + 1."""
    for t in range(len(episode)):
        assert episode.obs["vector"][t].tolist() == [t]
        assert episode.obs["vector"][t + 1].tolist() == [t + 1]
        shades = episode.obs["image"][t : t + 2].astype(int)
        assert np.abs(shades - np.array([t, t + 1])[:, None, None, None] * SHADE).max() <= pixels
        if episode.action is not None:
            hour = episode.action[t] if episode.action.ndim == 1 else episode.action[t][0] * HOURS
            assert hour == t
        if episode.reward is not None:
            assert episode.reward[t] == 10 * t


def same(a, b, *, lossy=()):
    """Bit for bit, but for the observations named."""
    assert a.info == b.info
    assert a.obs.keys() == b.obs.keys() and a.extra.keys() == b.extra.keys()
    pairs = [(getattr(a, n), getattr(b, n)) for n in ("action", "reward")]
    pairs += [(a.terminated, b.terminated), (a.truncated, b.truncated)]
    pairs += [(a.obs[k], b.obs[k]) for k in a.obs if k not in lossy]
    pairs += [(a.extra[k], b.extra[k]) for k in a.extra]
    for x, y in pairs:
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
