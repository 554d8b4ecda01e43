"""World Models (Ha & Schmidhuber 2018, arXiv:1803.10122): dream in a VAE's latent space.

V, a convolutional VAE, squeezes each 64x64 frame into z. M, an LSTM with a mixture-density
output (MDN-RNN), predicts p(z' | z, a, h) and, in Doom, whether the episode ends. V learns first,
then M on frozen latents. C, a linear controller, is `behaviors/evolution.py`.

In the scaffold: Enc is V's encoder, the state is (z, h, c), Pred is one LSTM step and one draw
from the mixture, sharpened or widened by the temperature tau. Read top to bottom: config, V, M,
the model, its losses.

Letters: Z latent size, L LSTM size, K mixture components. mu, logvar: V's posterior.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Box, Card, Discrete, Heads, Loss, Optim, Space, check_batch
from reverie.nn.mixture import mixture_nll, mixture_sample

SIZE = 64  # the paper's conv stack takes 64x64; smaller frames are enlarged to it
SHAPES = {(3, SIZE // k, SIZE // k) for k in (1, 2, 4)}


@dataclass(frozen=True)
class WorldModels2018Config:
    """Sizes and weights; the defaults are the paper's CarRacing, `DOOM` its Doom."""

    latent: int = 32  # Z
    hidden: int = 256  # L
    mixtures: int = 5  # K, a mixture of its own for every latent dimension
    predicts: tuple[str, ...] = ()  # any of "reward", "done"; "done" also feeds restart to M
    scalar_action: bool = False  # a Discrete action enters M as one number in [-1, 1], not one-hot
    features: tuple[str, ...] = ("z", "h")  # what a controller reads: any of "z", "h", "c"
    temperature: float = 1.0  # tau of every draw in `predict`
    kl_tolerance: float = 0.5  # nats a latent dimension before the KL costs anything
    vision_channels: int = 32  # base width of V; the paper's 32
    error_weight: float = 1.0  # of V's squared error against its KL; the paper's 1
    bright_weight: float = 0.0  # extra weight of bright pixels in V's error; the paper's 0
    done_weight: float = 1.0  # of the done loss against the mixture's
    ended_weight: float = 10.0  # of an ending against a step that goes on, inside the done loss
    memory_lr_decay: float = 1.0  # a step


DOOM = WorldModels2018Config(
    latent=64,
    hidden=512,
    predicts=("done",),
    scalar_action=True,
    features=("z", "h", "c"),
    memory_lr_decay=0.99999,
)


class State(NamedTuple):
    """What the model knows at one moment."""

    z: Tensor  # (B, Z) latent of the frame, sampled
    h: Tensor  # (B, L) LSTM output before z was fed in
    c: Tensor  # (B, L) LSTM cell
    first: Tensor  # (B,) bool: z begins an episode


