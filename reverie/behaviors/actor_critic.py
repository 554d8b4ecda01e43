"""An actor and a critic that learn in imagination, on any world model with the heads they need.

From every state that the model inferred about a batch the actor dreams a few steps; the critic
learns what they were worth, and the actor to earn more. The settings are those of Dreamer 1
(value gradients through the dream), 2 (REINFORCE or value gradients, a target critic) and 3
(REINFORCE, normalised returns, a slow critic that pulls, a value loss on the replayed steps too).

One departure from the first two papers: V(s) does not count the reward of s itself, whichever
the setting, so that `heads.value` means the same everywhere. Imports core, nn and imagine.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reverie.behaviors.returns import lambda_returns, reached
from reverie.core import tree
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Part, WorldModel, need
from reverie.core.types import Batch, Box, Discrete, Heads, Loss, Optim
from reverie.imagine import unroll
from reverie.nn.layers import Style, dense, mlp
from reverie.nn.likelihood import Head, Likelihood, TwoHot, UnitGaussian
from reverie.nn.percentiles import Percentiles
from reverie.nn.policy import Clipped, OneOf, Squashed


@dataclass(frozen=True)
class ActorCriticConfig:
    """How a behavior learns; `V1`, `V2`, `V3` are the papers' settings."""

    actor: Optim
    critic: Optim
    box: Callable[..., Any]  # the distribution over Box actions: Clipped or Squashed
    likelihood: Likelihood  # of returns, as the critic says them
    style: Style
    units: int
    actor_layers: int
    critic_layers: int
    horizon: int = 15  # H
    discount: float = 1 - 1 / 333
    lam: float = 0.95
    value_gradients: float = 0.0  # share of the actor's objective that goes through the dream
    entropy: float = 3e-4
    unimix: float = 0.0  # share of chance in Discrete actions
    noise: float = 0.0  # deviation added to Box actions while exploring
    actor_scale: float = 1.0  # of the last layers' first weights
    critic_scale: float = 1.0
    slow_rate: float = 1.0  # of the slow critic's step towards the critic ...
    slow_every: int = 1  # ... after so many updates
    slow_targets: bool = False  # whether returns end in the slow critic's values
    slow_pull: float = 0.0  # weight of the critic's loss against the slow critic's values
    normalise: bool = False  # whether returns are divided by their range
    replay: float = 0.0  # weight of the critic's loss along the batch's own steps
    survival: float = 1.0  # reward of a step survived, where the model predicts no reward


V1 = ActorCriticConfig(
    actor=Optim("actor", lr=8e-5, clip_norm=100.0),
    critic=Optim("critic", lr=8e-5, clip_norm=100.0),
    box=Squashed,
    likelihood=UnitGaussian(),
    style=Style("elu", norm=False),
    units=400,
    actor_layers=4,
    critic_layers=3,
    discount=0.99,
    value_gradients=1.0,
    entropy=0.0,
    noise=0.3,
)
V2 = ActorCriticConfig(
    actor=Optim("actor", 8e-5, "adamw", eps=1e-5, weight_decay=1e-6, clip_norm=100.0),
    critic=Optim("critic", 8e-5, "adamw", eps=1e-5, weight_decay=1e-6, clip_norm=100.0),
    box=Clipped,
    likelihood=UnitGaussian(),
    style=Style("elu", norm=False),
    units=400,
    actor_layers=4,
    critic_layers=4,
    discount=0.99,
    value_gradients=1.0,
    entropy=1e-4,
    slow_every=100,
    slow_targets=True,
)
_LAPROP = Optim("dreamer", 4e-5, "laprop", eps=1e-20, agc=0.3, warmup=1000)
V3 = ActorCriticConfig(
    actor=_LAPROP,
    critic=_LAPROP,
    box=Clipped,
    likelihood=TwoHot(),
    style=Style("silu", norm=True),
    units=64,
    actor_layers=3,
    critic_layers=3,
    unimix=0.01,
    actor_scale=0.01,
    critic_scale=0.0,
    slow_rate=0.02,
    slow_pull=1.0,
    normalise=True,
    replay=0.3,
)


class Dreamt(NamedTuple):
    """What the actor's part hands to the critic's. N = B (T+1) dreams, moment after moment."""

    features: Tensor  # (H+1, N, D) without graph
    returns: Tensor  # (H, N) without graph
    weight: Tensor  # (H, N) how far each state is reached
    replayed: Tensor  # (B, T+1, D) features of the inferred states, with their graph


