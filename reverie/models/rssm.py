"""The recurrent state-space model of PlaNet and Dreamer 1 to 3: remember, and guess the rest.

The state is a deterministic memory and a stochastic latent z. A step moves the memory by (memory,
z, action); the prior says what z will be, the posterior what it is once the observation was seen.
In the scaffold: Enc is a convolution stack for pictures and an MLP for vectors, Pred is one
recurrent step and one draw from the prior.

What the four papers disagree about is passed in as objects (`RSSMConfig`): the latent, the
recurrence, the divergence, what each head's numbers mean. `models/dreamer.py` has their table.
Read top to bottom: config, encoder, decoder, the model, its loss.

Letters: M memory, Z latent, E what the encoder gives, W raw numbers that say one latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core import tree
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Box, Discrete, Heads, Loss, Optim, Space, check_batch
from reverie.nn.conv import Stack, as_floats
from reverie.nn.latent import Divergence, Latent
from reverie.nn.layers import Style, dense, mlp
from reverie.nn.likelihood import Head, Likelihood
from reverie.nn.onepass import picture_error
from reverie.nn.recurrent import BlockGRU, Recurrence, Sizes
from reverie.nn.symlog import symlog


@dataclass(frozen=True)
class RSSMConfig:
    """What a member of the line is made of; `models/dreamer.py` has the papers' settings."""

    memory: int  # M
    hidden: int  # units inside the recurrence, the prior and the posterior
    units: int  # of every MLP
    latent: Latent  # z
    recurrence: Callable[[Sizes, Style], Any]
    divergence: Divergence
    style: Style
    stack: Stack  # for pictures
    vector: Likelihood  # of decoded vectors
    reward: Likelihood
    optim: Optim
    layers: int = 3  # of the MLPs to and from vectors
    prior_layers: int = 1
    reward_layers: int = 1
    cont_layers: int = 1
    symlog: bool = False  # whether vectors are squashed on their way in
    sigmoid: bool = False  # whether decoded pictures pass a sigmoid; else they are 0.5 off
    picture_weight: float = 0.5  # of a picture's squared error; 0.5 is that of a unit Gaussian
    reward_scale: float = 1.0  # of the reward head's first weights
    reward_weight: float = 1.0
    cont_weight: float = 1.0  # 0: no head says when episodes end


class State(NamedTuple):
    """What the model knows at one moment."""

    memory: Tensor  # (B, M)
    z: Tensor  # (B, Z), drawn


class Begun(NamedTuple):
    """What led to a segment's first observation; zeros where nothing is known of it."""

    state: State  # (B, ...) before
    action: Tensor  # (B, A) as `RSSM.acted` gives it


class Encoder(nn.Module):
    """All modalities to one vector: pictures by convolutions, vectors by one MLP.

    Args:
        config: of the model.
        pictures: shapes by name.
        vectors: sizes by name.
    """

    def __init__(
        self,
        config: RSSMConfig,
        pictures: Mapping[str, tuple[int, int, int]],
        vectors: Mapping[str, int],
    ) -> None:
        super().__init__()
        built = {name: config.stack.encoder(shape) for name, shape in pictures.items()}
        self.vectors, self.squash = tuple(vectors), config.symlog
        self.pictures = nn.ModuleDict({name: module for name, (module, _) in built.items()})
        inputs = sum(vectors.values())
        self.mlp = mlp(inputs, config.layers, config.units, config.style) if vectors else None
        self.size = sum(width for _, width in built.values()) + config.units * bool(vectors)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """(N, E) of observations (N, ...)."""
        found = [net(as_floats(obs[name]).sub_(0.5)) for name, net in self.pictures.items()]
        if self.mlp is not None:
            vector = torch.cat([obs[name].float() for name in self.vectors], -1)
            found.append(self.mlp(symlog(vector) if self.squash else vector))
        return torch.cat(found, -1)


