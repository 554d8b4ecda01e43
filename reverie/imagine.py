"""The only loops over `predict`: unroll, rollout, imagine, and Dream. Imports core only.

`unroll` is the one loop; it yields step by step, so that a consumer that only accumulates keeps
no trajectory, such as `expected_return`. `rollout` and `imagine` stack it into a `Rollout`.
`Dream` turns a model into a Gymnasium vector environment: whatever can be trained or played in a
real world can be trained or played in a learned one.

None of them decides about gradients: wrap them in ``torch.no_grad()`` or differentiate through
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import WorldModel, need
from reverie.core.types import Box, Discrete, Heads, Rollout, Space, check_action
from reverie.core.vector import gymnasium_space, refuse_finished, reset_rows, stream_seed

S = TypeVar("S")


def unroll(
    model: WorldModel[S],
    state: S,
    act: Callable[[S, int], Tensor | None],
    horizon: int,
    *,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[S, Tensor | None, S]]:
    """Step a model forward without looking, one step for each `next`.

    Args:
        model: any world model.
        state: (B, ...) where to begin.
        act: (state, t) -> action (B, A) or (B,); None where the model has no actions.
        horizon: steps H.
        generator: of the model's randomness; None: torch's default one.

    Yields:
        (state before, action, state after) for t = 0..H-1.
    """
    for t in range(horizon):
        action = act(state, t)
        after = model.predict(state, action, generator=generator)
        yield state, action, after
        state = after


def rollout(
    model: WorldModel[S],
    state: S,
    actions: Tensor | None,
    *,
    horizon: int | None = None,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Imagine what a given sequence of actions leads to.

    Args:
        model: any world model.
        state: (B, ...) where to begin.
        actions: (B, H, A) float or (B, H) int64; None for a model without actions.
        horizon: H, needed only where `actions` is None.
        generator: of the model's randomness; None: torch's default one.

    Returns:
        H+1 states, the given one first, and the actions.

    Raises:
        BadConfig: if there are neither actions nor a horizon, or H is below 1.
        SpaceMismatch: if a model without actions gets some, or the other way round.
        ShapeMismatch: if the actions are not (B, H, ...).
    """
    if actions is None:
        if model.actions is not None:
            raise SpaceMismatch(
                f"{model.heads.owner} acts in {model.actions}, but no actions were given. "
                "Pass a (B, H, ...) tensor, or use imagine() with a policy."
            )
        return _stacked(unroll(model, state, _nothing, _steps(horizon), generator=generator))
    if model.actions is None:
        raise SpaceMismatch(
            f"{model.heads.owner} has no actions, but some of shape {tuple(actions.shape)} were "
            "given. Pass actions=None and a horizon."
        )
    steps = _steps(actions.shape[1] if actions.dim() > 1 else horizon)
    check_action(actions, model.actions, (tree.size(state), steps))
    columns = actions.unbind(1)
    run = unroll(model, state, lambda _, t: columns[t], steps, generator=generator)
    return _stacked(run)._replace(actions=actions)


