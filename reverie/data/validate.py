"""Is this data what it says? Structure, and whether actions and rewards stand where they should.

`validate` reads episodes (of a store, or of any format) one at a time and says in sentences what is
wrong.
Imports core and data only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reverie.core.errors import BadData, ReverieError
from reverie.core.types import Box, Discrete
from reverie.data.episode import Episode
from reverie.data.probe import Fit, Window, fit_shifts
from reverie.data.schema import in_range
from reverie.data.source import Source
from reverie.data.store import Store

_SHOWN = 8  # elements that a note names
_SAME_END = 5  # terminated episodes of one length that look like a time limit
_WINDOWS = 200  # episodes that the probe looks into at most
_LIMIT = 6_000  # transitions that the probe is fitted on
_JUMP = 10  # times the 99th percentile of changes: a lost frame or a hidden boundary


@dataclass(frozen=True)
class Report:
    """What `validate` found.

    Attributes:
        findings: what is wrong, a sentence each.
        notes: what may be so on purpose but is worth knowing.
        episodes: how many were read.
        steps: of all episodes that could be read.
        fits: 'action' and 'reward' -> shift k -> share of the variance of action[t] (reward[t])
            that the pair (o[t+k], o[t+k+1]) explains on held-out episodes; absent where nothing
            could be fitted.
    """

    findings: tuple[str, ...]
    notes: tuple[str, ...]
    episodes: int
    steps: int
    fits: dict[str, Fit]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def validate(data: Store | Source | Sequence[Episode], *, seed: int = 0) -> Report:
    """Check structure and alignment.

    Args:
        data: a store, a source of any format, or episodes.
        seed: of the probe.

    Raises:
        BadData: if there is no episode.
    """
    if len(data) == 0:
        raise BadData("Data was to be validated, but there is no episode. Collect some.")
    survey = _Survey()
    windows: list[Window] = []
    rng = np.random.default_rng(seed)
    quota = max(30, _LIMIT // min(len(data), _WINDOWS))
    stride = -(-len(data) // _WINDOWS)
    for i in range(len(data)):
        try:
            episode = data[i]
        except ReverieError as error:
            survey.broken.append(f"Episode {i} breaks the contract: {error}")
            continue
        survey.add(i, episode)
        if i % stride == 0:
            windows.append(Window.of(episode, quota, rng))
    findings, notes = survey.findings(), survey.notes()
    if isinstance(data, Store):
        findings += _store_findings(data)
    fits = {}
    for name in ("action", "reward"):
        if not survey.recorded(name):
            notes.append(f"No {name}s are recorded.")
            continue
        fit, finding, note = fit_shifts(name, windows, rng)
        if fit:
            fits[name] = fit
        findings += [finding] if finding else []
        notes += [note] if note else []
    return Report(tuple(findings), tuple(notes), len(data), survey.steps, fits)


class _Survey:
    """What can be said of all episodes together, gathered one by one."""

    def __init__(self) -> None:
        self.steps = 0
        self.broken: list[str] = []
        self._lengths: list[int] = []
        self._open: list[int] = []
        self._terminated: list[int] = []  # lengths of episodes that end so
        self._bad: dict[str, list[int]] = {}  # complaint -> episodes
        self._kinds: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self._reference: dict[str, np.ndarray] = {}
        self._constant: dict[str, np.ndarray] = {}  # which elements never changed
        self._changes: dict[str, list[np.ndarray]] = {}

    def add(self, i: int, episode: Episode) -> None:
        """Look at one more episode."""
        self.steps += len(episode)
        self._lengths.append(len(episode))
        if not (episode.terminated[-1] or episode.truncated[-1]):
            self._open.append(i)
        if episode.terminated[-1]:
            self._terminated.append(len(episode))
        for name, value in _columns(episode):
            self._column(i, name, value)
        for name, value in episode.obs.items():
            seen = value[..., ::4, ::4] if value.ndim == 4 else value
            change = np.abs(np.diff(seen.astype(np.float32), axis=0))
            self._changes.setdefault(name, []).append(change.reshape(len(episode), -1).mean(1))

    def _column(self, i: int, name: str, value: np.ndarray) -> None:
        """Look at one column of one episode."""
        kind = (value.shape[1:], value.dtype)
        expected = self._kinds.setdefault(name, kind)
        if kind != expected:
            self._complain(
                i, f"{name} is {kind[1]} {kind[0]}, but {expected[1]} {expected[0]} before"
            )
            return
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            self._complain(i, f"{name} holds NaN or infinity")
        elif name == "action":
            try:
                wide = Discrete(np.iinfo(np.int64).max)
                in_range(name, value, Box(value.shape[1:]) if value.dtype.kind == "f" else wide)
            except BadData:
                wanted = "[-1, 1]" if value.dtype.kind == "f" else "0..n-1"
                self._complain(i, f"action leaves {wanted}")
        if name == "obs['image']" and (value.dtype != np.uint8 or value.ndim != 4):
            self._complain(i, f"{name} is {value.dtype} {value.shape[1:]}, not uint8 (C, H, W)")
        reference = self._reference.setdefault(name, value[0].copy())
        same = (value == reference).all(0)
        self._constant[name] = self._constant[name] & same if name in self._constant else same

    def recorded(self, name: str) -> bool:
        """Whether any episode has this column."""
        return name in self._kinds

    def _complain(self, i: int, what: str) -> None:
        self._bad.setdefault(what, []).append(i)

    def findings(self) -> list[str]:
        """What is wrong."""
        found = list(self.broken)
        for what, episodes in self._bad.items():
            found.append(f"{what} in {len(episodes)} episodes, the first is {episodes[0]}.")
        for name, constant in self._constant.items():
            if constant.all() and name.startswith("obs") and self.steps > 1:
                found.append(f"{name} never changes in {self.steps} steps.")
        return found

    def notes(self) -> list[str]:
        """What may be so on purpose."""
        notes = []
        if self._lengths:
            low, middle, high = np.percentile(self._lengths, [0, 50, 100])
            notes.append(f"Episodes have {low:.0f} to {high:.0f} steps, half of them {middle:.0f}.")
        if self._open:
            notes.append(
                f"{len(self._open)} episodes neither terminate nor are truncated, the first is "
                f"{self._open[0]}: they were cut while they went on."
            )
        for name in ("action", "reward"):
            if name in self._constant and self._constant[name].all():
                notes.append(f"{name} never changes.")
        for name, constant in self._constant.items():
            if constant.ndim == 1 and constant.any() and not constant.all():
                which = np.flatnonzero(constant).tolist()
                notes.append(f"{name} never changes in {len(which)} elements: {_some(which)}.")
        notes += self._limits()
        for name, changes in self._changes.items():
            notes += _jumps(name, changes)
        return notes

    def _limits(self) -> list[str]:
        """Ends of the clock that may have been recorded as ends of the world."""
        lengths = self._terminated
        if len(lengths) < _SAME_END or min(lengths) < max(self._lengths):
            return []
        return [
            f"All {len(lengths)} terminated episodes end after exactly {lengths[0]} steps, the "
            "longest there are: was it a time limit? Then they are truncated, and a model that "
            "learns from them as they are takes the clock for the end of the world."
        ]


def _columns(episode: Episode) -> Iterator[tuple[str, np.ndarray]]:
    """All columns of an episode whose values can be wrong."""
    yield from ((f"obs['{name}']", value) for name, value in episode.obs.items())
    yield from ((f"extra['{name}']", value) for name, value in episode.extra.items())
    for name, value in (("action", episode.action), ("reward", episode.reward)):
        if value is not None:
            yield name, value


def _some(numbers: list[int]) -> str:
    """The first few."""
    return ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")


def _jumps(name: str, changes: list[np.ndarray]) -> list[str]:
    """Say where an observation jumps inside an episode, as over a lost frame."""
    limit = _JUMP * float(np.nanpercentile(np.concatenate(changes), 99))
    far = [
        (i, int(change.argmax())) for i, change in enumerate(changes) if change.max() > limit > 0
    ]
    if not far:
        return []
    return [
        f"obs['{name}'] jumps in {len(far)} episodes by more than {_JUMP} times what is usual, "
        f"first in episode {far[0][0]} after step {far[0][1]}: frames or a boundary may be missing."
    ]


def _store_findings(store: Store) -> list[str]:
    """What is wrong between the columns and the index of a store."""
    found = [f"{store.report}."] if store.report else []
    if not np.array_equal(np.flatnonzero(store.columns["first"]), store.starts):
        found.append(f"Column 'first' of {store.path} does not agree with its index.")
    if isinstance(store.actions, Discrete) and store.columns["action"].max() >= store.actions.n:
        found.append(f"action leaves 0..{store.actions.n - 1}, the range of the store's schema.")
    return found
