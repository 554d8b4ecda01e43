"""What a run leaves on the disk: checkpoints and models, as safetensors with JSON in the header.

Every file here is one safetensors file. A tree of dicts, lists, tuples, tensors, NumPy arrays and
scalars is split in two: tensors and arrays become named safetensors entries, the rest becomes a
JSON text in the file's metadata. Nothing is ever unpickled, so reading runs no code.

Files are written to a temporary name, synced and renamed: a reader sees the old file or the new
one, never half of one, whenever the writer dies. `save`/`load` keep the last two checkpoints of a
folder; `save_model`/`load_model`/`load_weights` serve finished models. Imports core and data.files.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.errors import BadCheckpoint
from reverie.core.model import WorldModel
from reverie.core.types import space_from_json, space_to_json
from reverie.data.files import full_disk, replace

VERSION = 1  # of the file layout
KEPT = 2  # checkpoints a folder keeps
MODEL_FILE = "model.safetensors"
_log = logging.getLogger(__name__)


# --- checkpoints ----------------------------------------------------------------------------------


def save(folder: str | Path, tree: Mapping[str, Any]) -> Path:
    """Write the next checkpoint of a folder, then forget all but the last two.

    Args:
        folder: made if it is missing.
        tree: see `write_tree`.

    Returns:
        The new file.

    Raises:
        StorageFull: the disk is full; the earlier checkpoints are whole.
    """
    folder = Path(folder)
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder, "*.tmp")
    files = checkpoints(folder)
    number = int(files[-1].stem) + 1 if files else 1
    path = folder / f"{number:08d}.safetensors"
    write_tree(path, tree)
    for old in [*files, path][:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load(folder: str | Path) -> dict[str, Any]:
    """Read the newest checkpoint of a folder; if it is torn, the one before, with a warning.

    Args:
        folder: where `save` wrote.

    Returns:
        The tree; tensors on the CPU.

    Raises:
        BadCheckpoint: if there is none, if none is whole, or if it is of another version.
    """
    files = checkpoints(folder)
    if not files:
        raise BadCheckpoint(f"{folder} holds no checkpoint. Give the folder of a started run.")
    for path in reversed(files[1:]):
        try:
            return read_tree(path)
        except _Torn as error:
            _log.warning("%s The checkpoint before it is used.", error)
    return read_tree(files[0])


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoint files of a folder, oldest first; none if there is no folder."""
    return sorted(path for path in Path(folder).glob("*.safetensors") if path.stem.isdigit())


# --- trees in files -------------------------------------------------------------------------------


class _Torn(BadCheckpoint):
    """A file that is not whole."""


