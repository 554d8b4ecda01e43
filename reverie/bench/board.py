"""The leaderboard of a bench, as JSON: prediction and control of every model, side by side.

Models come in the order of control, the baselines after them. Every prediction metric is ranked
against control over all models and their checkpoints. Imports core and the statistics of evaluate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.bench.entry import Entry
from reverie.bench.task import Task
from reverie.core import registry
from reverie.core.errors import BadData
from reverie.evaluate.card import measures_of
from reverie.evaluate.control import Control, control_from_json
from reverie.evaluate.measure import Measure, measure_from_json
from reverie.evaluate.statistics import (
    Interval,
    paired,
    probability_of_improvement,
    seeds_interval,
    spearman,
)

CONTROL = "control"


def leaderboard(
    task: Task, entries: Sequence[Entry], baselines: Mapping[str, Control], *, by: str = CONTROL
) -> dict[str, Any]:
    """All that a bench found.

    Args:
        task: of the bench.
        entries: judged.
        baselines: scores by name.
        by: "control", or the prediction metric that models are ordered by.

    Returns:
        A JSON value.

    Raises:
        UnknownName: if no model has such a metric.
    """
    names = list(dict.fromkeys(entry.name for entry in entries))
    rows = [_row(task, [e for e in entries if e.name == name]) for name in names]
    points = [_point(task, entry, moment) for entry in entries for moment in _moments(entry)]
    correlation, missing = _correlation(points)
    return {
        "version": 1,
        "task": task.name,
        "about": task.about,
        "environment": task.environment,
        "by": task.score,
        "unit": "success rate" if task.score == "success" else task.unit,
        "budget": entries[0].about["budget"],
        "transitions": task.transitions,
        "episodes": task.episodes,
        "seeds": sorted({entry.seed for entry in entries}),
        "rows": _ordered(rows, by),
        "baselines": [_baseline(task, name, score) for name, score in baselines.items()],
        "beside": _beside(entries[0]),
        "against": _against(task, entries, baselines),
        "correlation": correlation,
        "points": points,
        "missing": missing + [s for row in rows for s in row.pop("missing")],
    }


def score_of(task: Task, scores: Sequence[Control]) -> Interval | None:
    """What control is ranked by, over one seed or several.

    Args:
        task: says whether success or return counts.
        scores: one a seed; none: nobody acted.
    """
    if not scores:
        return None
    if len(scores) > 1:
        return seeds_interval([_values(task, score) for score in scores])
    (score,) = scores
    return score.success_rate if task.score == "success" else score.score


def _values(task: Task, score: Control) -> np.ndarray:
    """(n,) bool or float, one an episode."""
    rated = task.score == "success" and score.success is not None
    return np.asarray(score.success if rated else score.returns)


def _moments(entry: Entry) -> list[dict[str, Any]]:
    return entry.kept("moments.json")


def _last_control(entry: Entry) -> Control | None:
    value = _moments(entry)[-1]["control"]
    return None if value is None else control_from_json(value)


def _row(task: Task, entries: Sequence[Entry]) -> dict[str, Any]:
    """One school, over its seeds."""
    cards = [entry.kept("card.json") for entry in entries]
    scores = [score for entry in entries if (score := _last_control(entry)) is not None]
    twins = [
        _twin(card) for card, entry in zip(cards, entries, strict=True) if _last_control(entry)
    ]
    found = [
        {name: measure_from_json(value) for name, value in _moments(e)[-1]["prediction"].items()}
        for e in entries
    ]
    return {
        "name": entries[0].name,
        "title": cards[0]["model"]["title"],
        "reads": list(entries[0].reads),
        "seeds": [entry.seed for entry in entries],
        "parameters": cards[0]["parameters"],
        "seconds": float(np.mean([entry.about["seconds"] for entry in entries])),
        "updates": [entry.about["updates"] for entry in entries],
        "control": _json(score_of(task, scores)),
        "scrambled": _json(score_of(task, twins)),
        "thinking": float(np.mean([score.thinking for score in scores])) if scores else None,
        "imagined": float(np.mean([score.imagined for score in scores])) if scores else None,
        "prediction": _over_seeds(found),
        "simulator": [card["simulator"] for card in cards],
        "missing": sorted({s for card in cards for s in card["missing"]}),
    }


def _twin(card: Mapping[str, Any]) -> Control:
    """The scrambled planner's score: it stands second on a card."""
    return control_from_json(card["control"][1])


