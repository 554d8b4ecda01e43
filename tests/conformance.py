"""What every vectorised world here must do, dreams included; tests call `assert_conforms`."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from reverie.core.errors import ShapeMismatch


def rows(obs, index):
    return {name: value[index].copy() for name, value in obs.items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name])


def assert_fits(env, obs):
    assert env.observation_space.contains(obs), {k: (v.shape, v.dtype) for k, v in obs.items()}


def play(env, seed, steps):
    """All that a seeded run with seeded random actions gives, finished rows begun again."""
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    assert_fits(env, obs)
    trace = [obs]
    for _ in range(steps):
        obs, reward, terminated, truncated, infos = env.step(env.action_space.sample())
        assert_fits(env, obs)
        for flags in (terminated, truncated, *infos.values()):
            assert flags.shape == (env.num_envs,) and flags.dtype == bool
        assert reward.shape == (env.num_envs,) and np.isfinite(reward).all()
        assert not (terminated & truncated).any()
        trace += [obs, {"reward": reward, "terminated": terminated, "truncated": truncated}]
        over = terminated | truncated
        if over.any():
            before = rows(obs, ~over)
            obs, _ = env.reset(options={"reset_mask": over})
            assert_fits(env, obs)
            assert_same(rows(obs, ~over), before)
            trace.append(obs)
    return trace


def assert_conforms(make, steps=40):
    """Spaces, seeds, masks and ends of a world with rows enough to differ.

    Args:
        make: (num_envs) -> VectorEnv; every episode ends within `steps`.
        steps: to play.
    """
    env = make(4)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert isinstance(env.single_observation_space, gymnasium.spaces.Dict)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())

    first, again = play(env, 3, steps), play(make(4), 3, steps)
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        assert_same(a, b)

    env.reset(seed=[7, None, 8, 9])
    for _ in range(steps):
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if (terminated | truncated).any():
            break
    else:
        pytest.fail("no episode ended")
    kept = {name: value.copy() for name, value in obs.items()}
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
        env.step(env.action_space.sample())
    env.reset(options={"reset_mask": terminated | truncated})
    env.step(env.action_space.sample())
    assert_same(obs, kept)  # what was handed out is not written to later

    with pytest.raises(ShapeMismatch, match="reset_mask"):
        env.reset(options={"reset_mask": np.ones(3, dtype=bool)})
    with pytest.raises(ShapeMismatch, match="must have shape"):
        env.reset()
        env.step(env.action_space.sample()[:2])
