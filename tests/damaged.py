"""True models with a known damage, and held-out segments of toy worlds, for tests of the judge."""

from __future__ import annotations

import torch

from reverie.agent import RandomAgent
from reverie.core import tree
from reverie.core.types import Heads
from reverie.data.collect import collect
from reverie.data.store import Store
from reverie.envs import spaces
from reverie.envs.toy import WORLDS
from reverie.evaluate.forecast import held_out


def store_of(path, name, episodes=24, seed=0, agent=None, **kwargs):
    """Episodes of a random agent."""
    env = WORLDS[name](8, seed=seed, **kwargs)
    observations, actions = spaces(env)
    with Store.create(path, observations, actions) as store:
        for episode in collect(
            env, agent or RandomAgent(actions), episodes=episodes, seed=seed, explore=True
        ):
            store.append(episode)
    return Store.open(path)


def segments(path, name, *, context=3, horizon=8, episodes=24, seed=0, **kwargs):
    """Held-out segments of a random agent."""
    store = store_of(path, name, episodes, seed, **kwargs)
    return held_out(store, context=context, horizon=horizon, seed=seed)


class Wrapped(torch.nn.Module):
    """A world model that another one stands behind; subclasses change one thing."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.card, self.observations = model.card, model.observations
        self.actions = model.actions

    @property
    def device(self):
        return self.model.device

    @property
    def heads(self) -> Heads:
        return self.model.heads

    def encode(self, obs):
        return self.model.encode(obs)

    def observe(self, *args, **kwargs):
        return self.model.observe(*args, **kwargs)

    def predict(self, state, action, *, z=None, generator=None):
        return self.model.predict(state, action, z=z, generator=generator)


class Noisy(Wrapped):
    """Each prediction is off by Gaussian noise of this size in every number of the state."""

    def __init__(self, model, noise, fields=None):
        super().__init__(model)
        self.noise, self.fields = noise, fields

    def predict(self, state, action, *, z=None, generator=None):
        after = super().predict(state, action, z=z, generator=generator)
        moved = {
            name: x + self.noise * torch.randn(x.shape, generator=generator)
            for name, x in after._asdict().items()
            if (self.fields is None or name in self.fields) and x.is_floating_point()
        }
        return after._replace(**moved)


class Blind(Wrapped):
    """Its predictions are those of the zero action, whatever is done."""

    def predict(self, state, action, *, z=None, generator=None):
        return super().predict(state, torch.zeros_like(action), z=z, generator=generator)


class Still(Wrapped):
    """Nothing ever changes."""

    def predict(self, state, action, *, z=None, generator=None):
        return tree.detach(state)


class Lent(Wrapped):
    """The same model with other heads."""

    def __init__(self, model, **heads):
        super().__init__(model)
        self.lent = heads

    @property
    def heads(self) -> Heads:
        return self.model.heads._replace(**self.lent)


def by_name(measures):
    found = {m.name: m for m in measures}
    assert len(found) == len(measures)
    return found