def write_tree(path: str | Path, tree: Any) -> None:
    """Write a tree to one safetensors file, atomically.

    Args:
        path: replaced if it exists; its folder exists.
        tree: nested dicts, lists, tuples of tensors, NumPy arrays, numbers, strings, bools, None.

    Raises:
        StorageFull: the disk is full; what was there before is whole.
        TypeError: if the tree holds anything else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"version": VERSION, "tree": _encode(tree, "", tensors)}, allow_nan=False)
    write_bytes(path, to_bytes(_unshared(tensors), metadata={"reverie": text}))


def read_tree(path: str | Path) -> Any:
    """Read what `write_tree` wrote; tensors on the CPU.

    Raises:
        BadCheckpoint: if the file is absent, torn, not ours, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise BadCheckpoint(f"{path} was asked for, but there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("reverie")
            head = {} if text is None else json.loads(text)
            if head.get("version") == VERSION:
                return _decode(head["tree"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _Torn(f"{path} is torn or damaged ({error}). Delete it to do without it.") from None
    if text is None:
        raise BadCheckpoint(f"{path} is a safetensors file, but not one that Reverie wrote.")
    raise BadCheckpoint(
        f"{path} is of layout version {head.get('version')!r}; this Reverie reads {VERSION}. "
        "Use the Reverie that wrote it, or train again."
    )


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file atomically.

    Raises:
        StorageFull: the disk is full; what was there before is whole.
    """
    with storage(path):
        replace(Path(path), data)


def storage(path: str | Path) -> AbstractContextManager[None]:
    """A block that says clearly that the disk is full.

    Args:
        path: of what is being written.

    Raises:
        StorageFull: in place of the operating system's error.
    """
    return full_disk(Path(path), lambda: "what was written before is whole")


def _sweep(folder: Path, pattern: str) -> None:
    """Remove what writers that were killed have left."""
    for torn in folder.glob(pattern):
        torn.unlink(missing_ok=True)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, as safetensors asks."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        start = flat.untyped_storage().data_ptr()
        whole = flat.untyped_storage().nbytes() == flat.numel() * flat.element_size()
        result[name] = flat if whole and start not in seen else flat.clone()
        seen.add(start)
    return result


# A JSON object with one key that starts with "$" stands for what JSON cannot say. Dicts whose keys
# are not all plain strings become {"$items": [[key, value], ...]}.


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON side of a tree; tensors and arrays go to `tensors` under their path."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"$strided": [path, *value.stride()]} if _permuted(value) else {"$tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.array(value, order="C"))  # a copy that is writable
        return {"$array": path}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {k: _encode(v, _join(path, k), tensors) for k, v in value.items()}
        pairs = [
            [_encode(k, path, tensors), _encode(v, _join(path, str(i)), tensors)]
            for i, (k, v) in enumerate(value.items())
        ]
        return {"$items": pairs}
    if isinstance(value, list | tuple):
        items = [_encode(item, _join(path, str(i)), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    return _encode_scalar(value, path)


def _permuted(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory in another order than its axes' (channels last).

    That order decides how sums are rounded, so an exact copy keeps it.
    """
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return not tensor.is_contiguous() and tensor.permute(order).is_contiguous()


def _encode_scalar(value: Any, path: str) -> Any:
    """A number, string, bool or None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"'{path}' is a {type(value).__name__}. Give tensors, NumPy arrays, numbers, strings, "
        "bools, None, and dicts, lists and tuples of them."
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not next(iter(value)).startswith("$"):
        return {key: _decode(item, tensors) for key, item in value.items()}
    kind, content = next(iter(value.items()))
    return _SPECIAL[kind](content, tensors)


_SPECIAL: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "$tensor": lambda name, tensors: tensors[name],
    "$strided": lambda where, tensors: _strided(tensors[where[0]], where[1:]),
    "$array": lambda name, tensors: tensors[name].numpy(),
    "$items": lambda pairs, tensors: {_decode(k, tensors): _decode(v, tensors) for k, v in pairs},
    "$tuple": lambda items, tensors: tuple(_decode(item, tensors) for item in items),
    "$float": lambda name, tensors: float(name),
}


def _strided(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """The same values in another memory order."""
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _join(path: str, key: str) -> str:
    """A path in the style of JSON Pointer, so that no two places share one."""
    key = key.replace("~", "~0").replace("/", "~1")
    return f"{path}/{key}" if path else key


# --- models ---------------------------------------------------------------------------------------


def save_model(
    folder: str | Path, model: WorldModel, extra: Mapping[str, nn.Module] | None = None
) -> Path:
    """Write a model, and what was trained beside it, so that `load_model` can build it again.

    Args:
        folder: gets `model.safetensors`; made if it is missing.
        model: its `config` (a dataclass) and spaces are kept as JSON.
        extra: more modules by name, as a run's behavior.

    Returns:
        The file.

    Raises:
        StorageFull: the disk is full; the model that was there before is whole.
    """
    folder = Path(folder)
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder, f"{MODEL_FILE}.*.tmp")
    config = getattr(model, "config", None)
    about = {
        "name": model.card.name,
        "config": dataclasses.asdict(config) if dataclasses.is_dataclass(config) else None,  # pyright: ignore[reportArgumentType]
        "observations": {k: space_to_json(space) for k, space in model.observations.items()},
        "actions": space_to_json(model.actions),
    }
    modules = {"model": model, **(extra or {})}
    states = {name: module.state_dict() for name, module in modules.items()}
    write_tree(folder / MODEL_FILE, {"about": about, "states": states})
    return folder / MODEL_FILE


def load_model(folder: str | Path, model_class: type[WorldModel] | None = None) -> WorldModel:
    """Build the model of a folder from its registered name and config, and load its weights.

    Args:
        folder: of a run, or wherever `save_model` wrote.
        model_class: of a model that is not registered.

    Returns:
        The model on the CPU, in evaluation mode. `load_weights` gives what was saved beside it.

    Raises:
        BadCheckpoint: if the file is absent or damaged, or does not fit the class.
        UnknownName: if no model is registered under the name.
    """
    path = _model_file(folder)
    about = read_tree(path)["about"]
    if about["config"] is None:
        raise BadCheckpoint(
            f"{path} holds a '{about['name']}' that has no config. Build the model yourself and "
            "give it to load_weights."
        )
    make: Any = model_class or registry.model(about["name"])
    hints = typing.get_type_hints(make.__init__)
    config_class = next((h for h in hints.values() if dataclasses.is_dataclass(h)), None)
    if config_class is None:
        raise BadCheckpoint(
            f"{path} holds a config, but {make.__name__} takes no dataclass as its config. "
            "Annotate the first argument of its __init__."
        )
    observations = {name: space_from_json(s) for name, s in about["observations"].items()}
    try:
        config = _from_json(config_class, about["config"])
        model = make(config, observations, space_from_json(about["actions"]))
    except (TypeError, KeyError) as error:
        raise BadCheckpoint(
            f"{path} holds a config that this {make.__name__} does not take ({error}). "
            "Use the Reverie that wrote it, or train again."
        ) from None
    load_weights(folder, model=model)
    return model.eval()


def load_weights(folder: str | Path, **modules: nn.Module) -> None:
    """Load saved weights into modules that exist.

    Args:
        folder: of a run, or wherever `save_model` wrote.
        modules: by the name under which they were saved: `model=...`, `behavior=...`.

    Raises:
        BadCheckpoint: if the file is absent or damaged, or names or shapes differ.
    """
    path = _model_file(folder)
    states = read_tree(path)["states"]
    for name, module in modules.items():
        if name not in states:
            raise BadCheckpoint(f"{path} holds {', '.join(states)}, but '{name}' was asked for.")
        load_state(module, states[name], f"'{name}' in {path}")


def load_state(module: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Load a state into a module strictly.

    Args:
        module: to be filled.
        state: of an equal module.
        what: is being loaded, for the message.

    Raises:
        BadCheckpoint: naming what is missing, what is too much, and the shapes that differ.
    """
    mine = module.state_dict()
    wrong = [f"{k} is missing" for k in mine if k not in state]
    wrong += [f"{k} is not in the model" for k in state if k not in mine]
    for name in mine.keys() & state.keys():
        if isinstance(mine[name], Tensor) and mine[name].shape != state[name].shape:
            found, asked = tuple(state[name].shape), tuple(mine[name].shape)
            wrong.append(f"{name} has shape {found}, the model {asked}")
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise BadCheckpoint(
            f"{what} is of another model than this {type(module).__name__}: "
            f"{'; '.join(sorted(wrong)[:8])}{more}. Build the model with the config it was "
            "saved with, or choose another folder."
        )
    module.load_state_dict(state)


def _model_file(folder: str | Path) -> Path:
    """The model file of a folder."""
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        raise BadCheckpoint(
            f"{folder} holds no {MODEL_FILE}. A run writes it when a stage ends; "
            "give the folder of such a run."
        )
    return path


def _from_json(hint: Any, value: Any) -> Any:
    """A value of the annotated type from what `dataclasses.asdict` made of it."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _from_json(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        some = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _from_json(some[0], value)
    if origin is tuple and value is not None:
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_from_json(h, item) for h, item in zip(inner, value, strict=True))
    return value
