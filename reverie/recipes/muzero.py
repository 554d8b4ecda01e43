"""MuZero, Gumbel MuZero and Stochastic MuZero in any environment by name, from self-play.

    reverie train muzero --env CartPole-v1 --seed 3
    reverie train gumbel_muzero --env board/tic_tac_toe
    reverie train stochastic_muzero --env board/twenty48
    reverie train muzero --env Pendulum-v1                 # Box actions: sampled ones are searched

What fits a world stands in `PRESETS`; every argument can be said otherwise. The stages are in
`recipes/self_play.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from reverie import envs
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.core.types import Discrete, Optim, Space
from reverie.data.strategy import Prioritized, Recent, Strategy
from reverie.models.muzero import Consistency, MuZero, MuZeroConfig
from reverie.models.muzero_stochastic import StochasticConfig, StochasticMuZero
from reverie.nn.likelihood import Likelihood, UnitGaussian
from reverie.nn.support import Support
from reverie.planners.compiled_mlp import CompiledMLP
from reverie.planners.mcts import MCTS, Outcomes
from reverie.planners.selection import PUCT, Gumbel
from reverie.recipes.self_play import Reanalysis, Setup, run_of
from reverie.recipes.turned import turned
from reverie.run import Run, usable


@dataclass(frozen=True)
class Preset:
    """What fits one world."""

    players: int = 1
    discount: float = 0.997
    simulations: int = 25
    updates: int = 10_000
    steps_per_update: float = 8.0
    prefill: int = 2000
    num_envs: int = 8  # games at once
    batch: int = 128
    unroll: int = 5
    steps: int = 20
    latent: int = 64
    units: int = 128
    layers: int = 1
    lr: float = 2e-3
    numbers: Literal["support", "scalar"] = "support"
    value_weight: float = 0.25
    reward_weight: float = 1.0
    draw: Literal["uniform", "recent", "prioritised"] = "prioritised"
    noise: float = 0.3  # alpha of pUCT's Dirichlet noise
    temperature: float = 0.5  # of pUCT's choices while it learns
    blunders: float = 0.0  # share of moves made without a thought while it learns


TWO = Preset(
    players=2,
    discount=1.0,
    updates=24_000,
    num_envs=64,
    batch=256,
    unroll=3,
    steps=9,
    lr=4e-3,
    numbers="scalar",
    value_weight=4.0,  # a rare win or loss of 1 is heard beside the policy's nats
    reward_weight=8.0,
    draw="recent",
    temperature=1.0,
    blunders=0.1,
)
PRESETS: dict[str, Preset] = {
    "CartPole-v1": Preset(),
    "board/tic_tac_toe": TWO,
    "board/connect_four": replace(
        TWO, steps=42, simulations=50, updates=40_000, noise=1.0, latent=128, units=256
    ),
    "board/twenty48": Preset(discount=0.999, steps=10, num_envs=32, noise=0.5),
    "board/coin": Preset(
        discount=1.0,
        steps=2,
        updates=1500,
        num_envs=32,
        latent=16,
        units=64,
        unroll=3,
        noise=1.0,
        temperature=1.0,
    ),
}


def muzero(
    *,
    env: str = "CartPole-v1",
    seed: int = 0,
    search: Literal["puct", "gumbel"] = "puct",
    simulations: int | None = None,
    play: int = 50,
    updates: int | None = None,
    steps_per_update: float | None = None,
    prefill: int | None = None,
    num_envs: int | None = None,
    batch: int | None = None,
    unroll: int | None = None,
    steps: int | None = None,
    discount: float | None = None,
    players: int | None = None,
    latent: int | None = None,
    units: int | None = None,
    layers: int | None = None,
    lr: float | None = None,
    numbers: Literal["support", "scalar"] | None = None,
    value_weight: float | None = None,
    reward_weight: float | None = None,
    draw: Literal["uniform", "recent", "prioritised"] | None = None,
    noise: float | None = None,
    temperature: float | None = None,
    blunders: float | None = None,
    symmetries: bool = True,
    consistency: float = 0.0,
    reanalyse: float = 0.0,
    time_limit: int | None = None,
    evaluate_every: int = 500,
    episodes: int = 10,
    device: str = "cpu",
) -> Run:
    """MuZero; an argument that is None is what `PRESETS` has for the world.

    Args:
        env: any name of `reverie.envs.make`.
        seed: of everything.
        search: "puct", or "gumbel", which learns from few simulations.
        simulations: of each search while it learns.
        play: simulations of each search while it plays as well as it can.
        updates: of the model.
        steps_per_update: decisions in the world for each update.
        prefill: decisions before the first one, by searches in the untrained model.
        num_envs: games at once, through one search.
        batch: segments in a batch.
        unroll: K, model steps that are trained.
        steps: n, rewards of a return before a search's value.
        discount: of a step.
        players: 2 where turns alternate.
        latent: D.
        units: of each hidden layer.
        layers: hidden ones of each network.
        lr: learning rate at the begin; it falls to a tenth.
        numbers: values and rewards as a categorical "support", or "scalar", which can be compiled.
        value_weight: of the value's loss.
        reward_weight: of the reward's loss.
        draw: how segments are drawn.
        noise: alpha of the Dirichlet noise, of "puct".
        temperature: of the choice among visits while it learns, of "puct".
        blunders: share of the moves that are drawn at random while it learns.
        symmetries: whether boards are turned and mirrored as they are learned from.
        consistency: weight of EfficientZero's consistency loss; 0: none.
        reanalyse: share of each batch that is searched anew.
        time_limit: of an episode, in environment steps; None: the environment's own.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        device: where the model lives.
    """
    return run_of(setup_of(dict(locals())))


def gumbel_muzero(
    *,
    env: str = "board/tic_tac_toe",
    seed: int = 0,
    simulations: int = 16,
    updates: int | None = None,
    evaluate_every: int = 500,
    episodes: int = 50,
    device: str = "cpu",
) -> Run:
    """Gumbel MuZero: `muzero` with another search.

    Args:
        env: any name of `reverie.envs.make`.
        seed: of everything.
        simulations: of each search.
        updates: of the model; None: what fits the world.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        device: where the model lives.
    """
    return muzero(search="gumbel", **locals())


def stochastic_muzero(
    *,
    env: str = "board/twenty48",
    seed: int = 0,
    search: Literal["puct", "gumbel"] = "puct",
    codes: int = 32,
    simulations: int | None = None,
    updates: int | None = None,
    evaluate_every: int = 500,
    episodes: int = 10,
    device: str = "cpu",
) -> Run:
    """Stochastic MuZero: afterstates and chance codes, and a search with chance nodes.

    Args:
        env: any name of `reverie.envs.make`.
        seed: of everything.
        search: "puct" or "gumbel".
        codes: C, things that chance may do.
        simulations: of each search; None: what fits the world, as for `muzero`.
        updates: of the model.
        evaluate_every: updates between two evaluations.
        episodes: of each evaluation.
        device: where the model lives.
    """
    given = dict(locals())
    usual = {name: each.default for name, each in signature(muzero).parameters.items()}
    setup = stochastic_of(usual | given)
    return replace(run_of(setup), config={name: setup.arguments[name] for name in given})


def setup_of(arguments: dict[str, Any]) -> Setup:
    """MuZero and its searches.

    Args:
        arguments: of `muzero`.
    """
    arguments = filled(arguments)
    observations, actions = spaces_of(arguments)
    torch.manual_seed(arguments["seed"])
    model = MuZero(config_of(arguments), observations, actions).to(usable(arguments["device"]))
    return _set_up("muzero", model, arguments, lambda: compiled(model))


def stochastic_of(arguments: dict[str, Any]) -> Setup:
    """Stochastic MuZero and its searches, which have chance nodes.

    Args:
        arguments: of `muzero`, and `codes`.
    """
    arguments = filled(arguments)
    observations, actions = spaces_of(arguments)
    torch.manual_seed(arguments["seed"])
    config = StochasticConfig(config_of(arguments), arguments["codes"])
    model = StochasticMuZero(config, observations, actions).to(usable(arguments["device"]))

    def chance(state: Any, action: Tensor) -> Outcomes:
        return Outcomes(*model.chances(state, action))

    return _set_up("stochastic_muzero", model, arguments, lambda: None, chance=chance)


def _set_up(
    name: str,
    model: WorldModel[Any],
    arguments: dict[str, Any],
    net: Callable[[], CompiledMLP | None],
    **options: Any,
) -> Setup:
    """What the stages share; `options` are of the searches."""
    search, explore = searches(arguments, model.actions, **options)
    again = arguments["reanalyse"]
    return Setup(
        name=name,
        model=model,
        search=search,
        explore=explore,
        compiled=net,
        arguments=arguments,
        strategy=strategy_of(arguments),
        turns=turned(arguments["env"]) if arguments["symmetries"] else None,
        again=Reanalysis(explore, again) if again else None,
        players=arguments["players"],
    )


def filled(arguments: dict[str, Any]) -> dict[str, Any]:
    """A recipe's arguments with what fits the world where nothing was said.

    Args:
        arguments: of `muzero`.

    Raises:
        BadConfig: if a share is out of its range.
    """
    preset = PRESETS.get(arguments["env"], Preset())
    usual = {name: getattr(preset, name) for name in preset.__dataclass_fields__}
    said = {name: value for name, value in arguments.items() if value is not None}
    found = {**arguments, **usual, **said}
    shares = {name: found[name] for name in ("reanalyse", "blunders")}
    if not all(0 <= share <= 1 for share in shares.values()) or found["consistency"] < 0:
        raise BadConfig(
            "reanalyse and blunders are shares in 0..1 and consistency a weight of 0 or more, but "
            f"they are {shares} and {found['consistency']}. Choose other numbers."
        )
    return found


def spaces_of(arguments: dict[str, Any]) -> tuple[dict[str, Space], Space]:
    """Observations and actions of the world that is named."""
    env = envs.make(arguments["env"], 1)
    found = envs.spaces(env)
    env.close()
    return found


def config_of(arguments: dict[str, Any]) -> MuZeroConfig:
    """The model's, from the arguments of `muzero`."""
    likelihood: Likelihood = UnitGaussian() if arguments["numbers"] == "scalar" else Support(50)
    weight, updates = arguments["consistency"], arguments["updates"]
    optim = Optim(
        "model",
        arguments["lr"],
        weight_decay=1e-4,
        kind="adamw",
        clip_norm=5.0,
        decay=0.1 ** (1 / max(1, updates)),
    )
    return MuZeroConfig(
        latent=arguments["latent"],
        units=arguments["units"],
        layers=arguments["layers"],
        reward=likelihood,
        value=likelihood,
        unroll=arguments["unroll"],
        steps=arguments["steps"],
        discount=arguments["discount"],
        players=arguments["players"],
        value_weight=arguments["value_weight"],
        reward_weight=arguments["reward_weight"],
        consistency=Consistency(weight) if weight else None,
        optim=optim,
    )


