"""The report card: all that can be measured of one model, for any school and whatever heads it has.

`report_card` asks every section of `evaluate/` and keeps what it answers; what a model cannot be
asked stands as one sentence under `missing`, never as a score. `cardpage.write` puts it into a
folder as `card.json` and one page. Imports core and what stands beside it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reverie.core import registry
from reverie.core.errors import BadData, ReverieError
from reverie.core.model import WorldModel
from reverie.data.store import Store
from reverie.evaluate import (
    imagination,
    prediction,
    probabilistic,
    simulator,
    surprise,
    understanding,
)
from reverie.evaluate.control import Control
from reverie.evaluate.forecast import Held
from reverie.evaluate.fork import Forks
from reverie.evaluate.measure import Measure, measure_from_json
from reverie.evaluate.states import ABOUT, VISITED
from reverie.evaluate.statistics import Interval

NAME = "card.json"


class Beside(NamedTuple):
    """What a model is measured against."""

    truth: str | None = None  # modality of the true state
    oracle: WorldModel[Any] | None = None  # the true model
    untrained: WorldModel[Any] | None = None  # the same school before it learned
    forks: Forks | None = None  # pairs of segments that share their past
    edits: Sequence[surprise.Pairs] | None = None  # impossible events; None: splices
    history: Store | None = None  # visited episodes, whole: how much of the past is needed


NOTHING = Beside()


def report_card(
    model: WorldModel[Any],
    held: Mapping[str, Held],
    *,
    name: str,
    environment: str,
    unit: str = "return",
    by: str = "return",
    beside: Beside = NOTHING,
    scores: Sequence[Control] = (),
    missing: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model.

    Args:
        model: any world model, in evaluation mode.
        held: segments that it did not learn from, by the kind of their states; "visited" at least.
        name: of the model or run, as tables and plots show it.
        environment: name of the world.
        unit: of a return.
        by: "success" or "return": what control is ranked by.
        beside: what it is measured against.
        scores: of agents in the world, the one that uses the model first.
        missing: sentences about what could not be measured before.
        seed: of the model's randomness.

    Returns:
        A JSON value; `measure_of` finds a measure in it.

    Raises:
        BadData: if there are no visited states, or no section can say anything.
        SpaceMismatch: if the model reads what the segments do not have.
    """
    if VISITED not in held:
        raise BadData(
            f"A report card needs segments of '{VISITED}' states, but got {sorted(held)}. "
            "Gather them with gather_states."
        )
    began, left_out = time.perf_counter(), list(missing)
    measures = {
        kind: _measured(model, segments, kind, beside, seed, left_out)
        for kind, segments in held.items()
    }
    if not any(measures.values()) and not scores:
        raise BadData(f"Nothing can be measured of '{name}': {' '.join(left_out)}")
    return {
        "version": 1,
        "name": name,
        "model": asdict(model.card),
        "environment": environment,
        "unit": unit,
        "by": by,
        "parameters": sum(p.numel() for p in model.parameters()),
        "context": held[VISITED].context,
        "horizon": held[VISITED].horizon,
        "states": {
            kind: {
                "about": ABOUT.get(kind, ""),
                "episodes": len(held[kind].batch.mask),
                "measures": [measure.to_json() for measure in found],
            }
            for kind, found in measures.items()
        },
        "simulator": _guarded(lambda: simulator.verdict(measures[VISITED]), left_out),
        "knee": _knee(model, beside.history, left_out),
        "control": [score.to_json() for score in scores],
        "missing": left_out,
        "seconds": round(time.perf_counter() - began, 3),
    }


def _measured(
    model: WorldModel[Any],
    held: Held,
    kind: str,
    beside: Beside,
    seed: int,
    missing: list[str],
) -> list[Measure]:
    """What the sections say of one kind of states; only prediction is asked of all kinds."""
    generator = torch.Generator(model.device).manual_seed(seed)
    truth, oracle, untrained = beside.truth, beside.oracle, beside.untrained
    asks: list[Callable[[], list[Measure]]] = [
        lambda: prediction.measures(model, held, truth=truth, oracle=oracle, generator=generator)
    ]
    if kind == VISITED:
        asks += [
            lambda: probabilistic.measures(model, held, oracle=oracle, generator=generator),
            lambda: understanding.measures(
                model, held, truth=truth, generator=generator, untrained=untrained
            ),
            lambda: imagination.measures(
                model, held, oracle=oracle, forks=beside.forks, generator=generator
            ),
            lambda: surprise.measures(
                model, held, edits=beside.edits, oracle=oracle, generator=generator
            ),
        ]
    found = [measure for ask in asks for measure in _guarded(ask, missing) or ()]
    for measure in found:
        if not all(map(math.isfinite, measure.value)):
            missing.append(f"{measure.name} of {kind} states is not finite: {measure.value}.")
    return [_finite(measure) for measure in found if all(map(math.isfinite, measure.value))]


def _finite(measure: Measure) -> Measure:
    """The measure without baselines and curves that are not finite."""

    def whole(points: Sequence[Interval]) -> bool:
        return all(math.isfinite(x) for point in points for x in point)

    return measure._replace(
        curve=measure.curve if whole(measure.curve) else (),
        baselines={who: x for who, x in measure.baselines.items() if whole([x])},
        baseline_curves={who: x for who, x in measure.baseline_curves.items() if whole(x)},
    )


def _knee(
    model: WorldModel[Any], history: Store | None, missing: list[str]
) -> dict[str, Any] | None:
    """Error against the length of the history."""
    if history is None:
        return None
    found = _guarded(lambda: simulator.knee(model, history), missing)
    return None if found is None else found.to_json()


def _guarded(ask: Callable[[], Any], missing: list[str]) -> Any:
    """What a section says, or None and one sentence more."""
    try:
        return ask()
    except ReverieError as error:
        missing.append(str(error))
        return None


# --- reading --------------------------------------------------------------------------------------


def measures_of(card: Mapping[str, Any], kind: str = VISITED) -> dict[str, Measure]:
    """All measures of one kind of states, by name; none if the card has no such states."""
    found = card["states"].get(kind, {"measures": ()})["measures"]
    return {value["name"]: measure_from_json(value) for value in found}


def measure_of(card: Mapping[str, Any], name: str, kind: str = VISITED) -> Measure:
    """One measure.

    Args:
        card: as `report_card` made it.
        name: of the measure.
        kind: of states.

    Raises:
        UnknownName: if the card has no such metric; names those it has.
    """
    known = measures_of(card, kind)
    if name not in known:
        raise registry.unknown("metric", name, known)
    return known[name]


def read(folder: str | Path) -> dict[str, Any]:
    """The card in a folder.

    Raises:
        BadData: if there is none, or it is damaged.
    """
    path = Path(folder) / NAME
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} holds no report card ({error}). Make one: reverie eval.") from None
