"""Namespaces whose packages are extras; each is skipped where its package is missing."""

import numpy as np
import pytest

from reverie.core.errors import UnknownName
from reverie.core.types import Box, Discrete
from reverie.envs import make, spaces, task

# What other people's packages warn about at import is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def need(package, extra):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'reverie[{extra}]'")


def walk(env, actions):
    """The last step's results."""
    env.reset(seed=0)
    for action in actions:
        found = env.step(action)
        assert env.observation_space.contains(found[0])
    return found


def test_minigrid_goal_is_success():
    need("minigrid", "minigrid")
    env = make("minigrid/Empty-5x5-v0", size=56)
    assert spaces(env)[0]["image"] == Box((3, 56, 56), 0.0, 255.0, "uint8")
    forward, right = np.array([2]), np.array([1])
    path = [forward, forward, right, forward, forward]  # along the wall, and down to the corner
    for number, action in enumerate(path):
        env.reset(seed=0) if number == 0 else None
        _, reward, terminated, _, infos = env.step(action)
        assert infos["success"][0] == (number == 4)
    assert terminated[0]
    assert reward[0] > 0
    env.close()
    env = make("MiniGrid-Empty-5x5-v0", observe="vector")
    assert spaces(env)[0]["vector"].shape == (7 * 7 * 3 + 4,)
    env.reset()
    assert "success" in env.step(forward)[4]
    env.close()
    with pytest.raises(UnknownName, match="minigrid/Empty-5x5-v0"):
        make("minigrid/Emty-5x5-v0")


def test_minatar_planes_are_an_image():
    need("minatar", "minatar")
    env = make("minatar/breakout", 2)
    assert spaces(env) == ({"image": Box((4, 10, 10), 0.0, 255.0, "uint8")}, Discrete(3))
    observation = walk(env, [np.array([0, 1])] * 3)[0]
    assert set(np.unique(observation["image"])) == {0, 255}
    env.close()


def test_atari_repeats_four_frames():
    need("ale_py", "atari")
    env = make("ale/pong", 1)
    assert spaces(env) == ({"image": Box((3, 64, 64), 0.0, 255.0, "uint8")}, Discrete(6))
    first = walk(env, [np.array([0])])[4]["episode_frame_number"]
    second = env.step(np.array([0]))[4]["episode_frame_number"]
    assert second[0] - first[0] == 4
    assert task("ale/pong").action_repeat == 4
    env.close()
    with pytest.raises(UnknownName, match="ale/Pong-v5"):
        make("ale/pung")


def test_dm_control_time_limit_is_truncation():
    need("dm_control", "dmc")
    env = make("dmc/cartpole-swingup", 2, time_limit=3)
    assert spaces(env)[1] == Box((1,), -1.0, 1.0, "float32")
    assert spaces(env)[0]["vector"].shape == (5,)
    actions = [np.zeros((2, 1), dtype=np.float32)] * 3
    last, _, terminated, truncated, _ = walk(env, actions)
    assert truncated.all()
    assert not terminated.any()
    again = walk(env, actions)[0]
    np.testing.assert_array_equal(last["vector"], again["vector"])
    assert not np.array_equal(last["vector"][0], last["vector"][1])
    env.close()
    with pytest.raises(UnknownName, match="dmc/walker-walk"):
        make("dmc/walker-wlk")


def test_dm_control_draws_one_frame_a_decision_and_no_shadows_unless_asked(monkeypatch):
    need("dm_control", "dmc")
    from reverie.envs.dmc import DmcEnv

    drawn = []

    def render(self):
        quality = self._env.physics.model.vis.quality
        drawn.append((int(quality.shadowsize), int(quality.offsamples)))
        return np.full((self._size, self._size, 3), len(drawn), np.uint8)

    monkeypatch.setattr(DmcEnv, "render", render)
    env = make("dmc/cartpole-balance", 1, observe="image", size=32, action_repeat=8)
    drawn.clear()
    last = walk(env, [np.zeros((1, 1), dtype=np.float32)] * 2)[0]
    assert drawn == [(0, 0)] * 3  # the first frame, and one for each decision
    assert last["image"].shape == (1, 3, 32, 32)
    assert (last["image"] == 3).all()
    env.close()
    drawn.clear()
    make("dmc/cartpole-balance", 1, observe="image", shadows=True).reset()
    assert drawn[-1] == (2048, 4)  # the suite's own


def test_pusht_has_its_own_predicate():
    need("gym_pusht", "pusht")
    env = make("pusht/PushT-v0")
    assert spaces(env)[0]["vector"].shape == (5,)
    infos = walk(env, [np.zeros((1, 2), dtype=np.float32)] * 2)[4]
    assert infos["success"].tolist() == [False]
    assert infos["coverage"][0] < 0.95
    env.close()


def test_lunar_lander_needs_two_hundred():
    need("Box2D", "box2d")
    env = make("LunarLander-v3", 1)
    assert spaces(env)[1] == Discrete(4)
    assert walk(env, [np.array([0])])[4]["success"].tolist() == [False]
    assert task("LunarLander-v3").predicate is not None
    env.close()
