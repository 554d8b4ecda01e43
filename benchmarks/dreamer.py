"""How long one gradient step of DreamerV3 takes, beside torchrl's: all losses, 64x64x3, size 1M.

    python benchmarks/dreamer.py

Writes results/speed_dreamer.json. A step is the model, the actor, the critic and replayed values,
imagination 15 from every state, on batches of 8 x 32 and 16 x 64 observations, on one thread, in
turns: ours with strides of 2 and of 1, in float32 and bf16, and torchrl's, which has strides of 2
only. The floor is what a step's products would take at the rate of one large matrix product, timed
in the same turns. torchrl (Bou et al. 2023, arXiv 2306.00577) must be importable: `make bench`
makes an environment for it. It is put together from its public modules, as its documentation
has it, and `DIFFERENCES` says what is not equal.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from harness import alternate, speedup
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchrl.data import Composite, OneHot, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import (
    DreamerV3DiscreteActor,
    DreamerV3ImageDecoder,
    DreamerV3ImageEncoder,
    DreamerV3MLP,
    RSSMPosteriorV3,
    RSSMPriorV3,
    RSSMRolloutV3,
    SymExpTwoHot,
    WorldModelWrapper,
)
from torchrl.objectives import (
    DreamerV3ActorLoss,
    DreamerV3Loss,
    DreamerV3ModelLoss,
    DreamerV3ValueLoss,
    SoftUpdate,
    ValueEstimators,
)
from torchrl.trainers.algorithms import DreamerV3OptimizationStepper, DreamerV3Optimizer

from reverie import evidence
from reverie.behaviors.actor_critic import V3, ActorCritic
from reverie.core.probe import sample_batch
from reverie.core.types import Discrete
from reverie.evaluate.statistics import Interval, mean_interval
from reverie.learner import GradientLearner
from reverie.models.dreamer import DREAMER_V3, PIXELS, DreamerV3
from reverie.nn.conv import Halving
from reverie.nn.folded import Halved, Same, Transposed

SMALL, LARGE = (8, 32), (16, 64)  # rows, observations in each
WARMUP = 5
SIDE = 1024  # of the large product
ACTIONS, GROUPS, CLASSES, MEMORY, UNITS, DEPTH, BINS = 6, 32, 4, 512, 64, 4, 255
RIVAL = "torchrl, stride 2, float32"
DIFFERENCES = (
    "torchrl's decoder projects memory and z by one block-linear layer (ours: z by an MLP) and has "
    "no sigmoid, so it has 640,888 parameters to our 686,456. Its rows are as many transitions as "
    "ours are observations; both infer and dream from as many states. Equal are the recurrence in "
    "8 blocks, the heads, two-hot rewards and values, KL split above 1 nat, the continuation head, "
    "REINFORCE with normalised returns, the slow critic, the replayed values and LaProp with AGC. "
    "Both run eagerly; it uses its tensor path for the recurrence."
)


class Step:
    """One gradient step of ours on a fixed batch.

    Args:
        shape: rows, and observations in each.
        precision: of the losses.
        pooled: stride 1 and pooling, not a stride of 2.
    """

    def __init__(self, shape: tuple[int, int], precision: str, *, pooled: bool) -> None:
        torch.manual_seed(0)
        config = replace(DREAMER_V3, stack=Halving(DEPTH, pooled=pooled))
        self.model = DreamerV3(config, PIXELS, Discrete(ACTIONS))
        self.behavior = ActorCritic(self.model, V3)
        parts = [*self.model.parts(), *self.behavior.parts()]
        self.learner = GradientLearner(parts, precision=precision)  # type: ignore[arg-type]
        rows, observations = shape
        self.batch = sample_batch(self.model, (rows, observations - 1), 0, obs=None, extra=None)

    def __call__(self) -> None:
        """Learn once."""
        self.learner.update(self.batch)

    def flops(self) -> int:
        """Of all products of one step, convolutions counted as they are defined."""
        with plain_convolutions(), FlopCounterMode(display=False) as counter:
            self()
        return counter.get_total_flops()

    @torch.no_grad()
    def decide(self) -> None:
        """A hundred policy steps for one environment."""
        obs = {"image": self.batch.obs["image"][:1, 0]}
        state, action = None, torch.zeros(1, dtype=torch.int64)
        for _ in range(100):
            state = self.model.observe(state, action, self.model.encode(obs))
            action = self.behavior.policy(state)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Torch's own, which need the fewest products (but for `Doubled`, which needs fewer still)."""
    plain = ((Halved, nn.Conv2d), (Same, nn.Conv2d), (Transposed, nn.ConvTranspose2d))
    with ExitStack() as stack:
        for ours, torchs in plain:
            stack.enter_context(mock.patch.object(ours, "forward", torchs.forward))
        yield


