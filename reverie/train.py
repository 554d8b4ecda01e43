"""The one loop. A `Run` is data: a model, what acts in it, and the stages in which they learn.

For each stage: prepare, then again and again collect some, sample, update, log, evaluate when due
and save when due. `train(run, folder)` goes on from the folder's last checkpoint, exactly: after
`kill -9` at any moment the metrics are bit for bit those of a run that never stopped (on a CPU).

Three rules make that true. A checkpoint holds everything that changes: weights, optimizers,
random generators, samplers, collectors, and how long the metric files were. What happens beside
learning (prepare, evaluate, finish) draws from generators of its own, so that doing it again
changes nothing. And each step's effects follow from what the checkpoint holds.

Imports core, run, learner, checkpoint, metrics and progress.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import platform
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from reverie import checkpoint
from reverie.core.errors import BadCheckpoint, BadConfig, NonFinite
from reverie.learner import GradientLearner, Learner
from reverie.metrics import Meter, MetricLog
from reverie.progress import Progress, terminal
from reverie.run import Collector, Run, Sampler, Stage

__all__ = [
    "Collector",
    "GradientLearner",
    "Learner",
    "Run",
    "Sampler",
    "Stage",
    "describe",
    "train",
]

_PACKAGES = ("reverie", "torch", "numpy", "gymnasium", "safetensors")
_log = logging.getLogger(__name__)


def train(
    run: Run, folder: str | Path, *, save_every_s: float = 60.0, progress: Progress | None = None
) -> None:
    """Train, or go on training where the folder's last checkpoint was taken.

    The folder gets `run.json`, `metrics.jsonl`, `tensorboard/`, `checkpoint/` and, after each
    stage, `model.safetensors`. The run's modules are left trained, in evaluation mode.

    Args:
        run: what to train.
        folder: made if it is missing.
        save_every_s: seconds between two checkpoints; one is also made where a stage begins.
        progress: where to report; None: bars in a terminal, lines elsewhere.

    Raises:
        NonFinite: a loss or gradient is NaN or infinite. The last checkpoint is good, and the
            offending batch lies beside it.
        StorageFull: the disk is full. The last checkpoint is whole.
        BadCheckpoint: the folder's checkpoint is damaged or belongs to another run.
        BadConfig: stages share a name, or another process trains in the folder.
        KeyboardInterrupt: Ctrl-C, after saving; a second one stops without saving.
    """
    folder = Path(folder)
    stages = run.stages(folder)
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise BadConfig(f"The stages of run '{run.name}' are {names}. Give each its own name.")
    with _only_one(folder):
        _claim(run, stages, folder)
        session = _Session(run, stages, folder, save_every_s, progress or terminal())
        with session.interrupts.installed():
            session.go()


class _Session:
    """One process's work on a run: where it stands, and how to save and restore that."""

    def __init__(
        self,
        run: Run,
        stages: tuple[Stage, ...],
        folder: Path,
        save_every_s: float,
        progress: Progress,
    ) -> None:
        self.run, self.stages, self.folder, self.progress = run, stages, folder, progress
        self.save_every_s = save_every_s
        self.checkpoints = folder / "checkpoint"
        self.interrupts = _Interrupts()
        old = checkpoint.load(self.checkpoints) if checkpoint.checkpoints(self.checkpoints) else {}
        if old and old["stages"] != [stage.name for stage in stages]:
            raise BadCheckpoint(
                f"{self.checkpoints} is of a run with the stages {', '.join(old['stages'])}, but "
                f"'{run.name}' has {', '.join(s.name for s in stages)}. Choose another folder."
            )
        self.index: int = old.get("index", 0)  # the stage
        self.update: int = old.get("update", 0)  # how many of its updates are done
        self.worked: float = old.get("seconds", 0.0)  # before this process
        self.old = old  # what is still to be put back
        self.log = MetricLog(folder, old.get("log"))
        self.meter = Meter(self.fail)
        self.parts: dict[str, Any] = {}  # what the stage under way has that changes
        self.mark = self.log.sizes()  # sizes of the metric files that belong to a checkpoint now
        self.random: dict[str, Any] | None = None  # of learning, while something runs aside
        self.began = self.saved = time.monotonic()

    @property
    def stage(self) -> Stage:
        """The stage under way."""
        return self.stages[self.index]

    @property
    def seconds(self) -> float:
        """How long the run has worked, in all processes together."""
        return self.worked + time.monotonic() - self.began

    def go(self) -> None:
        """All stages that are left."""
        try:
            self.restore_weights()
            for module in self.run.modules.values():
                module.eval()
            while self.index < len(self.stages):
                self.enter()
                self.learn()
                self.leave()
        except KeyboardInterrupt:
            if self.parts and not self.interrupts.held:
                self.save()
            raise KeyboardInterrupt(
                f"Stopped. Run the same command again to go on where {self.folder} was saved."
            ) from None
        finally:
            self.log.close()

    def enter(self) -> None:
        """Make what the stage needs, as it was at the checkpoint if there is one."""
        stage = self.stage
        if stage.prepare is not None:
            with self.aside("prepare"):
                stage.prepare(self.progress)
        _seed(self.run.seed, stage.name, "learn")
        makers = {"learner": stage.learner, "collector": stage.collector, "sampler": stage.sampler}
        parts = {name: make() for name, make in makers.items() if make is not None}
        self.restore_weights()  # again: making a learner may have drawn new ones
        begun = self.old.get("parts")
        if begun:
            for name, part in parts.items():  # the collector before the sampler that reads it
                part.load_state_dict(begun[name])
            self.meter.load_state_dict(self.old["meter"])
            _set_random_state(self.old["random"])
        self.old, self.parts = {}, parts
        if not begun:
            self.save()  # before a collector adds what no checkpoint knows of

    def learn(self) -> None:
        """The updates of the stage.

        A checkpoint always says how things stood right after an update, before the scores that
        are due at that count; so a resumed run does what is due there, and does it once.
        """
        stage = self.stage
        if stage.updates == 0:
            return
        with self.progress.task(stage.name, stage.updates, self.update) as task:
            while True:
                self.evaluate()
                if self.update >= stage.updates:
                    return
                with self.interrupts.deferred():
                    self.collect()
                    sampler = self.parts.get("sampler")
                    batch = None if sampler is None else next(sampler)
                    self.meter.push(self.update + 1, batch, self.parts["learner"].update(batch))
                    self.update += 1
                    row = self.row()
                    self.mark = self.log.sizes()
                task.advance(1, **row)
                if time.monotonic() - self.saved >= self.save_every_s:
                    self.save()

    def row(self) -> dict[str, float]:
        """Log the means since the last row, if they are due."""
        if self.update % self.stage.log_every and self.update != self.stage.updates:
            return {}
        row = self.meter.means()
        self.log.write(self.stage.name, self.update, self.seconds, row)
        return row

    def collect(self) -> None:
        """Gather experience, if it is due."""
        if "collector" in self.parts and self.update % self.stage.collect_every == 0:
            self.meter.drain()
            self.write("collect", self.parts["collector"].collect(self.update))

    def evaluate(self) -> None:
        """Score, if it is due."""
        due = self.update > 0 and self.update % self.stage.evaluate_every == 0
        if due and self.stage.evaluate is not None:
            self.meter.drain()
            with self.aside("evaluate", self.update):
                scores = self.stage.evaluate(self.update)
            self.write("evaluate", scores)

    def leave(self) -> None:
        """End the stage: last scores, the model's file, a checkpoint that begins the next."""
        if self.stage.finish is not None:
            with self.aside("finish"):
                scores = self.stage.finish(self.progress)
            self.write("finish", scores)
        extra = {k: m for k, m in self.run.modules.items() if k != "model"}
        checkpoint.save_model(self.folder, self.run.model, extra)
        with self.interrupts.deferred():
            self.index, self.update, self.parts = self.index + 1, 0, {}
            self.mark = self.log.sizes()
        self.save()

    def write(self, what: str, values: Mapping[str, float]) -> None:
        """Log numbers that do not come from the learner."""
        if values:
            named = {f"{what}/{name}": float(value) for name, value in values.items()}
            self.log.write(self.stage.name, self.update, self.seconds, named)

    @contextmanager
    def aside(self, *names: str | int) -> Iterator[None]:
        """Let something draw random numbers that depend on nothing but the run's seed and names."""
        self.random = _random_state()
        try:
            _seed(self.run.seed, self.stage.name, *names)
            yield
        finally:
            _set_random_state(self.random)
        self.random = None

    def save(self) -> None:
        """Take a checkpoint of where the run stands."""
        with self.interrupts.deferred():
            tree = {
                "meter": self.meter.state_dict(),  # first: it stops at a loss that is not finite
                "stages": [stage.name for stage in self.stages],
                "index": self.index,
                "update": self.update,
                "seconds": self.seconds,
                "weights": {name: m.state_dict() for name, m in self.run.modules.items()},
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "random": self.random or _random_state(),
                "log": self.mark,
            }
            self.log.sync()
            checkpoint.save(self.checkpoints, tree)
            self.saved = time.monotonic()

    def restore_weights(self) -> None:
        """Put the checkpoint's weights into the run's modules."""
        if not self.old:
            return
        for name, module in self.run.modules.items():
            state = self.old["weights"].get(name, {})
            checkpoint.load_state(module, state, f"'{name}' in {self.checkpoints}")

    def fail(self, update: int, name: str, value: float, batch: Any) -> NoReturn:
        """Keep the batch of a value that is not finite, and stop."""
        said = "This stage draws no batch"
        if batch is not None:
            path = self.folder / f"nonfinite_{self.stage.name}_{update}.safetensors"
            checkpoint.write_tree(path, batch._asdict())
            said = f"Its batch is in {path}{_blamed(batch)}"
        good = checkpoint.checkpoints(self.checkpoints)[-1]
        raise NonFinite(
            f"Stage '{self.stage.name}' asks for finite numbers, but {name} is {value} at update "
            f"{update}. {said}; the last good checkpoint is {good}. Look at the batch, or train "
            "with a lower learning rate or clipped gradients."
        )


