"""PlaNet and Dreamer 1 to 3: the table of what each paper puts into the RSSM.

Each school is `RSSM` with a card of its own and one config. `SCHOOLS` is the table; `SIZES` names
DreamerV3's sizes.

One departure: in the papers the discount is folded into what the continuation head learns. Here
`cont` is a probability, and the discount stays with whoever discounts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from reverie.core.types import Box, Card, Discrete, Optim, Space
from reverie.models.rssm import RSSM, RSSMConfig
from reverie.nn.conv import Halving, Valid
from reverie.nn.latent import Categorical, Divergence, Gaussian
from reverie.nn.layers import Style
from reverie.nn.likelihood import SymlogError, TwoHot, UnitGaussian
from reverie.nn.recurrent import GRU, BlockGRU, LayerNormGRU

# Hafner et al. 2019: one Gaussian ELBO, three free nats a moment, no head for endings.
PLANET = RSSMConfig(
    memory=200,
    hidden=200,
    units=300,
    latent=Gaussian(30),
    recurrence=GRU,
    divergence=Divergence(3.0),
    style=Style("relu", norm=False),
    stack=Valid(32),
    reward_layers=3,
    vector=UnitGaussian(),
    reward=UnitGaussian(),
    reward_weight=10.0,
    cont_weight=0.0,
    optim=Optim("model", lr=1e-3, eps=1e-4, clip_norm=1000.0),
)

# Hafner et al. 2020: ELU, the mean KL is clipped, a head for endings.
DREAMER_V1 = replace(
    PLANET,
    units=400,
    divergence=Divergence(3.0, mean=True),
    style=Style("elu", norm=False),
    reward_layers=2,
    cont_layers=3,
    reward_weight=1.0,
    cont_weight=10.0,
    optim=Optim("model", lr=6e-4, clip_norm=100.0),
)

# Hafner et al. 2021: categorical latents, balanced KL, a normalised GRU (the sizes are DMC's).
DREAMER_V2 = replace(
    DREAMER_V1,
    latent=Categorical(32, 32, unimix=0.0),
    recurrence=LayerNormGRU,
    divergence=Divergence(1.0, prior=0.8, posterior=0.2, mean=True),
    stack=Valid(48, "elu"),
    layers=4,
    reward_layers=4,
    cont_layers=4,
    cont_weight=1.0,
    optim=Optim("model", 3e-4, "adamw", eps=1e-5, weight_decay=1e-6, clip_norm=100.0),
)

# Hafner et al. 2025, size 1M. One optimizer for model, actor and critic.
LAPROP = Optim("dreamer", 4e-5, "laprop", eps=1e-20, agc=0.3, warmup=1000)
DREAMER_V3 = RSSMConfig(
    memory=512,
    hidden=64,
    units=64,
    latent=Categorical(32, 4),
    recurrence=BlockGRU,
    divergence=Divergence(1.0, prior=1.0, posterior=0.1),
    style=Style("silu", norm=True),
    stack=Halving(4),
    vector=SymlogError(),
    reward=TwoHot(),
    optim=LAPROP,
    prior_layers=2,
    symlog=True,
    sigmoid=True,
    picture_weight=1.0,
    reward_scale=0.0,
)

# name -> (memory, hidden, classes, depth, units); the default of the reference code is 200M.
SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "1M": (512, 64, 4, 4, 64),
    "12M": (2048, 256, 16, 16, 256),
    "25M": (3072, 384, 24, 24, 384),
    "50M": (4096, 512, 32, 32, 512),
    "100M": (6144, 768, 48, 48, 768),
    "200M": (8192, 1024, 64, 64, 1024),
    "400M": (12288, 1536, 96, 96, 1536),
}


def sized(name: str) -> RSSMConfig:
    """DreamerV3 of a size of `SIZES`.

    Args:
        name: "1M" (686,456 parameters with actor and critic at 64x64x3 and 6 actions) to "400M".
    """
    memory, hidden, classes, depth, units = SIZES[name]
    return replace(
        DREAMER_V3,
        memory=memory,
        hidden=hidden,
        units=units,
        latent=Categorical(32, classes),
        stack=Halving(depth),
    )


def _card(name: str, title: str, z: str, objective: str, policy: str, paper: str) -> Card:
    """What the four have in common, and what not."""
    cont = () if name == "planet" else ("cont",)
    return Card(
        name=name,
        title=title,
        family="A",
        state="deterministic memory, stochastic z",
        z=z,
        objective=objective,
        policy=policy,
        couplings=("planning", "imagination"),
        heads=("reward", *cont, "decode", "embed", "features"),
        paper=paper,
    )


class PlaNet(RSSM):
    """The RSSM that plans. See `RSSM`."""

    card = _card(
        *("planet", "PlaNet", "draw from a diagonal Gaussian prior"),
        "reconstruction + reward + KL above 3 free nats",
        "planner (CEM in the latent space)",
        "Hafner et al. 2019, arXiv:1811.04551",
    )


class DreamerV1(RSSM):
    """The RSSM that value gradients pass through. See `RSSM`."""

    card = _card(
        *("dreamer_v1", "Dreamer", "draw from a diagonal Gaussian prior"),
        "reconstruction + reward + continuation + KL above 3 free nats",
        "actor-critic in imagination, value gradients",
        "Hafner et al. 2020, arXiv:1912.01603",
    )


class DreamerV2(RSSM):
    """The RSSM with categorical latents. See `RSSM`."""

    card = _card(
        *("dreamer_v2", "DreamerV2", "draw from 32 categorical priors"),
        "reconstruction + reward + continuation + balanced KL",
        "actor-critic in imagination, REINFORCE or value gradients, target critic",
        "Hafner et al. 2021, arXiv:2010.02193",
    )


class DreamerV3(RSSM):
    """The RSSM with one setting for every world. See `RSSM`."""

    card = _card(
        *("dreamer_v3", "DreamerV3", "draw from 32 categorical priors, 1% uniform"),
        "symlog reconstruction + two-hot reward + continuation + KL split above 1 free nat",
        "actor-critic in imagination, REINFORCE, normalised returns, replay value loss",
        "Hafner et al. 2025, arXiv:2301.04104",
    )


PIXELS: dict[str, Space] = {"image": Box((3, 64, 64), 0, 255, "uint8")}
_BOTH: dict[str, Space] = {"image": PIXELS["image"], "vector": Box((3,), -2.0, 2.0)}


class School(NamedTuple):
    """One row of the table."""

    model: type[RSSM]
    config: RSSMConfig
    thin: dict[str, Any]  # what is smaller in the instance that tests are run on

    def default(self) -> RSSM:
        """The paper's size, untrained, for pictures and six actions."""
        return self.model(self.config, PIXELS, Discrete(6))

    def small(self) -> RSSM:
        """The same wiring, thin, for a picture, a vector and two continuous actions."""
        config = replace(self.config, memory=16, hidden=8, units=8, **self.thin)
        return self.model(config, _BOTH, Box((2,)))


_THIN_GAUSSIAN = {"latent": Gaussian(4), "stack": Valid(2)}
SCHOOLS: dict[str, School] = {
    "planet": School(PlaNet, PLANET, _THIN_GAUSSIAN),
    "dreamer_v1": School(DreamerV1, DREAMER_V1, _THIN_GAUSSIAN),
    "dreamer_v2": School(
        DreamerV2, DREAMER_V2, {"latent": Categorical(4, 4, unimix=0.0), "stack": Valid(2, "elu")}
    ),
    "dreamer_v3": School(DreamerV3, DREAMER_V3, {"latent": Categorical(4, 4), "stack": Halving(4)}),
}
