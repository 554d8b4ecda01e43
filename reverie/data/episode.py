"""One episode: T actions between T+1 observations. Imports core only.

    obs[0] --action[0]--> (reward[0], terminated[0], truncated[0]) obs[1] --action[1]--> ... obs[T]

An `Episode` is checked when it is made, so every later room may trust its shapes and its end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie.core.errors import BadData


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened between one reset and the end (or the cut) of an episode.

    Only the last step may be terminated or truncated; an episode whose last step is neither was
    cut by the recorder and is open-ended.

    Attributes:
        obs: (T+1, ...) by modality: 'image' uint8 (C, H, W), 'vector' float32, ...
        action: (T, A) float32 in [-1, 1], or (T,) int64; None: recorded without actions.
        reward: (T,) float32 in the world's own units; None: recorded without rewards.
        terminated: (T,) bool: the world ended.
        truncated: (T,) bool: the clock ended.
        extra: (T, ...) what the agent wrote as it acted.
        info: facts about the whole episode that JSON can hold: seed, success, ...

    Raises:
        BadData: if a length, dtype or flag breaks the convention above.
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray | None
    reward: np.ndarray | None
    terminated: np.ndarray
    truncated: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check lengths, dtypes and the end."""
        steps = len(self)
        if steps < 1:
            raise BadData("An episode has at least one step, but this one has none. Drop it.")
        if not self.obs:
            raise BadData("An episode has observations, but this one has no modality. Add one.")
        for name, value in self.obs.items():
            _check_rows(f"obs['{name}']", value, steps + 1)
        for name, value in self.extra.items():
            _check_rows(f"extra['{name}']", value, steps)
        if self.action is not None:
            _check_rows("action", self.action, steps)
            if self.action.dtype not in (np.float32, np.int64):
                raise BadData(
                    f"Actions are float32 or int64, but these are {self.action.dtype}. "
                    "Convert them."
                )
        if self.reward is not None:
            _check_flat("reward", self.reward, steps, np.dtype(np.float32))
        for name, flags in (("terminated", self.terminated), ("truncated", self.truncated)):
            _check_flat(name, flags, steps, np.dtype(bool))
            if flags[:-1].any():
                raise BadData(
                    f"Only the last step of an episode may be {name}, but step "
                    f"{int(flags.argmax())} of {steps} is. Split the episode after that step."
                )
        _check_info(self.info)

    def __len__(self) -> int:
        """T, the number of transitions."""
        return len(self.terminated)


def _check_rows(name: str, value: np.ndarray, rows: int) -> None:
    """Refuse anything but an array with this many rows."""
    found = value.shape if isinstance(value, np.ndarray) else type(value).__name__
    if not isinstance(value, np.ndarray) or value.ndim < 1 or len(value) != rows:
        raise BadData(
            f"{name} needs {rows} rows in a NumPy array (T actions stand between T+1 "
            f"observations), but it has {found}. Cut or align the recording."
        )


def _check_flat(name: str, value: np.ndarray, rows: int, dtype: np.dtype) -> None:
    """Refuse anything but one number of this dtype a step."""
    _check_rows(name, value, rows)
    if value.ndim != 1 or value.dtype != dtype:
        raise BadData(
            f"{name} must be ({rows},) {dtype}, but it is {value.shape} {value.dtype}. Convert it."
        )


def _check_info(info: dict[str, Any]) -> None:
    """Refuse an info that JSON cannot hold."""
    try:
        json.dumps(info)
    except (TypeError, ValueError) as error:
        raise BadData(
            f"Episode.info must be JSON, but it is not ({error}). Use Python numbers, strings, "
            "lists and dicts."
        ) from None
