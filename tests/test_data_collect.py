import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.types import Act, Box, Discrete
from reverie.data.collect import collect, stream
from reverie.data.store import Store

DISABLED = {"autoreset_mode": AutoresetMode.DISABLED}


class Clock(VectorEnv):
    """o = t, r = 10 t; row i's episodes last the lengths of `plan[i]` in turn.

    The observation buffer is the same array at every step, as in the fastest real worlds.
    """

    def __init__(self, plan, metadata=DISABLED):
        self.metadata = metadata
        self.num_envs = len(plan)
        self.single_observation_space = gym.spaces.Dict(
            {"vector": gym.spaces.Box(0, 1e6, (2,), np.float32)}
        )
        self.single_action_space = gym.spaces.Discrete(1000)
        self.action_space = gym.spaces.MultiDiscrete([1000] * self.num_envs)
        self.plan = [list(row) for row in plan]
        self.episode = np.full(self.num_envs, -1)
        self.t = np.zeros(self.num_envs, int)
        self.over = np.ones(self.num_envs, bool)
        self.buffer = np.zeros((self.num_envs, 2), np.float32)
        self.steps = 0

    def _observe(self):
        self.buffer[:, 0], self.buffer[:, 1] = self.t, self.episode
        return {"vector": self.buffer}

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        assert self.over[mask].all(), "only what is over is reset"
        self.t[mask], self.over[mask] = 0, False
        self.episode[mask] += 1
        return self._observe(), {}

    def step(self, actions):
        assert not self.over.any(), "no row may be stepped after its end"
        assert (actions == self.t).all(), "the right action is the time"
        reward = 10.0 * self.t
        self.t += 1
        self.steps += 1
        lengths = np.array(
            [row[min(e, len(row) - 1)] for row, e in zip(self.plan, self.episode, strict=True)]
        )
        self.over = self.t >= lengths
        odd = self.episode % 2 == 1
        success = self.t == 2
        return self._observe(), reward, self.over & odd, self.over & ~odd, {"success": success}


class Timed:
    """Acts o; carries the count of steps since `first`, which must agree with it."""

    def initial(self, batch):
        return torch.full((batch,), -1.0)

    def act(self, carry, obs, first, *, explore=False, generator=None):
        carry = torch.where(first, 0.0, carry + 1)
        assert torch.equal(carry, obs["vector"][:, 0])
        extra = {"count": carry, "explored": torch.full_like(carry, explore)}
        return carry, Act(carry.long(), extra)


def check(episode, steps):
    t = np.arange(steps + 1)
    np.testing.assert_array_equal(episode.obs["vector"][:, 0], t)
    assert len(set(episode.obs["vector"][:, 1])) == 1
    np.testing.assert_array_equal(episode.action, t[:-1])
    np.testing.assert_array_equal(episode.reward, 10 * t[:-1])
    np.testing.assert_array_equal(episode.extra["count"], t[:-1])
    number = int(episode.obs["vector"][0, 1])
    end = episode.terminated if number % 2 else episode.truncated
    other = episode.truncated if number % 2 else episode.terminated
    assert end.tolist() == [False] * (steps - 1) + [True] and not other.any()
    assert episode.info["return"] == 10 * sum(range(steps))
    assert episode.info["success"] is (steps == 2)  # what the last step says


def test_no_frame_is_lost_or_shifted():
    env = Clock([[3, 1, 4], [5, 2], [1, 1, 1, 1, 6]])
    episodes = collect(env, Timed(), episodes=9, seed=5)
    # by hand: rows 0, 1, 2 start first; then whichever row is over goes on, lowest row first.
    # row 2 ends at steps 1, 2, 3, 4, 10; row 0 at 3, 4, 8; row 1 at 5, 7, 9
    assert [len(e) for e in episodes] == [3, 5, 1, 1, 1, 1, 1, 4, 6]
    assert [e.info["index"] for e in episodes] == list(range(9))
    for episode in episodes:
        check(episode, len(episode))
        assert episode.info["seed"] == 5
    assert env.steps == 10


@pytest.mark.parametrize("episodes", [1, 2, 3, 4, 7])
def test_just_so_many_are_started_and_all_are_finished(episodes):
    """One row is long, the others short: what is counted is what was started."""
    env = Clock([[50], [1], [2]])
    found = collect(env, Timed(), episodes=episodes, seed=0)
    assert len(found) == episodes
    assert [len(e) for e in found].count(50) == 1
    assert env.steps == 50
    for episode in found:
        check(episode, len(episode))