def module(net: Any, inputs: list[Any], outputs: list[Any]) -> TensorDictModule:
    """A network between named entries."""
    return TensorDictModule(net, inputs, outputs)


class Rival:
    """One gradient step of torchrl's DreamerV3 on a fixed batch.

    Args:
        shape: rows, and transitions in each.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        torch.manual_seed(0)
        features = GROUPS * CLASSES + MEMORY
        latent = {"num_categoricals": GROUPS, "num_classes": CLASSES, "unimix": 0.01}
        sizes = {"hidden_dim": UNITS, "rnn_hidden_dim": MEMORY, **latent}
        core = {"action_shape": (ACTIONS,), "action_dim": ACTIONS, "recurrent_model": "block_gru"}
        self.prior = RSSMPriorV3(**core, **sizes)
        self.reward = DreamerV3MLP(features, BINS, depth=1, num_cells=UNITS, outscale=0.0)
        self.goes_on = DreamerV3MLP(features, 1, depth=1, num_cells=UNITS)
        self.two_hot = SymExpTwoHot(BINS)
        world = self._world(features, sizes)
        actor = DreamerV3DiscreteActor(features, ACTIONS, depth=3, num_cells=UNITS)
        critic = DreamerV3MLP(features, BINS, depth=3, num_cells=UNITS, outscale=0.0)
        value = TensorDictSequential(
            module(critic, ["belief", "state"], ["state_value_logits"]),
            module(self.two_hot, ["state_value_logits"], ["state_value"]),
        )
        self.step, self.parameters = self._stepper(world, actor, value)
        self.batch = self._batch(*shape)

    def __call__(self) -> TensorDict:
        """Learn once."""
        return self.step.step(None, self.batch.clone(recurse=False))

    def _world(self, features: int, sizes: dict[str, Any]) -> TensorDictSequential:
        """Encoder, recurrence, decoder and heads."""
        encoder = DreamerV3ImageEncoder(depth=DEPTH)
        seen = encoder.output_features((3, 64, 64))
        posterior = RSSMPosteriorV3(obs_embed_dim=seen, use_rms_norm=True, **sizes)
        state, belief = ("next", "state"), ("next", "belief")
        prior_says = [("next", "prior_logits"), state, belief]
        embedded, posterior_says = ("next", "encoded_latents"), ("next", "posterior_logits")
        decoder = DreamerV3ImageDecoder(features, depth=DEPTH)
        logits = ("next", "reward_logits")
        return TensorDictSequential(
            module(encoder, [("next", "pixels")], [embedded]),
            RSSMRolloutV3(
                module(self.prior, ["state", "belief", "action"], prior_says),
                module(posterior, [belief, embedded], [posterior_says, state]),
            ),
            module(decoder, [state, belief], [("next", "reco_pixels")]),
            module(self.reward, [belief, state], [logits]),
            module(self.two_hot, [logits], [("next", "reward")]),
            module(self.goes_on, [belief, state], [("next", "continue_pred")]),
        )

    def _dream(self) -> DreamerEnv:
        """The world without looking."""
        moved = module(self.prior, ["state", "belief", "action"], ["_", "state", "belief"])
        reward = TensorDictSequential(
            module(self.reward, ["belief", "state"], ["reward_logits"]),
            module(self.two_hot, ["reward_logits"], ["reward"]),
        )
        widths = {"state": GROUPS * CLASSES, "belief": MEMORY}
        shapes = {"prior_shape": (widths["state"],), "belief_shape": (widths["belief"],)}
        env = DreamerEnv(WorldModelWrapper(moved, reward), **shapes)
        env.observation_spec = Composite({name: Unbounded(n) for name, n in widths.items()})
        env.state_spec = env.observation_spec.clone()
        env.action_spec, env.reward_spec = OneHot(ACTIONS), Unbounded((1,))
        return env

    def _stepper(
        self, world: Any, actor: Any, value: Any
    ) -> tuple[DreamerV3OptimizationStepper, int]:
        """The losses and the optimizer as its own training script sets them."""
        goes_on = TensorDictSequential(
            module(self.goes_on, ["belief", "state"], ["continue_logits"]),
            module(nn.Sigmoid(), ["continue_logits"], ["continuation"]),
        )
        model_loss = DreamerV3ModelLoss(
            world,
            kl_mode="separate",
            unimix=0.01,
            lambda_continue=1.0,
            continue_target_scale=1 - 1 / 333,
            reco_symlog=False,
            detach_output=False,
        )
        actor_loss = DreamerV3ActorLoss(
            *(actor, value, self._dream()),
            continuation_model=goes_on,
            imagination_horizon=V3.horizon,
            use_reinforce=True,
        )
        actor_loss.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=V3.lam)
        value_loss = DreamerV3ValueLoss(
            value, value_loss="two_hot", actor_loss=actor_loss, slow_critic_regularization=1.0
        )
        learned = [*world.parameters(), *actor.parameters(), *value_loss.parameters()]
        step = DreamerV3OptimizationStepper(
            DreamerV3Loss(model_loss, actor_loss, value_loss),
            DreamerV3Optimizer(learned),
            SoftUpdate(value_loss, tau=V3.slow_rate),
            mixed_precision=False,
        )
        return step, sum(p.numel() for p in learned)

    def _batch(self, rows: int, steps: int) -> TensorDict:
        """Noise of the shapes that a replay buffer gives."""
        no = torch.zeros(rows, steps, 1, dtype=torch.bool)
        action = torch.randint(ACTIONS, (rows, steps))
        found = {
            "state": torch.zeros(rows, steps, GROUPS * CLASSES),
            "belief": torch.zeros(rows, steps, MEMORY),
            "action": nn.functional.one_hot(action, ACTIONS).float(),
            "is_init": no,
            "next": {
                "pixels": torch.randint(256, (rows, steps, 3, 64, 64), dtype=torch.uint8),
                "reward": torch.randn(rows, steps, 1),
                "done": no.clone(),
                "terminated": no.clone(),
            },
        }
        return TensorDict(found, [rows, steps])


def check(ours: Step, theirs: Rival) -> None:
    """Refuse to time steps that do not learn what is claimed.

    Raises:
        RuntimeError: naming what is not there.
    """
    losses = theirs()
    wanted = {"reco", "reward", "dynamic", "representation", "continue"}
    names = {f"loss_model_{x}" for x in wanted} | {"loss_actor", "loss_value", "loss_replay_value"}
    if absent := sorted(names - set(losses.keys())):
        raise RuntimeError(f"torchrl's step has no {absent}.")
    said = ours.learner.update(ours.batch)
    found = [*losses.select(*names).values(), *(torch.as_tensor(x) for x in said.values())]
    if not all(x.isfinite().all() for x in found):
        raise RuntimeError("A loss is not finite.")
    if "critic/replay" not in said or theirs.parameters != 640_888:
        raise RuntimeError(f"Sizes or losses differ: {sorted(said)}, {theirs.parameters}.")


def contestants(shape: tuple[int, int], precisions: tuple[str, ...]) -> dict[str, Any]:
    """Ours by name, and torchrl."""
    found: dict[str, Any] = {
        f"stride {2 - pooled}, {precision}": Step(shape, precision, pooled=bool(pooled))
        for pooled in (0, 1)
        for precision in precisions
    }
    return {**found, RIVAL: Rival(shape)}


def timed(
    steps: dict[str, Any], repeats: int, **others: Callable[[], object]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of all, and the floors of ours in float32."""
    a, b = torch.randn(2, SIDE, SIDE).unbind()
    calls = {**steps, "product": lambda: a @ b, **others}
    seconds = alternate(calls, repeats=repeats, warmup=WARMUP)
    rate = 2 * SIDE**3 / mean_interval(seconds["product"]).value
    ours = {k: s for k, s in steps.items() if isinstance(s, Step) and k.endswith("float32")}
    floors = {name: step.flops() / rate for name, step in ours.items()}
    return seconds, {**floors, "GFLOP/s": rate / 1e9}