def _over_seeds(found: Sequence[Mapping[str, Measure]]) -> dict[str, Any]:
    """Each metric's mean over seeds; the interval spans those of all seeds."""
    merged = {}
    for name, measure in found[0].items():
        values = [measures[name].value for measures in found if name in measures]
        low, high = min(v.low for v in values), max(v.high for v in values)
        value = Interval(float(np.mean([v.value for v in values])), low, high)
        merged[name] = {"better": measure.better, "unit": measure.unit, "value": value._asdict()}
    return merged


def _baseline(task: Task, name: str, score: Control) -> dict[str, Any]:
    return {
        "name": name,
        "control": _json(score_of(task, [score])),
        "thinking": score.thinking,
        "imagined": score.imagined,
    }


def _beside(entry: Entry) -> dict[str, dict[str, Any]]:
    """Prediction of those who know less or more, by metric: "copy", "mean", "oracle"."""
    found: dict[str, dict[str, Any]] = {}
    for name, measure in measures_of(entry.kept("card.json")).items():
        for who, value in measure.baselines.items():
            if measure.group == "prediction" and who in ("copy", "mean", "oracle"):
                found.setdefault(who, {})[name] = value._asdict()
    return found


def _ordered(rows: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """The best first; those without a value last."""
    metrics = {name: value for row in rows for name, value in row["prediction"].items()}
    if by != CONTROL and by not in metrics:
        raise registry.unknown("metric", by, [CONTROL, *metrics])
    sign = -1 if by != CONTROL and metrics[by]["better"] == "lower" else 1

    def worth(row: dict[str, Any]) -> float:
        value = row["control"] if by == CONTROL else row["prediction"].get(by, {}).get("value")
        return -np.inf if value is None else sign * value["value"]

    return sorted(rows, key=worth, reverse=True)


# --- comparisons ----------------------------------------------------------------------------------


def _against(
    task: Task, entries: Sequence[Entry], baselines: Mapping[str, Control]
) -> list[dict[str, Any]]:
    """Every two on the same starts, the later one against the earlier ones; seed by seed."""
    first = entries[0].seed
    everyone = {
        entry.name: score
        for entry in entries
        if entry.seed == first and (score := _last_control(entry)) is not None
    }
    found = []
    for name, score in everyone.items():
        others = {k: v for k, v in everyone.items() if k > name} | dict(baselines)
        for other, theirs in others.items():
            x, y = _values(task, score), _values(task, theirs)
            shared = min(len(x), len(y))  # the first starts are the same for all
            test = paired(x[:shared], y[:shared])
            better = probability_of_improvement([x], [y])
            found.append(
                {
                    "ours": name,
                    "theirs": other,
                    "difference": test.difference._asdict(),
                    "p": test.p,
                    "test": test.test,
                    "improvement": better._asdict(),
                }
            )
    return found


def _point(task: Task, entry: Entry, moment: Mapping[str, Any]) -> dict[str, Any]:
    """One checkpoint: its prediction and its control."""
    control = None if moment["control"] is None else control_from_json(moment["control"])
    return {
        "model": entry.name,
        "seed": entry.seed,
        "seconds": moment["seconds"],
        "updates": moment["updates"],
        "control": None if control is None else _json(score_of(task, [control])),
        "prediction": {
            name: {"better": value["better"], "unit": value["unit"], "value": value["value"]}
            for name, value in moment["prediction"].items()
        },
    }


def _correlation(points: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Spearman's rank correlation of each metric, higher made better, with control."""
    acted = [point for point in points if point["control"] is not None]
    found, missing = [], []
    for name in dict.fromkeys(name for point in acted for name in point["prediction"]):
        those = [point for point in acted if name in point["prediction"]]
        metric = those[0]["prediction"][name]
        sign = 1 if metric["better"] == "higher" else -1
        x = [sign * point["prediction"][name]["value"]["value"] for point in those]
        y = [point["control"]["value"] for point in those]
        try:
            rho = spearman(x, y)
        except BadData as error:
            missing.append(f"{name} against control: {error}")
            continue
        found.append({"metric": name, "rho": rho._asdict(), "points": len(those)})
    return sorted(found, key=lambda row: -row["rho"]["value"]), missing


def _json(x: Interval | None) -> dict[str, float] | None:
    return None if x is None else x._asdict()
