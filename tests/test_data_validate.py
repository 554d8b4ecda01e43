import dataclasses
import re

import numpy as np
import pytest

from reverie.core.errors import BadData
from reverie.core.types import Box
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.data.validate import validate


def make(rng, steps=80, policy=None, noise=0.05, discrete=False):
    """o' = o + step(a) + noise: the pair around an action tells it."""
    obs = np.zeros((steps + 1, 2), np.float32)
    shape = (steps,) if discrete else (steps, 2)
    action = np.zeros(shape, np.int64 if discrete else np.float32)
    reward = np.zeros(steps, np.float32)
    moves = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)
    obs[0] = rng.normal(size=2)
    for t in range(steps):
        if policy is not None:
            action[t] = policy(obs[t])
        else:
            action[t] = rng.integers(3) if discrete else rng.uniform(-1, 1, 2)
        move = moves[action[t]] if discrete else action[t]
        obs[t + 1] = 0.9 * obs[t] + move + noise * rng.normal(size=2)
        reward[t] = obs[t + 1, 0] - obs[t, 1]
    return obs, action, reward


def episode(obs, action, reward, **changes):
    truncated = np.arange(len(reward)) == len(reward) - 1
    fields = {
        "obs": {"vector": obs},
        "action": action,
        "reward": reward,
        "terminated": np.zeros(len(reward), bool),
        "truncated": truncated,
    }
    return Episode(**{**fields, **changes})


def roll(x, k):
    """x[t + k], cut where there is none: the recording error that the probe must name."""
    return np.roll(x, -k, axis=0)


def data(n=30, shift=0, reward_shift=0, **kwargs):
    rng = np.random.default_rng(0)
    out = []
    for _ in range(n):
        obs, action, reward = make(rng, **kwargs)
        # stored action[t] is the one that led from o[t + shift] on: action[t] explains
        # o[t + shift] -> o[t + shift + 1]
        out.append(episode(obs, roll(action, shift), roll(reward, reward_shift)))
    return out


@pytest.mark.parametrize("discrete", [False, True])
def test_aligned_data_is_ok(discrete):
    report = validate(data(discrete=discrete))
    assert report.ok and report.findings == ()
    assert report.episodes == 30 and report.steps == 2400
    assert report.fits["action"][0] > 0.8
    assert max(report.fits["action"][k] for k in (-1, 1)) < 0.3
    assert report.fits["reward"][0] > 0.9


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize(("shift", "there"), [(1, r"o\[t\+1\] -> o\[t\+2\]"), (-1, r"o\[t-1\]")])
def test_a_shifted_action_is_named(discrete, shift, there):
    (finding,) = validate(data(shift=shift, discrete=discrete)).findings
    assert f"Actions look shifted by {shift:+d}: action[t] explains" in finding
    assert re.search(there, finding)


@pytest.mark.parametrize("shift", [1, -1])
def test_a_shifted_reward_is_named(shift):
    (finding,) = validate(data(reward_shift=shift)).findings
    assert finding.startswith(f"Rewards look shifted by {shift:+d}: reward[t] explains")


def test_a_shifted_dot_on_images_is_named():
    def images(shift, rng):
        obs, action, reward = np.zeros((61, 1, 32, 32), np.uint8), np.zeros((60, 2), "f4"), None
        at = rng.uniform(6, 26, 2)
        grid = np.arange(32)
        for t in range(61):
            y, x = (np.exp(-((grid - c) ** 2) / 8) for c in at)
            obs[t, 0] = 255 * y[:, None] * x[None]
            if t < 60:
                action[t] = rng.uniform(-1, 1, 2)
                at = np.clip(at + 2 * action[t], 3, 29)
        return Episode(
            {"image": obs}, roll(action, shift), reward, np.arange(60) < 0, np.arange(60) == 59
        )

    rng = np.random.default_rng(0)
    report = validate([images(0, rng) for _ in range(60)])
    assert report.ok and report.fits["action"][0] > 0.8
    (finding,) = validate([images(1, rng) for _ in range(60)]).findings
    assert "Actions look shifted by +1" in finding