def searches(arguments: dict[str, Any], actions: Space | None, **options: Any) -> tuple[MCTS, MCTS]:
    """To play as well as it can, and to learn from.

    Args:
        arguments: of `muzero`.
        actions: of the model.
        **options: more of the searches.
    """
    options |= {"discount": arguments["discount"], "players": arguments["players"]}
    gumbel, count = arguments["search"] == "gumbel", arguments["simulations"]
    noisy = PUCT(arguments["temperature"], noise=0.25, alpha=arguments["noise"])
    explore = MCTS(Gumbel(noise=1.0) if gumbel else noisy, count, **options)
    # Of sampled actions, all of one prior, pUCT needs a thousand simulations.
    many = isinstance(actions, Discrete)
    return MCTS(PUCT() if many else Gumbel(), arguments["play"], **options), explore


def strategy_of(arguments: dict[str, Any]) -> Strategy | str:
    """How segments are drawn."""
    known: dict[str, Strategy | str] = {
        "uniform": "uniform",
        "recent": Recent(half_life=20_000),
        "prioritised": Prioritized(exponent=0.6, floor=1e-2),
    }
    return known[arguments["draw"]]


def compiled(model: MuZero) -> CompiledMLP | None:
    """The networks of this moment as arrays; None if a search cannot run them compiled."""
    numbers = (model.config.reward, model.config.value)
    plain = all(isinstance(one, UnitGaussian) for one in numbers)
    if not (plain and isinstance(model.actions, Discrete) and model.device.type == "cpu"):
        return None
    return CompiledMLP(
        model.dynamics,
        model.prediction,
        latent=lambda state: state.latent,
        rescale=True,
        legal=lambda state: state.legal,
    )
