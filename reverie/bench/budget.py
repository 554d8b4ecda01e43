"""A budget of wall clock in words: "90s", "5m", "1h". Imports errors only."""

from __future__ import annotations

import re

from reverie.core.errors import BadConfig

_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """How many seconds a budget is.

    Args:
        text: a number above 0 and its unit, one of s, m and h.

    Raises:
        BadConfig: if it is anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise BadConfig(
            f"A budget is a time above 0 such as 90s, 5m or 1h, but got '{text}'. Say it like that."
        )
    return seconds
