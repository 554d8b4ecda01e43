"""Judging a bench: a card for each final model, prediction and control at each moment, baselines.

Whatever was judged is in a file and is not judged again. Everyone plays the same starts. Imports
evaluate and the entries beside it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reverie import checkpoint
from reverie.agent import Agent
from reverie.bench.entry import Entry
from reverie.bench.task import HELD, Task
from reverie.core.errors import BadConfig, ReverieError
from reverie.core.model import WorldModel
from reverie.data.store import Store
from reverie.evaluate import prediction
from reverie.evaluate.card import Beside, report_card
from reverie.evaluate.cardpage import write as write_card
from reverie.evaluate.control import Control, control, control_from_json
from reverie.evaluate.fork import Forks, fork
from reverie.evaluate.scrambled import Scrambled
from reverie.evaluate.states import VISITED, check_fits, held_states
from reverie.progress import Progress

PLAYED = 1_000_000  # added to a bench's seed for the worlds in which agents are scored
PLANNER, SHUFFLED = "planning in {}", "the same planner, shuffled {}"


class Judge:
    """All that entries of one bench are judged with.

    Args:
        task: of the bench.
        data: folder that `task.gather` filled.
        seed: of the bench.
        progress: shows bars.
    """

    def __init__(self, task: Task, data: Path, *, seed: int, progress: Progress) -> None:
        self.task, self.seed, self.progress = task, seed, progress
        self.oracle = task.oracle() if task.oracle else None
        self.held = held_states(data / "held", context=task.context, horizon=task.horizon)
        self.history = Store.open(data / "held" / VISITED)
        self.missing: list[str] = []
        self.forks = self._forks()

    def baselines(self) -> dict[str, Control]:
        """Who stands beside the models: agents that look at nothing, and planning in the truth."""
        actions = self.history.actions
        if actions is None:
            raise BadConfig(
                f"Nothing acts in the task '{self.task.name}'. Bench a world that acts."
            )
        agents: dict[str, tuple[Agent, WorldModel[Any] | None]] = {
            name: (agent, None) for name, agent in self.task.baselines(actions).items()
        }
        if self.oracle is not None:
            for name, model in (
                (PLANNER.format("the true model"), self.oracle),
                (SHUFFLED.format("truth"), Scrambled(self.oracle)),
            ):
                agents[name] = self.task.plan(model), model
        return {
            name: self.play(name, agent, model, self.task.episodes)
            for name, (agent, model) in agents.items()
        }

    def play(
        self, name: str, agent: Agent, model: WorldModel[Any] | None, episodes: int
    ) -> Control:
        """Score an agent on the bench's starts.

        Args:
            name: of the agent.
            agent: acts.
            model: whose predictions are counted.
            episodes: the first so many of the starts.
        """
        seed = PLAYED + self.seed
        with contextlib.closing(self.task.world(self.task.num_envs, seed)) as env:
            return control(
                name,
                env,
                agent,
                episodes=episodes,
                seed=seed,
                model=model,
                progress=self.progress,
            )

    def entry(self, entry: Entry, baselines: Mapping[str, Control]) -> None:
        """Judge one trained model, moment by moment; `card.json` comes last.

        Args:
            entry: trained.
            baselines: shown beside it on its card.

        Raises:
            SpaceMismatch: if it cannot live in the task's world.
        """
        if entry.kept("card.json") is not None:
            return
        moments = entry.models()
        check_fits(
            moments[-1][1],
            self.history.observations,
            self.history.actions,
            f"the task '{self.task.name}'",
        )
        rows = []
        for k, (moment, model) in enumerate(moments):
            final = k == len(moments) - 1
            episodes = self.task.episodes if final else self._rounds(1)
            rows.append({**moment, **self._moment(entry, k, model, episodes)})
            entry.keep("moments.json", rows)
        self._card(entry, moments[-1][1], baselines)

    def _moment(
        self, entry: Entry, k: int, model: WorldModel[Any], episodes: int
    ) -> dict[str, Any]:
        """Prediction of visited states, and control by planning."""
        kept = entry.kept(f"moment-{k}.json")
        if kept is not None:
            return kept
        found: dict[str, Any] = {"prediction": {}, "control": None, "missing": []}
        generator = torch.Generator(model.device).manual_seed(self.seed)
        try:
            for measure in prediction.measures(
                model, self.held[VISITED], truth=self.task.truth, generator=generator
            ):
                found["prediction"][measure.name] = measure._replace(
                    baselines={}, baseline_curves={}
                ).to_json()
            name = PLANNER.format(entry.title)
            score = self.play(name, self.task.plan(model), model, episodes)
            found["control"] = score.to_json()
        except ReverieError as error:
            found["missing"].append(str(error))
        return entry.keep(f"moment-{k}.json", found)

    def _card(self, entry: Entry, model: WorldModel[Any], baselines: Mapping[str, Control]) -> None:
        """The report card of the final model, beside the baselines and its scrambled twin."""
        last = entry.kept("moments.json")[-1]
        scores, missing = [], [*self.missing, *last["missing"]]
        if last["control"] is not None:
            scores.append(control_from_json(last["control"]))
            twin = Scrambled(model)
            name = SHUFFLED.format("predictions")
            scores.append(self.play(name, self.task.plan(twin), twin, self._rounds(2)))
        card = report_card(
            model,
            self.held,
            name=entry.title,
            environment=self.task.environment,
            unit=self.task.unit,
            by=self.task.score,
            beside=Beside(
                truth=self.task.truth,
                oracle=self.oracle,
                untrained=entry.untrained(),
                forks=self.forks,
                edits=self.task.edits() if self.task.edits else None,
                history=self.history,
            ),
            scores=[*scores, *baselines.values()],
            missing=missing,
            seed=self.seed,
        )
        write_card(entry.folder, card)

    def _rounds(self, n: int) -> int:
        """So many episodes of every row: enough for a checkpoint."""
        return min(self.task.episodes, n * self.task.num_envs)

    def _forks(self) -> Forks | None:
        """Pairs with a common past, or a sentence why there are none."""
        task = self.task
        try:
            return fork(
                task.world,
                pairs=task.held,
                context=task.context,
                horizon=task.horizon,
                seed=HELD + self.seed,
            )
        except ReverieError as error:
            self.missing.append(str(error))
            return None


def kept_baselines(judge: Judge, path: Path) -> dict[str, Control]:
    """The baselines' scores, played once and kept in a file.

    Args:
        judge: of the bench.
        path: of the file.
    """
    if path.exists():
        value = json.loads(path.read_text(encoding="utf-8"))
        return {name: control_from_json(x) for name, x in value.items()}
    found = judge.baselines()
    text = json.dumps({name: x.to_json() for name, x in found.items()}, indent=1)
    checkpoint.write_bytes(path, text.encode())
    return found
