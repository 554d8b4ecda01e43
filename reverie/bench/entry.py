"""One trained model of a bench and what its folder keeps, so that nothing is done twice.

    models/NAME-SEED/   fit.json      seconds, updates, the moments
                        0.safetensors ... the weights at each moment, the last one final
                        card.json, card.html, moments.json, scrambled.json   how it was judged

Imports core, checkpoint and the contenders beside it.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reverie import checkpoint
from reverie.bench.contender import Snapshot, fit
from reverie.bench.schools import MEMORYLESS, enter
from reverie.bench.task import Task
from reverie.core.errors import BadConfig
from reverie.core.model import WorldModel
from reverie.data.store import Store
from reverie.progress import Progress

MOMENTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the budget at which weights are kept
_FIT = "fit.json"


@dataclass(frozen=True)
class Entry:
    """A school with a seed, in a bench."""

    name: str
    seed: int
    folder: Path
    task: Task
    data: Path  # the store that all learn from

    @property
    def title(self) -> str:
        """As tables show it."""
        return f"{self.name}, seed {self.seed}"

    @property
    def reads(self) -> tuple[str, ...]:
        """Modalities that the model learns from."""
        own = self.task.memoryless if self.name in MEMORYLESS else None
        return own or self.task.reads

    @cached_property
    def about(self) -> dict[str, Any]:
        """What fit.json says."""
        return json.loads((self.folder / _FIT).read_text(encoding="utf-8"))

    def fit(self, seconds: float, progress: Progress) -> None:
        """Train, unless that was done already.

        Args:
            seconds: of wall clock.
            progress: shows a bar a phase.

        Raises:
            BadConfig: if it was trained with another budget.
            SpaceMismatch: if the school cannot live in the task's world.
        """
        if (self.folder / _FIT).exists():
            if self.about["budget"] != seconds:
                raise BadConfig(
                    f"{self.title} in {self.folder} learned for {self.about['budget']:g} s, but "
                    f"{seconds:g} s were asked for. Choose another --out, or the same --budget."
                )
            return
        with Store.open(self.data, writable=True) as store:
            contender = self._contender(store)
            taken = fit(contender, seconds, moments=MOMENTS, progress=progress)
        self._save(seconds, taken)

    def untrained(self) -> WorldModel[Any]:
        """The model before it learned, of another seed."""
        with Store.open(self.data) as store:
            other = Entry(self.name, self.seed + 1_000, self.folder, self.task, self.data)
            return other._contender(store).model.eval()

    def models(self) -> list[tuple[dict[str, Any], WorldModel[Any]]]:
        """What is known of each moment, and the model as it was then; the last one is final."""
        with Store.open(self.data) as store:
            model = self._contender(store).model.eval()
        found = []
        for k, moment in enumerate(self.about["moments"]):
            then = copy.deepcopy(model)
            weights = checkpoint.read_tree(self.folder / f"{k}.safetensors")
            checkpoint.load_state(then, weights, f"{self.folder} at moment {k}")
            found.append((moment, then))
        return found

    def keep(self, name: str, value: Any) -> Any:
        """Write JSON into the folder, and return it."""
        checkpoint.write_bytes(self.folder / name, json.dumps(value, indent=1).encode())
        return value

    def kept(self, name: str) -> Any:
        """What `keep` wrote, or None."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def _contender(self, store: Store) -> Any:
        if store.actions is None:
            raise BadConfig(f"{store.path} has no actions. Collect data of a world that acts.")
        seen = {name: store.observations[name] for name in self.reads}
        return enter(self.name)(seen, store.actions, store, self.seed)

    def _save(self, seconds: float, taken: list[Snapshot]) -> None:
        """The weights, then fit.json, which says that all is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for k, snapshot in enumerate(taken):
            checkpoint.write_tree(self.folder / f"{k}.safetensors", snapshot.weights)
        moments = [{"seconds": s.seconds, "updates": s.updates} for s in taken]
        last = taken[-1]
        size = sum(x.numel() for x in last.weights.values())
        self.keep(
            _FIT,
            {
                "model": self.name,
                "seed": self.seed,
                "budget": seconds,
                "seconds": last.seconds,
                "updates": last.updates,
                "parameters": size,
                "moments": moments,
            },
        )
