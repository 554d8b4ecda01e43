"""The networks of MuZero and its kin, and how they meet actions and rules. Imports core and nn.

MLPs of ReLU layers without normalisation, so that a search can run them compiled
(`planners/compiled_mlp.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import SpaceMismatch
from reverie.core.types import Box, Discrete, Space
from reverie.nn.conv import Stack
from reverie.nn.layers import Style, dense, mlp
from reverie.nn.policy import Clipped, OneOf

LEGAL = "legal"  # the observation (A,) that says which Discrete actions are allowed
_RELU = Style("relu", norm=False)
_NARROW = 1e-5  # least spread of a latent that is stretched


class Sizes(NamedTuple):
    """Of every network."""

    latent: int  # D
    units: int
    layers: int  # hidden ones

    def network(self, inputs: int, outputs: int) -> nn.Sequential:
        """Linear layers with a ReLU between each two."""
        last = dense(self.units if self.layers else inputs, outputs)
        return nn.Sequential(*mlp(inputs, self.layers, self.units, _RELU), last)


class Representation(nn.Module):
    """h: vectors and pictures to one latent in [0, 1].

    Args:
        observations: all but 'legal' are read.
        sizes: of the MLP.
        stack: of pictures, before it.

    Raises:
        SpaceMismatch: if there is nothing to read.
    """

    def __init__(self, observations: dict[str, Space], sizes: Sizes, stack: Stack) -> None:
        super().__init__()
        self.pictures, width = nn.ModuleDict(), 0
        self.vectors: list[str] = []
        for name, space in observations.items():
            if not isinstance(space, Box) or name == LEGAL:
                continue
            if len(space.shape) == 3 and space.dtype == "uint8":
                module, size = stack.encoder((space.shape[0], *space.shape[1:]))
                self.pictures[name], width = module, width + size
            else:
                self.vectors.append(name)
                width += math.prod(space.shape)
        if not width:
            raise SpaceMismatch(
                f"MuZero reads vectors and pictures, but the observations are {observations}. "
                "Choose a world that shows some."
            )
        self.join = sizes.network(width, sizes.latent)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """(B, D)."""
        parts = [obs[name].float().flatten(1) for name in self.vectors]
        parts += [module(obs[name].float() / 255 - 0.5) for name, module in self.pictures.items()]
        return stretch(self.join(torch.cat(parts, -1)))


class Siamese(nn.Module):
    """How far a prediction is from what was seen, where only the prediction learns (SimSiam).

    Args:
        inputs: D.
        projected: width in which both are compared.
        hidden: of the predictor.

    Source: Chen & He 2021, algorithm 1; Ye et al. 2021, section 4.1.
    """

    def __init__(self, inputs: int, projected: int, hidden: int) -> None:
        super().__init__()
        self.project = Sizes(0, projected, 1).network(inputs, projected)
        self.predict = Sizes(0, hidden, 1).network(projected, projected)

    def forward(self, predicted: Tensor, seen: Tensor) -> Tensor:
        """(...,) 1 minus the cosine of (..., D) and (..., D)."""
        with torch.no_grad():
            goal = self.project(seen)
        return 1 - F.cosine_similarity(self.predict(self.project(predicted)), goal, dim=-1)


def stretch(x: Tensor) -> Tensor:
    """(..., D) each row from its least and largest number to 0 and 1.

    Source: Schrittwieser et al. 2020, appendix G.
    """
    low, high = x.aminmax(dim=-1, keepdim=True)
    return (x - low) / (high - low).clamp(min=_NARROW)


def halved(x: Tensor) -> Tensor:
    """The same, but only half of the gradient passes."""
    return 0.5 * x + 0.5 * x.detach()


# -- actions and rules ----------------------------------------------------------------------------


def acting_in(actions: Space | None, observations: dict[str, Space]) -> Space:
    """The actions, if a search can choose among them under the rules that are observed.

    Args:
        actions: the model's.
        observations: perhaps with 'legal'.

    Raises:
        SpaceMismatch: if nothing acts, or 'legal' says something else than one number an action.
    """
    if actions is None:
        raise SpaceMismatch(
            "MuZero needs actions to search among, but these observations come without any. "
            "Choose a school that learns from video alone (see `reverie list`)."
        )
    rules = observations.get(LEGAL)
    wanted = actions.n if isinstance(actions, Discrete) else None
    if rules is not None and (not isinstance(rules, Box) or rules.shape != (wanted,)):
        raise SpaceMismatch(
            f"The observation '{LEGAL}' must be one number for each Discrete action, but it is "
            f"{rules} beside {actions}. Rename it, or leave it out."
        )
    return actions


def allowed(obs: dict[str, Tensor], actions: Space) -> Tensor:
    """(B, A) bool: what the rules allow; all where there are none, or the game is over."""
    lead = next(iter(obs.values())).shape[0]
    if LEGAL not in obs:
        device = next(iter(obs.values())).device
        count = actions.n if isinstance(actions, Discrete) else 0
        return torch.ones((lead, count), dtype=torch.bool, device=device)
    legal = obs[LEGAL] > 0.5
    return legal | ~legal.any(-1, keepdim=True)


def distribution(raw: Tensor, legal: Tensor, actions: Space) -> OneOf | Clipped:
    """What a raw policy (B, W) means; what is not allowed has the logit -inf."""
    if isinstance(actions, Discrete):
        return OneOf(raw.masked_fill(~legal, -torch.inf), actions, unimix=0.0)
    return Clipped(raw, actions)


def policy_width(actions: Space) -> int:
    """W, raw numbers of a policy."""
    return OneOf.width(actions) if isinstance(actions, Discrete) else Clipped.width(actions)


def action_width(actions: Space) -> int:
    """Numbers that an action is for a network."""
    return actions.n if isinstance(actions, Discrete) else math.prod(actions.shape)


def as_input(action: Tensor, actions: Space) -> Tensor:
    """(B, A) one-hot, or the numbers themselves."""
    if isinstance(actions, Discrete):
        return F.one_hot(action, actions.n).float()
    return action.flatten(1)
