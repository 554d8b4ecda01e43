"""Games of OpenSpiel by name: spiel/tic_tac_toe, spiel/connect_four, spiel/2048, ...

Games for one or two players who see everything and take turns; chance is drawn here. The same form
as `envs/boards.py`, whose rules in numpy are hundreds of times faster but few. Imports core and
`envs`; `pyspiel` when a game is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reverie.core import registry
from reverie.core.errors import SpaceMismatch, UnknownName
from reverie.core.types import Box, Discrete
from reverie.envs.toyworld import ToyWorld


class Spiel(ToyWorld):
    """One OpenSpiel game in every row.

    Observations: 'vector' (D + 1,), the game's own tensor for whoever is to move, and 1 where the
    first player is to move; 'legal' (A,). The reward is of whoever moved.

    Args:
        name: as OpenSpiel has it, with its parameters: "connect_four(rows=5)".
        num_envs: games.
        time_limit: moves; None: the game's longest.
        seed: of chance.

    Raises:
        MissingExtra: if OpenSpiel is not installed.
        UnknownName: if it has no such game.
        SpaceMismatch: if the game is not of that kind.
    """

    def __init__(
        self, name: str, num_envs: int = 1, *, time_limit: int | None = None, seed: int = 0
    ) -> None:
        pyspiel: Any = registry.require("pyspiel", "spiel")
        try:
            self._game = pyspiel.load_game(name)
        except pyspiel.SpielError as error:
            raise UnknownName(
                f"OpenSpiel has no game '{name}' ({str(error).splitlines()[0]}). Its names are "
                "those of pyspiel.registered_names()."
            ) from None
        kind = self._game.get_type()
        seen = kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION
        turns = kind.dynamics == pyspiel.GameType.Dynamics.SEQUENTIAL
        if not (seen and turns and kind.provides_observation_tensor) or self._players > 2:
            raise SpaceMismatch(
                f"spiel/{name} is {kind.information} and {kind.dynamics} for {self._players} "
                "players, but one or two who see everything and take turns are played here. "
                "Choose such a game."
            )
        self._size = int(np.prod(self._game.observation_tensor_shape()))
        moves = self._game.num_distinct_actions()
        super().__init__(
            num_envs,
            {
                "vector": Box((self._size + 1,), -np.inf, np.inf),
                "legal": Box((moves,), 0.0, 1.0),
            },
            Discrete(moves),
            time_limit=time_limit or self._game.max_game_length(),
            seed=seed,
        )
        self._states: list[Any] = [None] * num_envs

    @property
    def _players(self) -> int:
        return self._game.num_players()

    def _begin(self, rows: np.ndarray) -> None:
        for row in np.flatnonzero(rows).tolist():
            self._states[row] = self._settled(self._game.new_initial_state())

    def _move(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reward, over = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool)
        for row, (state, move) in enumerate(zip(self._states, action.tolist(), strict=True)):
            mover = state.current_player()
            if move not in state.legal_actions():
                raise SpaceMismatch(
                    f"Move {move} was asked for in game {row}, but it is not allowed there: the "
                    f"allowed ones are {state.legal_actions()}. Choose where 'legal' is 1."
                )
            state.apply_action(move)
            self._settled(state)
            reward[row], over[row] = state.rewards()[mover], state.is_terminal()
            if self._players == 2 and state.current_player() == mover:
                raise SpaceMismatch(
                    f"In {self._game} a player moved twice in a row (game {row}), but turns must "
                    "alternate here. Choose a game in which they do."
                )
        return reward, over

    def _settled(self, state: Any) -> Any:
        """The state after chance has moved."""
        while state.is_chance_node():
            moves, likely = zip(*state.chance_outcomes(), strict=True)
            state.apply_action(moves[self._random.choice(len(moves), p=likely)])
        return state

    def _see(self) -> dict[str, np.ndarray]:
        vector = np.zeros((self.num_envs, self._size + 1), dtype=np.float32)
        legal = np.zeros((self.num_envs, self._game.num_distinct_actions()), dtype=np.float32)
        for row, state in enumerate(self._states):
            mover = max(state.current_player(), 0)  # once it is over, as the first player sees it
            vector[row, :-1], vector[row, -1] = state.observation_tensor(mover), mover == 0
            legal[row, state.legal_actions()] = 1.0
        return {"vector": vector, "legal": legal}


def spiel(name: str, **options: Any) -> Spiel:
    """The world spiel/NAME.

    Args:
        name: of the game.
        **options: num_envs, time_limit, seed.
    """
    return Spiel(name, **options)