class _Interrupts:
    """Ctrl-C between updates, never inside one."""

    def __init__(self) -> None:
        self.held = False  # something is half done
        self._pending = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen; outside the main thread nothing ever comes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let an interrupt wait until this is done. After an error inside, `held` stays True."""
        self.held = True
        yield
        self.held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: Any) -> None:
        """The first Ctrl-C may wait; the second does not."""
        if self._pending or not self.held:
            raise KeyboardInterrupt
        self._pending = True
        _log.warning("Stopping after this step; press Ctrl-C again to stop at once.")


def _blamed(batch: Any) -> str:
    """Which fields of a batch are at fault, as the rest of a sentence; empty if none is."""
    flat: dict[str, Any] = {}
    for name, value in batch._asdict().items():
        many = value if isinstance(value, Mapping) else {"": value}
        flat |= {f"{name}.{key}".rstrip("."): x for key, x in many.items()}
    tensors = {k: x for k, x in flat.items() if isinstance(x, torch.Tensor)}
    broken = [k for k, x in tensors.items() if not torch.isfinite(x).all()]
    return f", whose {', '.join(broken)} holds NaN or infinity" if broken else ""


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock; the system lets go of it however the process ends."""
    with checkpoint.storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadConfig(
                f"Another process is training in {folder}. Wait for it, or choose another folder."
            ) from None
        yield


