"""Is this data what it says? Structure, and whether actions and rewards stand where they should.

`validate` reads episodes (or a store) and says in sentences what is wrong. Imports core and data.

The probe: action[t] leads from o[t] to o[t+1], so of all pairs of neighbours, the pair
(o[t+k], o[t+k+1]) explains action[t] best at k = 0, whatever the policy is. If another k wins on
episodes that were held out, the recording is shifted by k. The same holds for reward[t].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reverie.core.errors import BadData
from reverie.core.types import Box, Discrete, Space
from reverie.data.episode import Episode
from reverie.data.store import Store

SHIFTS = (-1, 0, 1)
_LIMIT = 6_000  # transitions that the probe is fitted on
_MARGIN = 0.05  # of explained variance: less is not a difference
_SIDE = 16  # images are averaged down to this many pixels a side
_COMPONENTS = 32  # directions kept of each observation
_FEATURES = 768  # random features of a pair
_JUMP = 50  # times the usual change between observations: a lost frame or boundary


@dataclass(frozen=True)
class Report:
    """What `validate` found.

    Attributes:
        findings: what is wrong, a sentence each.
        notes: what is worth knowing but may be so on purpose.
        episodes: how many were read.
        steps: of all episodes.
        action_fit: shift k -> share of the variance of action[t] that (o[t+k], o[t+k+1])
            explains on held-out episodes; empty if it could not be fitted.
        reward_fit: the same of reward[t].
    """

    findings: tuple[str, ...]
    notes: tuple[str, ...]
    episodes: int
    steps: int
    action_fit: dict[int, float]
    reward_fit: dict[int, float]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def validate(data: Store | Sequence[Episode], *, seed: int = 0) -> Report:
    """Check structure and alignment.

    Args:
        data: a store or episodes. A store's episodes are read one at a time.
        seed: of the probe's features and of which episodes it is fitted on.

    Raises:
        BadData: if there is no episode.
    """
    if not len(data):
        raise BadData("Data was to be validated, but there is no episode. Collect some.")
    findings, notes = [], []
    survey = _Survey(data)
    for i in range(len(data)):
        try:
            survey.add(i, data[i])
        except BadData as error:
            findings.append(f"Episode {i} breaks the contract: {error}")
    if isinstance(data, Store):
        findings += _seams(data)
    findings += survey.findings
    notes += survey.notes()
    fits = {}
    pairs = _Pairs.of(survey.probed, np.random.default_rng(seed))
    for name in ("action", "reward"):
        fits[name], finding, note = _probe(name, pairs)
        findings += finding
        notes += note
    return Report(
        tuple(findings), tuple(notes), len(data), survey.steps, fits["action"], fits["reward"]
    )