class ActorCritic(nn.Module):
    """A policy and a value over a world model's features.

    Args:
        model: needs `features`, and `reward` or `cont`.
        config: how it learns.
        heads: instead of the model's own, e.g. with lent ones.

    Raises:
        MissingHead: if the model cannot say what a behavior reads or earns.
        SpaceMismatch: if nothing acts, or value gradients are asked of Discrete actions.
        BadConfig: if actor and critic step together although value gradients pass the critic.
    """

    updates: Tensor

    def __init__(
        self, model: WorldModel[Any], config: ActorCriticConfig, *, heads: Heads | None = None
    ) -> None:
        super().__init__()
        self._heads = heads or model.heads
        (self._features,) = need(self._heads, "features", what="ActorCritic")
        if self._heads.reward is None:
            need(self._heads, "cont", what="ActorCritic (without a reward head)")
        space = _check(model, config)
        self.config, self.actions, self._model = config, model.actions, (model,)  # not a submodule
        kind = OneOf if isinstance(space, Discrete) else config.box
        width, inputs = kind.width(space), width_of(model, self._features)  # type: ignore
        self.actor = nn.Sequential(
            mlp(inputs, config.actor_layers, config.units, config.style),
            dense(config.units, width, scale=config.actor_scale),
        )
        self.critic = Head(
            *(inputs, config.critic_layers, config.units, config.style, config.likelihood),
            scale=config.critic_scale,
        )
        self.slow = deepcopy(self.critic).requires_grad_(requires_grad=False)
        self.range = Percentiles()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # of the slow critic

    # --- acting ---------------------------------------------------------------------------------

    def distribution(self, features: Tensor) -> Any:
        """Over actions (...,), of features (..., D)."""
        raw = self.actor(features)
        if isinstance(self.actions, Discrete):
            return OneOf(raw, self.actions, self.config.unimix)
        return self.config.box(raw, self.actions)

    def policy(self, state: Any, generator: torch.Generator | None = None) -> Tensor:
        """(B, A) or (B,) the likeliest action at states (B, ...)."""
        del generator
        return self.distribution(self._features(state)).mode

    def explore(self, state: Any, generator: torch.Generator | None = None) -> Tensor:
        """(B, A) or (B,) a draw of the policy at states (B, ...), with the paper's noise."""
        action = self.distribution(self._features(state)).sample(generator=generator)
        if isinstance(self.actions, Discrete) or not self.config.noise:
            return action
        noise = torch.randn(action.shape, generator=generator, device=action.device)
        return (action + self.config.noise * noise).clamp(-1, 1)

    @property
    def heads(self) -> Heads:
        """The model's heads with `policy` and `value` of this behavior."""
        return self._heads._replace(
            policy=lambda s: self.distribution(self._features(s)),
            value=lambda s: self.critic.mean(self._features(s))[..., 0],
        )

    # --- learning -------------------------------------------------------------------------------

    def parts(self) -> tuple[Part, ...]:
        """The actor, then the critic; both come after the part that infers states."""
        c = self.config
        return (
            Part("actor", self.actor, self._actor_loss, c.actor),
            Part("critic", self.critic, self._critic_loss, c.critic, self._after),
        )

    def _actor_loss(self, batch: Batch, states: Any) -> Loss:
        """Dream from every state, and prefer what was worth more than expected."""
        if states is None:
            raise BadConfig(
                "ActorCritic dreams from states that a part before it inferred, but there are "
                "none. Put the model's parts before it (or one that only infers)."
            )
        c, start = self.config, tree.flatten(tree.detach(states))
        with torch.set_grad_enabled(c.value_gradients > 0):
            actions, features, reward, goes_on = self._dream(start)
            critic = self.slow if c.slow_targets else self.critic
            value = critic.mean(features)[..., 0]  # (H+1, N)
            returns = lambda_returns(reward.T, goes_on.T, value[1:].T, c.lam).T
        weight = reached(_alive(batch).flatten(), goes_on.T).T.detach()
        scale = self.range(returns) if c.normalise else torch.ones((), device=returns.device)
        chosen = self.distribution(features[:-1].detach())
        objective = c.value_gradients * returns / scale + c.entropy * chosen.entropy()
        if c.value_gradients < 1:
            advantage = ((returns - value[:-1]) / scale).detach()
            score = chosen.log_prob(actions) * advantage
            objective = objective + (1 - c.value_gradients) * score
        terms = {
            "entropy": chosen.entropy().mean().detach(),
            "return": returns.mean().detach(),
            "scale": scale,
        }
        replayed = features[:0]
        if c.replay:
            replayed = self._features(tree.flatten(states)).unflatten(0, batch.first.shape)
        handed = Dreamt(features.detach(), returns.detach(), weight, replayed)
        return Loss(-(weight * objective).mean(), terms, handed)

    def _critic_loss(self, batch: Batch, dreamt: Dreamt) -> Loss:
        """Returns of the dream, and along the batch's own steps."""
        loss = self._value_loss(dreamt.features[:-1], dreamt.returns)
        total = (dreamt.weight * loss).mean()
        terms = {"value": total.detach()}
        if self.config.replay and batch.reward is not None:
            steps, boot = batch.first.shape, dreamt.returns[0]
            returns = self._replayed_returns(batch, batch.reward, boot.view(steps))
            mask = batch.mask.float()
            loss = self._value_loss(dreamt.replayed[:, :-1], returns)
            replay = (mask * loss).sum() / mask.sum().clamp(min=1)
            total = total + self.config.replay * replay
            terms["replay"] = replay.detach()
        return Loss(total, terms)

    def _value_loss(self, features: Tensor, returns: Tensor) -> Tensor:
        """(..., ) of features (..., D) against returns and, weighed, the slow critic."""
        raw, critic = self.critic(features), self.config.likelihood
        loss = critic.loss(raw, returns.unsqueeze(-1))
        if self.config.slow_pull:
            with torch.no_grad():
                slow = self.slow.mean(features)
            loss = loss + self.config.slow_pull * critic.loss(raw, slow)
        return loss

    def _replayed_returns(self, batch: Batch, reward: Tensor, boot: Tensor) -> Tensor:
        """(B, T) lambda-returns of real rewards that end in dreamed returns boot (B, T+1)."""
        c = self.config
        goes_on = c.discount * (~batch.terminated).float()
        last = batch.terminated | batch.truncated
        last[:, :-1] |= ~batch.mask[:, 1:]  # a recording may stop without an end
        return lambda_returns(reward, goes_on, boot[:, 1:], c.lam * (~last).float())

    def _dream(self, start: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """H steps of the policy from N states; moments come first.

        What a step earns is asked at once, while its states are still in the cache.

        Returns:
            Actions (H, N, ...), features of all states (H+1, N, D), and of each step the reward and
            the discounted continuation (H, N).
        """
        (model,), seen = self._model, [self._features(start)]
        steps: list[tuple[Any, Tensor, Tensor]] = []

        def act(state: Any, _: int) -> Tensor:
            return self.distribution(seen[-1].detach()).sample()

        for before, action, after in unroll(model, start, act, self.config.horizon):
            seen.append(self._features(after))
            steps.append((action, *self._earned(before, action, after)))
        actions, reward, goes_on = (torch.stack(x) for x in zip(*steps, strict=True))
        return actions, torch.stack(seen), reward, self.config.discount * goes_on

    def _earned(self, before: Any, action: Any, after: Any) -> tuple[Tensor, Tensor]:
        """Reward and probability to go on (N,) of transitions."""
        heads = self._heads
        if heads.cont is None:
            goes_on = torch.ones(tree.size(after), device=self.range.ends.device)
        else:
            goes_on = heads.cont(after)
        if heads.reward is None:
            return self.config.survival * goes_on, goes_on
        return heads.reward(before, action, after), goes_on

    @torch.no_grad()
    def _after(self) -> None:
        """Move the slow critic."""
        self.updates += 1
        every = self.config.slow_every
        if every > 1 and int(self.updates) % every:
            return
        pairs = zip(self.slow.parameters(), self.critic.parameters(), strict=True)
        for slow, now in pairs:
            slow.lerp_(now, self.config.slow_rate)


def _alive(batch: Batch) -> Tensor:
    """(B, T+1) 1.0 where the state is not an end, so that something can follow it."""
    follows = (batch.mask & ~batch.terminated) | batch.first[:, 1:]
    return torch.cat([batch.mask[:, :1], follows], 1).float()


@torch.no_grad()
def width_of(model: WorldModel[Any], features: Callable[[Any], Tensor]) -> int:
    """D of a model's features, found by looking at one made-up moment.

    Args:
        model: whose they are.
        features: (s) -> (B, D).
    """
    device, blank = model.device, {}
    for name, space in model.observations.items():
        dtype = getattr(torch, space.dtype) if isinstance(space, Box) else torch.int64
        shape = space.shape if isinstance(space, Box) else ()
        blank[name] = torch.zeros((1, *shape), dtype=dtype, device=device)
    generator = torch.Generator(device).manual_seed(0)
    return features(model.observe(None, None, model.encode(blank), generator=generator)).shape[-1]


def _check(model: WorldModel[Any], config: ActorCriticConfig) -> Box | Discrete:
    """The model's actions, if this behavior can choose among them."""
    space = model.actions
    if space is None:
        raise SpaceMismatch(
            f"ActorCritic chooses actions, but in {model.heads.owner} nothing acts. "
            "Choose a world with actions."
        )
    if config.value_gradients and isinstance(space, Discrete):
        raise SpaceMismatch(
            f"Value gradients pass through Box actions, but these are {space}. "
            "Set value_gradients to 0 (REINFORCE), or choose a world with a Box."
        )
    if isinstance(space, Box) and (space.low, space.high) != (-1.0, 1.0):
        raise SpaceMismatch(
            f"ActorCritic acts in [-1, 1], but the Box is {space.low}..{space.high}. "
            "Make the environment with reverie.envs.make, which scales it."
        )
    if config.value_gradients and config.actor == config.critic:
        raise BadConfig(
            "With value gradients the actor's objective passes the critic, so both must not step "
            "together. Give actor and critic an Optim each."
        )
    return space
