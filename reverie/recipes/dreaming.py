"""The stages of PlaNet, Dreamer and TD-MPC2, for any world.

`recipes/dreamer.py` and `recipes/tdmpc2.py` set them up. Random steps first; then model and
behavior learn from a store that grows by so many steps for each update; then the judge. Whole
episodes are collected, and what is collected follows from the seed and the number of episodes so
far, so a killed run resumes exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from reverie import envs
from reverie.agent import Agent, PolicyAgent, RandomAgent
from reverie.behaviors.actor_critic import ActorCritic, ActorCriticConfig
from reverie.checkpoint import load_weights
from reverie.core.errors import BadCheckpoint, BadConfig
from reverie.core.model import Part, WorldModel
from reverie.core.types import Act, Batch, Box, Discrete, Loss, Space
from reverie.data.collect import collect
from reverie.data.convert import check_spaces, open_data
from reverie.data.fill import mixed
from reverie.data.fresh import Fresh
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.evaluate.judge import judge
from reverie.learner import GradientLearner
from reverie.models.dreamer import SCHOOLS
from reverie.models.rssm import RSSM, RSSMConfig
from reverie.nn.conv import Halving
from reverie.plan_agent import PlanAgent
from reverie.progress import Progress
from reverie.recipes.contexts import Contexts
from reverie.run import Run, Stage, usable
from reverie.train import describe

_SIDE = 64  # of the pictures that the older stacks take
_TRIALS = 1_000_000  # seed of evaluation worlds, which no run trains on


@dataclass(frozen=True)
class Setup:
    """All that the stages of one run share."""

    name: str
    model: WorldModel[Any]
    behavior: Any  # a module with `parts`; None: it plans
    agent: Agent
    arguments: dict[str, Any]  # of the recipe
    contexts: Contexts | None = None  # None: segments begin from nothing

    def __getitem__(self, name: str) -> Any:
        """An argument of the recipe."""
        return self.arguments[name]

    def world(self, num_envs: int, seed: int) -> VectorEnv:
        """The environment that the recipe names."""
        return _world(self.arguments, num_envs, seed)


# -- what a recipe sets up ------------------------------------------------------------------------


def worldly(arguments: dict[str, Any], usual: str) -> dict[str, Any]:
    """A recipe's arguments with a world: the one that is named, the frozen run's, or the usual one.

    Args:
        arguments: of the recipe.
        usual: the world if nothing else is said; data needs none.
    """
    if arguments["env"] is not None:
        return arguments
    if arguments.get("frozen"):
        return {**arguments, "env": describe(arguments["frozen"])["environment"]}
    return {**arguments, "env": None if arguments["data"] else usual}


def _world(arguments: Mapping[str, Any], num_envs: int, seed: int) -> VectorEnv:
    """Only what was asked for is passed on: toy worlds take no more."""
    asked = {name: arguments.get(name) for name in ("action_repeat", "time_limit", "frames")}
    if arguments["observe"] != "auto":
        asked["observe"] = arguments["observe"]
    options = {name: value for name, value in asked.items() if value is not None}
    return envs.make(arguments["env"], num_envs, seed=seed, **options)


def spaces_of(arguments: Mapping[str, Any]) -> tuple[dict[str, Space], Space | None]:
    """Observations and actions of the data, if there is some, or of the world.

    Args:
        arguments: of the recipe.

    Raises:
        SpaceMismatch: if data and world do not fit together.
    """
    name, data = arguments["env"], _data(arguments)
    if data is None:
        with closing(_world(arguments, 1, 0)) as env:
            return envs.spaces(env)
    with open_data(data) as store:
        if name is not None:
            with closing(_world(arguments, 1, 0)) as env:
                check_spaces(store, *envs.spaces(env), name)
        return store.observations, store.actions


def _data(arguments: Mapping[str, Any]) -> str | None:
    """What to learn from: what was named, or what the frozen run learned from."""
    frozen = arguments.get("frozen")
    if arguments["data"] is not None or not frozen:
        return arguments["data"]
    return describe(frozen)["config"].get("data") or str(Path(frozen) / "data")


def modelled(name: str, config: RSSMConfig, arguments: Mapping[str, Any]) -> RSSM:
    """The school, seeded; the older stacks give way where pictures are not 64 x 64.

    Args:
        name: of the school.
        config: of the model.
        arguments: of the recipe.
    """
    observations, actions = spaces_of(arguments)
    device = usable(arguments["device"])
    sides = {s.shape[1:] for s in observations.values() if isinstance(s, Box) and len(s.shape) == 3}
    if not isinstance(config.stack, Halving) and sides - {(_SIDE, _SIDE)}:
        config = replace(config, stack=Halving(8, pooled=False))
    torch.manual_seed(arguments["seed"])
    return SCHOOLS[name].model(config, observations, actions).to(device)


def dreaming(
    name: str,
    config: RSSMConfig,
    behavior: ActorCriticConfig,
    arguments: dict[str, Any],
    *,
    contexts: bool = False,
) -> Setup:
    """A model and a behavior that dreams in it.

    Args:
        name: of the school, and of the recipe.
        config: of the model.
        behavior: how it learns.
        arguments: of the recipe.
        contexts: whether segments begin from the states last inferred there.
    """
    frozen = arguments["frozen"]
    if frozen is not None:
        _check_frozen(name, arguments)
        arguments = {**arguments, "data": _data(arguments)}
    model = modelled(name, config, arguments)
    if frozen is not None:
        load_weights(Path(frozen), model=model)
    actor_critic = ActorCritic(model, behavior).to(model.device)
    agent = PolicyAgent(model, actor_critic.policy, explore=actor_critic.explore)
    begun = Contexts(model) if contexts else None
    return Setup(name, model, actor_critic, agent, arguments, begun)


def _check_frozen(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse the run of another school or size before a model of the wrong one is built."""
    found, asked = describe(arguments["frozen"]), arguments["size"]
    size = found["config"].get("size")
    if (found["name"], size) != (name, asked):
        raise BadCheckpoint(
            f"{arguments['frozen']} is a run of {found['name']} of size {size}, but {name} of size "
            f"{asked} was asked for. Ask for {found['name']} with --size {size}."
        )


