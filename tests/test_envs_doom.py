"""ViZDoom: determinism, tics, the last frame, crops, and what bad input gets."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from reverie.core.errors import BadConfig, MissingExtra, UnknownName
from reverie.core.types import Box, Discrete
from reverie.envs import make, spaces, task
from reverie.envs.doom import SCENARIOS, DoomEnv
from reverie.envs.pixels import AreaResize

pytest.importorskip("vizdoom", reason="the doom tests need vizdoom: pip install 'reverie[doom]'")


@pytest.fixture(scope="module")
def game():
    env = DoomEnv()
    yield env
    env.close()


def play(env, seed, actions):
    """Images, rewards, ends, infos of one episode."""
    observation, info = env.reset(seed=seed)
    images, rewards, ends, infos = [observation["image"]], [], [], [info]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        images.append(observation["image"])
        rewards.append(reward)
        ends.append((terminated, truncated))
        infos.append(info)
        if terminated or truncated:
            break
    return np.stack(images), np.array(rewards), ends, infos


ACTIONS = np.random.default_rng(0).integers(0, 3, 525)


def test_same_seed_and_actions_give_the_same_episode(game):
    first = play(game, 7, ACTIONS)
    play(game, 8, ACTIONS[:5])  # what was played between does not matter
    again = play(game, 7, ACTIONS)
    other = DoomEnv()
    elsewhere = play(other, 7, ACTIONS)
    other.close()
    for repeated in (again, elsewhere):
        np.testing.assert_array_equal(first[0], repeated[0])
        np.testing.assert_array_equal(first[1], repeated[1])
        assert first[2:] == repeated[2:]
    different = play(game, 9, ACTIONS)
    assert len(different[1]) != len(first[1]) or not np.array_equal(different[0], first[0])


def test_death_is_terminated_and_repeats_the_last_frame(game):
    images, rewards, ends, infos = play(game, 3, np.ones(525, dtype=int))  # standing still
    assert ends[-1] == (True, False)
    assert all(end == (False, False) for end in ends[:-1])
    np.testing.assert_array_equal(images[-1], images[-2])
    assert infos[-1]["success"] is False
    # All actions but the fatal one last 4 tics, and it at most that.
    assert (rewards[:-1] == 4).all()
    assert 0 <= rewards[-1] <= 4
    assert [info["tics"] for info in infos] == [0, *np.cumsum(rewards).astype(int)]
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        game.step(1)


def test_time_limit_truncates_alive_on_a_true_last_frame():
    env = DoomEnv(time_limit=10)
    images, rewards, ends, infos = play(env, 0, [0, 2, 0, 2])
    env.close()
    assert rewards.tolist() == [4, 4, 2]
    assert ends == [(False, False), (False, False), (False, True)]
    assert [info["success"] for info in infos] == [False, False, False, True]
    assert not np.array_equal(images[-1], images[-2])


def test_actions_are_left_stay_right(game):
    def moved(action):
        game.reset(seed=0)
        place = game._game.get_game_variable
        variable = sys.modules["vizdoom"].GameVariable.POSITION_Y
        before = place(variable)
        for _ in range(5):
            game.step(action)
        return place(variable) - before

    left, stay, right = moved(0), moved(1), moved(2)
    assert stay == 0
    assert left * right < 0


def test_rows_are_cut_before_resizing(game):
    cropped = DoomEnv(rows=(44, 76), size=32)
    observation, _ = cropped.reset(seed=5)
    cropped.close()
    game.reset(seed=5)
    screen = game._game.get_state().screen_buffer
    assert screen.shape == (120, 160, 3)
    np.testing.assert_array_equal(observation["image"], AreaResize(32, 160, 32, 32)(screen[44:76]))


def test_frames_handed_out_do_not_change(game):
    observation, _ = game.reset(seed=1)
    image = observation["image"]
    copy = image.copy()
    for _ in range(3):
        game.step(0)
    np.testing.assert_array_equal(image, copy)


def test_vector_rows_and_reset_mask():
    env = make("doom/take_cover", 2, seed=11, time_limit=8)
    assert spaces(env) == ({"image": Box((3, 64, 64), 0.0, 255.0, "uint8")}, Discrete(3))
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED
    first, _ = env.reset()
    named, _ = env.reset(seed=11)
    np.testing.assert_array_equal(first["image"], named["image"])
    env.step(np.array([0, 2]))
    last, reward, terminated, truncated, infos = env.step(np.array([0, 2]))
    assert reward.tolist() == [4, 4]
    assert not terminated.any()
    assert truncated.all()
    assert infos["success"].dtype == bool
    assert infos["success"].tolist() == [True, True]
    mask = np.array([True, False])
    options = {"reset_mask": mask}
    begun, _ = env.reset(seed=11, options=options)
    assert list(options) == ["reset_mask"]
    np.testing.assert_array_equal(begun["image"][0], first["image"][0])
    np.testing.assert_array_equal(begun["image"][1], last["image"][1])
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"\[1\]"):
        env.step(np.array([0, 0]))
    env.close()


def test_rows_in_processes_are_the_same_rows():
    found = []
    for workers in (0, 2):
        env = make("doom/take_cover", 2, seed=4, workers=workers)
        steps = [env.reset()[0]["image"]]
        steps += [env.step(np.array([a, 2 - a]))[0]["image"] for a in ACTIONS[:6]]
        env.close()
        found.append(np.stack(steps))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("scenario", ["basic", "my_way_home"])
def test_other_scenarios(scenario):
    env = make(f"doom/{scenario}", size=32)
    _, action = spaces(env)
    env.reset()
    _, reward, _, _, infos = env.step(np.array([action.n - 1]))
    assert "success" in infos
    assert reward[0] < 0  # both charge for time
    env.close()


def test_every_scenario_of_the_table_is_in_the_wheel():
    folder = Path(sys.modules["vizdoom"].scenarios_path)
    assert not [name for name in SCENARIOS if not (folder / f"{name}.cfg").exists()]


def test_task_says_how_it_is_scored():
    found = task("doom/take_cover")
    assert (found.time_limit, found.time_unit, found.score) == (2100, "tics", "survival tics")
    assert found.success == "alive at the time limit"
    assert found.extra == "doom"


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    env = DoomEnv()
    env.reset(seed=0)
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["reverie-doom-"]
    env.close()
    env.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_a_killed_run_leaves_no_engine():
    code = (
        "import os, time\nfrom reverie.envs.doom import DoomEnv\nenv = DoomEnv()\n"
        "env.reset(seed=0)\nprint(env._remove.peek()[2][0], flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        folder = process.stdout.readline().decode().strip()

        def running():
            table = [path for path in Path("/proc").glob("[0-9]*/cmdline")]
            return [p for p in table if folder.encode() in read(p) and b"-iwad" in read(p)]

        assert len(running()) == 1
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running()
    shutil.rmtree(folder)


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_bad_input_is_one_sentence(monkeypatch):
    with pytest.raises(UnknownName, match="Did you mean doom/take_cover"):
        make("doom/takecover")
    for rows in ((76, 44), (0, 121), (-1, 5)):
        with pytest.raises(BadConfig, match="rows must be"):
            DoomEnv(rows=rows)
    for options in ({"size": 0}, {"frame_skip": 0}, {"time_limit": 0}):
        with pytest.raises(BadConfig, match="at least 1"):
            DoomEnv(**options)
    with pytest.raises(BadConfig, match="images only"):
        make("doom/take_cover", observe="vector")
    with pytest.raises(BadConfig, match="unexpected keyword argument 'row'"):
        make("doom/take_cover", row=3)
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reverie\[doom\]'"):
        make("doom/take_cover")