class Decoder(nn.Module):
    """From a state to every modality."""

    def __init__(
        self,
        config: RSSMConfig,
        pictures: Mapping[str, tuple[int, int, int]],
        vectors: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.config, self.sizes = config, dict(vectors)
        widths = (config.memory, config.latent.size, config.units)
        self.pictures = nn.ModuleDict(
            {name: config.stack.decoder(shape, *widths) for name, shape in pictures.items()}
        )
        features = config.memory + config.latent.size
        total = sum(vectors.values())
        self.vector = None
        if vectors:
            self.vector = Head(
                features, config.layers, config.units, config.style, config.vector, size=total
            )

    def picture(self, name: str, state: State) -> Tensor:
        """(N, C, H, W) in [0, 1] of states (N, ...), float32."""
        raw = self.pictures[name](state.memory, state.z).float()
        return raw.sigmoid() if self.config.sigmoid else raw + 0.5

    def forward(self, state: State) -> dict[str, Tensor]:
        """Observations (N, ...) in their own units, of states (N, ...)."""
        found = {name: self.picture(name, state) * 255 for name in self.pictures}
        if self.vector is not None:
            mean = self.vector.mean(_features(state))
            found |= dict(zip(self.sizes, mean.split([*self.sizes.values()], -1), strict=True))
        return found

    def losses(self, obs: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
        """Reconstruction (N,) by modality, summed over pixels or dimensions."""
        found = {}
        for name in self.pictures:
            raw = self.pictures[name](state.memory, state.z)
            error = picture_error(raw, obs[name], sigmoid=self.config.sigmoid)
            found[name] = self.config.picture_weight * error
        if self.vector is not None:
            target = torch.cat([obs[name].float() for name in self.sizes], -1)
            found["vector"] = self.vector.loss(_features(state), target)
        return found


class _Posterior(nn.Module):
    """z given memory and what was seen, as two products so that the seen half can run ahead."""

    def __init__(self, config: RSSMConfig, seen: int) -> None:
        super().__init__()
        fan = config.memory + seen
        self.memory = dense(config.memory, config.hidden, fan=fan, bias=False)
        self.seen = dense(seen, config.hidden, fan=fan)
        self.after = nn.Sequential(*config.style.after(config.hidden))
        self.out = dense(config.hidden, config.latent.width)

    def forward(self, memory: Tensor, seen: Tensor) -> Tensor:
        """(N, W) of memory (N, M) and `self.seen` of h (N, hidden)."""
        return self.out(self.after(self.memory(memory) + seen))


class RSSM(WorldModel[State]):
    """Memory, prior, posterior and heads behind the contract.

    Args:
        config: what it is made of.
        observations: 'uint8' pictures (C, H, W) and float vectors (D,), at least one.
        actions: Box or Discrete.

    Raises:
        SpaceMismatch: if a modality has no encoder here, or nothing acts.
        BadConfig: if a size does not fit the recurrence.
    """

    def __init__(
        self, config: RSSMConfig, observations: Mapping[str, Space], actions: Space | None
    ) -> None:
        super().__init__()
        pictures, vectors, acted = _check(self.card.name, config, observations, actions)
        self.design = config  # of objects, which a file cannot hold: `load_model` wants a recipe
        self.observations = {name: observations[name] for name in (*pictures, *vectors)}
        self.actions = actions
        c, features = config, config.memory + config.latent.size
        self.encoder = Encoder(c, pictures, vectors)
        sizes = Sizes(c.memory, c.latent.size, acted, c.hidden)
        self.recurrence: Recurrence = c.recurrence(sizes, c.style)
        self.prior = nn.Sequential(
            mlp(c.memory, c.prior_layers, c.hidden, c.style), dense(c.hidden, c.latent.width)
        )
        self.posterior = _Posterior(c, self.encoder.size)
        self.decoder = Decoder(c, pictures, vectors)
        self.reward = Head(
            features, c.reward_layers, c.units, c.style, c.reward, scale=c.reward_scale
        )
        self.cont = nn.Sequential()  # raw log-odds that the episode goes on
        if c.cont_weight:
            self.cont = nn.Sequential(
                mlp(features, c.cont_layers, c.units, c.style), dense(c.units, 1)
            )

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """h (B, E) of observations (B, ...)."""
        return self.encoder(obs)

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: Tensor,
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Move the memory, then draw z from the posterior. See `WorldModel.observe`.

        An episode begins with a step from a zero state under a zero action.
        """
        if state is None or action is None:
            state = self._blank(h)
            moved = h.new_zeros(len(h), self._acted)
        else:
            moved = self.acted(action)
            if first is not None:
                keep = (~first).unsqueeze(-1)
                state = State(state.memory * keep, state.z * keep)
                moved = moved * keep
        memory = self.recurrence.step(*state, self.recurrence.project(moved))
        raw = self.posterior(memory, self.posterior.seen(h))
        noise = self.design.latent.noise((len(h),), generator, memory)
        return State(memory, self.design.latent.draw(raw, noise))

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Move the memory, then draw z from the prior; `z` is the noise of that draw (B, ...)."""
        if action is None:
            raise SpaceMismatch(f"{self.card.title} predicts under actions, but action is None.")
        memory = self.recurrence.step(*state, self.recurrence.project(self.acted(action)))
        raw = self.prior(memory)
        noise = self.design.latent.noise((len(raw),), generator, raw) if z is None else z
        return State(memory, self.design.latent.draw(raw, noise))

    @property
    def heads(self) -> Heads:
        """reward, decode, embed, features; cont where it is learned."""
        goes_on = bool(self.design.cont_weight)
        return Heads(
            owner=self.card.name,
            reward=lambda s, a, n: self.reward.mean(_features(n))[:, 0],
            cont=(lambda n: self.cont(_features(n))[:, 0].float().sigmoid()) if goes_on else None,
            decode=self.decoder,
            embed=lambda s: s.memory,
            features=_features,
        )

    def parts(self) -> tuple[Part, ...]:
        """One part; its states are the posterior's."""
        return (Part("model", self, self._loss, self.design.optim),)

    def _loss(self, batch: Batch, states: Any) -> Loss:
        """Reconstruction, reward and continuation at every state, and the divergence.

        Reward and continuation are read from the state that a transition leads to. Segments
        begin from nothing, or from the `Begun` that is given as states.
        """
        check_batch(batch, self.observations, self.actions)
        states, raw = self._infer(batch, states if isinstance(states, Begun) else None)
        seen = torch.cat([torch.ones_like(batch.mask[:, :1]), batch.mask | batch.first[:, 1:]], 1)
        seen, mask = seen.float(), batch.mask.float()
        flat = {name: batch.obs[name].flatten(0, 1) for name in self.observations}
        restored = self.decoder.losses(flat, tree.flatten(states))
        terms = {k: _mean(x.view_as(seen), seen) for k, x in restored.items()}
        weights = dict.fromkeys(terms, 1.0) | self.design.divergence.weights
        terms |= self.design.divergence.loss(
            self.design.latent, raw, self.prior(states.memory), seen
        )
        after = _features(states)[:, 1:]
        if batch.reward is not None:
            terms["reward"] = _mean(self.reward.loss(after, batch.reward[..., None]), mask)
            weights["reward"] = self.design.reward_weight
        if self.design.cont_weight:
            terms["cont"] = _mean(self._cont_loss(after, batch.terminated), mask)
            weights["cont"] = self.design.cont_weight
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return Loss(total, {name: term.detach() for name, term in terms.items()}, states)

    def _cont_loss(self, features: Tensor, terminated: Tensor) -> Tensor:
        """Cross-entropy (B, T) of going on."""
        logit = self.cont(features)[..., 0].float()
        goes_on = (~terminated).float()
        return F.binary_cross_entropy_with_logits(logit, goes_on, reduction="none")

    def _infer(self, batch: Batch, begun: Begun | None = None) -> tuple[State, Tensor]:
        """Posterior states (B, T+1, ...) and their raw latents (B, T+1, W).

        What does not depend on the memory runs over the whole segment before the loop.
        """
        b, steps = batch.first.shape
        obs = {name: batch.obs[name].flatten(0, 1) for name in self.observations}
        seen = self.posterior.seen(self.encoder(obs)).view(b, steps, -1).unbind(1)
        keep = (~batch.first).unsqueeze(-1).float()
        action = self.acted(batch.action)  # type: ignore[arg-type]
        before = torch.zeros_like(action[:, :1]) if begun is None else begun.action.unsqueeze(1)
        action = torch.cat([before, action], 1) * keep
        projected = self.recurrence.project(action).unbind(1)
        noise = self.design.latent.noise((b, steps), None, keep).unbind(1)
        memory, z = self._blank(keep) if begun is None else begun.state
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for t, on in enumerate(keep.unbind(1)):
            memory = self.recurrence.step(memory * on, z * on, projected[t])
            raw = self.posterior(memory, seen[t])
            z = self.design.latent.draw(raw, noise[t])
            found.append((memory, z, raw))
        memories, latents, raws = (torch.stack(x, 1) for x in zip(*found, strict=True))
        return State(memories, latents), raws

    @property
    def _acted(self) -> int:
        """Width of an action as a vector."""
        return _width(self.actions)

    def acted(self, action: Tensor) -> Tensor:
        """Actions as vectors (..., A): one-hot, or flat and within [-1, 1]."""
        if isinstance(self.actions, Discrete):
            return F.one_hot(action, self.actions.n).float()
        flat = action.flatten(action.dim() - len(self.actions.shape))  # type: ignore[union-attr]
        return flat / flat.detach().abs().clamp(min=1)

    def _blank(self, like: Tensor) -> State:
        """What is known before anything was seen, (B, ...)."""
        b, c = len(like), self.design
        return State(like.new_zeros(b, c.memory), like.new_zeros(b, c.latent.size))


def _features(state: State) -> Tensor:
    """(..., M + Z)."""
    return torch.cat(state, -1)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of x (B, T) where the weight says; 0 if it nowhere does."""
    return (x * weight).sum() / weight.sum().clamp(min=1)


def _width(space: Space | None) -> int:
    """Of an action as a vector."""
    if isinstance(space, Discrete):
        return space.n
    return int(torch.Size(space.shape).numel()) if space else 0


def _check(
    owner: str, config: RSSMConfig, observations: Mapping[str, Space], actions: Space | None
) -> tuple[dict[str, tuple[int, int, int]], dict[str, int], int]:
    """Pictures, vectors and the width of an action; refuses what there is no brick for."""
    pictures: dict[str, tuple[int, int, int]] = {}
    vectors: dict[str, int] = {}
    for name, space in observations.items():
        if isinstance(space, Box) and len(space.shape) == 3 and space.dtype == "uint8":
            pictures[name] = space.shape  # type: ignore[assignment]
        elif isinstance(space, Box) and len(space.shape) == 1:
            vectors[name] = space.shape[0]
        else:
            raise SpaceMismatch(
                f"{owner} reads uint8 pictures (C, H, W) and vectors (D,), but '{name}' is "
                f"{space}. Leave it out, or make it one of these."
            )
    if not observations or actions is None:
        raise SpaceMismatch(
            f"{owner} needs something to see and something to do, but has observations "
            f"{sorted(observations)} and actions {actions}. Choose a school that learns from "
            "video alone (see `reverie list`)."
        )
    if config.recurrence is BlockGRU and config.memory % BlockGRU.blocks:
        raise BadConfig(
            f"memory must be a multiple of {BlockGRU.blocks}, but it is {config.memory}."
        )
    return pictures, vectors, _width(actions)