def main() -> None:
    """Time it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--results", type=Path, default=evidence.FOLDER)
    options = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)
    steps = contestants(SMALL, ("float32", "bf16"))
    check(steps["stride 2, float32"], steps[RIVAL])
    seconds, floors = timed(steps, options.repeats, policy=steps["stride 2, float32"].decide)
    large, large_floors = timed(contestants(LARGE, ("float32",)), options.repeats)
    torch.set_float32_matmul_precision("medium")  # another way to multiply, for both sides
    both = {name: steps[name] for name in ("stride 2, float32", RIVAL)}
    medium = alternate(both, repeats=options.repeats, warmup=2)
    write((seconds, floors), (large, large_floors), medium, began, options.results)


Timed = tuple[dict[str, list[float]], dict[str, float]]


def write(
    small: Timed, large: Timed, medium: dict[str, list[float]], began: float, folder: Path
) -> None:
    """Print all of it and write the claim down."""
    tables = {"8 x 32": small, "16 x 64": large}
    mine = "stride 2, float32"
    ratios: dict[str, Interval] = {
        name: speedup(found[mine], found[RIVAL])
        for name, found in (*((k, v[0]) for k, v in tables.items()), ("8 x 32, medium", medium))
    }
    means = {k: {n: mean_interval(s) for n, s in v[0].items()} for k, v in tables.items()}
    over = {
        k: {n: means[k][n].value / floor for n, floor in v[1].items() if n in means[k]}
        for k, v in tables.items()
    }
    for name, found in means.items():
        for who, value in found.items():
            sys.stdout.write(f"{name}, {who}: {value} s\n")
    sys.stdout.write(f"torchrl over ours: {ratios}\nover the floor: {over}\n")
    ratio = ratios["8 x 32"]
    evidence.record(
        "speed_dreamer",
        what="How many times as long as ours torchrl's DreamerV3 takes for one gradient step, size "
        "1M, 64x64x3, batch 8 x 32, imagination 15 from every step, all losses, float32, stride 2, "
        f"one thread; stride 1 takes {over['8 x 32']['stride 1, float32']:.2f} times its "
        "arithmetic floor (2.5 is the aim).",
        metric="times torchrl's time over ours",
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        better="higher",
        target=1.6,
        baselines={"torchrl": 1.0},
        seeds=[0],
        steps=sum(map(len, [*small[0].values(), *large[0].values(), *medium.values()])),
        seconds=time.perf_counter() - began,
        command="python benchmarks/dreamer.py",
        config={
            "model": "dreamer_v3",
            "seconds": {k: {n: list(x) for n, x in v.items()} for k, v in means.items()},
            "torchrl over ours": {k: list(v) for k, v in ratios.items()},
            "seconds at matmul precision medium": {
                n: list(mean_interval(s)) for n, s in medium.items()
            },
            "floor, seconds": {k: v[1] for k, v in tables.items()},
            "times the floor": over,
            "times the floor, target at stride 1": 2.5,
            "milliseconds of a policy step, one environment": 10 * means["8 x 32"]["policy"].value,
            "milliseconds of a policy step, target": 1.0,
            "what differs": DIFFERENCES,
            "threads": torch.get_num_threads(),
        },
        folder=folder,
    )


if __name__ == "__main__":
    main()