class Vision(nn.Module):
    """V: the convolutional VAE of appendix A.1. 4,348,547 weights at Z = 32, width 32.

    Args:
        latent: Z.
        channels: base width.
        size: height and width of a frame; each of its pixels is enlarged to SIZE / size.
    """

    def __init__(self, latent: int, channels: int = 32, size: int = SIZE) -> None:
        super().__init__()
        n, self.scale = channels, SIZE // size
        self.flat = 32 * n  # 8n channels of 2x2
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, n, 4, 2), nn.ReLU(), nn.Conv2d(n, 2 * n, 4, 2), nn.ReLU()),
            *(nn.Conv2d(2 * n, 4 * n, 4, 2), nn.ReLU(), nn.Conv2d(4 * n, 8 * n, 4, 2), nn.ReLU()),
        )
        self.mu = nn.Linear(self.flat, latent)
        self.logvar = nn.Linear(self.flat, latent)
        self.expand = nn.Linear(latent, self.flat)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(self.flat, 4 * n, 5, 2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * n, 2 * n, 5, 2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * n, n, 6, 2), nn.ReLU(), nn.ConvTranspose2d(n, 3, 6, 2)),
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mu and logvar in [-10, 10], (N, Z), of frames (N, 3, s, s) in [0, 1]."""
        large = F.interpolate(image, scale_factor=float(self.scale)) if self.scale > 1 else image
        x = self.encoder(large).flatten(1)
        return self.mu(x), self.logvar(x).clamp(-10, 10)

    def decode(self, z: Tensor) -> Tensor:
        """Frames in [0, 1], (N, 3, s, s), of latents (N, Z)."""
        first, *rest = self.decoder
        x = self.expand(z) @ first.weight.flatten(1)  # type: ignore  # a deconvolution of 1x1
        x = x.unflatten(1, first.weight.shape[1:]) + first.bias[:, None, None]  # type: ignore
        for layer in rest:
            x = layer(x)
        return F.avg_pool2d(x.sigmoid(), self.scale) if self.scale > 1 else x.sigmoid()


class Memory(nn.Module):
    """M: one LSTM layer with one bias (as in the paper's code) and linear heads on its output.

    422,368 weights for CarRacing (input 35, L 256) and 1,678,785 for Doom (input 66, L 512, done).

    Args:
        config: sizes.
        inputs: width of [z, action (, restart)].
    """

    def __init__(self, config: WorldModels2018Config, inputs: int) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.input = nn.Linear(inputs, 4 * config.hidden)
        self.recurrent = nn.Linear(config.hidden, 4 * config.hidden, bias=False)
        self.mixture = nn.Linear(config.hidden, 3 * config.mixtures * config.latent)
        self.scalars = nn.ModuleDict(
            {name: nn.Linear(config.hidden, 1) for name in config.predicts}
        )
        with torch.no_grad():
            self.input.bias[: config.hidden] = 1.0  # remember by default
            if "done" in config.predicts:
                self.scalars["done"].bias.fill_(-4.0)  # endings are rare  # type: ignore

    def step(self, projected: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next h and c (B, L) of h, c and `input` of [z, action (, restart)] (B, 4L)."""
        gates = projected + self.recurrent(h)
        three, fresh = gates.split([3 * self.hidden, self.hidden], dim=-1)
        keep, write, show = three.sigmoid().chunk(3, dim=-1)
        c = keep * c + write * _tanh(fresh)
        return show * _tanh(c), c


class WorldModels2018(WorldModel[State]):
    """V and M behind the contract.

    Args:
        config: sizes and weights.
        observations: must hold 'image' of shape (3, 64, 64).
        actions: Box or Discrete.

    Raises:
        SpaceMismatch: if there is no colour image of 64, 32 or 16 pixels, or nothing acts.
        BadConfig: if a field cannot be used.
    """

    card = Card(
        name="world_models_2018",
        title="World Models",
        family="A",
        state="latent z of a VAE, LSTM (h, c)",
        z="draw from a mixture per latent dimension, widened by the temperature",
        objective="V: squared error + KL; M: mixture NLL (+ done BCE)",
        policy="linear controller C, outside the model",
        couplings=("imagination (evolution)", "planning"),
        heads=("decode", "cont", "embed", "features"),
        paper="Ha & Schmidhuber 2018, arXiv:1803.10122",
    )

    def __init__(
        self, config: WorldModels2018Config, observations: dict[str, Space], actions: Space | None
    ) -> None:
        super().__init__()
        size = _check(config, observations, actions)
        self.config, self.actions = config, actions
        self.observations = {"image": observations["image"]}
        self.temperature: float = config.temperature
        self.vision = Vision(config.latent, config.vision_channels, size)
        self.memory = Memory(config, self._inputs_size())

    def _inputs_size(self) -> int:
        """Of z, the action and, with a done head, whether the episode begins."""
        if isinstance(self.actions, Discrete):
            action = 1 if self.config.scalar_action else self.actions.n
        else:
            action = self.actions.shape[0] if self.actions else 0
        return self.config.latent + action + ("done" in self.config.predicts)

    def encode(self, obs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """mu and logvar, (B, Z) each, of obs['image'] (B, 3, s, s) uint8 0..255."""
        return self.vision.encode(obs["image"].float() / 255)

    def observe(
        self,
        state: State | None,
        action: Tensor | None,
        h: tuple[Tensor, Tensor],
        *,
        first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Step the LSTM by the action, then sample z from what V saw. See `WorldModel.observe`."""
        mu, logvar = h
        z = _sample(mu, logvar, generator)
        if state is None:
            blank = mu.new_zeros(len(mu), self.config.hidden)
            return State(z, blank, blank, torch.ones(len(mu), dtype=torch.bool, device=mu.device))
        hidden, cell = self._remember(state, action)
        first = torch.zeros_like(state.first) if first is None else first
        keep = (~first)[:, None].to(hidden.dtype)
        return State(z, hidden * keep, cell * keep, first)

    def predict(
        self,
        state: State,
        action: Tensor | None,
        *,
        z: tuple[Tensor, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """One dreamed step; z is (uniform, normal), (B, Z) each. See `WorldModel.predict`."""
        hidden, cell = self._remember(state, action)
        raw = self._mixture(hidden)
        if z is None:
            like = {"generator": generator, "device": hidden.device, "dtype": hidden.dtype}
            z = torch.rand(state.z.shape, **like), torch.randn(state.z.shape, **like)
        drawn = mixture_sample(raw, z, self.temperature)
        return State(drawn, hidden, cell, torch.zeros_like(state.first))

    @property
    def heads(self) -> Heads:
        """decode, embed, features; cont and reward where M predicts them."""
        scalars = self.memory.scalars
        return Heads(
            owner=self.card.name,
            reward=(lambda s, a, n: scalars["reward"](n.h)[:, 0]) if "reward" in scalars else None,
            cont=(lambda n: (-scalars["done"](n.h)[:, 0]).sigmoid()) if "done" in scalars else None,
            decode=lambda s: {"image": self.vision.decode(s.z) * 255},
            embed=lambda s: s.z,
            features=self.features,
        )

    def features(self, state: State) -> Tensor:
        """(B, D) what a controller reads: those of z, h and c that the config names."""
        return torch.cat([getattr(state, name) for name in self.config.features], -1)

    def _remember(self, state: State, action: Tensor | None) -> tuple[Tensor, Tensor]:
        """The LSTM's (h, c) after feeding z and the action."""
        inputs = self._inputs(state.z, action, state.first)
        return self.memory.step(self.memory.input(inputs), state.h, state.c)

    def _inputs(self, z: Tensor, action: Tensor | None, first: Tensor) -> Tensor:
        """M's input (..., Z + A (+ 1)) from z (..., Z), action and first (...,)."""
        if action is None:
            raise SpaceMismatch("World Models (2018) predicts under actions, but action is None.")
        if isinstance(self.actions, Discrete) and self.config.scalar_action:
            action = (action.to(z.dtype) * (2 / (self.actions.n - 1)) - 1).unsqueeze(-1)
        elif isinstance(self.actions, Discrete):
            action = F.one_hot(action, self.actions.n).to(z.dtype)
        restart = [first.to(z.dtype).unsqueeze(-1)] * ("done" in self.config.predicts)
        return torch.cat([z, action, *restart], -1)

    def _mixture(self, hidden: Tensor) -> Tensor:
        """(..., 3, K, Z) mixture parameters of LSTM outputs (..., L)."""
        raw = self.memory.mixture(hidden)
        return raw.unflatten(-1, (3, self.config.mixtures, self.config.latent)).float()

    def parts(self) -> tuple[Part, ...]:
        """V, then M on V's frozen latents. The optimizers are the paper's; see `Part._replace`."""
        c = self.config
        vision = Optim("vision", lr=1e-4)
        memory = Optim("memory", 1e-3, decay=c.memory_lr_decay, lr_min=1e-5, clip_value=1.0)
        return (
            Part("vision", self.vision, self._vision_loss, vision),
            Part("memory", self.memory, self._memory_loss, memory),
        )

    def _vision_loss(self, batch: Batch, states: Any) -> Loss:
        """Summed squared error + KL with a floor on the total (appendix A.1 and its code)."""
        check_batch(batch, self.observations, None)
        image = batch.obs["image"].flatten(0, 1).float() / 255
        mu, logvar = self.vision.encode(image)
        restored = self.vision.decode(_sample(mu, logvar, None))
        bright = ((image.amax(1, keepdim=True) - 0.63) / 0.15).clamp(0, 1)
        weight = 1 + self.config.bright_weight * bright
        reconstruction = (weight * (restored - image).square()).sum((1, 2, 3)).mean()
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1)
        floored = kl.clamp(min=self.config.kl_tolerance * mu.shape[-1]).mean()
        total = self.config.error_weight * reconstruction + floored
        spread = mu.float().std(0, correction=0).mean()  # 0: V says the same of every frame
        terms = {"reconstruction": reconstruction, "kl": kl.mean(), "spread": spread}
        return Loss(total, {name: term.detach() for name, term in terms.items()})

    def _memory_loss(self, batch: Batch, states: Any) -> Loss:
        """Mixture NLL of the next latent (+ done, reward), teacher-forced on fresh samples of z.

        The frame after an ending is never dreamed on, so its likelihood does not count.
        """
        check_batch(batch, {} if "latent" in batch.obs else self.observations, self.actions)
        mu, logvar = self._latents(batch)
        z = _sample(mu, logvar, None)
        states = self._unroll(z, batch)
        after, mask = states.h[:, 1:], batch.mask
        nll = mixture_nll(self._mixture(after), z[:, 1:]).mean(-1)
        terms = {"nll": _masked_mean(nll, mask & ~batch.terminated)}
        if "done" in self.config.predicts:
            logit = self.memory.scalars["done"](after)[..., 0]
            weight = self.config.ended_weight
            ended = batch.terminated.to(logit.dtype)
            loss = -(weight * ended * F.logsigmoid(logit) + (1 - ended) * F.logsigmoid(-logit))
            terms["done"] = _masked_mean(loss, mask)
        if "reward" in self.config.predicts and batch.reward is not None:
            guess = self.memory.scalars["reward"](after)[..., 0]
            terms["reward"] = _masked_mean((guess - batch.reward).square(), mask)
        weights = {"done": self.config.done_weight}
        total = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        return Loss(total, {name: term.detach() for name, term in terms.items()}, states)

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """mu and logvar (B, T+1, Z): the stored ones ('latent' modality) or V's, without graph."""
        if "latent" in batch.obs:
            return batch.obs["latent"].chunk(2, -1)  # type: ignore[return-value]
        with torch.no_grad():
            image = batch.obs["image"]
            mu, logvar = self.encode({"image": image.flatten(0, 1)})
            return mu.unflatten(0, image.shape[:2]), logvar.unflatten(0, image.shape[:2])

    def _unroll(self, z: Tensor, batch: Batch) -> State:
        """The LSTM over z (B, T+1, Z) under batch.action, zeroed where an episode begins."""
        inputs = self._inputs(z[:, :-1], batch.action, batch.first[:, :-1])
        projected = self.memory.input(inputs).unbind(1)  # its gradient is one stack
        keep = (~batch.first).to(z.dtype).unsqueeze(-1).unbind(1)
        h = c = z.new_zeros(z.shape[0], self.config.hidden)
        hs, cs = [h], [c]
        for x, on in zip(projected, keep[1:], strict=True):
            h, c = self.memory.step(x, h, c)
            h, c = h * on, c * on
            hs.append(h)
            cs.append(c)
        return State(z, torch.stack(hs, 1), torch.stack(cs, 1), batch.first)


def _sample(mu: Tensor, logvar: Tensor, generator: torch.Generator | None) -> Tensor:
    """One draw from a diagonal Gaussian."""
    noise = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
    return mu + (0.5 * logvar).exp() * noise


def _tanh(x: Tensor) -> Tensor:
    """tanh by way of the sigmoid, which is many times faster on a CPU."""
    return 2 * (2 * x).sigmoid() - 1


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over real transitions; 0 if there are none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def _check(
    config: WorldModels2018Config, observations: dict[str, Space], actions: Space | None
) -> int:
    """Refuse spaces and settings that the school cannot use; the size of a frame."""
    image = observations.get("image")
    if not isinstance(image, Box) or image.shape not in SHAPES:
        found = image.shape if isinstance(image, Box) else sorted(observations)
        raise SpaceMismatch(
            f"World Models (2018) reads 'image' of (3, {SIZE}, {SIZE}), a half or a quarter of it, "
            f"but found {found}. Make the environment with size={SIZE}."
        )
    if actions is None:
        raise SpaceMismatch(
            "World Models (2018) predicts under actions, but the world has none. "
            "Choose a school that learns from video alone (see `reverie list`)."
        )
    if config.scalar_action and isinstance(actions, Discrete) and actions.n < 2:
        raise BadConfig("scalar_action needs at least 2 actions on a line, but there is 1.")
    if unknown := {*config.predicts} - {"reward", "done"} | {*config.features} - {"z", "h", "c"}:
        raise BadConfig(
            f"World Models (2018) was asked for {sorted(unknown)}; "
            "predicts takes 'reward' and 'done', features takes 'z', 'h' and 'c'."
        )
    if config.temperature <= 0:
        raise BadConfig(f"temperature must be above 0, but it is {config.temperature}.")
    return image.shape[-1]


PIXELS: dict[str, Space] = {"image": Box((3, SIZE, SIZE), 0, 255, "uint8")}


def default() -> WorldModels2018:
    """The paper's Doom model, untrained."""
    return WorldModels2018(DOOM, PIXELS, Discrete(3))


def small() -> WorldModels2018:
    """The same wiring, thin: what `reverie check` runs."""
    thin = replace(DOOM, latent=4, hidden=8, vision_channels=4)
    return WorldModels2018(thin, PIXELS, Discrete(3))