def imagine(
    model: WorldModel[S],
    state: S,
    policy: Callable[[S], Tensor | None],
    horizon: int,
    *,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Imagine what a policy leads to.

    Args:
        model: any world model.
        state: (B, ...) where to begin.
        policy: state -> action (B, A) or (B,).
        horizon: steps H.
        generator: of the model's randomness; None: torch's default one.

    Returns:
        H+1 states, the given one first, and the H actions that the policy chose.

    Raises:
        BadConfig: if the horizon is below 1.
    """
    return _stacked(
        unroll(model, state, lambda s, _: policy(s), _steps(horizon), generator=generator)
    )


def expected_return(
    model: WorldModel[S],
    heads: Heads,
    state: S,
    act: Callable[[S, int], Tensor | None],
    horizon: int,
    *,
    discount: float = 1.0,
    survival: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What a policy earns in a dream, each step weighed by the probability that it is reached.

    A step's reward counts by the product of `cont`: an expectation, smooth in what is done, not
    one draw of an ending. Without a reward head each step that is survived earns `survival`. No
    trajectory is kept. The dream stops early where hardly any row is still alive.

    Args:
        model: any world model.
        heads: `reward`, or `cont`, or both; the model's own or lent ones.
        state: (B, ...) where to begin.
        act: (state, t) -> action (B, A) or (B,).
        horizon: steps H.
        discount: of dreamed rewards.
        survival: reward of a step survived, where there is no reward head.
        generator: of the model's randomness; None: torch's default one.

    Returns:
        (B,) float32 in the world's reward units.
    """
    alive = torch.ones(tree.size(state), device=model.device)
    total = torch.zeros_like(alive)
    steps = unroll(model, state, act, horizon, generator=generator)
    for t, (before, action, after) in enumerate(steps):
        goes_on = alive if heads.cont is None else alive * heads.cont(after)
        if heads.reward is None:
            reward = survival * goes_on
        else:
            reward = alive * heads.reward(before, action, after)
        total += discount**t * reward
        alive = goes_on
        if t % 16 == 15 and bool(alive.max() < 1e-3):  # the only wait for the device
            break
    return total


def _nothing(_state: Any, _t: int) -> None:
    """The policy of a model without actions."""


def _steps(horizon: int | None) -> int:
    """The horizon, if there is one."""
    if horizon is None or horizon < 1:
        raise BadConfig(f"A horizon of at least 1 step is needed, but it is {horizon}. Give one.")
    return horizon


def _stacked(run: Iterator[tuple[S, Tensor | None, S]]) -> Rollout:
    """All states and actions of an unrolled model along axis 1."""
    states: list[Any] = []
    actions: list[Tensor] = []
    for before, action, after in run:
        if not states:
            states.append(before)
        states.append(after)
        if action is not None:
            actions.append(action)
    return Rollout(tree.stack(states), torch.stack(actions, 1) if actions else None)


class Dream(VectorEnv):
    """A learned world as a Gymnasium vector environment: reset, step, and nobody wakes up.

    Observations are what the model's `decode` head draws, as arrays of the model's own
    observation spaces. The reward is the `reward` head's; a model that has none but says when
    episodes end (`cont`) pays 1.0 for every step that is survived and 0.0 for the one that ends
    the episode. An episode ends at random with the probability that `cont` gives it, never if
    there is no such head, and is truncated at the time limit. Autoreset is disabled, as in every
    world here: begin finished rows again with ``reset(options={"reset_mask": mask})``.

    Args:
        model: any world model with `decode` and with `reward` or `cont`.
        start: (n, generator) -> n states to begin episodes from, such as posterior states of
            real data. The generator lives on the model's device.
        num_envs: rows dreamed in one batch.
        time_limit: steps after which an episode is truncated; None: never.
        seed: of the one random stream.
        heads: in place of the model's own, for lent ones.

    Raises:
        MissingHead: if the model cannot draw what it dreams or say what it is worth.
    """

    def __init__(
        self,
        model: WorldModel[Any],
        start: Callable[[int, torch.Generator], Any],
        num_envs: int = 1,
        *,
        time_limit: int | None = None,
        seed: int = 0,
        heads: Heads | None = None,
    ) -> None:
        """See the class."""
        self._heads = model.heads if heads is None else heads
        need(self._heads, "decode", what="Dream")
        if self._heads.reward is None:
            need(self._heads, "cont", what="Dream (without a reward head)")
        self._model = model
        self._start = start
        self._time_limit = time_limit
        self._generator = torch.Generator(model.device).manual_seed(seed)
        self._state: Any = None
        self._age = np.zeros(num_envs, dtype=np.int64)
        self._over = np.ones(num_envs, dtype=bool)
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._seen = self._decoded()
        self.single_observation_space = gymnasium.spaces.Dict(
            {name: gymnasium_space(space) for name, space in self._seen.items()}
        )
        # Where nothing acts, the one action is to watch.
        self.single_action_space = gymnasium_space(
            Discrete(1) if model.actions is None else model.actions
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def state(self) -> Any:
        """The model's own state of every row, for policies that read states; None before reset."""
        return self._state

    @torch.no_grad()
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: begins the random stream anew; None: it goes on.
            options: "reset_mask" (num_envs,) bool: only these rows begin; others stay.

        Returns:
            Observations of all rows, and no infos.

        Raises:
            ShapeMismatch: if the mask is not (num_envs,) bool.
        """
        rows = reset_rows(options, self.num_envs)
        number = stream_seed(seed)
        if number is not None:
            self._generator.manual_seed(number)
        if self._state is None or rows.all():
            rows = np.ones(self.num_envs, dtype=bool)
            self._state = self._start(self.num_envs, self._generator)
        elif rows.any():
            self._begin(rows)
        self._age[rows] = 0
        self._over[rows] = False
        return self._look(), {}

    @torch.no_grad()
    def step(
        self, actions: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Dream one step of every row.

        Args:
            actions: (num_envs, A) float32 in [-1, 1] or (num_envs,) int64.

        Returns:
            Observations, rewards (num_envs,) float64, terminated and truncated (num_envs,) bool,
            and no infos.

        Raises:
            gymnasium.error.ResetNeeded: if a row's episode is over.
            ShapeMismatch: if the actions have another shape.
        """
        refuse_finished(self._over)
        before = self._state
        action = self._action(actions)
        after = self._model.predict(before, action, generator=self._generator)
        self._state = after
        self._age += 1
        terminated = self._ended(after)
        if self._heads.reward is None:
            reward = 1.0 - terminated.astype(np.float64)
        else:
            reward = self._heads.reward(before, action, after).double().cpu().numpy()
        limit = np.inf if self._time_limit is None else self._time_limit
        truncated = (self._age >= limit) & ~terminated
        self._over = terminated | truncated
        return self._look(), reward, terminated, truncated, {}

    def _begin(self, rows: np.ndarray) -> None:
        """Replace some rows by fresh starts, and draw no more of them than needed."""
        index = np.arange(self.num_envs)
        index[rows] = self.num_envs + np.arange(rows.sum())
        fresh = self._start(int(rows.sum()), self._generator)
        self._state = tree.take(tree.cat([self._state, fresh]), torch.from_numpy(index))

    def _action(self, actions: Any) -> Tensor | None:
        """What the agent gave, as the model takes it."""
        space = self._model.actions
        if space is None:
            return None
        dtype = torch.int64 if isinstance(space, Discrete) else torch.float32
        action = torch.as_tensor(np.asarray(actions), dtype=dtype, device=self._model.device)
        return check_action(action, space, (self.num_envs,))

    def _ended(self, state: Any) -> np.ndarray:
        """Which rows end here, drawn from the model's own probability."""
        if self._heads.cont is None:
            return np.zeros(self.num_envs, dtype=bool)
        cont = self._heads.cont(state)
        chance = torch.rand(cont.shape, generator=self._generator, device=cont.device)
        return (chance >= cont).cpu().numpy()

    @torch.no_grad()
    def _decoded(self) -> dict[str, Space]:
        """The observation spaces that `decode` really fills, found by drawing one start."""
        probe = torch.Generator(self._model.device).manual_seed(0)
        drawn = self._decode(self._start(1, probe))
        return {name: s for name, s in self._model.observations.items() if name in drawn}

    def _decode(self, state: Any) -> dict[str, Tensor]:
        """The `decode` head, which `__init__` made sure of."""
        decode = self._heads.decode
        return {} if decode is None else decode(state)

    def _look(self) -> dict[str, np.ndarray]:
        """What the rows see now."""
        drawn = self._decode(self._state)
        return {name: _as_array(drawn[name], space) for name, space in self._seen.items()}


def _as_array(drawn: Tensor, space: Space) -> np.ndarray:
    """A decoded observation as a copy in its space's dtype; pixels are rounded and clipped."""
    dtype = space.dtype if isinstance(space, Box) else "int64"
    if dtype == "uint8" and drawn.is_floating_point():
        drawn = drawn.round().clamp(0, 255)
    return drawn.cpu().numpy().astype(dtype)