def test_a_policy_that_follows_from_one_observation_raises_no_alarm():
    follow = data(policy=lambda o: np.clip(-o, -1, 1), noise=0.5)
    assert validate(follow).ok


def test_what_cannot_be_told_is_said():
    rng = np.random.default_rng(0)
    deaf = [
        episode(*(make(rng)[0], rng.uniform(-1, 1, (80, 2)).astype("f4"), make(rng)[2]))
        for _ in range(30)
    ]
    report = validate(deaf)
    assert report.ok
    assert any("cannot tell whether actions are aligned" in note for note in report.notes)


def test_too_little_data_is_said():
    report = validate(data(n=1))
    assert report.ok and report.fits == {}
    assert any("too little action data" in note for note in report.notes)


def test_nan_is_found():
    episodes = data(n=12)
    episodes[3].obs["vector"][5] = np.nan
    episodes[7].obs["vector"][0] = np.inf
    report = validate(episodes)
    assert "obs['vector'] holds NaN or infinity in 2 episodes, the first is 3." in report.findings


def test_frozen_observations_and_wide_actions_are_found():
    obs, action, reward = make(np.random.default_rng(0))
    report = validate([episode(np.ones_like(obs), action * 3, reward)] * 3)
    assert "action leaves [-1, 1] in 3 episodes, the first is 0." in report.findings
    assert "obs['vector'] never changes in 240 steps." in report.findings


def test_float_images_and_changed_shapes_are_found():
    rng = np.random.default_rng(0)
    good = episode(*make(rng))
    image = dataclasses.replace(good, obs={"image": rng.random((81, 3, 8, 8))})
    wide = dataclasses.replace(good, obs={"image": rng.random((81, 3, 9, 8))})
    findings = validate([image, wide]).findings
    assert any("not uint8 (C, H, W) in 1 episodes, the first is 0" in f for f in findings)
    assert any("(3, 9, 8), but float64 (3, 8, 8) before" in f for f in findings)


def test_episodes_of_other_shapes_do_not_stop_the_probe():
    odd = dataclasses.replace(data(n=1)[0], obs={"vector": np.random.rand(81, 5).astype("f4")})
    report = validate([*data(), odd])
    assert len(report.findings) == 1 and "float32 (5,), but float32 (2,)" in report.findings[0]
    assert report.fits["action"][0] > 0.8


def test_open_ends_and_jumps_are_notes():
    episodes = data(n=20, noise=0.0)
    episodes[4] = episode(*make(np.random.default_rng(9)), truncated=np.zeros(80, bool))
    episodes[6].obs["vector"][41:] += 500
    report = validate(episodes)
    assert any("1 episodes neither terminate" in note for note in report.notes)
    assert any("first in episode 6 after step 40" in note for note in report.notes)


def test_a_damaged_store_is_reported(tmp_path):
    with Store.create(tmp_path / "s", {"vector": Box((2,))}, Box((2,))) as store:
        for item in data(n=4):
            store.append(item)
        assert validate(store).ok
    column = np.load(tmp_path / "s" / "terminated.npy", mmap_mode="r+")
    column[81 + 3] = True  # in the middle of episode 1
    column.flush()
    first = np.load(tmp_path / "s" / "first.npy", mmap_mode="r+")
    first[7] = True
    first.flush()
    findings = validate(Store.open(tmp_path / "s")).findings
    assert any("Episode 1 breaks the contract: Only the last step" in f for f in findings)
    assert any("does not agree with its index" in f for f in findings)


def test_no_data_is_refused(tmp_path):
    with pytest.raises(BadData, match="there is no episode. Collect some"):
        validate([])
    with pytest.raises(BadData, match="there is no episode"):
        validate(Store.create(tmp_path / "s", {"vector": Box((2,))}, None))
