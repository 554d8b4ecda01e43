"""The stages of MuZero and its kin, for any world: `recipes/muzero.py` sets them up.

Many games at once through one batched search a move; every search's policy and value is stored
beside the action; then segments are drawn, weighed, turned, perhaps searched anew, and learned
from. What is collected follows from the seed and the number of episodes so far, so a killed run
resumes exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from reverie import envs
from reverie.agent import Agent, RandomAgent
from reverie.core.model import Part, WorldModel
from reverie.core.types import Act, Batch, Box, Discrete, Space
from reverie.data.collect import collect
from reverie.data.fill import mixed
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.data.strategy import Prioritized, Strategy
from reverie.evaluate.judge import judge
from reverie.evaluate.match import match
from reverie.evaluate.opponents import Legal, opponents
from reverie.learner import GradientLearner
from reverie.models.muzero_nets import LEGAL
from reverie.models.search_targets import Targets
from reverie.plan_agent import PlanAgent
from reverie.planners.compiled_mlp import CompiledMLP
from reverie.planners.mcts import MCTS
from reverie.progress import Progress
from reverie.recipes.turned import Turned
from reverie.run import Run, Stage

_TRIALS = 1_000_000  # seed of evaluation worlds, which no run trains on
_KEPT = ("search_policy", "root_value", "candidates")  # of what a search says, what is stored


class Searched(Protocol):
    """What is asked of a model that learns from searches, beside being a `WorldModel`."""

    def targets(self, batch: Batch) -> Targets:
        """What its unrolled steps are to say."""
        ...


@dataclass(frozen=True)
class Setup:
    """All that the stages of one run share."""

    name: str
    model: WorldModel[Any]
    search: MCTS  # to play as well as it can
    explore: MCTS  # to play and learn from it
    compiled: Callable[[], CompiledMLP | None]  # the model's networks of the moment
    arguments: dict[str, Any]  # of the recipe
    strategy: Strategy | str = "uniform"
    turns: Turned | None = None  # what board is the same game
    again: Reanalysis | None = None
    players: int = 1
    agent: Searcher = field(init=False)

    def __post_init__(self) -> None:
        """Make who acts."""
        blunders = Blunders(self["blunders"], self.random) if self["blunders"] else None
        agent = Searcher(self.model, self.search, self.explore, self.compiled, blunders)
        object.__setattr__(self, "agent", agent)

    def __getitem__(self, name: str) -> Any:
        """An argument of the recipe."""
        return self.arguments[name]

    def world(self, num_envs: int, seed: int) -> VectorEnv:
        """The environment that the recipe names."""
        limit = {"time_limit": self["time_limit"]} if self["time_limit"] else {}
        return envs.make(self["env"], num_envs, seed=seed, **limit)

    @property
    def random(self) -> Agent:
        """Who plays without a thought."""
        assert self.model.actions is not None  # noqa: S101
        legal = LEGAL in self.model.observations
        return Legal() if legal else RandomAgent(self.model.actions)


class Blunders(NamedTuple):
    """Moves that are made without a thought, so that a value knows what mistakes are worth.

    Among players who never err all moves that keep a draw look alike, and those that set traps
    for others do not stand out.
    """

    share: float  # of the moves, while it explores
    random: Agent


class Searcher:
    """Acts by one search while exploring and by another otherwise. The carry is `PlanAgent`'s.

    Networks that can be compiled are copied before each move of the whole batch: weights change.

    Args:
        model: searched in.
        search: to act as well as it can.
        explore: to collect with.
        compiled: the networks of the moment, or None.
        blunders: made while exploring; None: none.
    """

    def __init__(
        self,
        model: WorldModel[Any],
        search: MCTS,
        explore: MCTS,
        compiled: Callable[[], CompiledMLP | None],
        blunders: Blunders | None = None,
    ) -> None:
        self._model, self._search, self._explore = model, search, explore
        self._compiled, self._blunders = compiled, blunders

    def initial(self, batch: int) -> Any:
        """Nothing was seen yet.

        Args:
            batch: environments B.
        """
        del batch

    def act(
        self,
        carry: Any,
        obs: dict[str, Tensor],
        first: Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Act]:
        """See `Agent.act`; what the search found stands in `Act.extra`."""
        chosen = self._explore if explore else self._search
        planner = replace(chosen, compiled=self._compiled())
        agent = PlanAgent(self._model, planner, warm=False)
        carry, act = agent.act(carry, obs, first, generator=generator)
        action = act.action
        if explore and self._blunders is not None:
            any_ = self._blunders.random.act(None, obs, first, generator=generator)[1].action
            dice = torch.rand(len(action), generator=generator) < self._blunders.share
            dice = dice.view(-1, *(1,) * (action.dim() - 1)).to(action.device)
            action = torch.where(dice, any_.to(action.device), action)
            carry = carry._replace(action=action)
        return carry, Act(action, {n: act.extra[n] for n in _KEPT if n in act.extra})


# -- what is learned from -------------------------------------------------------------------------


@dataclass(frozen=True)
class Reanalysis:
    """Some rows of every batch are searched anew: old data with what the model knows now.

    Attributes:
        search: by which.
        share: of the rows.

    Source: Schrittwieser et al. 2021 (Reanalyse), section 3.
    """

    search: MCTS
    share: float = 0.5

    def __call__(self, batch: Batch, model: WorldModel[Any], compiled: CompiledMLP | None) -> Batch:
        """The batch with other search policies and values in its first rows."""
        rows, steps = max(1, round(self.share * len(batch.mask))), batch.mask.shape[1]
        obs = {n: batch.obs[n][:rows, :steps].flatten(0, 1) for n in model.observations}
        with torch.no_grad():
            state = model.observe(None, None, model.encode(obs))
        found = replace(self.search, compiled=compiled).plan(model, state).extra
        fresh = {n: found[n].unflatten(0, (rows, steps)) for n in _KEPT if n in found}
        extra = {n: torch.cat([fresh[n], batch.extra[n][rows:]]) for n in fresh}
        return batch._replace(extra={**batch.extra, **extra})


class Replay:
    """A `Sampler` of segments with all that is done to them before they are learned from.

    With `Prioritized` each row's priority is renewed as it is drawn: how far the search's value
    was from the return that followed. `extra['weight']` undoes the preference; the largest is 1.

    Args:
        sampler: draws.
        setup: of the run.
    """

    def __init__(self, sampler: Sampler, setup: Setup) -> None:
        self._sampler, self._setup = sampler, setup

    def __next__(self) -> Batch:
        """The next batch."""
        setup, batch = self._setup, next(self._sampler)
        batch = self._weighed(batch)
        if setup.turns is not None:
            batch = setup.turns(batch)
        if setup.again is not None:
            batch = setup.again(batch, setup.model, setup.compiled())
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's."""
        return self._sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._sampler.load_state_dict(state)

    def _weighed(self, batch: Batch) -> Batch:
        """The batch with the weights of its rows, if segments are preferred."""
        draw = self._sampler.last
        if draw is None or not isinstance(self._sampler.strategy, Prioritized):
            return batch
        self._sampler.update(draw.index, surprise(self._setup.model, batch))
        weight = torch.from_numpy(draw.weight / draw.weight.max()).to(batch.mask.device)
        weight = weight[:, None].expand(batch.mask.shape)
        return batch._replace(extra={**batch.extra, "weight": weight})


