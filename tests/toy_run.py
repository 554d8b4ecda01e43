"""A run small enough to be killed many times: three stages that use all that a run may use.

`vision` learns by gradients from a file that grows while it learns, `memory` by gradients with two
optimizers, `evolve` without gradients. All kinds of randomness are drawn. Run as a program it
trains and dies as it is told: see `main`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reverie.core.model import Part, WorldModel
from reverie.core.types import Batch, Box, Card, Heads, Loss, Optim, Space
from reverie.progress import Progress, Silent
from reverie.train import GradientLearner, Run, Stage, train

CARD = Card("tiny", "Tiny", "A", "x", "noise", "squares", "none", (), (), "none")


class Layer(NamedTuple):
    width: int
    bias: bool


@dataclass(frozen=True)
class Sizes:
    layers: tuple[int, ...] = (5, 5)
    scale: float | None = None


@dataclass(frozen=True)
class TinyConfig:
    """Nested, as configs are."""

    inputs: int = 3
    sizes: Sizes = Sizes()


class State(NamedTuple):
    x: Tensor


class Tiny(WorldModel[State]):
    """Two noisy regressions; vision has a slow copy that `after` moves."""

    card = CARD

    def __init__(
        self, config: TinyConfig, observations: dict[str, Space], actions: Space | None
    ) -> None:
        super().__init__()
        self.config, self.observations, self.actions = config, observations, actions
        hidden = config.sizes.layers[0]
        self.vision = nn.Sequential(
            nn.Linear(config.inputs, hidden), nn.Dropout(0.3), nn.Linear(hidden, config.inputs)
        )
        self.memory = nn.Linear(config.inputs, config.inputs)
        self.value = nn.Linear(config.inputs, 1)
        self.register_buffer("slow", torch.zeros(hidden, config.inputs))

    def encode(self, obs: dict[str, Tensor]) -> Any:
        return obs["vector"]

    def observe(self, state, action, h, *, first=None, generator=None) -> State:
        return State(self.vision(h))

    def predict(self, state, action, *, z=None, generator=None) -> State:
        return State(self.memory(state.x))

    @property
    def heads(self) -> Heads:
        return Heads("tiny")

    def parts(self) -> tuple[Part, ...]:
        slow_down = Optim("vision", lr=1e-2, decay=0.99, lr_min=5e-3, clip_norm=1.0)
        return (
            Part("vision", self.vision, self._vision_loss, slow_down, self._move_slow),
            Part("memory", self.memory, self._memory_loss, Optim("memory", lr=1e-2)),
            Part("value", self.value, self._value_loss, Optim("value", lr=1e-2, kind="adamw")),
        )

    def _vision_loss(self, batch: Batch, states: Any) -> Loss:
        x = batch.obs["vector"]
        seen = self.vision(x)
        loss = (seen - x).square().mean()
        return Loss(loss, {"error": loss.detach()}, State(seen))

    def _memory_loss(self, batch: Batch, states: Any) -> Loss:
        x = batch.obs["vector"]
        guess = self.memory(x[:, :-1] + 0.1 * torch.randn_like(x[:, :-1]))
        loss = (guess - x[:, 1:]).square().mean()
        return Loss(loss, {"error": loss.detach()}, State(self.memory(x)))

    def _value_loss(self, batch: Batch, states: State) -> Loss:
        loss = (self.value(states.x) - batch.obs["vector"].sum(-1, keepdim=True)).square().mean()
        return Loss(loss, {"error": loss.detach()})

    def _move_slow(self) -> None:
        with torch.no_grad():
            self.slow.lerp_(self.vision[0].weight, 0.1)


def make_tiny(seed: int = 0, config: TinyConfig | None = None) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(config or TinyConfig(), {"vector": Box((3,))}, None)


def as_batch(x: Tensor) -> Batch:
    """Observations (B, T+1, D) alone."""
    flags = torch.zeros(x.shape[:2], dtype=torch.bool)
    none = flags[:, 1:]
    return Batch({"vector": x}, None, None, none, none, ~none, flags, {})


class FileSampler:
    """Rows of a growing file, in the order of a NumPy generator and Python's global one."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.rng = path, np.random.default_rng(seed)

    def __next__(self) -> Batch:
        rows = np.fromfile(self.path).reshape(-1, 3)
        index = self.rng.integers(len(rows), size=(4, 3))
        x = torch.from_numpy(rows[index]).float() + 0.01 * random.random() + np.random.rand()
        return as_batch(x)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]


