"""`Measure`: one line of a report card, a number that stands beside its baselines.

Every metric of `evaluate/` returns this record, so that one table, one page and one leaderboard
show them all. Imports the statistics beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from reverie.evaluate.statistics import Interval

Group = Literal["prediction", "understanding", "imagination", "control"]


class Measure(NamedTuple):
    """What was measured, how well the model did, and how well those did who know less or more."""

    name: str  # lower case with underscores, unique in a card: "psnr", "embedding_error"
    group: Group  # the section of the report card
    what: str  # one sentence
    unit: str  # "dB", "R2", "share", "of copying"
    better: Literal["higher", "lower"]
    value: Interval  # over episodes; of a curve: its mean over the horizon, unless `what` says
    curve: tuple[Interval, ...] = ()  # by steps ahead 1..H; empty: not against the horizon
    baselines: Mapping[str, Interval] = {}  # "copy", "mean", "action-blind", "oracle", "random"
    baseline_curves: Mapping[str, tuple[Interval, ...]] = {}  # the same, by steps ahead

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; `measure_from_json` reads them back."""
        return {
            **self._asdict(),
            "value": self.value._asdict(),
            "curve": [point._asdict() for point in self.curve],
            "baselines": {name: x._asdict() for name, x in self.baselines.items()},
            "baseline_curves": {
                name: [point._asdict() for point in points]
                for name, points in self.baseline_curves.items()
            },
        }


def measure_from_json(value: Mapping[str, Any]) -> Measure:
    """The measure that `Measure.to_json` wrote."""
    return Measure(
        **{
            **value,
            "value": Interval(**value["value"]),
            "curve": tuple(Interval(**point) for point in value["curve"]),
            "baselines": {name: Interval(**x) for name, x in value["baselines"].items()},
            "baseline_curves": {
                name: tuple(Interval(**point) for point in points)
                for name, points in value["baseline_curves"].items()
            },
        }
    )