def surprise(model: WorldModel[Any], batch: Batch) -> Tensor:
    """(B,) how far the value that a search gave at the first step was from what followed.

    Args:
        model: with `targets`.
        batch: with 'root_value'.
    """
    searched: Any = model
    aims: Targets = searched.targets(batch)
    gap = (batch.extra["root_value"][:, 0] - aims.value[:, 0]).abs()
    return gap * aims.acted[:, 0]


class Growing:
    """A `Collector`: batches of whole episodes, until there were so many steps for each update.

    Args:
        setup: of the run.
        data: path of the store; made if it is not there.
    """

    def __init__(self, setup: Setup, data: Path) -> None:
        self._setup, self._env = setup, setup.world(setup["num_envs"], setup["seed"])
        if not data.exists():
            Store.create(data, *envs.spaces(self._env), extras(setup)).close()
        self.store = Store.open(data, writable=True)

    def collect(self, update: int) -> dict[str, float]:
        """See `Collector.collect`."""
        setup, found = self._setup, []
        wanted = setup["prefill"] + int(setup["steps_per_update"] * update)
        while self.store.steps < wanted:
            seed = mixed(setup["seed"], len(self.store))
            played = collect(self._env, setup.agent, episodes=self._env.num_envs, seed=seed)
            self.store.extend(played)
            found += [episode.info["return"] for episode in played]
        return {"return": float(np.mean(found)), "steps": self.store.steps} if found else {}

    def state_dict(self) -> dict[str, Any]:
        """How many episodes there are."""
        return {"episodes": len(self.store)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Forget what was gathered later."""
        self.store.truncate(state["episodes"])

    def close(self) -> None:
        """Give the store and the world free."""
        self.store.close()
        self._env.close()


def extras(setup: Setup) -> dict[str, Space]:
    """What a search writes beside each action."""
    actions = setup.model.actions
    slots = actions.n if isinstance(actions, Discrete) else setup.explore.samples
    found: dict[str, Space] = {
        "search_policy": Box((slots,), 0.0, 1.0),
        "root_value": Box((), -np.inf, np.inf),
    }
    if isinstance(actions, Box):
        found["candidates"] = Box((slots, *actions.shape), actions.low, actions.high)
    return found


# -- stages ---------------------------------------------------------------------------------------


def run_of(setup: Setup) -> Run:
    """The run that a recipe returns.

    Args:
        setup: the model, and who searches.
    """
    return Run(
        name=setup.name,
        seed=setup["seed"],
        model=setup.model,
        stages=partial(_stages, setup),
        agent=setup.agent,
        baselines={"random": setup.random},
        world=setup.world,
        environment=setup["env"],
        config=setup.arguments,
    )


def _stages(setup: Setup, folder: Path) -> tuple[Stage, ...]:
    """Playing and learning, then the judge."""
    growing: list[Growing] = []  # made when the stage begins; the sampler reads the same store

    def collector() -> Growing:
        growing[:] = [Growing(setup, folder / "data")]
        return growing[0]

    def sampler() -> Replay:
        drawn = Sampler(
            *(growing[0].store, setup["batch"], setup["unroll"] + setup["steps"] + 1),
            strategy=setup.strategy,
            modalities=tuple(setup.model.observations),
            seed=setup["seed"],
            prefetch=0 if isinstance(setup.strategy, Prioritized) else 2,
            device=setup.model.device,
        )
        return Replay(drawn, setup)

    def finish(progress: Progress) -> dict[str, float]:
        del progress
        for one in growing:
            one.close()
        return {}

    parts: tuple[Part, ...] = setup.model.parts()
    return (
        Stage(
            "self_play",
            setup["updates"],
            learner=lambda: GradientLearner(parts),
            sampler=sampler,
            collector=collector,
            collect_every=10,
            evaluate=partial(scores, setup),
            evaluate_every=setup["evaluate_every"],
            finish=finish,
        ),
        Stage("judge", finish=partial(_judge, setup, folder)),
    )


def scores(setup: Setup, update: int) -> dict[str, float]:
    """How well it plays without exploring: its return, or its games against others.

    Args:
        setup: of the run.
        update: ignored.
    """
    del update
    count = setup["episodes"]
    with closing(setup.world(count, _TRIALS)) as env:
        if setup.players == 1:
            played = collect(env, setup.agent, episodes=count, seed=_TRIALS, explore=False)
            return {"return": float(np.mean([episode.info["return"] for episode in played]))}
        return against(setup, env, count, _TRIALS)


def against(setup: Setup, env: VectorEnv, games: int, seed: int) -> dict[str, float]:
    """Wins and draws against everyone there is, from both seats, by "seat, opponent, end".

    Args:
        setup: of the run.
        env: the board.
        games: of each pair.
        seed: of the games.
    """
    found: dict[str, float] = {}
    kind, _, name = setup["env"].partition("/")
    others = opponents(name) if kind == "board" else {"random": Legal()}
    for who, other in others.items():
        first = match(env, setup.agent, other, games=games, seed=seed)[0]
        second = match(env, other, setup.agent, games=games, seed=seed + 1)[1]
        for seat, result in (("first", first), ("second", second)):
            found[f"{seat}, {who}, wins"] = result.wins
            found[f"{seat}, {who}, draws"] = result.draws
    return found


def _judge(setup: Setup, folder: Path, progress: Progress) -> dict[str, float]:
    """Play beside random moves; where two play, against others instead."""
    if setup.players == 2:
        with closing(setup.world(50, _TRIALS)) as env:
            return against(setup, env, 200, _TRIALS + 2)
    found = judge(
        folder,
        {setup.name: setup.agent, "random": setup.random},
        setup.world,
        environment=setup["env"],
        unit="return",
        episodes=max(10, setup["episodes"]),
        seed=_TRIALS + 1,
        num_envs=setup["episodes"],
        progress=progress,
    )
    return {who: score.score.value for who, score in found.items()}
