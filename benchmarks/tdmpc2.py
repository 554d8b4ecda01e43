"""How long TD-MPC2 of size 5M takes to plan one decision, and to learn once.

    python benchmarks/tdmpc2.py

Writes results/speed_tdmpc2.json. Observation 24, action 6; a plan is 512 candidates (24 of them
the policy's) by 6 iterations of 3 steps, an update a batch of 256 segments of 3. In turns: ours in
float32 and with bf16 products, and a plain one, which is the paper's equations in torch's own
modules, as shipped and with the same flag for float32 products.

The flag ("medium") lets torch take another matrix product on some processors, and allows it to
round inputs to bf16 there; what it does to the Qs is measured and written beside the times.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from harness import alternate
from torch import Tensor, nn

from reverie import evidence
from reverie.core.probe import sample_batch
from reverie.core.types import Batch
from reverie.evaluate.statistics import mean_interval
from reverie.learner import GradientLearner
from reverie.models.tdmpc2 import default
from reverie.nn.likelihood import SymlogTwoHot
from reverie.planners.mppi import MPPI
from reverie.planners.objective import Return

BATCH, HORIZON, REPEATS, WARMUP = 256, 3, 9, 3
PLANNER = MPPI(HORIZON, 512, 6, 64, std=2.0, proposals=24, choose="noisy")
OBSERVATION, ACTION, LATENT, UNITS, CRITICS, BINS = 24, 6, 512, 512, 5, 101
DISCOUNT, RHO = 0.99, 0.5


class Calls(NamedTuple):
    """What is timed."""

    plan: Callable[[], object]
    update: Callable[[], object]


def flagged(call: Callable[[], object], flag: str) -> Callable[[], object]:
    """The call, with the flag for float32 products set before."""

    def run() -> None:
        torch.set_float32_matmul_precision(flag)
        call()

    return run


# -- ours -----------------------------------------------------------------------------------------


def ours(batch: Batch, precision: str) -> Calls:
    """The library's model, planner and learner."""
    torch.manual_seed(0)
    model = default().eval()
    learner = GradientLearner(model.parts(), precision=precision)  # type: ignore[arg-type]
    objective = Return(model.heads, discount=DISCOUNT, bootstrap=True)
    warm: list[dict[str, Tensor]] = [{}]

    def plan() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            state = model.encode({"vector": batch.obs["vector"][:1, 0]})
            warm[0] = PLANNER.plan(model, state, objective, warm=warm[0]).extra

    return Calls(plan, lambda: learner.update(batch))


def error_of_flag(batch: Batch) -> float:
    """The largest relative difference that the flag makes in the hidden layers behind the Qs."""
    torch.manual_seed(0)
    model, found = default().eval(), []
    with torch.no_grad():
        nn.init.normal_(model.critics.weights[2], std=0.02)
        for flag in ("highest", "medium"):
            torch.set_float32_matmul_precision(flag)
            state = model.encode({"vector": batch.obs["vector"][:, 0]})
            after = model.predict(state, batch.action[:, 0])  # type: ignore[index]
            given = torch.cat([after.z, batch.action[:, 1]], -1)  # type: ignore[index]
            found.append(model.critics(given, slice(None)))
    return float((found[1] - found[0]).norm() / found[0].norm())


# -- the paper's equations, plainly ---------------------------------------------------------------