def describe(folder: str | Path) -> dict[str, Any]:
    """What is trained in a folder: name, seed, environment, config, stages, versions.

    Raises:
        BadCheckpoint: if there is no run, or its `run.json` is damaged.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise BadCheckpoint(f"{folder} holds no run.json. Give the folder of a run.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadCheckpoint(f"{path} is damaged ({error}). Choose another folder.") from None


def _claim(run: Run, stages: tuple[Stage, ...], folder: Path) -> None:
    """Write `run.json`, or check that the folder's is of this very run."""
    path = folder / "run.json"
    asked = {
        "name": run.name,
        "seed": run.seed,
        "environment": run.environment,
        "config": json.loads(json.dumps(dict(run.config))),  # tuples become lists, as in the file
        "stages": {stage.name: stage.updates for stage in stages},
    }
    versions = _versions()
    if not path.exists():
        text = json.dumps({**asked, "versions": versions}, indent=2, allow_nan=False)
        checkpoint.write_bytes(path, text.encode() + b"\n")
        return
    old = describe(folder)
    for key, value in asked.items():
        if old.get(key) != value:
            raise BadCheckpoint(
                f"{path} is of a run whose {key} is {old.get(key)!r}, but {value!r} was asked for. "
                "Ask for the same to go on, or choose another folder."
            )
    if old.get("versions") != versions:
        _log.warning("%s was begun with other package versions: going on may not be exact.", path)


def _versions() -> dict[str, str]:
    """Of what a number may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _seed(*names: Any) -> None:
    """Seed torch, NumPy's and Python's global generators from a seed and names."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def _random_state() -> dict[str, Any]:
    """Where the global generators stand."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    """Put the global generators back."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