class NoisyPlans:
    """A planner's actions, disturbed while exploring; what is remembered is what was done.

    Args:
        agent: plans.
        actions: the space.
        std: of the noise on Box actions.
        epsilon: share of Discrete actions that are drawn at random.

    Source: Hafner et al. 2019, algorithm 1 ("exploration noise").
    """

    def __init__(
        self, agent: PlanAgent[Any], actions: Space | None, std: float = 0.3, epsilon: float = 0.1
    ) -> None:
        self._agent, self._std, self._epsilon = agent, std, epsilon
        self._discrete = isinstance(actions, Discrete)
        self._random = RandomAgent(actions) if actions is not None else None

    def initial(self, batch: int) -> Any:
        """Nothing was seen yet.

        Args:
            batch: environments B.
        """
        return self._agent.initial(batch)

    def act(
        self,
        carry: Any,
        obs: dict[str, torch.Tensor],
        first: torch.Tensor,
        *,
        explore: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Act]:
        """See `Agent.act`."""
        carry, act = self._agent.act(carry, obs, first, generator=generator)
        action = act.action
        if explore and not self._discrete:
            noise = torch.randn(action.shape, generator=generator).to(action.device)
            action = (action + self._std * noise).clamp(-1, 1)
        elif explore and self._random is not None:
            any_ = self._random.act(None, obs, first, generator=generator)[1].action
            dice = torch.rand(action.shape, generator=generator) < self._epsilon
            action = torch.where(dice.to(action.device), any_.to(action.device), action)
        return carry._replace(action=action), Act(action, {})


# -- stages ---------------------------------------------------------------------------------------


def run_of(setup: Setup, stages: Callable[[Setup, Path], tuple[Stage, ...]] | None = None) -> Run:
    """The run that a recipe returns.

    Args:
        setup: the model, and what acts.
        stages: of the run, in its folder; None: a model and a behavior that learn from batches.
    """
    return Run(
        name=setup.name,
        seed=setup["seed"],
        model=setup.model,
        behavior=setup.behavior,
        stages=partial(stages or _stages, setup),
        agent=setup.agent,
        baselines={"random": RandomAgent(acted(setup))},
        world=setup.world if setup["env"] else None,
        environment=setup["env"],
        config={**setup.arguments, "data": _asked_data(setup)},
    )


def _asked_data(setup: Setup) -> str | None:
    """The `data` argument as it was given: with `frozen` it was filled in."""
    return None if setup.arguments.get("frozen") else setup["data"]


def acted(setup: Setup) -> Space:
    """The actions of a world in which something acts."""
    if setup.model.actions is None:
        raise BadConfig(f"{setup.name} needs a world with actions. Choose another environment.")
    return setup.model.actions