class Simplices(nn.Module):
    """SimNorm by torch's softmax."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        return x.unflatten(-1, (-1, 8)).softmax(-1).flatten(-2)


def mlp(inputs: int, *units: int, last: list[nn.Module]) -> nn.Sequential:
    """Linear, layer norm and Mish for each width, then `last`."""
    layers: list[nn.Module] = []
    for width in units:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.Mish()]
        inputs = width
    return nn.Sequential(*layers, *last)


class Plain(nn.Module):
    """Encoder, dynamics, reward, five Qs and a policy, one after another."""

    def __init__(self) -> None:
        super().__init__()
        given, ends = LATENT + ACTION, [nn.LayerNorm(LATENT), Simplices()]
        self.encoder = mlp(OBSERVATION, 256, last=[nn.Linear(256, LATENT), *deepcopy(ends)])
        self.dynamics = mlp(given, UNITS, UNITS, last=[nn.Linear(UNITS, LATENT), *ends])
        self.reward = mlp(given, UNITS, UNITS, last=[nn.Linear(UNITS, BINS)])
        self.actor = mlp(LATENT, UNITS, UNITS, last=[nn.Linear(UNITS, 2 * ACTION)])
        q = mlp(given, UNITS, UNITS, last=[nn.Linear(UNITS, BINS)])
        q.insert(1, nn.Dropout(0.01))
        self.critics = nn.ModuleList(deepcopy(q) for _ in range(CRITICS))
        self.targets = deepcopy(self.critics).requires_grad_(requires_grad=False)
        self.bins = SymlogTwoHot()
        learned = [self.encoder, self.dynamics, self.reward, self.critics]
        self.own = [p for net in learned for p in net.parameters()]
        self.model_step = torch.optim.Adam(self.own, 3e-4)
        self.actor_step = torch.optim.Adam(self.actor.parameters(), 3e-4, eps=1e-5)

    def act(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """An action that is drawn, and its log density, less a constant."""
        mean, log_std = self.actor(z).chunk(2, -1)
        log_std = -10 + 6 * (log_std.tanh() + 1)
        noise = torch.randn_like(mean)
        action = (mean + noise * log_std.exp()).tanh()
        log_prob = -0.5 * noise.square() - log_std - (1 - action.square() + 1e-6).log()
        return action, log_prob.sum(-1)

    def q(self, critics: nn.ModuleList, z: Tensor, action: Tensor) -> Tensor:
        """(2, ...) numbers of two drawn Qs; all are asked."""
        given = torch.cat([z, action], -1)
        raw = torch.stack([critic(given) for critic in critics])
        return self.bins.mean(raw[torch.randperm(CRITICS)[:2]])[..., 0]

    @torch.no_grad()
    def plan(self, obs: Tensor) -> Tensor:
        """The mean of the plans after six iterations."""
        self.eval()
        start, p = self.encoder(obs), PLANNER
        z, proposals = start.expand(p.proposals, -1), []
        for _ in range(HORIZON):
            proposals.append(self.act(z)[0])
            z = self.dynamics(torch.cat([z, proposals[-1]], -1))
        mean, std = torch.zeros(HORIZON, ACTION), torch.full((HORIZON, ACTION), p.std)
        for _ in range(p.iterations):
            noise = torch.randn(p.samples - p.proposals, HORIZON, ACTION)
            actions = torch.cat([mean + std * noise, torch.stack(proposals, 1)]).clamp(-1, 1)
            z, total = start.expand(p.samples, -1), 0.0
            for t in range(HORIZON):
                given = torch.cat([z, actions[:, t]], -1)
                total = total + DISCOUNT**t * self.bins.mean(self.reward(given))[:, 0]
                z = self.dynamics(given)
            value = self.q(self.critics, z, self.act(z)[0]).mean(0)
            score, best = (total + DISCOUNT**HORIZON * value).topk(p.elites)
            weight = (p.temperature * (score - score[0])).softmax(0)[:, None, None]
            elite = actions[best]
            mean = (weight * elite).sum(0)
            std = (weight * (elite - mean).square()).sum(0).sqrt().clamp(p.std_min, p.std)
        return mean

    def update(self, batch: Batch) -> None:
        """Model, policy, slow Qs."""
        self.train()
        obs, action = batch.obs["vector"], batch.action
        with torch.no_grad():
            seen = self.encoder(obs[:, 1:])
            least = self.q(self.targets, seen, self.act(seen)[0]).amin(0)
            target = batch.reward + DISCOUNT * (~batch.terminated) * least  # type: ignore[operator]
        found, rho = [self.encoder(obs[:, 0])], RHO ** torch.arange(HORIZON)
        for t in range(HORIZON):
            found.append(self.dynamics(torch.cat([found[-1], action[:, t]], -1)))  # type: ignore
        z = torch.stack(found, 1)
        given = torch.cat([z[:, :-1], action], -1)  # type: ignore[list-item]
        error = 20 * (z[:, 1:] - seen).square().mean(-1)
        error = error + 0.1 * self.bins.loss(self.reward(given), batch.reward[..., None])  # type: ignore
        for critic in self.critics:
            error = error + 0.1 / CRITICS * self.bins.loss(critic(given), target[..., None])
        self.step(self.model_step, (error * rho).mean(), self.own)
        z, rho = z.detach(), RHO ** torch.arange(HORIZON + 1)
        drawn, log_prob = self.act(z)
        value = self.q(self.critics, z, drawn).mean(0)
        loss = -((value - 1e-4 * ACTION * log_prob) * rho).mean()
        self.step(self.actor_step, loss, list(self.actor.parameters()))
        with torch.no_grad():
            pairs = zip(self.targets.parameters(), self.critics.parameters(), strict=True)
            for slow, quick in pairs:
                slow.lerp_(quick, 0.01)

    @staticmethod
    def step(optimizer: torch.optim.Optimizer, loss: Tensor, own: list[nn.Parameter]) -> None:
        """Differentiate, clip, step."""
        optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=own)
        nn.utils.clip_grad_norm_(own, 20.0)
        optimizer.step()


def plain(batch: Batch) -> Calls:
    """The same work."""
    torch.manual_seed(0)
    net = Plain()
    return Calls(lambda: net.plan(batch.obs["vector"][:1, 0]), lambda: net.update(batch))


def main() -> None:
    """Time it and write it down."""
    began = time.perf_counter()
    batch = sample_batch(default(), (BATCH, HORIZON), 0, obs=None, extra=None)
    rivals = {
        "ours": (ours(batch, "float32"), "medium"),
        "ours, bf16": (ours(batch, "bf16"), "medium"),
        "ours, without the flag": (ours(batch, "float32"), "highest"),
        "plain torch": (plain(batch), "highest"),
        "plain torch with the flag": (plain(batch), "medium"),
    }
    calls = {
        f"{name}: {what}": flagged(getattr(both, what), flag)
        for name, (both, flag) in rivals.items()
        for what in ("plan", "update")
    }
    seconds = alternate(calls, repeats=REPEATS, warmup=WARMUP)
    found = {name: mean_interval(values) for name, values in seconds.items()}
    for name, value in found.items():
        sys.stdout.write(f"{name}: {value} s\n")
    both = {
        name: [
            a + b for a, b in zip(seconds[f"{name}: plan"], seconds[f"{name}: update"], strict=True)
        ]
        for name in rivals
    }
    sums = {name: mean_interval(values) for name, values in both.items()}
    evidence.record(
        "speed_tdmpc2",
        what="One plan (512 candidates x 6 iterations x 3 steps) plus one update (256 x 3) of "
        "TD-MPC2, size 5M, observation 24, action 6, float32 with torch's matmul precision set to "
        "medium; the others beside it.",
        metric="seconds",
        value=sums["ours"].value,
        low=sums["ours"].low,
        high=sums["ours"].high,
        better="lower",
        target=0.63,
        baselines={name: sums[name].value for name in rivals if name != "ours"},
        seeds=[0],
        steps=REPEATS,
        seconds=time.perf_counter() - began,
        command="python benchmarks/tdmpc2.py",
        config={
            "model": "tdmpc2",
            "seconds": {name: value.value for name, value in found.items()},
            "targets": "plan 0.29 and update 0.34 s; with bf16 0.17 and 0.21 s",
            "public reference, eager, another day": "plan 0.97 and update 0.90 s",
            "flag": 'torch.set_float32_matmul_precision("medium")',
            "relative error of the Qs under the flag": error_of_flag(batch),
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
