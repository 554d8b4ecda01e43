"""ViZDoom without its stock wrapper: one engine process a row, 160x120 buffers, area-resized.

Read `DoomEnv.step` first. An episode is counted in tics (35 a second of game). Imports core and
`envs.pixels`; `vizdoom` is imported only when an environment is made.

The last frame: when the player dies the engine has no screen any more, so the observation after
the fatal action is the last frame that was rendered, the one the agent acted on, repeated;
``terminated`` is True only there. At the time limit the game still runs and the last observation
is a true frame.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from reverie.core.errors import BadConfig
from reverie.core.registry import require, unknown
from reverie.envs.pixels import AreaResize, check_rows

SCREEN = (120, 160)  # rows, columns that the engine renders


@dataclass(frozen=True)
class Scenario:
    """One ViZDoom scenario: how it is played, scored and won."""

    time_limit: int  # tics, then truncated
    actions: tuple[tuple[int, ...], ...] | None = None  # buttons held; None: nothing, or one of all
    reward: str = "scenario"  # "tics": survived in the step | "scenario": the scenario's own
    success: str | None = (
        None  # "cap": alive at the time limit | "goal": it ended, and not by death
    )


SCENARIOS: Mapping[str, Scenario] = {
    "take_cover": Scenario(2100, ((1, 0), (0, 0), (0, 1)), "tics", "cap"),  # left, stay, right
    "basic": Scenario(300, success="goal"),
    "simpler_basic": Scenario(300, success="goal"),
    "rocket_basic": Scenario(300, success="goal"),
    "predict_position": Scenario(300, success="goal"),
    "deadly_corridor": Scenario(2100, success="goal"),
    "my_way_home": Scenario(2100, success="goal"),
    "defend_the_center": Scenario(2100),
    "defend_the_line": Scenario(2100),
    "health_gathering": Scenario(2100, success="cap"),
    "health_gathering_supreme": Scenario(2100, success="cap"),
}


class DoomEnv(gymnasium.Env[Any, Any]):
    """One ViZDoom game: the same reset seed and the same actions give the same episode.

    Observations are {'image': (3, size, size) uint8 RGB}; info has 'tics' (int, survived since the
    episode began) and, where the scenario declares it, 'success' (bool).

    Args:
        scenario: a name in `SCENARIOS`.
        size: height and width of the image, pixels.
        rows: (top, bottom): only rendered rows top..bottom-1 of 120 are kept, then resized to
            size x size; None: all. In take_cover rows (44, 76) hold the monsters and fireballs.
        frame_skip: tics that one action lasts; only the last of them is rendered.
        time_limit: tics; None: the scenario's own.

    Raises:
        UnknownName: if there is no such scenario.
        MissingExtra: if ViZDoom is not installed.
        BadConfig: if rows, size, frame_skip or time_limit cannot be used.
    """

    def __init__(
        self,
        scenario: str = "take_cover",
        *,
        size: int = 64,
        rows: tuple[int, int] | None = None,
        frame_skip: int = 4,
        time_limit: int | None = None,
    ) -> None:
        if scenario not in SCENARIOS:
            known = [f"doom/{name}" for name in SCENARIOS]
            raise unknown("environment", f"doom/{scenario}", known)
        self.scenario = SCENARIOS[scenario]
        self.frame_skip = frame_skip
        self.time_limit = self.scenario.time_limit if time_limit is None else time_limit
        for name, value in (
            ("size", size),
            ("frame_skip", frame_skip),
            ("time_limit", self.time_limit),
        ):
            if value < 1:
                raise BadConfig(f"doom/{scenario}: {name} must be at least 1, but it is {value}.")
        self._top, self._bottom = check_rows(rows, SCREEN[0])
        self._resize = AreaResize(self._bottom - self._top, SCREEN[1], size, size)
        self._over = True
        self._success = False
        vizdoom: Any = require("vizdoom", "doom")
        folder = Path(tempfile.mkdtemp(prefix="reverie-doom-"))
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._game, self._actions = _start(vizdoom, scenario, folder)
        self._image = np.zeros((3, size, size), dtype=np.uint8)
        box = gymnasium.spaces.Box(0, 255, (3, size, size), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"image": box})
        self.action_space = gymnasium.spaces.Discrete(len(self._actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; without a seed the next one of this environment's own stream."""
        super().reset(seed=seed)
        self._game.set_seed(int(self.np_random.integers(2**31)))
        self._game.new_episode()
        self._began = self._now = self._game.get_episode_time()
        self._over = self._success = False
        self._look()
        return {"image": self._image}, self._info()

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Hold the action's buttons for frame_skip tics (fewer where the episode ends).

        Args:
            action: integer below the number of actions.

        Returns:
            Observation, reward, terminated (died, or reached the goal), truncated (time limit;
            never together with terminated), info.

        Raises:
            gymnasium.error.ResetNeeded: if the episode is over or never began.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("The Doom episode is over: call reset() first.")
        game, left = self._game, self._began + self.time_limit - self._now
        reward = float(game.make_action(self._actions[int(action)], min(self.frame_skip, left)))
        before, self._now = self._now, game.get_episode_time()
        terminated = game.is_episode_finished()
        truncated = not terminated and self._now - self._began >= self.time_limit
        if self.scenario.reward == "tics":
            reward = float(self._now - before)
        if not terminated:
            self._look()
        self._over = terminated or truncated
        self._success = (
            truncated
            if self.scenario.success == "cap"
            else terminated and not game.is_player_dead()
        )
        return {"image": self._image}, reward, terminated, truncated, self._info()

    def close(self) -> None:
        """End the engine process and remove its files."""
        self._game.close()
        self._remove()

    def _look(self) -> None:
        """Make the engine's screen the newest image (a new array: old ones stay as they were)."""
        screen = self._game.get_state().screen_buffer
        self._image = self._resize(screen[self._top : self._bottom])

    def _info(self) -> dict[str, Any]:
        """Tics survived, and success where the scenario declares one."""
        info: dict[str, Any] = {"tics": self._now - self._began}
        if self.scenario.success is not None:
            info["success"] = self._success
        return info


def _start(vizdoom: Any, scenario: str, folder: Path) -> tuple[Any, list[list[int]]]:
    """A running engine, and the buttons of each action.

    The engine writes into its working directory, so it is started in the folder.
    """
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
    game.set_vizdoom_path(str(_launcher(Path(str(vizdoom.__file__)).parent / "vizdoom", folder)))
    game.set_doom_config_path(str(folder / "engine.ini"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)
    game.init()
    actions = SCENARIOS[scenario].actions
    if actions is not None:
        return game, [list(buttons) for buttons in actions]
    count = game.get_available_buttons_size()
    return game, np.eye(count + 1, count, k=-1, dtype=int).tolist()


def _launcher(engine: Path, folder: Path) -> Path:
    """A script that starts the engine in the folder and lets it die with this process."""
    if not engine.exists():  # not a system where the wheel holds a plain program
        return engine
    bound = shutil.which("setpriv")
    command = [bound, "--pdeathsig", "KILL", str(engine)] if bound else [str(engine)]
    launcher = folder / "engine"
    launcher.write_text(
        f'#!/bin/sh\ncd {shlex.quote(str(folder))} && exec {shlex.join(command)} "$@"\n'
    )
    launcher.chmod(0o700)
    return launcher
