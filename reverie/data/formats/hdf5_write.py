"""Episodes to HDF5, in robomimic's groups or stable-worldmodel's columns. Imports core and data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import registry
from reverie.data.episode import Episode
from reverie.data.formats.format import Note
from reverie.data.formats.layout import check_free, led, pictures_last, taken, world_action
from reverie.data.schema import Schema

NOTE = "reverie"  # attribute of the file
_FLAT = frozenset({"action", "reward", "terminated", "truncated", "ep_len", "ep_offset"})


def _create(path: Path) -> Any:
    """A new file that can hold attributes of any length."""
    return registry.require("h5py", "data").File(path, "w", libver="latest")


def write_groups(path: Path, schema: Schema, episodes: Iterable[Episode]) -> None:
    """One group an episode; `dones` says terminated, and both ends have columns of their own."""
    infos, total = [], 0
    with _create(path) as file:
        data = file.create_group("data", track_order=True)
        data.attrs["env_args"] = json.dumps({"env_name": "", "type": 2, "env_kwargs": {}})
        for number, episode in enumerate(episodes):
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = len(episode)
            for name, value in _group(schema, episode).items():
                group.create_dataset(name, data=value)
            infos.append(episode.info)
            total += len(episode)
        data.attrs["total"] = total
        file.attrs[NOTE] = Note(schema, tuple(infos)).dump()


def _group(schema: Schema, episode: Episode) -> dict[str, np.ndarray]:
    """(T, ...) columns of an episode."""
    columns = {}
    for name, value in pictures_last(schema, episode).items():
        columns[f"obs/{name}"] = value[:-1]
        columns[f"next_obs/{name}"] = value[1:]
    columns |= {f"extra/{name}": value for name, value in episode.extra.items()}
    action = world_action(schema, episode)
    if action is not None:
        columns["actions"] = action
    if episode.reward is not None:
        columns["rewards"] = episode.reward
    columns["dones"] = episode.terminated.astype(np.int64)
    return {**columns, "terminated": episode.terminated, "truncated": episode.truncated}


def write_columns(path: Path, schema: Schema, episodes: Iterable[Episode]) -> None:
    """T+1 rows an episode in flat columns, with lengths and offsets."""
    check_free(schema, _FLAT, "hdf5_flat")
    infos, rows, lengths = [], 0, []
    with _create(path) as file:
        for episode in episodes:
            for name, value in _flat(schema, episode).items():
                if name not in file:
                    shape = value.shape[1:]
                    chunks = (max(1, 2**16 // max(1, value[0].nbytes)), *shape)
                    file.create_dataset(
                        name, (0, *shape), value.dtype, maxshape=(None, *shape), chunks=chunks
                    )
                file[name].resize(rows + len(value), axis=0)
                file[name][rows:] = value
            infos.append(episode.info)
            lengths.append(len(episode) + 1)
            rows += len(episode) + 1
        file["ep_len"] = np.asarray(lengths, np.int32)
        file["ep_offset"] = np.cumsum(lengths, dtype=np.int64) - lengths
        file.attrs[NOTE] = Note(schema, tuple(infos)).dump()


def _flat(schema: Schema, episode: Episode) -> dict[str, np.ndarray]:
    """(T+1, ...) columns of an episode; what a row has not is NaN, or zero where that cannot be."""
    columns = {
        **pictures_last(schema, episode),
        **{f"extra.{name}": taken(value) for name, value in episode.extra.items()},
        "terminated": led(episode.terminated),
        "truncated": led(episode.truncated),
    }
    action = world_action(schema, episode)
    if action is not None:
        columns["action"] = taken(action)
        if action.dtype.kind == "f":
            columns["action"][-1] = np.nan
    if episode.reward is not None:
        columns["reward"] = led(episode.reward)
        columns["reward"][0] = np.nan
    return columns