class FileCollector:
    """Appends rows; forgets those that a checkpoint does not know of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def collect(self, update: int) -> dict[str, float]:
        rows = torch.randn(2, 3, dtype=torch.float64).numpy()
        with open(self.path, "ab") as file:
            file.write(rows.tobytes()[:20])
            file.flush()  # a kill may leave half an episode
            file.write(rows.tobytes()[20:])
        return {"rows": self.path.stat().st_size / 24}

    def state_dict(self) -> dict[str, Any]:
        return {"bytes": self.path.stat().st_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        os.truncate(self.path, state["bytes"])


class Climb:
    """Evolution in little: keeps the better of two; its state is of every kind a tree may hold."""

    def __init__(self, behavior: nn.Linear) -> None:
        self.behavior, self.rng = behavior, np.random.default_rng(5)
        self.best, self.history, self.steps = -np.inf, [], np.full((2, 2), 0.5)

    def update(self, batch: Batch | None) -> dict[str, float]:
        weight = self.behavior.weight
        trial = weight + torch.from_numpy(self.rng.standard_normal(weight.shape)).float()
        score = -float(trial.detach().square().sum()) + 1e-3 * random.random() + np.random.rand()
        if score > self.best:
            self.best = score
            with torch.no_grad():
                weight.copy_(trial)
        self.history.append((len(self.history), score))
        self.steps *= 0.99
        return {"score": score, "best": self.best, "step": float(self.steps[0, 0])}

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "best": self.best,
            "history": self.history,
            "steps": self.steps,
            "by_number": {3: "three", 4: {"nested": torch.arange(3)}},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["by_number"][3] == "three"
        self.rng.bit_generator.state = state["rng"]
        self.best, self.history, self.steps = state["best"], state["history"], state["steps"]


def make_run(folder: Path, updates: int = 20) -> Run:
    """The run; its data lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.bin"
    model = make_tiny()
    behavior = nn.Linear(3, 2)
    vision, memory, value = model.parts()

    def prepare(progress: Progress) -> None:
        with progress.task("prepare", 1) as task:
            rows = torch.randn(8, 3, dtype=torch.float64).numpy()
            if not data.exists():
                partial = data.with_suffix(".tmp")
                partial.write_bytes(rows.tobytes())
                partial.rename(data)
            task.advance()

    @torch.no_grad()
    def score(update: int) -> dict[str, float]:
        return {"score": float(behavior(torch.randn(5, 3)).sum()) + update}

    return Run(
        name="toy",
        seed=11,
        model=model,
        behavior=behavior,
        config={"updates": updates},
        stages=lambda _: (
            Stage(
                "vision",
                updates,
                lambda: GradientLearner([vision]),
                sampler=lambda: FileSampler(data, 1),
                prepare=prepare,
                collector=lambda: FileCollector(data),
                collect_every=7,
                evaluate=score,
                evaluate_every=10,
                log_every=4,
            ),
            Stage("look", finish=lambda _: score(0)),
            Stage(
                "memory",
                updates,
                lambda: GradientLearner([memory, value]),
                sampler=lambda: FileSampler(data, 2),
                log_every=3,
            ),
            Stage(
                "evolve",
                updates,
                lambda: Climb(behavior),
                evaluate=score,
                evaluate_every=9,
                finish=lambda _: {**score(7), "nothing": float("nan")},
                log_every=1,
            ),
        ),
    )


def rows(folder: Path) -> list[str]:
    """The lines of metrics.jsonl without wall time, which is all that may differ."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return [json.dumps(row) for row in kept]


def _die_at_file_operation(n: int) -> None:
    """Kill this process right before the n-th time that it opens, renames, cuts or removes."""
    left = [n]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.truncate"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _attempt(folder: Path, *, wait: float | None = None, operation: int | None = None) -> bool:
    """Train in a child; True: it finished.

    It dies at a file operation, or so many seconds after it has made a checkpoint, so that every
    attempt gets further.
    """
    before = _newest(folder)
    child = os.fork()
    if child == 0:
        if operation is not None:
            _die_at_file_operation(operation)
        try:
            train(make_run(folder), folder, save_every_s=0.005, progress=Silent())
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    done, status = 0, 0
    if wait is not None:
        while not done and _newest(folder) == before:
            done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(wait)
        if not done:
            os.kill(child, signal.SIGKILL)
    if not done:
        status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if code == 1:
        raise SystemExit("a child failed")
    return code == 0


def _newest(folder: Path) -> str:
    return max((path.name for path in folder.glob("checkpoint/*.safetensors")), default="")


def main(folder: Path, seed: int) -> None:
    """Train once without and many times with kills; say how often each was killed."""
    draw = random.Random(seed)
    train(make_run(folder / "warm"), folder / "warm", progress=Silent())  # imports all there is
    began = time.monotonic()
    assert _attempt(folder / "whole")
    span = 0.15 * (time.monotonic() - began)
    killed = {"timed": 0, "operation": 0}
    while not _attempt(folder / "timed", wait=draw.uniform(0.0, span)):
        killed["timed"] += 1
    while not _attempt(folder / "operation", operation=draw.randint(20, 60)):
        killed["operation"] += 1
    sys.stdout.write(json.dumps(killed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
