"""What the page is shown of a session: one frame now, or a film of what was.

Imports the player's own files and core.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reverie.core.errors import BadData
from reverie.evaluate.film import difference
from reverie.player.branches import Branch, Moment, Real
from reverie.player.drive import Considered
from reverie.player.messages import pack
from reverie.player.session import Session

FILM = 240  # frames of a film at most
NUMBERS = 32  # of a vector that the page draws
GAIN = 2.0  # of the difference that is shown


def frame(session: Session, **measured: float) -> bytes:
    """All that the page shows now, as one message. Notices and plans are told once.

    Args:
        session: whose frame it is.
        **measured: by the engine.
    """
    branches, driver, real = session.branches, session.driver, session.real
    pictures: list[np.ndarray] = []
    steered = branches.steered
    header = {
        "kind": "frame",
        "life": session.life,
        "t": branches.time,
        "first": steered.first,
        "end": steered.end,
        "keep": branches.keep,
        "selected": branches.selected,
        "playing": session.playing,
        "waiting": session.waiting,
        "driver": driver.who,
        "rate": session.rate,
        "temperature": session.temperature,
        "uncertain": session.uncertain,
        "goal": driver.goal is not None,
        "n": session.answered,
        "branches": [_branch(session, branch, pictures) for branch in branches.all],
        "real": None if real is None else _real(session, real, pictures),
        "why": session.why if real is None else "",
        "recorded": session.recorded,
        "plan": _plan(driver.considered, pictures),
        "notices": session.notices,
        **measured,
    }
    session.notices, driver.considered = [], None
    return pack(header, pictures)


def film(session: Session) -> np.ndarray:
    """The steered branch's last frames (N, 3, h, w) uint8, reality on the right if it is there.

    Raises:
        BadData: if nothing of it is a picture.
    """
    branches = session.branches
    steered, now = branches.steered, branches.time
    moments = [steered.at(t) for t in range(max(steered.first, now - FILM + 1), now + 1)]
    dreamed = [_drawn(session, moment) for moment in moments]
    shown = [picture for picture in dreamed if picture is not None]
    if len(shown) < len(moments):
        raise BadData("A film needs pictures, but this dream is made of numbers alone.")
    really = [None if moment.real is None else moment.real.picture for moment in moments]
    fit = [x is not None and x.shape == shown[0].shape for x in really]
    if not any(fit):
        return np.stack(shown)
    blank = np.zeros_like(shown[0])
    beside = [x if x is not None and good else blank for x, good in zip(really, fit, strict=True)]
    return np.concatenate([np.stack(shown), np.stack(beside)], -1)


def _branch(session: Session, branch: Branch, pictures: list[np.ndarray]) -> dict[str, Any]:
    """One branch now."""
    time = session.branches.time
    moment = branch.at(time)
    glimpse = moment.glimpse
    picture = _drawn(session, moment)
    return {
        "id": branch.number,
        "fork": branch.fork,
        "end": branch.end,
        "frozen": branch.end < time,
        "action": moment.action,
        "reward": moment.reward,
        "spread": moment.spread,
        "cont": glimpse.cont,
        "value": glimpse.value,
        "policy": glimpse.policy,
        "vector": _few(glimpse.vector),
        "picture": _placed(pictures, picture),
        "alike": picture is not None and glimpse.picture is None,
    }


def _drawn(session: Session, moment: Moment) -> np.ndarray | None:
    """A dream's picture, else the real one that is nearest to it."""
    glimpse, album = moment.glimpse, session.subject.nearest
    if glimpse.picture is not None or album is None or glimpse.embed is None:
        return glimpse.picture
    return album.of(glimpse.embed)


def _real(session: Session, real: Real, pictures: list[np.ndarray]) -> dict[str, Any]:
    """Reality now, and where the first branch differs."""
    dreamed = session.branches.get(0).at(session.branches.time).glimpse.picture
    apart = None
    if real.pixel is not None and dreamed is not None and real.picture is not None:
        apart = difference(dreamed, real.picture, GAIN)
    return {
        "picture": _placed(pictures, real.picture),
        "difference": _placed(pictures, apart),
        "vector": _few(real.vector),
        "reward": real.reward,
        "over": real.over,
        "pixel": real.pixel,
        "apart": real.apart,
    }


def _plan(found: Considered | None, pictures: list[np.ndarray]) -> dict[str, Any] | None:
    """What the planner considered."""
    if found is None:
        return None
    strips = [np.concatenate(row, -1) for row in found.pictures if row]
    return {"scores": found.scores, "strips": [_placed(pictures, strip) for strip in strips]}


def _few(vector: np.ndarray | None) -> list[float] | None:
    """The first numbers of a vector."""
    return None if vector is None else vector[:NUMBERS].tolist()


def _placed(pictures: list[np.ndarray], picture: np.ndarray | None) -> int | None:
    """Put a picture behind the others; its place."""
    if picture is None:
        return None
    pictures.append(picture)
    return len(pictures) - 1
