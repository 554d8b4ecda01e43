"""`make` on Gymnasium's own environments: one form, checked against the bare environment."""

import importlib.util
import sys

import gymnasium
import numpy as np
import pytest

from reverie.core import registry
from reverie.core.errors import BadConfig, MissingExtra, SpaceMismatch, UnknownName
from reverie.core.types import Box, Discrete
from reverie.envs import make, spaces, task
from reverie.envs.pixels import AreaResize


def bare(name, **kwargs):
    return gymnasium.make(name, disable_env_checker=True, **kwargs)


class Odd(gymnasium.Env):
    """Two actions of 2 and 3 choices; an image, a number, a class and a word."""

    def __init__(self, render_mode=None):
        parts = {
            "eye": gymnasium.spaces.Box(0, 255, (4, 6, 3), np.uint8),
            "place": gymnasium.spaces.Box(-5.0, 5.0, (2,), np.float64),
            "kind": gymnasium.spaces.Discrete(3, start=1),
            "word": gymnasium.spaces.Text(5),
        }
        self.observation_space = gymnasium.spaces.Dict(parts)
        self.action_space = gymnasium.spaces.MultiDiscrete([2, 3])
        self.seen = []

    def look(self):
        eye = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
        return {"eye": eye, "place": np.array([1.5, -2.0]), "kind": 2, "word": "abc"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.look(), {}

    def step(self, action):
        self.seen.append(np.asarray(action).tolist())
        # Both ends at once: the world's own end is the one that counts.
        return self.look(), 1.0, len(self.seen) > 5, len(self.seen) > 5, {}


@pytest.fixture
def odd():
    gymnasium.register("Odd-v0", Odd)
    yield "Odd-v0"
    del gymnasium.registry["Odd-v0"]


def test_vector_and_discrete():
    env = make("CartPole-v1", 3)
    observations, action = spaces(env)
    assert action == Discrete(2)
    assert observations["vector"].shape == (4,)
    observation, _ = env.reset(seed=5)
    alone = bare("CartPole-v1")
    for row in range(3):
        expected, _ = alone.reset(seed=5 + row)
        np.testing.assert_array_equal(observation["vector"][row], expected)
    assert observation["vector"].dtype == np.float32
    env.close()


def test_box_actions_are_scaled_from_unit_to_the_environments_own():
    env, alone = make("Pendulum-v1", 1), bare("Pendulum-v1")
    assert spaces(env)[1] == Box((1,), -1.0, 1.0, "float32")
    env.reset(seed=0)
    alone.reset(seed=0)
    for ours, theirs in ((1.0, 2.0), (-0.25, -0.5), (7.0, 2.0), (0.0, 0.0)):  # 7: clipped
        found = env.step(np.array([[ours]], dtype=np.float32))
        expected = alone.step(np.array([theirs], dtype=np.float32))
        np.testing.assert_array_equal(found[0]["vector"][0], expected[0])
        assert found[1][0] == pytest.approx(float(expected[1]), abs=1e-12)
    assert "success" not in found[4]
    env.close()


def test_asymmetric_actions():
    pytest.importorskip("Box2D", reason="needs Box2D: pip install 'reverie[box2d]'")
    env = make("CarRacing-v3", 1)
    convert = env.envs[0].get_wrapper_attr("action")
    np.testing.assert_allclose(convert([-1.0, -1.0, 0.0]), [-1.0, 0.0, 0.5])  # wheel, gas, brake
    assert spaces(env)[0] == {"image": Box((3, 64, 64), 0.0, 255.0, "uint8")}
    observation, _ = env.reset(seed=0)
    frame, _ = bare("CarRacing-v3").reset(seed=0)
    np.testing.assert_array_equal(observation["image"][0], AreaResize(96, 96, 64, 64)(frame))
    env.close()


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    env, alone = make("Pendulum-v1", 1, action_repeat=3, time_limit=7), bare("Pendulum-v1")
    env.reset(seed=2)
    alone.reset(seed=2)
    ends = []
    for steps in (3, 3, 1):
        _, reward, terminated, truncated, _ = env.step(np.array([[0.5]], dtype=np.float32))
        expected = sum(float(alone.step(np.array([1.0], np.float32))[1]) for _ in range(steps))
        assert reward[0] == pytest.approx(expected, abs=1e-9)
        ends.append((bool(terminated[0]), bool(truncated[0])))
    assert ends == [(False, False), (False, False), (False, True)]
    env.close()


def test_first_reset_is_seeded_by_make():
    env = make("CartPole-v1", 2, seed=3)
    first, second = env.reset()[0]["vector"], env.reset()[0]["vector"]
    again = make("CartPole-v1", 2, seed=3)
    np.testing.assert_array_equal(first, again.reset()[0]["vector"])
    np.testing.assert_array_equal(second, again.reset()[0]["vector"])
    np.testing.assert_array_equal(first, again.reset(seed=3)[0]["vector"])
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finished_row_waits_for_its_reset(workers):
    env = make("CartPole-v1", 2, workers=workers)
    env.reset(seed=0)
    over = np.zeros(2, dtype=bool)
    while not over.any():
        last, _, terminated, truncated, _ = env.step(np.array([0, 0]))
        over = terminated | truncated
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
        env.step(np.array([0, 0]))
    mask = np.array([bool(over[0]), bool(over[1])])
    options = {"reset_mask": mask}
    begun, _ = env.reset(options=options)
    assert "reset_mask" in options
    np.testing.assert_array_equal(begun["vector"][~mask], last["vector"][~mask])
    assert not np.array_equal(begun["vector"][mask], last["vector"][mask])
    env.step(np.array([0, 0]))
    env.close()


def test_workers_change_nothing():
    found = []
    for workers in (0, 1):
        env = make("CartPole-v1", 3, seed=1, workers=workers)
        steps = [env.reset()[0]["vector"]]
        steps += [env.step(np.array([0, 1, 0]))[0]["vector"] for _ in range(4)]
        env.close()
        found.append(np.stack(steps))
    np.testing.assert_array_equal(found[0], found[1])


def test_cartpole_success_is_balancing_to_the_limit():
    env = make("CartPole-v1", 2, time_limit=60)
    observation, _ = env.reset(seed=0)
    for _ in range(60):
        lean = observation["vector"]
        action = (lean[:, 2] + lean[:, 3] > 0).astype(np.int64)
        action[1] = 0  # row 1 falls
        observation, _, terminated, truncated, infos = env.step(action)
        assert infos["success"].dtype == bool
        assert not infos["success"][1]
        if terminated[1]:
            env.reset(options={"reset_mask": terminated})
    assert truncated[0]
    assert infos["success"][0]
    assert not terminated[0]
    assert task("CartPole-v1").success == "balanced to the time limit"
    env.close()


def test_mountain_car_success_is_the_flag():
    env = make("MountainCar-v0", 1, time_limit=500)
    observation, _ = env.reset(seed=0)
    terminated = truncated = np.array([False])
    while not (terminated[0] or truncated[0]):
        action = np.where(observation["vector"][:, 1] > 0, 2, 0)  # push the way it rolls
        observation, _, terminated, truncated, infos = env.step(action)
        assert infos["success"][0] == (observation["vector"][0, 0] >= 0.5)
    assert terminated[0]
    env.close()


def test_classes_become_one_hot():
    env = make("FrozenLake-v1", 1, is_slippery=False)
    observation, _ = env.reset(seed=0)
    assert observation["vector"][0].tolist() == [1.0] + [0.0] * 15
    for action in (1, 1, 2, 1, 2, 2):  # down down right down right right: the free path
        observation, _, terminated, _, infos = env.step(np.array([action]))
    assert terminated[0]
    assert infos["success"][0]
    env.close()


def test_images_and_the_rest_are_told_apart(odd):
    env = make(odd, 2, size=2)
    observations, action = spaces(env)
    assert action == Discrete(6)
    assert observations["image"] == Box((3, 2, 2), 0.0, 255.0, "uint8")
    observation, _ = env.reset()
    # Sorted by key: kind one-hot (2 of 1..3), then place.
    assert observation["vector"][0].tolist() == [0.0, 1.0, 0.0, 1.5, -2.0]
    eye = np.arange(72, dtype=float).reshape(2, 2, 2, 3, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(observation["image"][0] - eye).max() <= 0.501
    for action in range(5):
        env.step(np.array([action, action]))
    _, _, terminated, truncated, _ = env.step(np.array([5, 5]))
    rows = env.envs[0].unwrapped.seen
    assert rows == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert terminated.all()
    assert not truncated.any()
    env.close()


def test_rows_are_cut_before_resizing(odd):
    env = make(odd, size=2, rows=(1, 3))
    observation, _ = env.reset()
    eye = np.arange(72, dtype=float).reshape(4, 6, 3)[1:3]  # two rows of three cells an output
    expected = eye.reshape(2, 1, 2, 3, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(observation["image"][0] - expected).max() <= 0.501
    env.close()
    with pytest.raises(BadConfig, match="height of the picture"):
        make(odd, rows=(0, 5))


@pytest.mark.parametrize(
    ("observe", "keys"), [("image", ["image"]), ("vector", ["vector"]), ("both", 2)]
)
def test_observe_chooses(odd, observe, keys):
    env = make(odd, observe=observe)
    found = sorted(spaces(env)[0])
    assert found == (["image", "vector"] if keys == 2 else keys)
    assert sorted(env.reset()[0]) == found
    env.close()


@pytest.mark.skipif(not importlib.util.find_spec("pygame"), reason="rendering needs pygame")
def test_pixels_are_rendered_where_asked(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = make("CartPole-v1", 1, observe="image", size=32)
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (1, 3, 32, 32)
    alone = bare("CartPole-v1", render_mode="rgb_array")
    alone.reset(seed=0)
    frame = AreaResize(400, 600, 32, 32)(alone.render())
    np.testing.assert_array_equal(observation["image"][0], frame)
    env.close()


def test_toy_worlds_are_routed():
    env = make("toy/two_rooms", 2, seed=1)
    observations, _ = spaces(env)
    assert observations["image"].shape == (3, 32, 32)
    env.close()
    with pytest.raises(UnknownName, match="toy/two_rooms"):
        make("toy/two_room")
    with pytest.raises(BadConfig, match="no action_repeat"):
        make("toy/clock", action_repeat=2)


def test_a_namespace_from_outside(monkeypatch):
    monkeypatch.setitem(registry._PATHS["env"], "odd", f"{__name__}:build_odd")
    env = make("odd/thing", 2, seed=5)
    assert env == ("thing", {"num_envs": 2, "seed": 5})


def build_odd(rest, **options):
    return rest, options


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean CartPole-v1"):
        make("Cartpole-v1")
    with pytest.raises(UnknownName, match="doom/, ale/"):
        make("nothing/like-this")
    with pytest.raises(UnknownName, match="v4"):
        make("Taxi-v3")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("ale/pong", "ale_py", "atari"),
        ("minatar/breakout", "minatar", "minatar"),
        ("minigrid/Empty-5x5-v0", "minigrid", "minigrid"),
        ("pusht/PushT-v0", "gym_pusht", "pusht"),
        ("dmc/walker-walk", "dm_control.suite", "dmc"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'reverie\[{extra}\]'"):
        make(name)


def test_a_missing_package_of_gymnasiums_own_is_named(monkeypatch):
    for module in [m for m in sys.modules if m.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reverie\[box2d\]'"):
        make("LunarLander-v3")


def test_bad_arguments_are_refused():
    for options in ({"num_envs": 0}, {"size": 0}, {"action_repeat": 0}):
        with pytest.raises(BadConfig, match="at least 1"):
            make("CartPole-v1", **options)
    for options in ({"workers": -1}, {"observe": "smell"}, {"time_limit": 0}):
        with pytest.raises(BadConfig, match="workers must be 0 or more"):
            make("CartPole-v1", **options)
    with pytest.raises(BadConfig, match="unexpected keyword argument 'color'"):
        make("CartPole-v1", color="red")


def test_spaces_of_another_form_are_refused():
    env = gymnasium.make_vec("CartPole-v1", 1, vectorization_mode="sync")
    with pytest.raises(SpaceMismatch, match="reverie.envs.make"):
        spaces(env)
    env.close()
    many = gymnasium.spaces.MultiDiscrete([9, 9, 9])
    gymnasium.register("Many-v0", lambda: Fixed(many))
    gymnasium.register("Words-v0", lambda: Fixed(gymnasium.spaces.Text(3)))
    try:
        with pytest.raises(BadConfig, match="cannot render one"):
            make("Many-v0", observe="image")
        with pytest.raises(SpaceMismatch, match="729 combinations"):
            make("Many-v0")
        with pytest.raises(SpaceMismatch, match="Actions must be Discrete"):
            make("Words-v0")
    finally:
        del gymnasium.registry["Many-v0"], gymnasium.registry["Words-v0"]


class Fixed(gymnasium.Env):
    """Only spaces."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, action_space):
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = action_space
