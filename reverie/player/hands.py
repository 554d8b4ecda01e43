"""How a person acts: which key, button or drag means which action of a model.

`hands_of` reads the action space and, where the world is known, names what its actions do. The
page draws its legend from `Hands.to_json`; nothing else about actions is decided in the browser.
Imports core only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from reverie.core.types import Box, Discrete, Space

Action = int | tuple[float, ...] | None  # None: nothing is done, or nothing acts

# What the actions of a world do. A Discrete one has a name an action; a Box a pair a dimension,
# of its negative and its positive end.
_NAMES: Mapping[str, tuple[Any, ...]] = {
    "doom/take_cover": ("left", "stay", "right"),
    "toy/grid": ("up", "right", "down", "left"),
    "toy/two_rooms": (("left", "right"), ("up", "down")),
    "toy/linear_gaussian": (("push left", "push right"),),
    "toy/clock": tuple(f"{hour} o'clock" for hour in range(24)),
    "CartPole-v1": ("push left", "push right"),
    "CarRacing-v3": (("left", "right"), ("", "gas"), ("", "brake")),
}
_IDLE = ("stay", "noop", "none", "nothing", "wait")
_IDLE_BOX: Mapping[str, tuple[float, ...]] = {"CarRacing-v3": (0.0, -1.0, -1.0)}
_BY_WORD = {  # the last word of a name -> keys
    "left": ("ArrowLeft", "a"),
    "right": ("ArrowRight", "d"),
    "up": ("ArrowUp", "w"),
    "down": ("ArrowDown", "s"),
    "gas": ("ArrowUp", "w"),
    "brake": ("ArrowDown", "s"),
    "fire": (" ",),
}
_PAIRS = (  # keys of a Box's first dimensions, where nothing is known about them
    (("ArrowLeft",), ("ArrowRight",)),
    (("ArrowDown",), ("ArrowUp",)),
    (("a",), ("d",)),
    (("s",), ("w",)),
)
_ROW = "1234567890qwertyuiopasdfghjklzxcvbnm"


class Key(NamedTuple):
    """One button of the legend."""

    label: str
    keys: tuple[str, ...]  # as the browser's KeyboardEvent.key names them
    action: int | None = None  # of a Discrete space
    dimension: int = 0  # of a Box
    value: float = 0.0  # that a Box's dimension takes while it is held


class Hands(NamedTuple):
    """What a person can do in one model.

    Without an idle action a world waits until something is done.
    """

    kind: str  # "discrete" | "box" | "none"
    size: int  # actions of a Discrete, numbers of a Box
    keys: tuple[Key, ...]
    idle: Action  # while no key is held; None: the dream waits
    learned: bool  # the codes were learned: nobody knows what they mean until they are tried
    shape: tuple[int, ...] = ()  # of a Box

    def to_json(self) -> dict[str, Any]:
        """What the page is told."""
        keys = [key._asdict() for key in self.keys]
        return {**self._asdict(), "keys": keys, "shape": list(self.shape)}

    def array(self, action: Action) -> np.ndarray:
        """The action as worlds and models take it, without a batch axis.

        Args:
            action: of this space; None: the idle one, else the first.
        """
        if self.kind == "discrete":
            chosen = self.idle if action is None else action
            return np.array(0 if chosen is None else chosen, dtype=np.int64)
        chosen = self.idle if action is None else action
        return np.array(chosen, dtype=np.float32).reshape(self.shape)

    def action(self, array: Any) -> Action:
        """The inverse of `array`."""
        if self.kind == "discrete":
            return int(array)
        return tuple(float(x) for x in np.asarray(array, dtype=np.float64).ravel().clip(-1, 1))


def hands_of(actions: Space | None, environment: str | None, *, learned: bool = False) -> Hands:
    """How a person acts in a space.

    Args:
        actions: of the model.
        environment: the world's name, or None.
        learned: the actions are codes that the model made up.
    """
    names = _NAMES.get(environment or "", ())
    if isinstance(actions, Discrete):
        return _discrete(actions.n, names, learned=learned)
    if isinstance(actions, Box):
        size = int(np.prod(actions.shape))
        return _box(actions.shape, size, names, _IDLE_BOX.get(environment or ""))
    return Hands("none", 0, (), None, learned=False)


def _discrete(n: int, names: tuple[str, ...], *, learned: bool) -> Hands:
    """One key an action: arrows where the name says so, and a row of the keyboard."""
    if len(names) < n:
        names = tuple(f"{'code' if learned else 'action'} {i}" for i in range(n))
    keys = []
    for i, name in enumerate(names[:n]):
        own = _BY_WORD.get(name.split()[-1], ())
        row = (_ROW[i],) if i < (len(_ROW) if not own else 10) else ()
        keys.append(Key(name, (*own, *row), action=i))
    idle = next((i for i, name in enumerate(names[:n]) if name in _IDLE), None)
    return Hands("discrete", n, tuple(keys), idle, learned)


def _box(
    shape: tuple[int, ...],
    size: int,
    names: tuple[tuple[str, str], ...],
    idle: tuple[float, ...] | None,
) -> Hands:
    """Two keys a dimension, one for each end."""
    keys = []
    for i in range(size):
        ends = names[i] if i < len(names) else (f"{i + 1} -", f"{i + 1} +")
        pair = _PAIRS[i] if i < len(_PAIRS) else ((), ())
        for value, name, plain in zip((-1.0, 1.0), ends, pair, strict=True):
            own = _BY_WORD.get(name.split()[-1] if name else "", plain)
            if name:
                keys.append(Key(name, own, dimension=i, value=value))
    fits = idle is not None and len(idle) == size
    rest = idle if fits else (0.0,) * size
    return Hands("box", size, tuple(keys), rest, learned=False, shape=shape)
