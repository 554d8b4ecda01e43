"""Time rivals side by side: the same machine, the same minute, alternately.

A benchmark is a file `benchmarks/NAME.py` that runs as a script: it times ours and theirs with
`alternate`, takes the `speedup`, and writes `results/speed_NAME.json` with `reverie.evidence`.
`make bench` runs them all in an environment of its own. Ratios come from one run, never from
a table of other days.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from reverie.evaluate.statistics import Interval, ratio_interval


def alternate(
    contestants: Mapping[str, Callable[[], object]], *, repeats: int = 9, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each contestant's calls, taken in turns so that drift hits all alike.

    Args:
        contestants: name to a call that does one unit of work (0.1 s or more is best).
        repeats: timed calls each.
        warmup: calls each that are not timed (compilation, caches).

    Returns:
        Name to `repeats` seconds.
    """
    for call in contestants.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats):
        order = list(contestants) if turn % 2 == 0 else list(contestants)[::-1]
        for name in order:
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def rate(work: float, seconds: list[float]) -> Interval:
    """Units of work a second: work over mean seconds, with its 95% interval.

    Args:
        work: units that one call does (batches, steps, simulations).
        seconds: of the calls; at least 5.
    """
    return ratio_interval([work] * len(seconds), seconds)


def speedup(ours: list[float], theirs: list[float]) -> Interval:
    """How many times less time ours took for the same work, with its 95% interval."""
    return ratio_interval(theirs, ours)