def test_episodes_are_handed_over_as_they_end(tmp_path):
    store = Store.create(
        tmp_path / "s",
        {"vector": Box((2,))},
        Discrete(1000),
        {"count": Box(()), "explored": Box(())},
    )
    env = Clock([[9], [2]])
    kept = collect(env, Timed(), episodes=4, seed=0, on_episode=store.append)
    assert kept == []
    assert store.lengths.tolist() == [2, 2, 2, 9]
    for episode in store:
        check(episode, len(episode))
        assert episode.extra["explored"].all()
    lazy = stream(Clock([[9], [2]]), Timed(), episodes=4, seed=0, explore=False)
    first = next(lazy)
    assert len(first) == 2 and not first.extra["explored"].any()


def test_progress_is_told():
    told = []

    class Progress:
        def task(self, name, total, done=0):
            told.append((name, total))
            return self

        def advance(self, n=1, **metrics):
            told.append((n, metrics))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            told.append("closed")

    collect(Clock([[2], [3]]), Timed(), episodes=2, seed=0, progress=Progress())
    assert told == [
        ("collect", 2),
        (1, {"steps": 2, "episode_return": 10.0}),
        (1, {"steps": 3, "episode_return": 30.0}),
        "closed",
    ]


class Walk(gym.Env):
    """A scalar world with a seed and continuous actions, for Gymnasium's own vector class."""

    observation_space = gym.spaces.Dict({"vector": gym.spaces.Box(-9, 9, (1,), np.float32)})
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1)
        self.left = int(self.np_random.integers(1, 6))
        return self._observe(), {}

    def _observe(self):
        return {"vector": np.array([self.at], np.float32)}

    def step(self, action):
        self.at += float(action[0])
        self.left -= 1
        return self._observe(), 1.0, abs(self.at) > 2, self.left == 0, {}


class Noise:
    def initial(self, batch):
        return None

    def act(self, carry, obs, first, *, explore=False, generator=None):
        return None, Act(torch.rand(len(first), 2, generator=generator) * 2 - 1, {})


def walks(n=3, mode=AutoresetMode.DISABLED):
    return SyncVectorEnv([Walk] * n, autoreset_mode=mode)


def test_gymnasiums_own_vector_worlds_work_and_seeds_decide():
    a, b, c = (collect(walks(), Noise(), episodes=8, seed=s) for s in (1, 1, 2))
    assert len(a) == 8
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.obs["vector"], y.obs["vector"])
        np.testing.assert_array_equal(x.action, y.action)
        assert "success" not in x.info
        # o[t+1] = o[t] + a[t]: nothing is shifted
        moved = np.diff(x.obs["vector"][:, 0])
        np.testing.assert_allclose(moved, x.action[:, 0], atol=1e-6)
    assert any(len(x) != len(y) or (x.action != y.action).any() for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_worlds_that_reset_themselves_are_refused(mode):
    with pytest.raises(BadConfig, match="Collection resets worlds itself, but this one has"):
        collect(walks(mode=mode), Noise(), episodes=1, seed=0)


def test_what_cannot_be_recorded_is_refused():
    with pytest.raises(BadConfig, match="must be at least 1, but it is 0"):
        collect(walks(), Noise(), episodes=0, seed=0)
    with pytest.raises(BadConfig, match="autoreset_mode None"):
        collect(Clock([[1]], metadata={}), Timed(), episodes=1, seed=0)

    class Flat(Walk):
        observation_space = gym.spaces.Box(-9, 9, (1,), np.float32)

        def _observe(self):
            return np.array([self.at], np.float32)

    flat = SyncVectorEnv([Flat], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(SpaceMismatch, match="dict observations by modality, but got ndarray"):
        collect(flat, Noise(), episodes=1, seed=0)

    class Narrow(Noise):
        def act(self, *args, **kwargs):
            carry, act = super().act(*args, **kwargs)
            return carry, Act(act.action[:, :1], {})

    with pytest.raises(SpaceMismatch, match=r"takes actions of shape \(3, 2\), .* gave \(3, 1\)"):
        collect(walks(), Narrow(), episodes=1, seed=0)
