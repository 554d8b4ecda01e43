"""What writers of others' formats share: the layout and the units that their readers expect.

Imports core and data.
"""

from __future__ import annotations

import numpy as np

from reverie.core.errors import BadData
from reverie.data.episode import Episode
from reverie.data.schema import Schema
from reverie.data.source import is_picture


def pictures_last(schema: Schema, episode: Episode) -> dict[str, np.ndarray]:
    """(T+1, ...) observations with images as (H, W, C), as most of the world has them."""
    return {
        name: np.ascontiguousarray(value.transpose(0, 2, 3, 1))
        if is_picture(schema.observations[name])
        else value
        for name, value in episode.obs.items()
    }


def world_action(schema: Schema, episode: Episode) -> np.ndarray | None:
    """(T, ...) actions in the world's own units; None: recorded without."""
    if episode.action is None or schema.bounds is None:
        return episode.action
    return schema.bounds.to_world(episode.action)


def led(value: np.ndarray) -> np.ndarray:
    """(T, ...) of each transition to (T+1, ...) of each observation: zeros, then what led there."""
    return np.concatenate([np.zeros_like(value[:1]), value])


def taken(value: np.ndarray) -> np.ndarray:
    """(T, ...) of each transition to (T+1, ...): what was done at each observation, then zeros."""
    return np.concatenate([value, np.zeros_like(value[:1])])


def check_free(schema: Schema, reserved: frozenset[str], format_name: str) -> None:
    """Refuse observations whose names mean something else in a format.

    Raises:
        BadData: naming them.
    """
    if clash := sorted(reserved & set(schema.observations)):
        raise BadData(
            f"Observation '{clash[0]}' was to be written as {format_name}, where that name means "
            "something else. Choose another format, or record it under another name."
        )