def _stages(setup: Setup, folder: Path) -> tuple[Stage, ...]:
    """Random steps, learning, the judge."""
    data = Path(setup["data"] or folder / "data")
    growing: list[Growing] = []  # made when the stage begins; the sampler reads the same store

    def collector() -> Growing:
        growing[:] = [Growing(setup, data)]
        return growing[0]

    def sampler() -> Sampler | Contexts:
        store = growing[0].store if growing else open_data(data)
        drawn = Sampler(
            *(store, setup["batch"], setup["length"]),
            strategy=Fresh(setup["length"]),
            modalities=tuple(setup.model.observations),
            seed=setup["seed"],
            device=setup.model.device,
        )
        return drawn if setup.contexts is None else setup.contexts.over(drawn)

    def finish(progress: Progress) -> dict[str, float]:
        del progress
        for one in growing:
            one.close()
        return {}

    last = (Stage("judge", finish=partial(judged, setup, folder)),) if setup["env"] else ()
    return (
        Stage("collect", prepare=partial(prefill, setup, data)),
        Stage(
            "dream",
            setup["updates"],
            learner=lambda: GradientLearner(_parts(setup), precision=setup["precision"]),
            sampler=sampler,
            collector=None if setup["data"] else collector,
            collect_every=10,
            evaluate=partial(evaluate, setup) if setup["env"] else None,
            evaluate_every=setup["evaluate_every"],
            finish=finish,
        ),
        *last,
    )


def _parts(setup: Setup) -> list[Part]:
    """The model's and the behavior's; of a frozen model only what infers states."""
    model = setup.model.parts()
    if setup.contexts is not None:
        model = tuple(setup.contexts.around(part) for part in model)
    behavior = [] if setup.behavior is None else [*setup.behavior.parts()]
    if setup.arguments.get("frozen") is None:
        return [*model, *behavior]
    actor = behavior[0]

    def loss(batch: Batch, states: Any) -> Loss:
        del states
        with torch.no_grad():
            inferred = model[0].loss(batch, None).states
        return actor.loss(batch, inferred)

    return [actor._replace(loss=loss), *behavior[1:]]


class Growing:
    """A `Collector`: whole episodes, until there were so many steps for each update.

    Args:
        setup: of the run.
        data: path of the store; it is there already.
    """

    def __init__(self, setup: Setup, data: Path) -> None:
        self.store = Store.open(data, writable=True)
        self._setup, self._env = setup, setup.world(1, setup["seed"])

    def collect(self, update: int) -> dict[str, float]:
        """See `Collector.collect`."""
        setup = self._setup
        later = max(0, update - setup.arguments.get("pretrain", 0))  # updates on random steps alone
        wanted = setup["prefill"] + int(setup["steps_per_update"] * later)
        found = _grow(self.store, self._env, setup.agent, wanted, setup["seed"])
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


def _grow(store: Store, env: VectorEnv, agent: Agent, steps: int, seed: int) -> list[float]:
    """Append episodes until the store holds so many steps; their returns."""
    returns: list[float] = []
    while store.steps < steps:
        number = mixed(seed, len(store))
        for episode in collect(env, agent, episodes=1, seed=number):
            store.append(replace(episode, extra={}))  # what a planner says is not learned from
            returns.append(episode.info["return"])
    return returns


def prefill(setup: Setup, data: Path, progress: Progress) -> None:
    """Random steps, unless there is a store to learn from."""
    if setup["data"]:
        return
    with closing(setup.world(1, setup["seed"])) as env:
        if not data.exists():
            Store.create(data, *envs.spaces(env)).close()
        with Store.open(data, writable=True) as store:
            before = store.steps
            _grow(store, env, RandomAgent(acted(setup)), setup["prefill"], setup["seed"])
            with progress.task("collect", store.steps, before) as task:
                task.advance(store.steps - before)


def evaluate(setup: Setup, update: int) -> dict[str, float]:
    """Mean return of whole episodes, without exploration."""
    del update
    count = setup["episodes"]
    with closing(setup.world(count, _TRIALS)) as env:
        played = collect(env, setup.agent, episodes=count, seed=_TRIALS, explore=False)
    return {"return": float(np.mean([episode.info["return"] for episode in played]))}


def judged(setup: Setup, folder: Path, progress: Progress) -> dict[str, float]:
    """Play in the world beside a random agent."""
    scores = judge(
        folder,
        {setup.name: setup.agent, "random": RandomAgent(acted(setup))},
        setup.world,
        environment=setup["env"],
        unit="return",
        episodes=max(10, setup["episodes"]),
        seed=_TRIALS + 1,
        num_envs=setup["episodes"],
        progress=progress,
    )
    return {who: score.score.value for who, score in scores.items()}
