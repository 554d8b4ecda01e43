"""What goes over the wire: commands that come in, checked field by field, and frames that go out.

A command is one small JSON object. Every field is named, typed and bounded here, so that what
reaches a session is always possible in kind. A frame is one binary message: the length of a JSON
header (4 bytes, little-endian), the header, and pictures (3, h, w) uint8 one after another.
Imports core only.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from reverie.core.errors import BadData
from reverie.player.hands import Action, Hands

TEXT = 4096  # bytes of a command
LARGEST = 10**9  # of any count

Check = Callable[[Any, Hands], Any]


class Command(NamedTuple):
    """Something that a person asks for."""

    do: str
    fields: dict[str, Any]


class _Wrong(Exception):
    """A field is not what it should be; the message says what it should be."""


def _flag(value: Any, _: Hands) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _count(value: Any, _: Hands) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise _Wrong(f"a whole number from 0 to {LARGEST}")
    return value


def _count_or_none(value: Any, hands: Hands) -> int | None:
    return None if value is None else _count(value, hands)


def _between(low: float, high: float) -> Check:
    def number(value: Any, _: Hands) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Wrong(f"a number from {low:g} to {high:g}")
        if not low <= value <= high:  # refuses NaN, too
            raise _Wrong(f"a number from {low:g} to {high:g}")
        return float(value)

    return number


def _word(*words: str) -> Check:
    def one(value: Any, _: Hands) -> str:
        if not isinstance(value, str) or value not in words:
            raise _Wrong(f"one of {', '.join(words)}")
        return value

    return one


def _action(value: Any, hands: Hands) -> Action:
    """Of the model's space: a Discrete number, a list of numbers, or null for nothing."""
    if value is None:
        return None
    if hands.kind == "discrete":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < hands.size:
            raise _Wrong(f"null or a whole number below {hands.size}")
        return value
    if hands.kind == "box":
        if not isinstance(value, list) or len(value) != hands.size:
            raise _Wrong(f"null or a list of {hands.size} numbers")
        return tuple(_between(-1, 1)(x, hands) for x in value)
    raise _Wrong("null: nothing acts here")


_COMMANDS: Mapping[str, Mapping[str, Check]] = {
    "act": {"action": _action, "n": _count},
    "play": {"on": _flag},
    "rate": {"value": _between(1, 60)},
    "temperature": {"value": _between(0.05, 2)},
    "uncertain": {"on": _flag},
    "drive": {"who": _word("you", "agent", "policy", "planner", "recording")},
    "fork": {},
    "select": {"branch": _count},
    "close": {"branch": _count},
    "seek": {"time": _count},
    "begin": {"episode": _count_or_none, "step": _count_or_none},
    "goal": {"episode": _count, "step": _count},
    "wake": {},
    "step": {},
    "peek": {"episode": _count, "step": _count},
    "film": {"kind": _word("gif", "mp4")},
}


def parse(text: str, hands: Hands) -> Command:
    """One command, if it is one.

    Args:
        text: as it came.
        hands: what actions there are.

    Raises:
        BadData: saying what is wrong with it.
    """
    if len(text) > TEXT or len(text.encode(errors="replace")) > TEXT:
        raise BadData(f"A message has at most {TEXT} bytes, but this one has more.")
    try:
        value = json.loads(text, parse_constant=_not_finite)
    except (ValueError, RecursionError):
        raise BadData("A message is one JSON object, but this one cannot be read.") from None
    if not isinstance(value, dict) or not isinstance(value.get("do"), str):
        raise BadData("A message is a JSON object with a word 'do', but this one is not.")
    do = value.pop("do")
    if do not in _COMMANDS:
        raise BadData(f"There is no command of that name. There are {', '.join(_COMMANDS)}.")
    checks = _COMMANDS[do]
    if set(value) != set(checks):
        raise BadData(f"'{do}' takes exactly the fields {sorted(checks)}. Send these.")
    try:
        return Command(do, {name: check(value[name], hands) for name, check in checks.items()})
    except _Wrong as error:
        raise BadData(f"A field of '{do}' must be {error}. Send that.") from None


def _not_finite(_: str) -> float:
    raise ValueError


def pack(header: dict[str, Any], pictures: list[np.ndarray]) -> bytes:
    """A frame.

    Args:
        header: JSON; numbers that are not finite become null.
        pictures: (3, h, w) uint8 each.
    """
    sizes = [[picture.shape[-1], picture.shape[-2]] for picture in pictures]
    text = json.dumps(_plain({**header, "pictures": sizes}), separators=(",", ":")).encode()
    pixels = (np.ascontiguousarray(picture).tobytes() for picture in pictures)
    return b"".join((struct.pack("<I", len(text)), text, *pixels))


def unpack(message: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The inverse of `pack`."""
    (length,) = struct.unpack_from("<I", message)
    header, at = json.loads(message[4 : 4 + length]), 4 + length
    pictures = []
    for width, height in header["pictures"]:
        pixels = np.frombuffer(message, np.uint8, 3 * width * height, at)
        pictures.append(pixels.reshape(3, height, width))
        at += pixels.size
    return header, pictures


def _plain(value: Any) -> Any:
    """The same with floats cut to six digits, and those that are not finite as null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return value
