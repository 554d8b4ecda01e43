"""Which row of a table belongs to which transition. Imports core and data.

Files that keep one row a step differ in three things: whether the action in row t was taken at
o[t] or led to it, the same of the reward and the end, and where the last observation is. `align`
brings all of them to o[t] --a[t]--> r[t], o[t+1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from reverie.core.errors import BadData
from reverie.data.formats.reader import Raw


class Rows(NamedTuple):
    """One episode as a file has it: n rows a column, or one more of the observations."""

    obs: Mapping[str, np.ndarray]
    following: Mapping[str, np.ndarray]  # o[t+1] beside o[t], for columns that have it
    action: np.ndarray | None
    reward: np.ndarray | None
    terminated: np.ndarray | None
    truncated: np.ndarray | None
    extra: Mapping[str, np.ndarray] = {}


def align(rows: Rows, where: str, *, action_row: str, reward_row: str) -> tuple[Raw, bool]:
    """One episode in the contract's order.

    Args:
        rows: of the episode.
        where: of the episode, for messages.
        action_row: "taken" at the observation of its row, or "led" to it.
        reward_row: the same of rewards and ends; "led" says that rows end with o[T].

    Returns:
        The episode, and whether its last step was dropped because o[T] is nowhere.

    Raises:
        BadData: if lengths disagree or no transition is left.
    """
    count = _count(rows, where)
    longer = all(len(value) == count + 1 for value in rows.obs.values())
    complete = longer or (bool(rows.obs) and set(rows.obs) <= set(rows.following))
    if longer or reward_row == "led" or not complete:
        obs = dict(rows.obs)
    else:
        obs = {n: np.concatenate([x, rows.following[n][-1:]]) for n, x in rows.obs.items()}
    steps = min(len(value) for value in obs.values()) - 1
    if steps < 1:
        raise BadData(f"{where} has {count} rows, so no transition. Leave it out.")
    taken, led = slice(0, steps), slice(1, steps + 1)
    at_action = led if action_row == "led" else taken
    at_reward = led if reward_row == "led" else taken
    no = np.zeros(steps, bool)

    def flags(name: str, value: np.ndarray | None) -> np.ndarray:
        if value is None:
            return no.copy()
        ends = _bool(value)[at_reward]
        if ends[:-1].any():
            raise BadData(
                f"{where} is {name} at step {int(ends.argmax())} of {steps}, but goes on. Split it "
                f'there, or name another column for "{name}" in a mapping file (null: none).'
            )
        return ends

    raw = Raw(
        obs=obs,
        action=None if rows.action is None else rows.action[at_action],
        reward=None if rows.reward is None else rows.reward[at_reward],
        terminated=flags("terminated", rows.terminated),
        truncated=flags("truncated", rows.truncated),
        extra={name: value[taken] for name, value in rows.extra.items()},
    )
    return raw, reward_row != "led" and steps < count


def _count(rows: Rows, where: str) -> int:
    """Rows of the columns that are not observations; of these if there are no others."""
    others = (rows.action, rows.reward, rows.terminated, rows.truncated)
    lengths = {len(value) for value in others if value is not None}
    lengths = lengths or {len(value) for value in rows.obs.values()}
    if len(lengths) != 1:
        raise BadData(
            f"{where} has columns of {sorted(lengths)} rows. Rows of one episode go together: cut "
            "or align the recording."
        )
    count = lengths.pop()
    for name, value in rows.obs.items():
        if len(value) not in {count, count + 1}:
            raise BadData(
                f"{where} has {count} actions or rewards, but {len(value)} rows of {name}. "
                "Cut or align the recording."
            )
    return count


def _bool(value: np.ndarray) -> np.ndarray:
    """(rows,) flags; NaN, as in the first row of what led nowhere, is False."""
    flat = value.reshape(len(value), -1)[:, 0]
    return np.nan_to_num(flat).astype(bool) if flat.dtype.kind == "f" else flat.astype(bool)
